"""Our picture of a client: what it was seen to do on known images, as a `ClientRound` that can be replayed."""

from __future__ import annotations

import copy
import glob
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from defenses.client import optimizers
from defenses.client.compute import own_loss
from defenses.client.groups import Group
from defenses.client.optimizers import Optimizer
from defenses.client.round import ORDER, ClientRound
from defenses.client.schedules import Schedule
from defenses.client.schedules.listed import Listed
from defenses.client.training import LocalTraining
from defenses.stochastic.convert import Inexplicit, convert
from fedsim.audit.facts import Canary, Facts, GroupSeen, Option


class CannotReplay(ValueError):
    """What a client did that no `ClientRound` describes, in one line."""


@dataclass(frozen=True)
class Picture:
    """A client's round as `replay` takes it.

    Args:
        round: with the user's model, all its dropout explicit.
        state: what is trained, and the buffers, as they were sent, by the model's own names.
        images: (N, C, H, W), normalised: of each step one after the other, or with epochs the distinct ones.
        labels: (N,).
        drawn: the masks, and of epochs the order.
    """

    round: ClientRound
    state: dict[str, Tensor]
    images: Tensor
    labels: Tensor
    drawn: dict[str, Tensor]


def picture_of(
    canary: Canary, model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor] | None = None
) -> Picture:
    """The round that a canary was seen to play.

    Raises:
        CannotReplay: there is none that says what the client did.
    """
    facts = canary.facts
    if facts.unexplained:
        raise CannotReplay(facts.unexplained[0])
    smoothing = 0.0 if loss is not None or own_loss(model) is not None else _smoothing(facts)
    local, batch_size, chosen, order = layout(canary)
    local = replace(local, label_smoothing=smoothing)
    dtype = getattr(torch, facts.dtype)
    images = normalised(canary)[chosen].view(len(chosen), *facts.input_shape)
    own = explicit(model, images[:2])
    if loss is not None:
        own.own_loss = loss  # type: ignore[assignment]
    state = named(own, canary.recorded.sent)
    own.load_state_dict(state)
    own.train(facts.mode != "eval")
    for path in facts.resting:
        own.get_submodule(path).training = False
    parameters = dict(own.named_parameters())
    trained = {name for name in parameters if name not in set(facts.frozen)}
    kept = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
    return Picture(
        ClientRound(model=own.to(dtype), local=local, share="delta", batch_size=batch_size),
        {name: value for name, value in kept.items() if name in trained or name not in parameters},
        images.to(dtype),
        canary.labels[chosen],
        {**{site: mask.to(dtype) for site, mask in canary.noise.items()}, **({} if order is None else {ORDER: order})},
    )


def explicit(model: nn.Module, example: Tensor) -> nn.Module:
    """A copy of a model with all its dropout explicit, called as a layer or as a function.

    Raises:
        CannotReplay: it draws random numbers elsewhere, or cannot be run on images alone.
    """
    try:
        return convert(copy.deepcopy(model), example)
    except Inexplicit as error:
        raise CannotReplay(str(error)) from error
    except Exception as error:  # of the user's code
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise CannotReplay(f"the model cannot be run on images {tuple(example.shape)}: {line}") from error


def layout(canary: Canary) -> tuple[LocalTraining, int | None, Tensor, Tensor | None]:
    """The local training, the size of its batches, the images that it takes, (N,) places, and their order with epochs.

    Raises:
        CannotReplay: no local training takes such steps.
    """
    facts, steps = canary.facts, canary.order
    sizes = [len(step) for step in steps]
    taken = [index for step in steps for index in step]
    rate = max(facts.learning_rates) or max((r for group in facts.groups for r in group.learning_rates), default=0.0)
    if not rate:
        raise CannotReplay("the learning rate is zero in all of its steps")
    base = LocalTraining(
        learning_rate=rate,
        schedule=_schedule(facts.learning_rates, rate),
        optimizer=optimizer_of(facts.optimizer, facts.options),
        groups=tuple(_group(group, facts, rate) for group in facts.groups),
        clip_norm=facts.clip_norm,
        clip_value=facts.clip_value,
    )
    distinct = sorted(set(taken))
    epochs = len(taken) // len(distinct)
    places = torch.tensor([distinct.index(index) for index in taken])
    passes = replace(base, epochs=epochs)
    whole = len(taken) == epochs * len(distinct) and all(
        len(set(part)) == len(distinct) for part in _chunks(taken, len(distinct))
    )
    if len(set(sizes)) == 1 and (epochs == 1 or not whole):
        return replace(base, steps=len(steps)), None, torch.tensor(taken), None
    if whole and passes.sizes(len(distinct), sizes[0]) == sizes:
        return passes, sizes[0], torch.tensor(distinct), places
    once = replace(base, epochs=1)
    if once.sizes(len(taken), sizes[0]) == sizes:
        return once, sizes[0], torch.tensor(taken), torch.arange(len(taken))
    raise CannotReplay(f"its steps take {', '.join(map(str, sizes[:8]))} images, which no epochs of one batch size do")


