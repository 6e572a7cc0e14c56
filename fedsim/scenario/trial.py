"""A client's first step and the first gradient of an attack on it, tried before a run: what they refuse is said at
once, by the module's name, instead of by a client that fails or an attack that does not apply.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

import attacks
import defenses
from attacks import LocalTraining, NotApplicable, ThreatModel
from defenses.client.compute import one_by_one
from defenses.client.groups import refuse_foreign
from defenses.client.optimizers.sgd import SGD
from defenses.client.training import freeze
from fedsim import data, models, observations
from fedsim.errors import BadInput
from fedsim.local import Local, observed, train
from fedsim.models import entries
from fedsim.scenario.work import Spec

FEW = 64
"""Examples that are faster one by one than `torch.func` is made ready for them."""
TRIES = 3
"""How many models and batches have to give what is no number before it is said that all do."""
STEEP = 1e3
"""Learning rate from which on it is tried whether a client's first steps end in numbers."""
STEPS = 3


@lru_cache(maxsize=256)
def step(model: str, code: str, source: str, working: str, local: Local, *, weights: bool = False) -> None:
    """One local step of an honest client, in its mode, with its real batch size and its defense.

    What a client sends has to hold no NaN and no infinity, or nobody hears it. Now and then it may: this is refused
    where none of several batches on differently initialised models gives anything else.

    Args:
        model, source, working: the JSON of the model block, the data block and the defense.
        code: the fingerprint of a user's model: other code is tried again.
        weights: whether clients begin with weights from elsewhere: then those here say nothing of what is finite.

    Raises:
        BadInput: the model cannot be trained so.
        ValueError: the defense cannot.
    """
    spec, parts = json.loads(model), json.loads(working)
    for attempt in range(TRIES):
        _, _, update = _gradient(spec, json.loads(source), parts, local, attempt)
        odd = _not_finite(update)
        if weights or not odd:
            return
    if parts:
        names = " + ".join(part["name"] for part in parts)
        raise ValueError(f"{names}: what a client sends is not finite: {odd!r} holds NaN or infinity")
    raise BadInput(f"{_called(spec)}: a client's gradient is not finite: {odd!r} holds NaN or infinity")


@lru_cache(maxsize=64)
def explodes(model: str, code: str, source: str, working: str, local: Local) -> str:
    """Why the first steps at a steep learning rate end in no numbers, with whatever batch; nothing where they do not.

    The arguments are those of `step`.
    """
    training = local.training
    if local.share != "weights" or training.learning_rate < STEEP:
        return ""
    steps = min(STEPS, training.epochs or training.steps)  # an epoch is one step at least
    few = replace(local, training=replace(training, steps=steps, epochs=None))
    for attempt in range(TRIES):
        _, _, sent = _played(json.loads(model), json.loads(source), json.loads(working), few, attempt)
        if not (odd := _not_finite(sent)):
            return ""
    after = f"after {steps} step{'s' if steps > 1 else ''}"
    return f"{training.learning_rate:g} is too much: {after} {odd!r} of a client's weights holds NaN or infinity"


@lru_cache(maxsize=256)
def unmatchable(model: str, code: str, source: str, local: Local) -> str:
    """Why no attack that optimises can be run against a client of this model; nothing if one can.

    The arguments are those of `step`.
    """
    built, labels, update = _gradient(json.loads(model), json.loads(source), [], local)
    dataset = data.load(json.loads(source))
    state = {name: value.detach().clone() for name, value in built.state_dict().items()}
    observation = observed(dataset, _one_step(local), state=state, update=update)
    observation = replace(observation, local=LocalTraining(), labels=labels)  # the model alone is tried
    attack = attacks.create("inverting_gradients", iterations=1)
    attack.compile = "never"
    try:
        attack(
            observations.to(observation, torch.device("cpu"), torch.float32),
            ThreatModel(client_mode=local.mode),
            built.float(),
        )
    except NotApplicable as reason:
        return str(reason)
    return ""


