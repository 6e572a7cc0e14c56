"""One iteration of an iterative attack: N problems (victims x restarts) move together, each as it would alone.

Everything is elementwise over the problems: each has its own learning rate, its own plateau and its own best iterate.
The whole iteration is one pure function of tensors, so that it can be traced, and compiled as one program.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attacks.evaluators import Evaluator
from attacks.facts import Facts, Restarts, taken_of
from attacks.layout import Layout
from attacks.objectives import Objective
from attacks.observation import Observation
from attacks.optimisers import Adam, Optimiser, State
from attacks.pace import Schedule, fallen, lightened, settling, slowed, verdict, weight_of
from attacks.priors import Prior
from attacks.unknowns import Guess, Unknown


@dataclass(frozen=True, kw_only=True)
class Composition:
    """An attack: what is optimised, what is compared, what is believed.

    Its priors may couple the restarts of one victim, never two victims.
    """

    unknowns: Sequence[Unknown]
    objective: Objective
    priors: Sequence[Prior] = ()
    optimiser: Optimiser = field(default_factory=Adam)

    @property
    def asking(self) -> list[Prior]:
        """The priors that ask for what enters layers: the evaluator is the one that can tell them."""
        return [prior for prior in self.priors if prior.asks]

    def taken(self, observation: Observation) -> dict[str, Tensor]:
        """What all priors have to know of a victim. Raises NotApplicable where the observation does not say it."""
        return {name: value for prior in self.priors for name, value in prior.take(observation).items()}


class Step:
    """One iteration of N problems.

    Args:
        problems: how many there are at first.
        restarts: how many of them, one after the other, are restarts of one another.
    """

    def __init__(
        self,
        composition: Composition,
        evaluator: Evaluator,
        layout: Layout,
        schedule: Schedule,
        *,
        problems: int,
        restarts: int = 1,
    ) -> None:
        self._priors, self._optimiser = composition.priors, composition.optimiser
        self._evaluator, self._layout, self._schedule = evaluator, layout, schedule
        self._others = [prior for prior in composition.priors if not prior.asks]
        self._problems, self._restarts = problems, restarts

    def in_one_piece(self) -> AbstractContextManager[None]:
        """For whoever writes the operations of an iteration down: see `Evaluator.in_one_piece`."""
        return self._evaluator.in_one_piece()

    def local_steps(self, state: State, known: Guess) -> int:
        """See `Evaluator.local_steps`."""
        return self._evaluator.local_steps({**known, **self._layout.guess(state["point"])})

    def compile_local_steps(self, problems: int) -> None:
        self._evaluator.compile_local_steps(problems)

    def start(self, point: Tensor, reference: Tensor, floor: Tensor) -> State:
        """The state before the first iteration, of problems at `point` (N, D).

        Args:
            reference: (N,) float64, the data term at a random start. Where it is below `attacks.pace.TYPICAL` the
                priors weigh in proportion to it in the end (`lightened`): on networks whose gradients point alike they
                would outweigh what there is to find.
            floor: (N,) float64, the data term that rounding alone explains.
        """

        def each(value: float, dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.full((len(point),), value, dtype=dtype, device=point.device)

        return {
            "number": torch.arange(len(point), device=point.device),  # each problem's place among all
            "point": point,
            "reference": reference,
            "floor": floor,
            "rate": each(self._schedule.learning_rate),
            "plateau": each(torch.inf),  # the lowest loss, as the plateau rule counts improvements
            "bad": each(0, torch.int64),  # iterations without improvement since the rate last fell
            "stale": each(0, torch.int64),  # iterations without improvement
            "best": point.clone(),
            "best_loss": each(torch.inf),
            "best_data": each(torch.inf),  # the data term of the best iterate
            "best_penalty": each(0.0),  # and what the priors say of it, not weighted
            "level": each(torch.inf),  # the best data term when it last halved
            "settled": each(0, torch.int64),  # iterations since then
            "weight": each(1.0),  # of the priors
            "light": self._light(reference, each(1.0)),  # whether that is as it shall be in the end
            # whether the reference is that of images alone
            "measured": each(self._layout.told == ["images"], torch.bool),
            "loss": each(torch.inf),
            "iterations": each(0, torch.int64),  # evaluations of the loss until the problem stopped
            "running": each(True, torch.bool),
            "stopped": each(0, torch.int64),
            **self._optimiser.start(point),
        }

    def unsure(self, state: State) -> Tensor:
        """Which problems (N,) have come down far enough for their reference to be measured again."""
        return state["running"] & ~state["measured"] & fallen(state, self._schedule)

    def measured(self, state: State, data: Mapping[str, Tensor], known: Guess, images: Guess) -> State:
        """The state with its reference measured again: at random images, but all else as it is found by now.

        Wrong masks may be nearly all that the data term is made of at first; what the right ones leave of it is the
        scale on which images are found.
        """
        guess = {**known, **self._layout.guess(state["best"]), **images}
        found, _ = self._evaluator.compare(data, guess, self._layout.told)
        reference = torch.fmin(state["reference"], found)
        light = self._light(reference, state["weight"])
        return {**state, "measured": torch.ones_like(state["measured"]), "reference": reference, "light": light}

    def __call__(self, state: State, data: Mapping[str, Tensor], known: Guess) -> State:
        """The state after one more iteration. data: the evaluator's; known: the rest of the guess."""
        point, running = state["point"], state["running"]
        restarts = Restarts(state["number"], running, self._problems, self._restarts)
        facts = Facts(taken=taken_of(data), restarts=restarts)
        with torch.enable_grad():
            free = point.detach().requires_grad_()
            values = self._layout.guess(free)
            # priors are told of what is optimised by its own names, too, where those are no names of a guess
            believed = {**known, **self._layout.unpack(free), **values}
            penalties = [prior(believed, facts) for prior in self._others]
        guess = {**known, **{name: value.detach() for name, value in values.items()}}
        weight = state["weight"]
        data_term, penalty, slopes = self._evaluator.judge(data, guess, self._layout.told, weight)
        moved = [(values[name], slope) for name, slope in slopes.items()]
        moved += [(each, weight.to(each)) for each in penalties if each.requires_grad]
        [gradient] = torch.autograd.grad([each for each, _ in moved], [free], [slope for _, slope in moved])
        if penalties:
            penalty = penalty + torch.stack(penalties).sum(0).detach()
        loss = data_term + weight * penalty
        improved = running & (loss < state["best_loss"])
        move, own = self._optimiser.move(state, self._layout.direct(gradient))
        after = {
            "point": self._layout.project(point + move),
            "best": torch.where(improved[:, None], point, state["best"]),
            "best_loss": torch.where(improved, loss, state["best_loss"]),
            "best_data": torch.where(improved, data_term, state["best_data"]),
            "best_penalty": torch.where(improved, penalty, state["best_penalty"]),
            "loss": loss,
            "iterations": state["iterations"] + running,
            **own,
            **slowed(state, loss, self._schedule),
        }
        after |= settling(state, after["best_data"])
        after |= lightened({**state, **after})
        stopped = verdict({**state, **after}, self._schedule)
        return {
            **state,
            **after,
            "stopped": torch.where(running, stopped, state["stopped"]),
            "running": running & (stopped == 0),
        }

    def _light(self, reference: Tensor, weight: Tensor) -> Tensor:
        """Whether the priors, if there are any, weigh as little as they shall in the end."""
        return (weight_of(reference) == weight) | (not self._priors)
