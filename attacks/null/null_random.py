"""The blind guess: random public images. Optimal assignment of a batch inflates scores; this shows by how much."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import nn

from attacks.base import Attack, NotApplicable, Reconstruction, register
from attacks.observation import Observation, ThreatModel
from attacks.seeds import generator_for
from attacks.updates import examples


@register("null_random")
class NullRandom(Attack):
    """Answers public images drawn without looking at the update, all different where there are enough."""

    under_dropout: ClassVar[str] = "the same: does not look at the update"
    requires: ClassVar = {"batch_size": ("known",), "auxiliary_data": ("public",)}
    given: ClassVar = {"auxiliary_data": "public"}
    floor: ClassVar = True
    ignores: ClassVar = ("labels", "defense", "dropout_rate", "noise", "batch_order")

    def reconstruct(
        self, observation: Observation, threat_model: ThreatModel, model: nn.Module, *, seed: int
    ) -> Reconstruction:
        count, public = examples(observation), observation.public
        if public is None or not len(public):
            raise NotApplicable("there are no public images to draw from")
        generator = generator_for(seed, "null_random", round=observation.round, client=observation.client)
        repeats = -(-count // len(public))
        order = torch.cat([torch.randperm(len(public), generator=generator) for _ in range(repeats)])[:count]
        return Reconstruction(images=public[order].clone(), loss=math.nan)
