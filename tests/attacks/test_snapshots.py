"""Snapshots: what they hold is what the optimisation was at, they cost no result, and they are bounded."""

from __future__ import annotations

import pytest
import torch
from attack_victims import observe, paper_mlp

import attacks
from attacks import Reconstruction, ThreatModel, snapshots
from attacks.snapshots import SnapshotKeeper

THREAT = ThreatModel()
MEAN, STD = (0.5,), (0.25,)


@pytest.fixture(scope="module")
def problem():
    torch.manual_seed(0)
    model = paper_mlp(dropout=0.25, inputs=64, width=32)
    images = (torch.rand(6, 1, 8, 8) - MEAN[0]) / STD[0]
    seen = [observe(model, images[i : i + 1], torch.tensor([i]), seed=i, mean=MEAN, std=STD) for i in range(6)]
    return model, seen


def _run(problem, record_every: int, name: str = "dropout_inversion", **parameters) -> list[Reconstruction]:
    model, seen = problem
    attack = attacks.create(name, iterations=60, **parameters)
    attack.record_every = record_every
    return attack.run(seen, THREAT, model)


def test_recording_changes_no_answer(problem):
    plain, recorded = _run(problem, 0, restarts=2), _run(problem, 7, restarts=2)
    for one, other in zip(plain, recorded, strict=True):
        assert torch.equal(one.images, other.images)
        assert all(torch.equal(one.noise[path], other.noise[path]) for path in one.noise)
        assert (one.loss, one.losses, one.snapshots) == (other.loss, other.losses, None)


def test_the_snapshots_are_the_iterates_of_the_restart_that_answered(problem):
    model, seen = problem
    attack = attacks.create("dropout_inversion", iterations=60, restarts=3)
    attack.record_every = 20
    iterates: dict[int, torch.Tensor] = {}
    attack.watch = lambda iteration, numbers, guess: iterates.update({iteration: guess["images"].clone()})
    answers = attack.run(seen, THREAT, model)
    chosen = set()
    for number, answer in enumerate(answers[: snapshots.VICTIMS]):
        kept = answer.snapshots
        assert kept.iterations.tolist() == [0, 20, 40]
        assert kept.images.dtype == torch.uint8
        assert list(kept.noise) == ["3", "6", "9"]
        assert kept.noise["3"].shape == (3, 1, 32)
        assert torch.allclose(kept.losses, torch.tensor([dict(answer.losses)[i] for i in (0, 20, 40)]))
        fitting = [
            restart
            for restart in range(3)
            if all(
                torch.equal(
                    kept.images[place],
                    ((iterates[i][number * 3 + restart] * STD[0] + MEAN[0]).clamp(0, 1) * 255).round().to(torch.uint8),
                )
                for place, i in enumerate((0, 20, 40))
            )
        ]
        assert len(fitting) == 1
        chosen.update(fitting)
    assert chosen != {0}, "no victim's best restart is another than the first: the test would not see a mix-up"
    assert all(answer.snapshots is None for answer in answers[snapshots.VICTIMS :])


def test_the_cascade_passes_the_recording_on_to_what_optimises(problem):
    model, seen = problem
    attack = attacks.create("cascade", iterations=20)
    attack.record_every = 10
    torch.manual_seed(1)
    batch = observe(model, torch.randn(3, 1, 8, 8), torch.tensor([0, 0, 1]), mean=MEAN, std=STD)
    [answer] = attack.run([batch], THREAT, model)
    assert answer.details["stage"] == "dropout_inversion"
    assert answer.snapshots.iterations.tolist() == [0, 10]
    [exact] = attack.run(seen[:1], THREAT, model)
    assert (exact.details["stage"], exact.snapshots) == ("first_linear", None)  # algebra optimises nothing


def _keeper(**changes) -> SnapshotKeeper:
    return SnapshotKeeper(**{"every": 1, "iterations": 1000, "problems": [0, 2], "mean": MEAN, "std": STD, **changes})


def _feed(keeper: SnapshotKeeper, images: torch.Tensor, **noise: torch.Tensor) -> None:
    guess = {"images": images, **{f"noise.{path}": value for path, value in noise.items()}}
    for iteration in range(1000):
        keeper(iteration, torch.tensor([0, 1, 2]), guess)


def test_there_are_never_more_than_the_bounds_allow(monkeypatch):
    curve = [(0, 1.0)]
    keeper = _keeper()
    _feed(keeper, torch.zeros(3, 1, 1, 4, 4))
    kept = keeper.snapshots(2, iterations=1000, curve=curve)
    assert len(kept.iterations) == snapshots.MOST
    assert kept.iterations.diff().unique().tolist() == [5]
    assert keeper.snapshots(1, iterations=1000, curve=curve) is None

    monkeypatch.setattr(snapshots, "BYTES", 2 * 10 * 16)  # ten snapshots of two problems of sixteen pixels
    keeper = _keeper(every=3)
    _feed(keeper, torch.zeros(3, 1, 1, 4, 4))
    kept = keeper.snapshots(0, iterations=1000, curve=curve)
    assert len(kept.iterations) <= 10
    assert kept.iterations[1] % 3 == 0


def test_of_many_stochastic_layers_the_first_are_kept():
    keeper = _keeper(every=1000)
    big = torch.zeros(3, 1, snapshots.NOISE_ENTRIES)
    _feed(keeper, torch.zeros(3, 1, 1, 4, 4), first=big, second=torch.zeros(3, 1, 2))
    assert list(keeper.snapshots(0, iterations=1000, curve=[(0, 1.0)]).noise) == ["first"]


def test_nothing_is_kept_of_a_problem_after_it_has_stopped():
    keeper = _keeper(every=100)
    _feed(keeper, torch.full((3, 1, 1, 4, 4), torch.nan))
    assert keeper.snapshots(0, iterations=201, curve=[(0, 1.0), (150, 0.5)]).losses.tolist() == [1.0, 1.0, 0.5]
