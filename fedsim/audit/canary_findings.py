"""What a canary saw of the client's training, in sentences, and what of the user's account of it that contradicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from defenses.client.training import LocalTraining
from fedsim.audit.facts import Facts, Option
from fedsim.audit.finding import Finding
from fedsim.audit.replaying import Replayed
from fedsim.audit.told import Told


def seen_in(facts: Facts, again: Replayed, told: Told, steps: int) -> Iterator[Finding]:
    """What the canary saw, and what of the user's account it contradicts."""
    if again.why is not None:
        says = f"the client's round cannot be replayed: {again.why}"
        yield Finding("Replay", f"{says}; that an attack fails on it says nothing", True)
    else:
        near = f"{again.error:.0e} of its update, what rounding makes of it"
        yield Finding("Replay", f"our picture of the client's round gives what it sent, to float32 ({near})")
    optimizer = facts.optimizer.removeprefix("torch.optim.")
    keys = ", ".join(f"{key} {value:g}" for key, value in _spoken(facts.options))
    rates = _rates(facts.learning_rates)
    yield Finding("Optimizer", f"the client trains with {optimizer}, learning rate {rates}{keys and f', {keys}'}")
    for group in facts.groups:
        which = ", ".join(group.parameters[:4]) + (", ..." if len(group.parameters) > 4 else "")
        apart = ", ".join(f"{key} {value:g}" for key, value in _spoken(group.options))
        says = f"it trains {which} apart: learning rate {_rates(group.learning_rates)}{apart and f', {apart}'}"
        yield Finding("Optimizer", says)
    local = told.local
    if local is not None:
        spec: Mapping[str, Any] = local.optimizer.spec()
        pairs = [
            ("optimizer", optimizer.lower(), spec["name"]),
            ("learning rate", facts.lr, _first_rate(local)),
            ("momentum", facts.momentum, spec.get("momentum", 0.0)),
            ("weight decay", facts.weight_decay, spec.get("weight_decay", 0.0)),
        ]
        for what, saw, said in pairs:
            if saw != said and not (what == "momentum" and optimizer != "SGD"):
                says = f"{what}: the client has {_value(saw)}, and what was said is {_value(said)}"
                yield Finding("Canary", says, True)
    if facts.mode != told.mode:
        yield Finding("Mode", f"the client trains in {facts.mode} mode, and what was said is {told.mode}", True)
    if facts.batch_size is not None and told.batch_size is not None and facts.batch_size != told.batch_size:
        says = f"the client's loader has batches of {facts.batch_size}, and what was said is {told.batch_size}"
        yield Finding("Batch size", says, True)
    if facts.frozen:
        yield Finding("Frozen", f"the client does not train {', '.join(facts.frozen[:4])}")
    for note in facts.notes:
        yield Finding("Canary", note)


def _spoken(options: Mapping[str, Option]) -> Iterator[tuple[str, float]]:
    for key in ("momentum", "weight_decay"):
        if value := options.get(key):
            yield key.replace("_", " "), float(value)  # type: ignore[arg-type]


def _rates(rates: Sequence[float]) -> str:
    if len(set(rates)) == 1:
        return f"{rates[0]:g}"
    return f"{rates[0]:g} in the first step, {rates[-1]:g} in the last, {min(rates):g} to {max(rates):g}"


def _first_rate(local: LocalTraining) -> float:
    return local.learning_rate * (1.0 if local.schedule is None else local.schedule.factor(0))


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float | int) else str(value)
