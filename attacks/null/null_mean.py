"""The grey guess: what a score is worth when nothing was learnt from the update."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import nn

from attacks.base import Attack, Reconstruction, register
from attacks.observation import Observation, ThreatModel
from attacks.updates import examples


@register("null_mean")
class NullMean(Attack):
    """Answers the mean public image for every image of the batch; without public images, the data set's mean colour."""

    under_dropout: ClassVar[str] = "the same: does not look at the update"
    requires: ClassVar = {"batch_size": ("known",)}
    given: ClassVar = {"auxiliary_data": "public"}
    floor: ClassVar = True
    ignores: ClassVar = ("labels", "defense", "dropout_rate", "noise", "batch_order")

    def reconstruct(
        self, observation: Observation, threat_model: ThreatModel, model: nn.Module, *, seed: int
    ) -> Reconstruction:
        public = observation.public
        mean = torch.zeros(observation.input_shape) if public is None or not len(public) else public.mean(dim=0)
        return Reconstruction(images=mean.expand(examples(observation), *mean.shape).clone(), loss=math.nan)
