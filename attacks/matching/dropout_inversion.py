"""The Dropout Inversion Attack (DIA): Scheliga, Mäder, Seeland, *Dropout is NOT all you need to prevent gradient
leakage*, AAAI 2023 (arXiv 2208.06163)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

from attacks.base import register
from attacks.descent import composed
from attacks.engine import Composition
from attacks.iterative import IterativeAttack
from attacks.objectives import Cosine
from attacks.priors import DropRate, Prior, TotalVariation
from attacks.relaxed import RELAXATIONS, Relaxation, Relaxed
from attacks.unknowns import Images, Setting


@register("dropout_inversion")
@dataclass(kw_only=True, eq=False)
class DropoutInversion(IterativeAttack):
    """Inverting Gradients with the client's masks m as a further unknown, relaxed to [0, 1]:

        min_{x, m}  1 - cos(g(x, m), g*) + total_variation * TV(x) + drop_rate * sum_l |(1 - mean(m_l)) - p_l|

    Any stochastic layer will do, not only dropout: it says how its noise is relaxed, projected and penalised. Where the
    client's model draws nothing this is Inverting Gradients. Where the server does not know the dropout rate, which the
    paper's does, each layer's p_l is what its mask drops, `1 - mean(m_l)`, in the scale `1 / (1 - p_l)` as well, and
    nothing is left of the prior: rates are found together with masks and images.

    Args:
        drop_rate: weight of the drop-rate prior.
        masks: how masks are relaxed, see `attacks.relaxed`: `box`, as in the paper; `logistic`; `annealed`;
            `straight_through`.
        descent: `adam`; or `lbfgs`, of smooth models: with `logistic` masks, images without bounds from near the mean,
            and the squared relative distance of the updates in place of one minus their cosine.
    """

    paper: ClassVar[str] = "Scheliga, Maeder, Seeland, AAAI 2023 (arXiv 2208.06163)"
    exploits: ClassVar[str] = "any model that can be replayed"
    under_dropout: ClassVar[str] = "looks for the masks with the images; slower, and seldom worse"

    later: ClassVar = (*IterativeAttack.later, "masks", "descent")
    adapts: ClassVar = {"dropout": "dropout_rate", "clip": None}
    seeks_noise: ClassVar = True
    estimates_rates: ClassVar = True

    drop_rate: float = 1e-4
    masks: str = "box"
    descent: str = "adam"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._weights("drop_rate")
        for key, words in (("masks", RELAXATIONS), ("descent", ("adam", "lbfgs"))):
            if getattr(self, key) not in words:
                raise ValueError(f"{self.name}: {key} = {getattr(self, key)!r} is none of {', '.join(words)}")
        if self.descent == "lbfgs" and self.masks != "logistic":
            raise ValueError(f"{self.name}: descent = 'lbfgs' needs masks = 'logistic', not {self.masks!r}")

    def compose(self, setting: Setting) -> Composition:
        noise = Relaxed(setting, cast(Relaxation, self.masks))
        priors: list[Prior] = [TotalVariation(self.total_variation), DropRate(self.drop_rate, setting.sites)]
        if self.descent == "lbfgs":
            return composed(setting, noise, priors)
        return Composition(unknowns=[Images(setting), noise], objective=Cosine(), priors=priors)
