"""Which evaluator: ghost matching where it can be used and is seen to agree, the general one otherwise."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from attacks.evaluators.base import Evaluator
from attacks.evaluators.general import General
from attacks.evaluators.ghost import Ghost
from attacks.evaluators.rules import Unfit
from attacks.observation import LocalTraining
from attacks.unknowns import Guess

log = logging.getLogger(__name__)


def choose(
    model: nn.Module,
    observed: Mapping[str, Tensor],
    example: Guess,
    *,
    local: LocalTraining | None = None,
    kind: Literal["gradient", "delta"] = "gradient",
) -> Evaluator:
    """The fastest evaluator that is right for this model.

    Ghost matching assumes that examples do not meet inside the model, and that weights are used by their own layers
    only. No inspection of modules can show that, so its scalars are compared once with the general evaluator's.
    """
    if kind != "gradient":
        return General(model, observed, local=local, kind=kind)
    try:
        ghost = Ghost(model, observed, example)
        fits = _agrees(ghost, model, observed, example)
    except (Unfit, RuntimeError, IndexError) as reason:  # what a model does with a larger batch cannot be foreseen
        log.info("ghost matching does not fit the model (%s); the general evaluator is used", reason)
        return General(model, observed)
    if not fits:
        log.info("ghost matching disagrees with autograd on this model; the general evaluator is used")
        return General(model, observed)
    return ghost


def _agrees(ghost: Ghost, model: nn.Module, observed: Mapping[str, Tensor], example: Guess) -> bool:
    """Compare on two problems: enough to see both a wrong gradient and problems that influence each other."""
    some = slice(0, 2)
    general = General(model, {name: value[some] for name, value in observed.items()})
    with torch.no_grad():
        inner, simulated = (value[some] for value in ghost(example))
        true_inner, true_simulated = general({name: value[some] for name, value in example.items()})
    scale = (true_simulated * general.observed).sqrt().sum(1, keepdim=True)
    tolerance = 1e-3
    return bool(
        ((inner - true_inner).abs() <= tolerance * scale).all()
        and ((simulated - true_simulated).abs() <= tolerance * true_simulated.sum(1, keepdim=True)).all()
    )