def _gradient(
    spec: Spec, source: Spec, working: Sequence[Spec], local: Local, attempt: int = 0
) -> tuple[nn.Module, Tensor, dict[str, Tensor]]:
    """A fresh model, the labels of a batch, and the gradient that a client makes of it."""
    return _played(spec, source, working, _one_step(local), attempt)


def _called(spec: Spec) -> str:
    return f"model {spec['name']!r}" if "name" in spec else f"model factory {spec['factory']!r}"


def _not_finite(tensors: Mapping[str, Tensor]) -> str:
    """The name of the first that holds NaN or infinity, if any does."""
    return next((name for name, value in tensors.items() if not value.isfinite().all()), "")


def _played(
    spec: Spec, source: Spec, working: Sequence[Spec], local: Local, attempt: int
) -> tuple[nn.Module, Tensor, dict[str, Tensor]]:
    """A fresh model, the labels of what a client trains on, and what it sends; another one with each attempt."""
    dataset = data.load(source)
    label = _called(spec)
    changing = [part for part in working if defenses.compose([part]).changes_model]
    spec = {**spec, "defenses": changing} if changing else spec
    model = models.build(spec, input_shape=dataset.input_shape, classes=len(dataset.classes), seed=attempt)
    model = model.to(local.dtype)
    try:
        freeze(model, local.training.trained)
        for group in local.training.groups:
            refuse_foreign(model, group.parameters, "groups")
    except ValueError as error:
        raise BadInput(f"federation.local.{error}") from None
    if not entries.trained(model):
        raise BadInput(f"{label}: has no parameter that is trained, so that a client has nothing to send")
    size = local.batch_size
    count = size * local.training.steps
    chosen = torch.arange(attempt * count, (attempt + 1) * count) % len(dataset.train_labels)
    images, labels = dataset.normalise(dataset.train_images[chosen]).to(local.dtype), dataset.train_labels[chosen]
    before = {name: value.detach().clone() for name, value in model.state_dict().items()}
    defense = defenses.compose(working)
    tried = f"{label}, tried on a client's step in {local.mode} mode with {size} image{'s' if size > 1 else ''}"
    sizes = {1, size, size * defense.grows}
    with _explained(model, sizes, len(dataset.classes), tried, of_model=not working), one_by_one(FEW):
        result = train(
            model,
            images,
            labels,
            local=local,
            defense=defense,
            seed=attempt,
            client=0,
            round=1,
            classes=len(dataset.classes),
        )
    model.load_state_dict(before)
    names = set(entries.trained(model).values())
    return model, labels, {name: value for name, value in result.arrays.items() if name in names}


def _one_step(local: Local) -> Local:
    plain = replace(local.training, steps=1, epochs=None, optimizer=SGD(), schedule=None, groups=())
    return replace(local, share="gradient", training=plain)


@contextmanager
def _explained(model: nn.Module, sizes: set[int], classes: int, tried: str, *, of_model: bool) -> Iterator[None]:
    """While open, the module that was running when something went wrong is known; the error names it.

    Args:
        sizes: how many examples the model may be given: one, a batch, and what a defense makes of a batch.
        of_model: whether the model is to blame (BadInput), or else the defense (ValueError).
    """
    running: list[tuple[str, nn.Module]] = []

    def enter(path: str) -> Any:
        return lambda module, inputs: running.append((path, module))

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:  # not called where the module fails
        accepted = [(size, classes) for size in sorted(sizes)]
        if module is model and not (isinstance(output, Tensor) and output.shape in accepted):
            found = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
            raise ValueError(f"returned {found}, not logits of shape {accepted[-1]}")
        running.pop()

    hooks = [
        hook
        for path, module in model.named_modules()
        for hook in (module.register_forward_pre_hook(enter(path)), module.register_forward_hook(leave))
    ]
    try:
        yield
    except Exception as error:  # the user's own forward pass, and what autograd makes of it
        first = next(iter(str(error).splitlines()), type(error).__name__)
        path, module = running[-1] if running else ("", model)
        where = f"module {path!r} ({type(module).__name__}): " if path else ""
        if of_model:
            raise BadInput(f"{tried}: {where}{first}") from error
        raise ValueError(f"{where}{first}") from error
    finally:
        for hook in hooks:
            hook.remove()
