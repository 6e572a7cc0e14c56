"""An attack that is told everything of a client of four classes whose images are 8 x 8, in [0, 1] as they are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import attacks
from attacks import Observation, ThreatModel
from defenses.client.round import Played


def observed(state: dict[str, Tensor], played: Played, labels: Tensor, specs: list[dict], **more: int) -> Observation:
    """What the attacker sees of a played round, with all grants."""
    return Observation(
        state=state,
        update=played.update,
        input_shape=(1, 8, 8),
        classes=4,
        mean=(0.0,),
        std=(1.0,),
        labels=labels,
        defense=tuple(specs),
        noise=played.drawn,
        **more,
    )


def run(name: str, twin: nn.Module, seen: Observation, **keys: object) -> attacks.Reconstruction:
    attack = attacks.create(name, **keys)
    [found] = attack.run([seen], ThreatModel(defense="known", **attack.given), twin)
    assert isinstance(found, attacks.Reconstruction), found
    return found


def error(found: attacks.Reconstruction, images: torch.Tensor) -> float:
    return float((found.images - images).square().mean())
