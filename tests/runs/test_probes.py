"""A little of the work is timed, never much of it, and nothing twice."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fedsim import scenario as scenarios
from fedsim.runs import estimate, probes
from fedsim.runs.jobs import attempts
from fedsim.scenario import every_cell
from fedsim.scenario.work import Work


def timed(first: float, each: float) -> tuple[list[int], Callable[[int], float]]:
    """What takes so long, and the numbers of which it was asked."""
    asked: list[int] = []

    def seconds(number: int) -> float:
        asked.append(number)
        return first + each * number

    return asked, seconds


def test_the_rest_follows_from_a_few():
    asked, seconds = timed(first=0.001, each=0.002)
    assert probes.extrapolated(seconds, 1000, (1, 1, 2, 4)) == pytest.approx(2.001)
    assert asked == [1, 1, 2, 4]


def test_no_more_is_timed_than_there_is():
    asked, seconds = timed(first=0.001, each=0.002)
    assert probes.extrapolated(seconds, 3, (1, 1, 2, 4)) == pytest.approx(0.007)
    assert asked == [1, 1, 2]
    asked, seconds = timed(first=0.001, each=0.002)
    assert probes.extrapolated(seconds, 1, (2, 8)) == pytest.approx(0.003)
    assert asked == [1]


def test_what_takes_long_is_timed_once():
    asked, seconds = timed(first=0.0, each=60.0)
    assert probes.extrapolated(seconds, 100, (1, 1, 2, 4)) == pytest.approx(6000)
    assert asked == [1]


def test_a_first_part_that_takes_longer_is_not_taken_for_all():
    asked, seconds = timed(first=probes.ENOUGH * 2, each=0.01)
    assert probes.extrapolated(seconds, 1000, (2, 8, 16)) == pytest.approx(probes.ENOUGH * 2 + 10)
    assert asked == [2, 8]


@pytest.fixture
def trained(monkeypatch) -> list[Work]:
    """The work of each round of a client that is timed; none is trained, each takes a second."""
    found: list[Work] = []

    def one(work: Work, *_: object) -> float:
        found.append(work)
        return 1.0

    monkeypatch.setattr(probes, "_round", one)
    monkeypatch.setattr(probes, "_alone", one)
    return found


def test_cells_that_train_alike_are_measured_once(trained, tmp_path):
    words = ["utility.rounds=40", "utility.local.batch_size=32", "federation.clients=6", "attacks=[first_linear]"]
    words += ["seeds=[0, 1]", "sweep={federation.local.batch_size: [1, 8]}"]
    todo, _ = estimate.counted(scenarios.load("smoke", words), tmp_path / "run")
    assert todo.cells == 8
    assert todo.unattacked == 8 * 40 * 2
    assert len({work.federation.local.batch_size for work in trained}) == 3
    alike = [work for work in trained if work.federation.local.batch_size == 32]
    assert len(alike) == 2 * len({str(work.defense) + str(work.model) for work in alike})  # a first part of a second


def test_what_further_steps_of_an_unattacked_round_take_is_added(trained):
    work = every_cell(scenarios.load("smoke", ["utility.rounds=2", "utility.local.steps=5"]))[0].work()
    clients = work.federation.clients_per_round
    assert probes.unattacked(work, {}) == 2 * clients * (1.0 + 4.0)  # five steps, less the one of the round


def test_an_attacker_who_is_told_the_defense_is_measured_with_it(monkeypatch):
    """Replaying a defense is what takes long."""
    seen = []
    monkeypatch.setattr(
        probes,
        "_attacked",
        lambda victims, model, attack, threat_model: seen.append((threat_model.defense, victims[0])) or 1.0,
    )
    words = ["attacks=[{name: inverting_gradients, iterations: 2}]", "threat_model.defense=[unknown, known]"]
    words += ["defenses=[{name: gaussian_noise, std: 0.1}, {name: gaussian_noise, std: 0.2}]"]
    cells = every_cell(scenarios.load("smoke", words))
    known: dict[str, float] = {}
    for cell in cells:
        for attempt in attempts(cell):
            probes.attack(cell, attempt, known)
    told = {defense: [victim.defense for each, victim in seen if each == defense] for defense, _ in seen}
    assert set(told["unknown"]) == {None}
    assert {spec["std"] for (spec,) in told["known"]} == {0.1, 0.2}
    assert len(told["unknown"]) == 1  # what it was not told makes no difference
    assert all(victim.noise is None for _, victim in seen)
