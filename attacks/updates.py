"""What an update says of the client that sent it: which gradient, of how many steps and images, of which parameters."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from attacks.base import NotApplicable
from attacks.observation import Observation
from attacks.twin import known_defense
from defenses.client.optimizers import Optimizer
from defenses.client.optimizers.sgd import SGD
from defenses.client.round import ORDER


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
