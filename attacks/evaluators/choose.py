"""Which evaluator: ghost matching where it can be used and is seen to agree, the general one otherwise."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from attacks.evaluators.base import Beliefs, Evaluator
from attacks.evaluators.general import General
from attacks.evaluators.ghost import Ghost
from attacks.evaluators.rules import Unfit
from attacks.objectives import Objective
from attacks.replayable import replayed
from attacks.unknowns import Guess
from defenses.client.kept import Kept, Spaces, stacked
from defenses.client.round import ClientRound

log = logging.getLogger(__name__)

FEW = slice(2)
"""Two problems: enough to see both a wrong gradient and problems that influence each other."""


def choose(
    round: ClientRound,
    objective: Objective,
    observed: Mapping[str, Tensor],
    example: Guess,
    unknowns: Sequence[str],
    *,
    beliefs: Beliefs | None = None,
    selects: bool = True,
    compares: bool = False,
) -> Evaluator:
    """The fastest evaluator that is right for this round.

    Ghost matching assumes that examples do not meet inside the model, and that weights are used by their own layers
    only. No inspection of modules can show that, so its answer is compared once with the general evaluator's. It works
    on factors of the gradients, in the model's precision, so that it cannot serve an exact objective.

    Args:
        selects: whether what a known defense leaves nothing to say of is left out.
        compares: whether updates are compared as a known defense says, if it does, in place of the objective.

    Raises:
        NotApplicable: the general evaluator cannot serve the model either.
    """
    kept, beliefs = _kept(round, observed) if selects else None, beliefs or Beliefs()
    general = General(round, objective, observed, kept=kept, beliefs=beliefs, compares=compares)
    some = None if kept is None else _few(kept)
    few = General(round, objective, _first(observed), kept=some, beliefs=beliefs.of(FEW), compares=compares)
    with replayed("replayed"):
        true = _judged(few, _first(example), unknowns)
    if objective.exact or objective.needs == "entries" or (compares and round.defense.compares):
        return general
    try:
        ghost = Ghost(round, objective, observed, example, kept=kept, beliefs=beliefs)
        fits = _agrees(_judged(ghost, example, unknowns), true, unknowns)
    except (Unfit, RuntimeError) as reason:  # what a model does with a larger batch cannot be foreseen
        log.info("ghost matching does not fit the client's round (%s); the general evaluator is used", reason)
        return general
    if not fits:
        log.info("ghost matching disagrees with autograd on this model; the general evaluator is used")
        return general
    return ghost


def _kept(round: ClientRound, observed: Mapping[str, Tensor]) -> dict[str, Kept] | None:
    """What of the observed updates, (N, *shape) each, says anything, as far as the defense is known."""
    if not round.defense.selects:
        return None
    each = [
        round.defense.selection({name: value[problem] for name, value in observed.items()})
        for problem in range(len(next(iter(observed.values()))))
    ]
    if all(one is None for one in each):
        return None
    everything: Mapping[str, Kept] = {n: torch.ones_like(v[0], dtype=torch.bool) for n, v in observed.items()}
    return {name: stacked([(one or everything)[name] for one in each]) for name in observed}


def _first(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value[FEW] for name, value in values.items()}


def _few(kept: Mapping[str, Kept]) -> dict[str, Kept]:
    return {name: one.of_problems(FEW) if isinstance(one, Spaces) else one[FEW] for name, one in kept.items()}


Answer = tuple[Tensor, Tensor, dict[str, Tensor]]


def _judged(evaluator: Evaluator, guess: Guess, unknowns: Sequence[str]) -> Answer:
    """Losses and penalties (N,), and the gradients of their sums."""
    return evaluator.judge(evaluator.data, guess, unknowns, torch.ones(len(guess["images"])).to(guess["images"]))


def _agrees(found: Answer, true: Answer, unknowns: Sequence[str]) -> bool:
    (*values, gradients), (*true_values, true_gradients) = found, true
    pairs = [*zip(values, true_values), *((gradients[name], true_gradients[name]) for name in unknowns)]
    return all(bool((found[FEW] - true).norm() <= 1e-3 * true.norm()) for found, true in pairs)
