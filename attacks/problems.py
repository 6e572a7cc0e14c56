"""The problems that the engine solves at once: each victim with each of its tries."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.base import NotApplicable, Reconstruction
from attacks.engine import Composition, Solution
from attacks.observation import Observation
from attacks.precision import rounding
from attacks.seeds import generator_for
from attacks.unknowns import noise_of
from attacks.victim import Victim
from defenses.client.round import ORDER

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Try:
    """One start of a victim.

    Args:
        restart: the number of its random start.
        fixed: what no descent can move, held at one of the values that it may have.
    """

    restart: int
    fixed: Tensors


def tries_of(composition: Composition, restarts: int) -> list[Try]:
    """Every restart with each of the values that can only be tried.

    Raises:
        NotApplicable: there are too many of them.
    """
    each = [unknown.alternatives() for unknown in composition.unknowns]
    found = [{name: value for part in parts for name, value in part.items()} for parts in itertools.product(*each)]
    return [Try(restart, fixed) for fixed in found for restart in range(restarts)]


@dataclass(frozen=True)
class Known:
    """A victim that can be attacked.

    Args:
        held: what is held fixed of its guess, before what is tried.
        taken: what the priors have taken of its observation.
    """

    victim: Victim
    held: Tensors
    taken: Tensors


@dataclass(frozen=True)
class Problems:
    """N problems: victim by victim, each with all its tries. Tensors are (N, ...), where and as the engine works.

    Args:
        observed: the updates to match.
        known: what of the guesses is held fixed.
        start: what is optimised, at first.
        cold: a random start, one for all tries of a victim, wherever they start, so that their losses can be compared.
        roundings: what the precision that an update travelled in may have done to each of its entries.
        taken: what the priors have taken of the observations.
    """

    victims: Sequence[Victim]
    tries: Sequence[Try]
    observed: dict[str, Tensor]
    known: dict[str, Tensor]
    start: dict[str, Tensor]
    cold: dict[str, Tensor]
    roundings: dict[str, Tensor]
    taken: dict[str, Tensor]

    @classmethod
    def of(
        cls,
        known: Sequence[Known],
        tries: Sequence[Try],
        composition: Composition,
        *,
        matched: Sequence[str],
        like: Tensor,
        seed: int,
    ) -> Problems:
        """Of victims with what is known of each, before what is tried.

        Args:
            matched: the parameters whose updates are compared.
            like: a tensor on the device and in the dtype to work in.
            seed: of the random starts.
        """
        victims = [each.victim for each in known]
        starts = [
            _start(composition, seed, victim.observation, each.restart, victim.start if each.restart == 0 else {})
            for victim in victims
            for each in tries
        ]
        cold = [_start(composition, seed, victim.observation, 0, {}) for victim in victims for _ in tries]
        return cls(
            victims=victims,
            tries=tries,
            observed=_stack([{n: v.update[n] for n in matched} for v in victims for _ in tries], like),
            known=_stack([{**own.held, **each.fixed} for own in known for each in tries], like),
            start=_stack(starts, like),
            cold=_stack(cold, like),
            roundings=_stack([rounding(victim.observation) for victim in victims for _ in tries], like),
            taken=_stack([own.taken for own in known for _ in tries], like),
        )

    def __len__(self) -> int:
        return len(self.victims) * len(self.tries)

    def generators(self, purpose: str, seed: int) -> list[torch.Generator]:
        """One for each problem."""
        return [_generator(seed, purpose, v.observation, each.restart) for v in self.victims for each in self.tries]

    def of_victims(self, accepted: Callable[[Victim], bool]) -> list[int]:
        """The numbers of the problems of some victims."""
        each = (victim for victim in self.victims for _ in self.tries)
        return [number for number, victim in enumerate(each) if accepted(victim)]

    def best(self, solution: Solution) -> Iterator[tuple[Victim, int, Reconstruction | NotApplicable]]:
        """Each victim with its problem of the lowest loss, by number, and the answer that it gives."""
        places = solution.loss.view(len(self.victims), len(self.tries)).argmin(dim=1).tolist()
        for number, (victim, place) in enumerate(zip(self.victims, places)):
            problem = number * len(self.tries) + place
            yield victim, problem, _answer(solution, problem, victim, self.tries[place].fixed)


def _generator(seed: int, purpose: str, observation: Observation, restart: int) -> torch.Generator:
    return generator_for(seed, purpose, round=observation.round, client=observation.client, restart=restart)


def _start(
    composition: Composition, seed: int, observation: Observation, restart: int, warm: Tensors
) -> dict[str, Tensor]:
    def draw(purpose: str) -> torch.Generator:
        return _generator(seed, purpose, observation, restart)

    found: dict[str, Tensor] = {}
    for unknown in composition.unknowns:
        for name, value in unknown.start(draw).items():
            found[name] = unknown.free(name, warm[name]).to(value) if name in warm else value
    return found


def _stack(problems: Sequence[Tensors], like: Tensor) -> dict[str, Tensor]:
    """Tensors of N problems as (N, ...), on the device to work on; real numbers in its dtype."""
    stacked = {name: torch.stack([problem[name] for problem in problems]).to(like.device) for name in problems[0]}
    return {name: value.to(like.dtype) if value.is_floating_point() else value for name, value in stacked.items()}


def _answer(
    solution: Solution, problem: int, victim: Victim, fixed: Tensors
) -> Reconstruction | NotApplicable:
    """What was found, and the values that were tried and found to be right."""
    if not solution.loss[problem].isfinite():
        return NotApplicable("the matching loss is not finite: the simulated update is zero or not a number")
    guess = {name: value[problem].cpu() for name, value in solution.guess.items()} | dict(fixed)
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (victim.observation.mean, victim.observation.std))
    return Reconstruction(
        images=guess["images"].clamp(-mean / std, (1 - mean) / std),  # an image, whatever the search went through
        loss=solution.loss[problem].item(),
        labels=guess["labels"].argmax(dim=-1) if "labels" in guess else victim.labels,
        noise={name: value for name, value in noise_of(guess).items() if name != ORDER} or None,
        iterations=int(solution.iterations[problem]),
        stopped=solution.stopped[problem],
        losses=solution.curves[problem],
        details={**victim.details, **({"compiled": True} if solution.compile_seconds else {})},
    )
