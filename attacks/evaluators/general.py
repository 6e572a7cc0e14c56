"""Any model, any local training, any defense: `vmap` over problems of the gradient of the matching loss, itself made of
gradients.

`vmap` is the outermost transformation. The other way round, autograd through `vmap(grad(...))`, is silently wrong for
normalisation layers: `vmap` takes their backward apart into operations that hold the mean and the deviation constant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from attacks.base import NotApplicable
from attacks.evaluators.base import Beliefs, Evaluator
from attacks.facts import FACT
from attacks.local_step import LocalSteps
from attacks.objectives import Objective, OfEntries
from attacks.unknowns import ALONG, Guess, noise_of
from defenses.client.kept import Kept, as_tensors, from_tensors, remains
from defenses.client.round import ClientRound, Played, replay

Tensors = Mapping[str, Tensor]

THEIRS = "theirs"
"""Among the data of a problem: the inner product of each observed parameter's update with itself, (N, M)."""

AT_ONCE = 2**20
"""Entries of the largest parameter, over the problems that a processor takes at once (8 MB in float64). The C library
gives larger blocks back to the system, which clears them for the next use: all at once, 16 MLPs of 930,000 parameters
take two to three times as long. Models of small layers gain by many problems at once."""


class General(Evaluator):
    """Forms every problem's simulated update, by replaying the client's round.

    Args:
        round: as far as it is known; its model's state is what the clients received.
        objective: how updates are compared.
        observed: the observed updates by parameter name, (N, *shape); parameters that are not in it are not matched.
        kept: what of each of them is compared, (N, ...); None: all.
        beliefs: the priors that ask for what enters layers.
        compares: whether updates are compared as the round's defense says, if it does, in place of the objective.

    Raises:
        NotApplicable: there are such priors, and the defense takes the examples one by one.
    """

    def __init__(
        self,
        round: ClientRound,
        objective: Objective,
        observed: Tensors,
        *,
        kept: Mapping[str, Kept] | None = None,
        beliefs: Beliefs | None = None,
        compares: bool = False,
    ) -> None:
        self._compares = compares and round.defense.compares
        self._round, self._objective, self._beliefs = round, objective, beliefs or Beliefs()
        if self._beliefs.asks and round.defense.replaces_gradient:
            raise NotApplicable("the defense takes each example's gradient by itself: no layer sees a batch")
        trained = {name: value.detach() for name, value in round.model.named_parameters() if name in observed}
        self._state = {**trained, **dict(round.model.named_buffers())}
        self._names, self._selects = list(trained), kept is not None
        self.data = {name: observed[name] for name in trained}
        for name, one in (kept or {}).items():
            self.data |= as_tensors(name, one) if name in trained else {}
        self.data |= self._beliefs.data()
        self._steps: LocalSteps | None = None
        self._chunk = max(1, AT_ONCE // max([1, *(value.numel() for value in trained.values())]))
        if not self._compares and objective.needs == "products":
            self.data[THEIRS] = self._each(self._norms)(dict(self.data))

    def compare(self, data: Tensors, guess: Guess, unknowns: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        unknown = {name: guess[name] for name in unknowns}
        known = {name: value for name, value in guess.items() if name not in unknown}
        gradients, losses = self._each(grad_and_value(self._loss))(unknown, known, dict(data))
        return losses, gradients

    def judge(
        self, data: Tensors, guess: Guess, unknowns: Sequence[str], weight: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        if not self._beliefs.priors:
            return super().judge(data, guess, unknowns, weight)
        unknown = {name: guess[name] for name in unknowns}
        known = {name: value for name, value in guess.items() if name not in unknown}
        judged = self._each(grad_and_value(self._judged, has_aux=True))
        gradients, (_, (losses, penalties)) = judged(unknown, known, dict(data), weight)
        return losses, penalties, gradients

    def local_steps(self, guess: Guess) -> int:
        if self._beliefs.asks or self._round.defense.replaces_gradient:
            return 1
        return len(self._round.local.sizes(guess["images"].shape[1], self._round.batch_size))

    def compile_local_steps(self, problems: int) -> None:
        few = next(iter(self._state.values())).device.type == "cpu"
        self._steps = LocalSteps(min(problems, self._chunk) if few else problems)

    def _each(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function for all problems: on a processor, and where nobody writes down its operations, for a few at a
        time."""
        few = not self.whole and next(iter(self._state.values())).device.type == "cpu"
        return vmap(function, chunk_size=self._chunk if few else None)

    def _judged(
        self, unknown: Tensors, known: Tensors, data: Tensors, weight: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Of one problem: what it is to go down in, and of this the loss and the penalty."""
        guess = {**known, **unknown}
        played = self._played(guess, data)
        loss = self._mismatch(played.update, data)
        alone, facts = ({name: value[None] for name, value in each.items()} for each in (guess, _facts(data)))
        steps = [{path: [call[None] for call in calls] for path, calls in step.items()} for step in played.entered]
        penalty = self._beliefs.penalty(alone, facts, steps)[0].to(loss)
        return loss + weight * penalty, (loss, penalty)

    def _loss(self, unknown: Tensors, known: Tensors, data: Tensors) -> Tensor:
        """Of one problem: no leading N."""
        return self._mismatch(self._played({**known, **unknown}, data).update, data)

    def _played(self, guess: Tensors, data: Tensors) -> Played:
        images, labels, noise, state = guess["images"], guess["labels"], noise_of(guess), self._state
        asked, run_step = self._beliefs.asks, None if self.whole else self._steps
        if ALONG in guess:
            moved = zip(self._names, guess[ALONG].unbind())
            state = {**state, **{name: state[name] + way * data[name] for name, way in moved}}
        return replay(self._round, state, images, labels, noise, surrogate=True, watched=asked, run_step=run_step)

    def _mismatch(self, simulated: Tensors, data: Tensors) -> Tensor:
        observed = self._compared({name: data[name] for name in self._names}, data)
        ours = self._compared({name: simulated[name] for name in self._names}, data)
        if self._compares:
            return self._round.defense.compare(ours, observed)
        if self._objective.needs == "entries":
            return cast(OfEntries, self._objective).of_entries(ours, observed)
        inner, norms = (
            torch.stack([_product(first[name], second[name]) for name in observed])[None]
            for first, second in ((ours, observed), (ours, ours))
        )
        return self._objective(inner, norms, data[THEIRS][None])[0]

    def _norms(self, data: Tensors) -> Tensor:
        """Of the observed update of one problem, for each parameter."""
        observed = self._compared({name: data[name] for name in self._names}, data)
        return torch.stack([_product(value, value) for value in observed.values()])

    def _compared(self, update: Tensors, data: Tensors) -> Tensors:
        """What of an update is compared."""
        if not self._selects:
            return update
        return {name: remains(from_tensors(name, data), value) for name, value in update.items()}


def _facts(data: Tensors) -> dict[str, Tensor]:
    return {name: value for name, value in data.items() if name.startswith(FACT)}


def _product(first: Tensor, second: Tensor) -> Tensor:
    """The inner product, exact for float32 tensors: `1 - cos` of gradients that point alike is lost in its rounding."""
    return (first.double() * second.double()).sum()
