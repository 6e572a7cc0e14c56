"""Inverting Gradients on deep networks: smooth images that move in regions before they move in pixels, after the
"modern" preset of breaching (Geiping et al., 2022) and DeepInversion's statistics (Yin et al., CVPR 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attacks.base import register
from attacks.batch_norm import BatchNormStatistics
from attacks.engine import Composition
from attacks.iterative import IterativeAttack
from attacks.objectives import Cosine
from attacks.priors import DropRate, Prior, TotalVariation
from attacks.pyramid import Pyramid, deep, total_variation_of
from attacks.unknowns import Images, Noise, Setting


@register("multiscale_inversion")
@dataclass(kw_only=True, eq=False)
class MultiscaleInversion(IterativeAttack):
    """The Dropout Inversion Attack, by a rule that reads the model:

        min_{x, m}  1 - cos(g(x, m), g*) + total_variation * w TV(x) + drop_rate * sum_l |(1 - mean(m_l)) - p_l|
                    + batch_norm * sum_l (|mean_l(x) - mean_l*|_2 + |var_l(x) - var_l*|_2)

    On a network of many convolutions w is 0.2 and x a pyramid of pictures (`attacks.pyramid`); elsewhere w is 1e-5, x
    the pixels, and this is the Dropout Inversion Attack. The last term is there where the buffers that a client
    returns reveal its own batch's statistics; running ones are those of no single batch.

    Args:
        total_variation: times what the rule says.
        drop_rate: weight of the drop-rate prior.
        plateau: as in every attack; at most a tenth of the iterations.
        batch_norm: weight of the batch's statistics, where they came back.
    """

    paper: ClassVar[str] = "after Geiping et al., NeurIPS 2020, and Scheliga, Maeder, Seeland, AAAI 2023"
    exploits: ClassVar[str] = "any model that can be replayed; made for deep convolutional ones"
    under_dropout: ClassVar[str] = "looks for the masks with the images"

    requires: ClassVar = {**IterativeAttack.requires, "labels": ("known", "inferred", "unknown")}
    adapts: ClassVar = {"dropout": "dropout_rate", "clip": None}
    seeks_noise: ClassVar = True
    estimates_rates: ClassVar = True

    total_variation: float = 1.0
    drop_rate: float = 1e-4
    batch_norm: float = 0.05
    plateau: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        self._weights("drop_rate", "batch_norm")
        self.plateau = max(1, min(self.plateau, self.iterations // 10))

    def compose(self, setting: Setting) -> Composition:
        weight = self.total_variation * total_variation_of(setting.model)
        priors: list[Prior] = [TotalVariation(weight), DropRate(self.drop_rate, setting.sites)]
        if setting.batch_norm == "batch":
            steps = len(setting.sizes)
            priors.append(BatchNormStatistics(self.batch_norm, setting.model, steps=steps, of="batch"))
        images = Pyramid(setting) if deep(setting.model) else Images(setting)
        return Composition(unknowns=[images, Noise(setting)], objective=Cosine(), priors=priors)
