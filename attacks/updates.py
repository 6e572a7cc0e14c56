"""An attacker's picture of the client: a copy of the model to replay its round with, and what an update says of it.

An attack is only as good as its simulation of the client: same loss reduction, same mode, same buffers. So it replays
the very round that an honest client plays (`defenses.client.round`), as far as it is granted to know it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from attacks.base import NotApplicable
from attacks.observation import Observation
from defenses import Composition, compose
from defenses.client.kernels import start_recurrences
from defenses.client.optimizers import Optimizer
from defenses.client.optimizers.sgd import SGD
from defenses.client.round import ORDER, ClientRound, replay
from defenses.client.training import LocalTraining
from defenses.stochastic import Inexplicit, convert, refuse_hidden, set_stochastic

Tensors = Mapping[str, Tensor]


def attacker_copy(
    model: nn.Module,
    state: Tensors,
    *,
    client_mode: Literal["train", "eval"] = "train",
    example: Tensor | None = None,
) -> nn.Module:
    """A copy of the model that computes what the client computes, without drawing anything.

    In train mode its stochastic layers pass their input through unless a noise is substituted, and batch norm uses the
    statistics of the batch it sees (it tracks none: a running average cannot be updated under `vmap`). In eval mode
    batch norm uses the observed running statistics. Parameters do not require gradients: attacks differentiate
    functionally.

    Args:
        example: an input (B, ...). With it, one forward pass looks for randomness that no stochastic layer holds.

    Raises:
        ValueError: the state does not fit the model.
        NotApplicable: the model is random in a way that no noise can be substituted for, or, with `example`, its
            forward pass fails.
    """
    try:
        twin = convert(copy.deepcopy(model))
    except Inexplicit as reason:
        raise NotApplicable(str(reason)) from reason
    load_state(twin, state)
    twin.requires_grad_(False)
    twin.train(client_mode == "train")
    set_stochastic(twin, False)
    start_recurrences(twin)
    if client_mode == "train":
        for module in twin.modules():
            if isinstance(module, _BatchNorm):
                module.track_running_stats = False
                module.running_mean = module.running_var = module.num_batches_tracked = None
    if example is not None:
        with replayed("attacked"):
            refuse_hidden(twin, example.to(next(twin.parameters())))
    return twin


@contextmanager
def replayed(what: str) -> Iterator[None]:
    """Around the calls of anybody's model: what it raises is a reason not to attack it.

    Raises:
        NotApplicable: any other error, with its first line; but memory that ran out is no property of the model.
    """
    try:
        yield
    except NotApplicable:
        raise
    except Inexplicit as reason:
        raise NotApplicable(str(reason)) from reason
    except Exception as fault:
        if out_of_memory(fault):
            raise
        first = next(iter(str(fault).strip().splitlines()), type(fault).__name__)
        known = next((why for words, why in _KNOWN.items() if words in str(fault)), first[:200])
        raise NotApplicable(f"the model cannot be {what}: {known}") from fault


_KNOWN = {
    "data-dependent control flow": "its forward pass looks at values (.item(), or a branch on them)",
    "saved tensor hooks": "it uses gradient checkpointing, or other hooks on saved tensors",
    "setup_context staticmethod": "it uses an autograd.Function without setup_context, as reentrant checkpointing does",
    "use_reentrant=True": "it uses reentrant gradient checkpointing",
}
"""Long messages of torch, by some of their words, in short."""


def out_of_memory(fault: Exception) -> bool:
    """CUDA has an exception for it; the processor's allocator has only words."""
    return isinstance(fault, torch.OutOfMemoryError) or "can't allocate memory" in str(fault)


def load_state(model: nn.Module, state: Tensors) -> None:
    """Put the observed global state into a model; ValueError names what does not fit."""
    own = model.state_dict()
    for what, names in (("lacks", own.keys() - state.keys()), ("has, unlike the model,", state.keys() - own.keys())):
        if names:
            raise ValueError(f"the observed state {what} {', '.join(sorted(names))}")
    for name, value in own.items():
        if value.shape != state[name].shape:
            raise ValueError(
                f"the observed state's {name} has shape {tuple(state[name].shape)}, the model's {tuple(value.shape)}"
            )
    model.load_state_dict(dict(state), strict=True)


def known_defense(observation: Observation) -> Composition:
    """The client's defense as far as this attacker is granted to know it: without the grant, none."""
    return compose(observation.defense or ())


def client_round(
    observation: Observation, twin: nn.Module, kind: Literal["gradient", "delta"] | None = None
) -> ClientRound:
    """The client's round as far as this attacker knows it: what is not granted is not there.

    Args:
        twin: an `attacker_copy`.
        kind: what is simulated; by default as it was sent.
    """
    share = kind or observation.kind
    local = observation.local or LocalTraining()
    return ClientRound(
        model=twin,
        local=replace(local, steps=1, epochs=None) if share == "gradient" else local,
        defense=known_defense(observation),
        share=share,
        batch_size=observation.batch_size,
        classes=observation.classes,
    )


