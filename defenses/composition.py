"""Several defenses, one after the other, as one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from defenses.base import Accounting, Defense, Deployment, PerExample, Tensors, Turn, create
from defenses.client.kept import Kept, both
from defenses.client.spread import Spread


def _any_part(name: str) -> Any:
    """A property of a composition: whether any of its parts has the property of that name."""
    return property(lambda self: any(getattr(part, name) for part in self.parts.values()))


class Composition(Defense):
    """Several defenses, one after the other. The order is the order of the list."""

    def __init__(self, parts: Sequence[Defense]) -> None:
        self.parts: dict[str, Defense] = {}
        for part in parts:
            count = sum(known.name == part.name for known in self.parts.values())
            self.parts[f"{part.name}#{count + 1}" if count else part.name] = part
        replacing = [part.name for part in parts if part.replaces_gradient]
        if len(replacing) > 1:
            listed = " and ".join(replacing)
            raise ValueError(f"only one defense of a composition may replace the gradient, not {listed}")
        set_by: dict[str, str] = {}
        for part in parts:
            for key in part.local_overrides():
                if key in set_by:
                    raise ValueError(f"{set_by[key]} and {part.name} both say what {key} is; once is enough")
                set_by[key] = part.name
        comparing = [part.name for part in parts if part.compares]
        if len(comparing) > 1:
            listed = " and ".join(comparing)
            raise ValueError(f"only one defense of a composition may say how updates are compared, not {listed}")
        summing = [part.name for part in parts if part.aggregates]
        single = [part.name for part in parts if part.takes_single_updates]
        if summing and single:
            has = f"of which the server under {summing[0]} has the sum alone"
            raise ValueError(f"{single[0]} takes single updates, {has}")

    def model_overrides(self) -> dict[str, Any]:
        return {key: value for part in self.parts.values() for key, value in part.model_overrides().items()}

    def local_overrides(self) -> dict[str, Any]:
        return {key: value for part in self.parts.values() for key, value in part.local_overrides().items()}

    def on_model(self, model: nn.Module) -> nn.Module:
        for part in self.parts.values():
            model = part.on_model(model)
        return model

    def on_batch(self, images: Tensor, labels: Tensor, *, turn: Turn) -> tuple[Tensor, Tensor]:
        for key, part in self.parts.items():
            images, labels = part.on_batch(images, labels, turn=turn.of(key))
        return images, labels

    @property
    def grows(self) -> int:
        return math.prod(part.grows for part in self.parts.values())

    @property
    def shows(self) -> bool:  # type: ignore[override]
        return any(part.shows for part in self.parts.values())

    def views(self, images: Tensor, labels: Tensor, *, turn: Turn) -> Tensor:
        """By the parts that show them alone: of a noisy, turned image the turned one."""
        for key, part in self.parts.items():
            if part.shows:
                images, labels = part.on_batch(images, labels, turn=turn.of(key))
        return images

    def loss_term(self, model: nn.Module) -> Tensor | float:
        return sum((part.loss_term(model) for part in self.parts.values()), start=0.0)

    def gradient(self, per_example: PerExample, *, turn: Turn) -> tuple[Tensors, Tensor]:
        key, part = next((key, part) for key, part in self.parts.items() if part.replaces_gradient)
        return part.gradient(per_example, turn=turn.of(key))

    def on_update(self, update: Tensors, *, turn: Turn) -> Tensors:
        for key, part in self.parts.items():
            update = part.on_update(update, turn=turn.of(key))
        return update

    def surrogate(self, update: Tensors, *, turn: Turn) -> Tensors:
        """Of the last part that selects or compares, nothing is left to simulate: what it keeps is compared, as it is.
        """
        for key, part in self.parts.items():
            if part is not self._selecting and part is not self._comparing:
                update = part.surrogate(update, turn=turn.of(key))
        return update

    def selection(self, observed: Mapping[str, Tensor]) -> Mapping[str, Kept] | None:
        """What all say that select: the last part that changes the update, and those that leave it as it is.

        One that would leave nothing of what those before it leave is not heard.
        """
        found: Mapping[str, Kept] | None = None
        for part in self.parts.values():
            if part is self._selecting or (part.selects and not part.changes_update):
                own = part.selection(observed)
                if own is not None and found is not None:
                    own = {name: both(kept, own[name]) for name, kept in found.items()}
                if own is not None and any(bool(kept.any()) for kept in own.values()):
                    found = own
        return found

    def spread(self, observed: Mapping[str, Tensor], *, examples: int, rate: float) -> Spread | None:
        """Of all parts together; one that scales what an earlier one added is taken to leave it.

        What was taken away is known only where nothing is added later.
        """
        found: Spread | None = None
        for part in self.parts.values():
            if part.selects and part.changes_update and part is not self._selecting:
                continue
            own = part.spread(observed, examples=examples, rate=rate)
            if own is not None:
                found = own if found is None else found.then(own)
        return found

    def compare(self, simulated: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> Tensor:
        """As the last part that changes the update says."""
        assert self._comparing is not None
        return self._comparing.compare(simulated, observed)

    def bits(self, update: Tensors) -> int:
        """By the code of the last part that changes the update; or of one that the update is sent through."""
        last = next((part for part in reversed(self.parts.values()) if part.changes_update), None)
        coding = [part for part in self.parts.values() if part is last or part.aggregates]
        own = [part for part in coding if type(part).bits is not Defense.bits]
        return own[-1].bits(update) if own else super().bits(update)

    def on_aggregate(self, updates: Sequence[Tensors], weights: Sequence[float]) -> Tensors:
        """The first part that aggregates is given the updates of the clients, the next what that makes of them."""
        for part in self.parts.values():
            if part.aggregates:
                updates, weights = [part.on_aggregate(updates, weights)], [1.0]
        return updates[0]

    def on_received(self, update: Tensors) -> Tensors:
        for part in self.parts.values():
            update = part.on_received(update)
        return update

    def on_mean(self, mean: Tensors, weights: Sequence[float], *, turn: Turn) -> Tensors:
        for key, part in self.parts.items():
            mean = part.on_mean(mean, weights, turn=turn.of(key))
        return mean

    def refuses(self, deployment: Deployment) -> str | None:
        reasons = [part.refuses(deployment) for part in self.parts.values()]
        return next((reason for reason in reasons if reason is not None), None)

    def accounting(self, *, updates: int, steps: int, batch_size: int, examples: int) -> Accounting | None:
        """The first part's that accounts for any. Of single examples there is nothing to account for where they were
        mixed before; what is done after takes nothing from it."""
        mixed = any(part.changes_batch and not part.one_to_one for part in self.parts.values())
        found = (
            part.accounting(updates=updates, steps=steps, batch_size=batch_size, examples=examples)
            for part in self.parts.values()
            if not (mixed and part.replaces_gradient)
        )
        return next((accounting for accounting in found if accounting is not None), None)

    draws = _any_part("draws")
    replaces_gradient = _any_part("replaces_gradient")
    changes_model = _any_part("changes_model")
    changes_batch = _any_part("changes_batch")
    changes_loss = _any_part("changes_loss")
    changes_update = _any_part("changes_update")
    aggregates = _any_part("aggregates")
    takes_single_updates = _any_part("takes_single_updates")
    changes_mean = _any_part("changes_mean")
    spreads = _any_part("spreads")

    @property
    def server_alone(self) -> bool:
        return all(part.server_alone for part in self.parts.values())

    @property
    def _selecting(self) -> Defense | None:
        """The last part that changes the update, if it says what to look at; others are replayed."""
        changing = [part for part in self.parts.values() if part.changes_update]
        return changing[-1] if changing and changing[-1].selects else None

    @property
    def _comparing(self) -> Defense | None:
        """The last part that changes the update, if it says how to compare; not where noise was added before, of which
        it knows nothing."""
        changing = [part for part in self.parts.values() if part.changes_update or part.replaces_gradient]
        alone = changing and changing[-1].compares and not any(part.spreads for part in changing[:-1])
        return changing[-1] if alone else None

    @property
    def compares(self) -> bool:
        return self._comparing is not None

    @property
    def keeps_direction(self) -> bool:  # type: ignore[override]
        return all(part.keeps_direction or not part.changes_update for part in self.parts.values())

    @property
    def selects(self) -> bool:
        return self._selecting is not None or any(
            part.selects and not part.changes_update for part in self.parts.values()
        )

    @property
    def selects_only(self) -> bool:
        others = [part for part in self.parts.values() if part is not self._selecting]
        return self._selecting is not None and all(part.keeps_direction or not part.changes_update for part in others)

    @property
    def declarative(self) -> bool:
        return all(part.declarative for part in self.parts.values())


def compose(specs: Sequence[Mapping[str, Any]]) -> Composition:
    """Build the composition that a list of `{"name": ..., **params}` describes; an empty list is no defense."""
    return Composition([create(spec["name"], **{k: v for k, v in spec.items() if k != "name"}) for spec in specs])
