"""What attacks have in common whose images are made by a decoder."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

from attacks.engine import Composition
from attacks.generated import Generated
from attacks.iterative import IterativeAttack
from attacks.objectives import Cosine
from attacks.priors import DropRate, Prior, TotalVariation
from attacks.starts import RANDOM
from attacks.unknowns import Noise, Setting


@dataclass(kw_only=True, eq=False)
class Generative(IterativeAttack):
    """Images that a decoder makes, with whatever the model draws, as in the Dropout Inversion Attack (Scheliga et al.,
    AAAI 2023); the papers have no dropout.

    Args:
        drop_rate: weight of the drop-rate prior.
    """

    requires: ClassVar = {**IterativeAttack.requires, "labels": ("known", "inferred", "unknown")}
    adapts: ClassVar = {"dropout": "dropout_rate", "clip": None}  # the cosine does not see lengths
    seeks_noise: ClassVar = True
    estimates_rates: ClassVar = True

    iterations: int = 2_000
    plateau: int = 200
    patience: int = 1_000
    drop_rate: float = 1e-4
    start: str = field(default=RANDOM, init=False)  # an image that a closed form has found is not one of a decoder's

    def __post_init__(self) -> None:
        super().__post_init__()
        self._weights("drop_rate")

    @abstractmethod
    def generated(self, setting: Setting) -> Generated:
        """The images."""

    def believed(self) -> list[Prior]:
        """What is believed of what the images are made of: nothing."""
        return []

    def compose(self, setting: Setting) -> Composition:
        priors = [DropRate(self.drop_rate, setting.sites), *self.believed()]
        if self.total_variation:
            priors.append(TotalVariation(self.total_variation))
        return Composition(
            unknowns=[self.generated(setting), Noise(setting)], objective=Cosine(), priors=priors
        )