def simulate(
    model: nn.Module,
    state: Tensors,
    images: Tensor,
    labels: Tensor,
    noise: Tensors | None = None,
    *,
    local: LocalTraining | None = None,
    kind: Literal["gradient", "delta"] = "gradient",
) -> dict[str, Tensor]:
    """The update that an undefended client sends, differentiable in images, labels (probabilities) and noise.

    Args:
        model: gives the computation, e.g. an `attacker_copy`; its own weights are not used.
        state: the global state that the client received; the model's parameters among it are trained.
        images: (steps * B, C, H, W): the batches of the steps one after the other. labels and noise likewise.
        local: the local training; needed for `kind="delta"`.
        kind: `gradient`, or `delta`: returned weights minus sent weights.
    """
    if local is None and kind == "delta":
        raise ValueError("a weight delta cannot be simulated without the local training")
    training = local if local is not None and kind == "delta" else LocalTraining()
    return replay(ClientRound(model=model, local=training, share=kind), state, images, labels, noise).update


def observed_gradient(observation: Observation) -> dict[str, Tensor] | None:
    """The update as a gradient: itself, or the one that a single step reveals, to a factor if the client clipped it.

    None where it reveals none: of several steps, of an optimizer that keeps it to itself, or where a defense that is
    known changed what is no multiple of a gradient.

    Raises:
        NotApplicable: a weight delta whose local training is not granted.
    """
    if observation.kind == "gradient":
        return dict(observation.update)
    local = observation.local
    if local is None:
        raise NotApplicable("a weight delta needs local_training known")
    if local_steps(observation) != 1:
        return None
    start = {name: observation.state[name] for name in observation.update}
    defense = known_defense(observation)
    if defense.changes_update:
        still = local.first_gradient({name: torch.zeros_like(value) for name, value in start.items()}, start)
        if still is None or any(bool(value.any()) for value in still.values()):
            return None
        if not (defense.keeps_direction or defense.selects_only):
            return None
    return local.first_gradient(observation.update, start)


def mean_gradient(observation: Observation) -> dict[str, Tensor]:
    """About the mean of the gradients of a client's several steps: what labels can be counted in.

    Raises:
        NotApplicable: the local training is not granted, or its optimizer does not add gradients up.
    """
    try:
        moved = displacement(observation)
    except NotApplicable as reason:
        raise NotApplicable(f"labels cannot be inferred: {reason}") from reason
    return {name: value / moved[name] for name, value in observation.update.items()}


def displacement(observation: Observation) -> dict[str, float]:
    """By how much a gradient of 1 in each of a client's several steps would change each parameter: by plain SGD, minus
    the sum of the steps' learning rates.

    The steps' gradients are taken to be alike, as they are while the steps are small; weight decay is left out.

    Raises:
        NotApplicable: the local training is not granted, or its optimizer does not add gradients up.
    """
    local = observation.local
    if local is None:
        raise NotApplicable("a weight delta needs local_training known")
    if (other := next((one for one in local.optimizers if not _adds_up(one)), None)) is not None:
        raise NotApplicable(f"{other.name} does not add up gradients")
    still = {name: torch.zeros((), dtype=torch.float64) for name in observation.update}
    unit = {name: torch.ones_like(value) for name, value in still.items()}
    moved, state = still, local.init(still)
    for step in range(local_steps(observation)):
        change, state = local.change(unit, state, still, local.rates(still, step))
        moved = {name: value + change[name] for name, value in moved.items()}
    if not all(moved.values()):
        raise NotApplicable("some parameters are trained at a learning rate of zero")
    return {name: float(value) for name, value in moved.items()}


def _adds_up(optimizer: Optimizer) -> bool:
    one = {"": torch.ones(())}
    return optimizer.first_gradient(one, {"": torch.zeros(())}, 1.0) is not None


def as_one_batch(observation: Observation) -> None:
    """Decline a sum over clients that is not the update of one batch of all their images.

    It is where the update is linear in the gradients of the examples: a gradient, or one step of plain SGD (momentum
    and weight decay included), of clients that weigh alike and whose defense leaves their batches and updates alone.

    Raises:
        NotApplicable: it is not, with the reason.
    """
    if len(set(observation.weights)) > 1:
        raise NotApplicable("the clients weigh differently in the sum: it is not the update of one batch")
    local = observation.local
    if local_steps(observation) != 1:
        raise NotApplicable("a sum over clients of several local steps is not the update of one batch")
    if local is not None and (local.clip_norm is not None or local.clip_value is not None):
        raise NotApplicable("each client clipped its own gradient: the sum is not the update of one batch")
    if observation.kind == "delta" and local is not None and not local.linear:
        name = next(one.name for one in local.optimizers if not isinstance(one, SGD))
        raise NotApplicable(f"{name} acted on each client's own gradient: the sum is not of one batch")
    defense = known_defense(observation)
    if defense.changes_batch or defense.changes_loss or defense.replaces_gradient or defense.changes_update:
        raise NotApplicable("the defense acted on each client by itself: the sum is not the update of one batch")


