"""Matching problems made by hand, and the demand that ghost matching solve them as autograd does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from attacks.evaluators.general import General
from attacks.evaluators.ghost import Ghost
from attacks.objectives import Cosine, Objective
from attacks.sites import noise_inputs
from attacks.twin import attacker_copy
from attacks.unknowns import NOISE
from defenses.client.round import ClientRound

Problem = tuple[nn.Module, dict[str, Tensor], dict[str, Tensor]]


def problem(
    model: nn.Module,
    problems: int,
    batch: int,
    seed: int,
    *,
    shape: tuple[int, int, int] = (2, 4, 4),
    client_mode: Literal["train", "eval"] = "train",
) -> Problem:
    """An attacker's copy, N full-rank observed gradients (N, *shape), and a guess; three classes."""
    generator = torch.Generator().manual_seed(seed)
    twin = attacker_copy(model, model.state_dict(), client_mode=client_mode)
    guess = {
        "images": torch.randn(problems, batch, *shape, dtype=torch.float64, generator=generator),
        "labels": torch.randint(3, (problems, batch), generator=generator),
    }
    for path, noise in noise_inputs(twin, batch, shape).items():
        guess[NOISE + path] = torch.rand(problems, *noise, dtype=torch.float64, generator=generator)
    observed = {
        name: torch.randn(problems, *value.shape, dtype=torch.float64, generator=generator)
        for name, value in twin.named_parameters()
    }
    return twin, observed, guess


def unknowns(guess: dict[str, Tensor]) -> list[str]:
    return [name for name, value in guess.items() if value.is_floating_point()]


def assert_same(found: tuple[Tensor, dict[str, Tensor]], true: tuple[Tensor, dict[str, Tensor]]) -> None:
    """The losses and their gradients in all unknowns, to nine digits."""
    torch.testing.assert_close(found[0], true[0], rtol=1e-9, atol=1e-9)
    assert found[1].keys() == true[1].keys()
    for name, value in true[1].items():
        tolerance = 1e-9 * max(float(value.abs().max()), 1e-3)
        torch.testing.assert_close(found[1][name], value, rtol=1e-9, atol=tolerance)


def assert_ghost_equals_general(made: Problem, objective: Objective) -> None:
    model, observed, guess = made
    ghost, general = (
        Ghost(ClientRound(model=model), objective, observed, guess),
        General(ClientRound(model=model), objective, observed),
    )
    assert_same(ghost(guess, unknowns(guess)), general(guess, unknowns(guess)))


def assert_problems_do_not_meet(made: Problem) -> None:
    """All together give what each gives alone."""
    model, observed, guess = made
    together = Ghost(ClientRound(model=model), Cosine(), observed, guess)(guess, unknowns(guess))

    def alone(number: int) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
        return lambda values: {name: value[number : number + 1] for name, value in values.items()}

    for number in range(len(together[0])):
        one = alone(number)
        result = Ghost(ClientRound(model=model), Cosine(), one(observed), one(guess))(one(guess), unknowns(guess))
        assert_same((together[0][number : number + 1], one(together[1])), result)
