"""`compile: auto` goes by counts of what has been done, never by time and never by how much there may be to do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from attack_victims import observe, paper_mlp
from torch import nn

import attacks
from attacks import Observation, Reconstruction, ThreatModel, program
from attacks.optimisers import State
from attacks.step import Step


def victims(count: int) -> tuple[nn.Module, list[Observation]]:
    torch.manual_seed(0)
    model = paper_mlp(dropout=0.5, inputs=36, width=16, classes=4).double()
    images = [torch.rand(1, 1, 6, 6, dtype=torch.float64) * 2 - 1 for _ in range(count)]
    return model, [
        observe(model, x, torch.tensor([i % 4]), seed=i, mean=(0.5,), std=(0.5,), classes=4)
        for i, x in enumerate(images)
    ]


class Pretended:
    """Stands for the compiler: notes the number of problems and the iteration at which it was called."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def __call__(self, step: Step, state: State, *rest: object) -> Callable[..., State]:
        self.calls.append((len(state["point"]), int(state["iterations"].max())))
        return lambda *inputs: step(*inputs)


def run(
    monkeypatch: pytest.MonkeyPatch, count: int, *, cost: float | None = None, compile: str = "auto", **keys: float
) -> tuple[list[tuple[int, int]], list[Reconstruction]]:
    pretended = Pretended()
    monkeypatch.setattr(program, "_compiled", pretended)
    if cost is not None:
        monkeypatch.setattr(program, "COMPILE_SECONDS_PER_OPERATION", cost)
    model, observations = victims(count)
    attack = attacks.create("well_informed", tolerance=0, **keys)
    attack.compile = compile
    return pretended.calls, attack.run(observations, ThreatModel(noise="known"), model)  # type: ignore[return-value]


def test_a_small_problem_is_never_compiled_however_long_it_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, answers = run(monkeypatch, 1, iterations=10**6, patience=60, plateau=12)
    assert calls == []
    assert 100 < answers[0].iterations < 5000  # of a million


def test_many_are_compiled_once_it_pays_at_the_same_iteration_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {"iterations": 70, "patience": 70, "plateau": 10}
    monkeypatch.setattr(program, "USUAL", 0)
    monkeypatch.setattr(program, "DECIDE_EVERY", 10)
    seconds = estimated(monkeypatch)
    compiled = {}
    for times in (15, 25, 100):  # as many iterations would pay for compiling
        cost = times * seconds[0] / 2 / seconds[1]
        calls, answers = run(monkeypatch, 6, cost=cost, **keys)
        again, _ = run(monkeypatch, 6, cost=cost, **keys)
        compiled[times] = calls
        assert calls == again
    assert compiled == {15: [(6, 20)], 25: [(6, 30)], 100: []}
    _, expected = run(monkeypatch, 6, cost=15 * seconds[0] / 2 / seconds[1], compile="never", **keys)
    _, answers = run(monkeypatch, 6, cost=15 * seconds[0] / 2 / seconds[1], **keys)
    for one, other in zip(expected, answers):  # what was done before goes on
        torch.testing.assert_close(one.images, other.images, rtol=0, atol=1e-9)
        assert one.iterations == other.iterations


def test_what_is_left_of_the_budget_bounds_what_can_be_gained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "DECIDE_EVERY", 10)
    seconds = estimated(monkeypatch)
    cost = 20 * seconds[0] / 2 / seconds[1]
    assert run(monkeypatch, 6, cost=cost, iterations=35, patience=35)[0] == [(6, 10)]
    assert run(monkeypatch, 6, cost=cost, iterations=29, patience=29)[0] == []


def test_always_is_before_the_first_iteration_and_never_is_never(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where compiling is free, and after every iteration."""
    monkeypatch.setattr(program, "DECIDE_EVERY", 1)
    found = {
        compile: run(monkeypatch, 2, cost=0.0, compile=compile, iterations=5, patience=5)[0]
        for compile in ("always", "auto", "never")
    }
    assert found == {"always": [(2, 0)], "auto": [(2, 1)], "never": []}


def test_an_iteration_of_too_many_operations_is_never_compiled(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    keys = {"iterations": 15, "patience": 15}
    assert run(monkeypatch, 2, compile="always", **keys)[0] == [(2, 0)]
    monkeypatch.setattr(program, "MOST_OPERATIONS", 100)
    with caplog.at_level("WARNING", logger="attacks.program"):
        assert run(monkeypatch, 2, compile="always", **keys)[0] == []
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["the iterations are not compiled"]


def estimated(monkeypatch: pytest.MonkeyPatch) -> tuple[float, float]:
    """Of six problems: seconds an iteration, and operations."""
    found: list[tuple[float, float]] = []
    of = program._Costs.of.__func__  # type: ignore[attr-defined]

    def noted(cls: type, step: Step, state: State, *rest: object) -> program._Costs:
        costs = of(cls, step, state, *rest)
        found.append((costs.seconds(len(state["point"])), costs.compiling / program.COMPILE_SECONDS_PER_OPERATION))
        return costs

    with monkeypatch.context() as patched:
        patched.setattr(program._Costs, "of", classmethod(noted))
        run(patched, 6, iterations=15)
    return found[0]