def meets(model: nn.Module) -> str | None:
    """The first module of a copy in which the examples of a batch meet, so that those of two clients must not."""
    named = model.named_modules()
    return next((path for path, layer in named if isinstance(layer, _BatchNorm) and layer.training), None)


def local_steps(observation: Observation) -> int:
    """How many local steps the update is made of; a gradient is one.

    Raises:
        NotApplicable: the local training, or what it takes to count its steps, is not granted.
    """
    if observation.kind == "gradient":
        return 1
    local = observation.local
    if local is None:
        raise NotApplicable("a weight delta needs local_training known")
    if local.epochs is None:
        return local.steps
    if observation.batch_size is None:
        raise NotApplicable("needs batch_size known")
    return local.count(examples(observation), observation.batch_size)


def examples(observation: Observation) -> int:
    """How many distinct images the client trained on. Raises NotApplicable where that is not granted."""
    if observation.batch_size is None:
        raise NotApplicable("needs batch_size known")
    local = observation.local
    if observation.kind == "delta" and local is not None and local.epochs is not None:
        if observation.examples is None:
            raise NotApplicable("needs to be told how many examples the client's epochs went through")
        return observation.examples
    return local_steps(observation) * observation.batch_size


def order_of(observation: Observation) -> dict[str, Tensor]:
    """The order in which epochs took the examples, under its name among what is drawn; nothing of fresh batches.

    Nor of a single epoch whose labels are not granted: there the order is only which image is called the first. Nor
    where a batch holds all examples.

    Raises:
        NotApplicable: there is one, and it is not granted.
    """
    if observation.kind == "gradient" or observation.local is None or observation.local.epochs is None:
        return {}
    if observation.order is None and _order_is_nothing(observation):
        return {}
    if observation.order is None:
        raise NotApplicable("the order in which the client's epochs took its examples is not known")
    return {ORDER: observation.order}


def _order_is_nothing(observation: Observation) -> bool:
    """Whether epochs of any order are the same to whoever looks for the images."""
    local = observation.local
    alone = local is not None and local.epochs == 1 and observation.labels is None
    whole = None not in (observation.batch_size, observation.examples)
    return alone or (whole and observation.examples <= observation.batch_size)  # type: ignore[operator]


def trained_part(observation: Observation, model: nn.Module) -> Observation:
    """The observation with an update that holds what was trained and nothing else: all that an attack may match.

    A server knows what that is: it sends the model, and sees what never moves. Left out are parameters that require no
    gradient in the model (where any does: a model of which none does says nothing), parameters without a value (as
    `.grad` is None), those whose update is zero throughout, and all names of tied weights but the first.

    Raises:
        NotApplicable: an update that no attack can use: foreign names or shapes, not finite, or nothing left.
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    ours = {name: value for name, value in observation.update.items() if value is not None}
    if not ours:
        raise NotApplicable("the update is empty")
    for name, value in ours.items():
        if name not in named:
            raise NotApplicable(f"the update has {name}, which is no parameter of the model")
        shape = tuple(named[name].shape)
        if tuple(value.shape) != shape:
            raise NotApplicable(f"the update's {name} has shape {tuple(value.shape)}, the model's {shape}")
        if value.numel() and not torch.stack(value.aminmax()).isfinite().all():  # one pass, and no copy
            raise NotApplicable(f"the update's {name} is not finite")
    if not any(value.any() for value in ours.values()):
        raise NotApplicable("the update is zero: it holds nothing to match")
    told = any(parameter.requires_grad for parameter in named.values())
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    update: dict[str, Tensor] = {}
    for name, value in ours.items():
        if (named[name].requires_grad or not told) and value.any():
            update.setdefault(first[id(named[name])], value)
    if not update:
        raise NotApplicable("the update holds only parameters that are not trained")
    return observation if update.keys() == observation.update.keys() else replace(observation, update=update)


def with_zeros(observation: Observation, given: Observation) -> Observation:
    """A `trained_part`, and beside it those parameters whose update was given and is zero throughout: of a site that
    decides whether they take part at all, this is what it drew."""
    zeros = {name: value for name, value in given.update.items() if value is not None and not value.any()}
    return replace(observation, update={**zeros, **observation.update})


def lacks(what: str) -> str:
    """Why an attack declines an update without `what`, once `trained_part` has looked at it."""
    return f"the update lacks {what}: zero (as below a head initialised with zeros), not trained, or not shared"
