"""What defenses that act on the update would do to the strongest attack on a canary, as mods of the user's own client.

Each is applied to what the canary sent, as `fedsim.flower.mod` applies it to what a client sends, and attacked by an
adversary who knows it. What it costs is measured on the client's own round, and no further: how much of the progress on
its images is left.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

import defenses
from defenses.base import Turn
from defenses.client.site import Sampling
from fedsim.audit.canaries import Played
from fedsim.audit.working import Subject
from fedsim.random import generator_for

OTHERS = (
    "DP-SGD in the client's own training (Opacus), which bounds what any attack can learn",
    "secure aggregation, under which the server sees sums alone",
    "dropout and other defenses inside the model",
    "larger batches and more local steps than were played",
)
"""Defenses that an update alone cannot show: they act elsewhere."""


@dataclass(frozen=True)
class Defended:
    """A defended canary, to be attacked.

    Args:
        label: the defense, with its parameters.
        kept: of the progress that the client's own round made on its images, the share that is left; None: it made
            none.
    """

    label: str
    subject: Subject
    kept: float | None


def candidates(update: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """Defenses of an update alone, at strengths that go by its size."""
    values = torch.cat([value.flatten() for value in update.values()]).double()
    size, norm = float(values.square().mean().sqrt()), float(values.norm())
    return [
        {"name": "clip", "norm": norm / 2},
        {"name": "pruning", "keep": 0.1},
        {"name": "pruning", "keep": 0.01},
        {"name": "sign"},
        {"name": "gaussian_noise", "std": 0.1 * size},
        {"name": "gaussian_noise", "std": size},
    ]


def defended(strongest: Played, own: Played, model: nn.Module) -> Iterator[Defended]:
    """The strongest canary under each defense.

    Args:
        own: the canary that costs are measured on.
    """
    for spec in candidates(strongest.subject.reply.update):
        subject = strongest.subject
        reply = replace(subject.reply, update=_through(spec, subject.reply.update))
        told = replace(subject.told, defense=(*subject.told.defense, spec))
        label = _label(spec)
        changed = replace(subject, name=f"{label}: {subject.name}", reply=reply, told=told, findings=(), trial=True)
        yield Defended(label, changed, _kept(own, _scaled(spec, strongest, own), model))


def _through(spec: Mapping[str, Any], update: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the defense sends of an update."""
    source = Sampling(lambda site, step: generator_for(0, "audit defense", site=site, step=step), additive=False)
    turn = Turn(source.draw, {}, part=str(spec["name"]))
    return dict(defenses.compose([spec]).on_update(dict(update), turn=turn))


def _scaled(spec: Mapping[str, Any], strongest: Played, own: Played) -> dict[str, Any]:
    """The same strength, by the size of another update."""
    rivals = candidates(own.subject.reply.update)
    return rivals[candidates(strongest.subject.reply.update).index(dict(spec))]


def _kept(own: Played, spec: Mapping[str, Any], model: nn.Module) -> float | None:
    before = _loss(own, {}, model)
    after = _loss(own, own.subject.reply.update, model)
    if not before - after > 1e-6:
        return None
    return (before - _loss(own, _through(spec, own.subject.reply.update), model)) / (before - after)


def _loss(own: Played, update: Mapping[str, Tensor], model: nn.Module) -> float:
    """The mean loss over the canary's images in evaluation mode, once the server has applied an update."""
    reply, truth, told = own.subject.reply, own.subject.truth, own.subject.told
    assert truth is not None
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (told.mean, told.std))
    weights = {name: value + update[name] if name in update else value for name, value in reply.state.items()}
    mode = model.training
    model.eval()
    with torch.no_grad():
        logits = functional_call(model, weights, ((truth.images.float() / 255 - mean) / std,), tie_weights=True)
    model.train(mode)
    return float(F.cross_entropy(logits, truth.labels))


def _label(spec: Mapping[str, Any]) -> str:
    """The defense and its strength, in the user's own units."""
    keys = ", ".join(f"{key}={value:.3g}" for key, value in spec.items() if key != "name")
    return f"{spec['name']}({keys})" if keys else str(spec["name"])
