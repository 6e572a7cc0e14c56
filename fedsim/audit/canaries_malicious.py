"""Canaries that are sent a changed model: what a server that does not send what it should reads of the user's client.

A server may change the weights of the app's own model, and nothing of its architecture, which lies in the client's
code: so `imprint`, which adds a layer, is not tried.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

import attacks
from attacks.malicious import MaliciousAttack, Outset
from fedsim.audit.adversaries import Attempt, Budget
from fedsim.audit.canaries import Point, Sweep, canary_of, pictures
from fedsim.audit.canary import NoCanary
from fedsim.audit.choosing import Chosen
from fedsim.audit.matching import Unusable, aligned, entry_names
from fedsim.audit.told import Told
from fedsim.audit.working import Subject

BATCH = 8
"""Images of such a canary: of a batch of one image the honest canaries are."""
PUBLIC = 16
"""So few images that are no client's are too few to fit trap weights to."""


@dataclass(frozen=True)
class Declined:
    """An adversary that was not tried, and why."""

    letter: str
    why: str


def changed_canaries(
    sweep: Sweep, seen: Chosen, told: Told, model: nn.Module, budget: Budget, *, say: Callable[[str], None]
) -> Iterator[tuple[Subject, Attempt] | Declined]:
    """The user's client on a batch of known images and a model that a malicious server sends: of letter F one that
    knows no images (`fishing`, class fishing), of G one that has public images (`trap_weights`; where the first layer
    is not linear, `ares`)."""
    images, labels = pictures(sweep, told)
    count = min(BATCH, len(images))
    public = (images[count:].float() / 255 - _channels(told.mean)) / _channels(told.std)
    own = labels[:count].tolist()
    alone = next((label for label in own if own.count(label) == 1), own[0])  # what class fishing is made for
    fishing = {"name": "fishing", "target": alone, "iterations": budget.iterations}
    trapping = [{"name": name, "share": 1 / max(count, 2)} for name in ("trap_weights", "ares")]
    for letter, specs in (("F", [fishing]), ("G", trapping)):
        if letter == "G" and len(public) < PUBLIC:
            yield Declined(letter, f"trap_weights needs {PUBLIC} more images in --canary, which stand for public ones")
            continue
        try:
            spec, sent = _first_changed(seen, specs, told, model, public)
        except (ValueError, Unusable) as reason:
            yield Declined(letter, str(reason))
            continue
        say(f"round {seen.recorded.round}: a canary that is sent the model of {spec['name']}")
        try:
            one = canary_of(sweep, sent, told, model, images[:count], labels[:count], Point(count, count), own=False)
        except (NoCanary, Unusable) as fault:
            yield Declined(letter, f"no canary could be played on the changed model: {fault}")
            continue
        name = f"round {seen.recorded.round}, canary sent the model of {spec['name']}: batch {count}, 1 step"
        grants = {"labels": "inferred", "batch_size": "known", "local_training": "known", "dropout_rate": "known"}
        grants |= {"defense": "known", **({"auxiliary_data": "public"} if letter == "G" else {})}
        yield replace(one.subject, name=name, server="malicious"), Attempt(letter, spec, grants, "told")


def _first_changed(
    seen: Chosen, specs: Sequence[Mapping[str, Any]], told: Told, model: nn.Module, public: Tensor
) -> tuple[Mapping[str, Any], Chosen]:
    """The first of some attacks that can change the model, and what it sends. Raises ValueError: none can."""
    declined = []
    for spec in specs:
        try:
            return spec, _changed(seen, spec, told, model, public)
        except (ValueError, Unusable) as reason:
            name = spec["name"]
            declined.append(f"{name} cannot change this model: {str(reason).removeprefix(f'{name}: ')}")
    raise ValueError("; ".join(declined))


def _changed(seen: Chosen, spec: Mapping[str, Any], told: Told, model: nn.Module, public: Tensor) -> Chosen:
    """What is sent in place of an honest state, under the names of that. Raises ValueError: it cannot be changed."""
    attack = attacks.create(spec["name"], **{key: value for key, value in spec.items() if key != "name"})
    assert isinstance(attack, MaliciousAttack)
    twin, sent = copy.deepcopy(model), seen.recorded.sent
    twin.load_state_dict({**twin.state_dict(), **aligned(sent, model)})
    outset = Outset(input_shape=told.shape, classes=told.classes, mean=told.mean, std=told.std, public=public)
    attack.change(twin, outset, seed=0)
    state = twin.state_dict()
    arrays = {name: state[entry].to(sent[name].dtype) for name, entry in entry_names(sent, model).items()}
    if not all(bool(value.isfinite().all()) for value in arrays.values()):
        raise ValueError("its weights would not be finite")
    message = {
        record: {name: arrays.get(name, value) for name, value in held.items()} if record in seen.sent_in else held
        for record, held in seen.message.items()
    }
    return replace(seen, recorded=replace(seen.recorded, sent=arrays), message=message)


def _channels(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1)
