"""Which evaluator: ghost matching where it can be used and is seen to agree, the general one otherwise."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor, nn

from attacks.evaluators.base import Evaluator
from attacks.evaluators.general import General
from attacks.evaluators.ghost import Ghost
from attacks.evaluators.rules import Unfit
from attacks.objectives import Objective
from attacks.observation import LocalTraining
from attacks.unknowns import Guess
from attacks.updates import replayed

log = logging.getLogger(__name__)


def choose(
    model: nn.Module,
    objective: Objective,
    observed: Mapping[str, Tensor],
    example: Guess,
    unknowns: Sequence[str],
    *,
    local: LocalTraining | None = None,
    kind: Literal["gradient", "delta"] = "gradient",
) -> Evaluator:
    """The fastest evaluator that is right for this model.

    Ghost matching assumes that examples do not meet inside the model, and that weights are used by their own layers
    only. No inspection of modules can show that, so its answer is compared once with the general evaluator's. It works
    on factors of the gradients, in the model's precision, so that it cannot serve an exact objective.

    Raises:
        NotApplicable: the general evaluator cannot serve the model either.
    """
    general = General(model, objective, observed, local=local, kind=kind)
    with replayed("replayed"):
        true = General(model, objective, _first(observed), local=local, kind=kind)(_first(example), unknowns)
    if kind != "gradient" or objective.exact:
        return general
    try:
        ghost = Ghost(model, objective, observed, example)
        fits = _agrees(ghost(example, unknowns), true, unknowns)
    except (Unfit, RuntimeError) as reason:  # what a model does with a larger batch cannot be foreseen
        log.info("ghost matching does not fit the model (%s); the general evaluator is used", reason)
        return general
    if not fits:
        log.info("ghost matching disagrees with autograd on this model; the general evaluator is used")
        return general
    return ghost


def _first(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Two problems: enough to see both a wrong gradient and problems that influence each other."""
    return {name: value[:2] for name, value in values.items()}


Answer = tuple[Tensor, dict[str, Tensor]]


def _agrees(found: Answer, true: Answer, unknowns: Sequence[str]) -> bool:
    (losses, gradients), (true_losses, true_gradients) = found, true
    pairs = [(losses[:2], true_losses), *((gradients[name][:2], true_gradients[name]) for name in unknowns)]
    return all(bool((found - true).norm() <= 1e-3 * true.norm()) for found, true in pairs)