def _schedule(rates: Sequence[float], top: float) -> Schedule | None:
    """The factors of the rates that were seen; None where they are all `top`."""
    factors = tuple(rate / top for rate in rates)
    return None if set(factors) == {1.0} else Listed(factors=factors)


def _group(seen: GroupSeen, facts: Facts, rate: float) -> Group:
    return Group(
        parameters=tuple(glob.escape(name) for name in seen.parameters),
        optimizer=optimizer_of(facts.optimizer, seen.options),
        schedule=Listed(factors=tuple(own / rate for own in seen.learning_rates)),
    )


def optimizer_of(name: str, options: Mapping[str, Option]) -> Optimizer:
    """Our optimizer of the same meaning.

    Args:
        name: of its class, as `Facts.optimizer` has it.

    Raises:
        CannotReplay: there is none.
    """
    for odd in ("maximize", "amsgrad", "dampening"):
        if options.get(odd):
            raise CannotReplay(f"{name} with {odd} = {options[odd]}")
    decay = options.get("weight_decay") or 0.0
    if name == "torch.optim.SGD":
        keys = {"momentum": options.get("momentum") or 0.0, "nesterov": bool(options.get("nesterov"))}
        return optimizers.create("sgd", **keys, weight_decay=decay)
    if name in ("torch.optim.Adam", "torch.optim.AdamW"):
        betas = options["betas"]
        assert isinstance(betas, tuple)
        apart = name.endswith("AdamW") or bool(options.get("decoupled_weight_decay"))
        return optimizers.create(
            "adamw" if apart else "adam",
            beta1=betas[0],
            beta2=betas[1],
            epsilon=options["eps"],
            weight_decay=decay,
        )
    known = ", ".join(optimizers.names())
    raise CannotReplay(f"no optimizer of ours computes what {name} does; there are {known}")


def normalised(canary: Canary) -> Tensor:
    """The images as they enter the model, float32 (N, C, H, W)."""
    mean, std = (torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1) for values in (canary.mean, canary.std))
    return (canary.pixels.float().div(255) - mean) / std


def named(model: nn.Module, arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Arrays by the model's own names: those of a list, which have numbers for names, by their order.

    Raises:
        CannotReplay: they are not those of the model.
    """
    own = model.state_dict()
    if arrays.keys() == own.keys():
        return dict(arrays)
    shapes = [tuple(value.shape) for value in own.values()]
    if all(name.isdigit() for name in arrays) and [tuple(value.shape) for value in arrays.values()] == shapes:
        return dict(zip(own, arrays.values(), strict=True))
    foreign = sorted(arrays.keys() ^ own.keys())[:4]
    raise CannotReplay(f"the model does not have the arrays that were sent: {', '.join(foreign)}")


def _smoothing(facts: Facts) -> float:
    for seen in facts.losses:
        if seen.name not in ("cross_entropy", "nll_loss"):
            raise CannotReplay(f"its loss is computed with {seen.name}; what is replayed is the mean cross-entropy")
        if seen.reduction != "mean":
            raise CannotReplay(f"its loss is the {seen.reduction} over a batch; what is replayed is the mean")
        if seen.weighted:
            raise CannotReplay("its loss weighs classes differently")
    smoothings = {seen.label_smoothing for seen in facts.losses} or {0.0}
    if len(smoothings) > 1:
        raise CannotReplay("its loss smooths labels differently from step to step")
    return smoothings.pop()


def _chunks(values: Sequence[int], size: int) -> list[Sequence[int]]:
    return [values[start : start + size] for start in range(0, len(values), size)]
