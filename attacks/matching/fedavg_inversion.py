"""Data leakage in federated averaging: Dimitrov, Balunović, Konstantinov, Vechev, *Data Leakage in Federated
Averaging*, TMLR 2022 (arXiv 2206.12395)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, cast

from torch import Tensor

from attacks.base import register
from attacks.descent import composed
from attacks.engine import Composition
from attacks.matching.several_steps import SeveralSteps
from attacks.observation import Observation
from attacks.passes import Passes, epochs_of, repeated
from attacks.priors import DropRate, SameImages, TotalVariation
from attacks.relaxed import Relaxed
from attacks.unknowns import NOISE, Setting
from attacks.victim import Victim


@register("fedavg_inversion")
@dataclass(kw_only=True, eq=False)
class FedAvgInversion(SeveralSteps):
    """Replay all steps of a client's epochs, whose order nobody tells, with images x_e of its own for each epoch e, and
    couple the epochs by what no order changes:

        min_{x, m}  d(w_T(x, m) - w_0, w_T - w_0) + total_variation * TV(x) + agreement * D(x_1, ..., x_E)
                    + drop_rate * sum_l |(1 - mean(m_l)) - p_l|

    where d is the square of the relative distance, and D compares each epoch's images with the nearest of the next
    epoch's, or, as the paper does among others, the epochs' mean images. In the answer, the epochs' images are matched
    and averaged. Each epoch is taken to see the labels in the same order, which is wrong; that it does not matter much
    is so while steps are small. Whatever the model draws is a further unknown m, fresh in each step, as in the Dropout
    Inversion Attack (Scheliga et al., AAAI 2023); the paper has none. Masks are sigmoids of numbers without bounds, and
    the search is by L-BFGS; only where draws have to be put back into a set of their own after each step it is by Adam,
    and d one minus the cosine.

    Args:
        agreement: weight of D.
        coupling: what D compares: `nearest` or `mean` (`attacks.priors.SameImages`).
        drop_rate: weight of the drop-rate prior.
        memory: how many past steps L-BFGS estimates the curvature from.
    """

    paper: ClassVar[str] = "Dimitrov et al., TMLR 2022 (arXiv 2206.12395)"
    exploits: ClassVar[str] = "several local steps, replayed"
    under_dropout: ClassVar[str] = "looks for the masks of all steps with the images"

    agreement: float = 1e-3
    coupling: str = "nearest"
    memory: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        self._weights("agreement")
        if self.coupling not in ("nearest", "mean"):
            raise ValueError(f"{self.name}: coupling = {self.coupling!r} is neither nearest nor mean")

    def regarded(self, victim: Victim) -> Victim:
        """One with images, and labels, for each epoch."""
        local = victim.observation.local
        if local is None or local.epochs is None or victim.kind == "gradient":
            return victim
        return repeated(victim, epochs_of(victim), observation=replace(victim.observation, local=Passes.of(local)))

    def compose(self, setting: Setting) -> Composition:
        return composed(
            setting,
            Relaxed(setting, "logistic"),
            [
                TotalVariation(self.total_variation),
                SameImages(self.agreement, setting.passes, cast(Literal["mean", "nearest"], self.coupling)),
                DropRate(self.drop_rate, setting.sites),
            ],
            memory=self.memory,
            apart=True,
        )

    def known(self, observation: Observation, labels: Tensor | None, setting: Setting) -> dict[str, Tensor]:
        noise = {NOISE + name: value for name, value in self.known_noise(observation, setting).items()}
        return noise if labels is None else {"labels": labels, **noise}
