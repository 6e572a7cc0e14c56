"""One client's batch that comes back round after round, through a linear first layer: the rounds as one wider layer.

A client of few examples trains on the same ones in every round. Its first layer's gradients are `D_t^T X` in round t:
the deltas D_t change with the weights and with what was dropped, the images X do not. So below one another they are the
gradient of one layer with T times as many units, whatever else happened between the rounds:

    [dL/dW_1; ...; dL/dW_T] = [D_1, ..., D_T]^T X        and the same of dL/db

What a closed form for batches lacks is units for each image. That several rounds say more than one is the idea of
temporal gradient inversion (TGIAs-RO: Li, Gu, Chen and others, *Temporal Gradient Inversion Attacks with Robust
Optimization*, 2023, arXiv 2306.07883), which matches the gradients of several rounds, and outvotes those that are of no
use by robust statistics. Nothing is matched here.

That a batch recurs is assumed, and it shows where it does not: what came back of other images is no mixture of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from attacks.base import NotApplicable, Reconstruction, create, register
from attacks.closed_form.base import ClosedForm, Puzzle
from attacks.closed_form.first_layer import first_linear
from attacks.closed_form.low_rank import LowRank
from attacks.seeds import generator_for

OTHERS = 0.2  # the share of a round's gradient that may be no mixture of the images of the present one
FORMS = ("sparse_dictionary", "cocktail_party", "spear", "fidel")


@dataclass(frozen=True)
class Rounds(Puzzle):
    """Several rounds of the same images as one puzzle: of each parameter they are one below the other, all of one size.

    Args:
        each: the rounds, the present one first.
        layer: the weight by whose gradient the rounds are measured.
    """

    each: tuple[Puzzle, ...] = ()
    layer: str = ""

    def gradient(self, name: str) -> Tensor:
        return torch.cat([one.gradient(name) / one.gradient(self.layer).norm() for one in self.each])

    def weight(self, name: str) -> Tensor:
        return torch.cat([one.weight(name) for one in self.each])


@register("multi_round")
@dataclass(kw_only=True, eq=False)
class MultiRound(ClosedForm):
    """Batches that recur over several rounds, through a linear first layer: their gradients are those of a wider one.

    The earlier rounds are those of `Observation.earlier`. In a scenario the attack is given all attacked rounds of its
    client before the present one, as far as they were seen; a client's examples recur where it goes through all of them
    in epochs. `details["rounds"]` says how many were used.

    Args:
        by: the closed form that solves it: `sparse_dictionary`, `cocktail_party`, `spear` or `fidel`.
    """

    paper: ClassVar[str] = "after the idea of TGIAs-RO (Li, Gu et al., 2023, arXiv 2306.07883)"
    exploits: ClassVar[str] = "a linear first layer; a batch that recurs over rounds"
    under_dropout: ClassVar[str] = "that of the closed form that solves it; every round has masks of its own"
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {"aggregation": ("individual", "sum_of_*")}
    adapts: ClassVar[Mapping[str, str | None]] = {**ClosedForm.adapts, "secure_aggregation": None}
    looks_back: ClassVar[bool] = True

    by: str = "sparse_dictionary"

    def __post_init__(self) -> None:
        if self.by not in FORMS:
            raise ValueError(f"{self.name}: by = {self.by!r} is none of {', '.join(FORMS)}")

    def solve(self, puzzle: Puzzle, *, seed: int) -> Reconstruction:
        rounds = self._rounds(puzzle)
        answer = self._form().solve(rounds, seed=seed)
        return replace(answer, details={**answer.details, "by": self.by, "rounds": len(rounds.each)})

    def unexplained(self, puzzle: Puzzle, images: Tensor) -> Tensor:
        return self._form().unexplained(self._rounds(puzzle), images)

    def _form(self) -> ClosedForm:
        form = create(self.by)
        assert isinstance(form, ClosedForm)
        return form

    def _rounds(self, puzzle: Puzzle) -> Rounds:
        """Raises NotApplicable where there is nothing to put together."""
        model, known = puzzle.given_model, puzzle.threat_model
        if not puzzle.observation.earlier:
            raise NotApplicable("only one round of this client was seen")
        if puzzle.images == 1:
            raise NotApplicable("takes batches: of one image a single round says all")
        first = first_linear(puzzle)
        each = [puzzle, *(Puzzle.of(one, known, model) for one in puzzle.observation.earlier)]
        for one in each:
            round = one.observation.round
            for name in (first.weight, first.bias):
                if name is not None and name not in one.names:
                    raise NotApplicable(f"the reply of round {round} lacks {name}")
            if one.images != puzzle.images:
                raise NotApplicable(f"the reply of round {round} is of {one.images} images, not of {puzzle.images}")
            if one.estimates is not None:
                raise NotApplicable(f"the reply of round {round} says each entry with a precision of its own")
        _same_images(each, [first.space(one, _generator(one)) for one in each])
        return Rounds(
            puzzle.observation, known, model, puzzle.steps, puzzle.images, each=tuple(each), layer=first.weight
        )


def _same_images(each: list[Puzzle], spaces: list[LowRank]) -> None:
    """Raise NotApplicable unless what came back in all rounds are mixtures of the images of that which shows most."""
    most = max(spaces, key=lambda space: space.rank)
    for one, space in zip(each, spaces, strict=True):
        rows = space.values[:, None] * space.right.T
        left = float((rows - rows @ most.right @ most.right.T).norm() / rows.norm())
        if left > max(OTHERS, 2 * space.residual):
            round = one.observation.round
            raise NotApplicable(f"what came back in round {round} is of other images: {left:.0%} of it differs")


def _generator(puzzle: Puzzle) -> torch.Generator:
    return generator_for(0, "multi_round", round=puzzle.observation.round, client=puzzle.observation.client)
