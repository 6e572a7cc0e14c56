"""Well-Informed Inverting Gradients (WIIG), the oracle of the dropout-inversion paper (Scheliga et al., AAAI 2023)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attacks.base import NotApplicable, register
from attacks.engine import Composition
from attacks.iterative import IterativeAttack
from attacks.objectives import Cosine
from attacks.observation import Observation
from attacks.priors import TotalVariation
from attacks.twin import known_defense
from attacks.unknowns import Images, Setting


@register("well_informed")
@dataclass(kw_only=True, eq=False)
class WellInformed(IterativeAttack):
    """Inverting Gradients with the masks m* that the client drew:

        min_x  1 - cos(g(x, m*), g*) + total_variation * TV(x)

    No real server has them. It shows how much of the difficulty is not knowing the masks; it is no bound, since the
    Dropout Inversion Attack may end with better images at the same stopping threshold.
    """

    paper: ClassVar[str] = "Scheliga, Maeder, Seeland, AAAI 2023 (arXiv 2208.06163)"
    exploits: ClassVar[str] = "any model that can be replayed"
    under_dropout: ClassVar[str] = "is told the masks that the client drew"
    requires: ClassVar = {**IterativeAttack.requires, "noise": ("known",)}
    given: ClassVar = {"noise": "known"}
    oracle: ClassVar = True

    def compose(self, setting: Setting) -> Composition:
        return Composition(
            unknowns=[Images(setting)],
            objective=Cosine(),
            priors=[TotalVariation(self.total_variation)],
        )

    def known_noise(self, observation: Observation, setting: Setting) -> Mapping[str, Tensor]:
        drawn = observation.noise or {}
        if missing := setting.noise_inputs.keys() - drawn.keys():
            raise NotApplicable(f"the observation holds no noise of {', '.join(sorted(missing))}")
        if unplaced := _unplaced(drawn.keys() - setting.noise_inputs.keys(), observation):
            raise NotApplicable(
                f"it is told what {', '.join(unplaced)} drew, but its model draws nothing there: the defense, or the "
                "dropout rate, is not granted"
            )
        apart = [name for name in setting.noise_inputs if "example" in setting.sites[name].axes]
        if apart and setting.images > 1 and not setting.placed:
            raise NotApplicable(
                f"what {apart[0]} drew is told image by image, but whose the inferred labels are is not: needs labels "
                "known"
            )
        for name in setting.noise_inputs:
            each, odd = divmod(setting.noise_inputs[name][0], setting.sizes[0])
            wanted = sum(setting.sizes) * each
            if "example" in setting.sites[name].axes and not odd and len(drawn[name]) != wanted:
                raise NotApplicable(f"the noise of {name} is of {len(drawn[name])} images, not {wanted}")
        return {name: drawn[name] for name in setting.noise_inputs}


def _unplaced(names: Collection[str], observation: Observation) -> list[str]:
    """Sites that are no part of what the attack knows of the client; additive noise of a defense that it knows is."""
    known = known_defense(observation).parts
    return sorted(name for name in names if ":" not in name or name.partition(":")[0] not in known)
