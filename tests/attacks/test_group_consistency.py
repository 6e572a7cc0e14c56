"""Restarts of one victim may agree on an image; two victims never learn of each other."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_batch_norm_prior import net, seen
from torch import Tensor

import attacks
from attacks import Observation, Reconstruction, ThreatModel
from attacks.facts import Facts, Restarts
from attacks.priors import GroupConsistency

THREAT = ThreatModel(batch_norm="batch")


def facts(number: list[int], running: list[bool], *, total: int = 6, each: int = 3) -> Facts:
    return Facts(restarts=Restarts(torch.tensor(number), torch.tensor(running), total, each))


def test_each_is_as_far_as_it_is_from_the_mean_of_its_victims_restarts() -> None:
    torch.manual_seed(0)
    images = torch.randn(6, 2, 1, 3, 3, dtype=torch.float64)
    found = GroupConsistency(0.5)({"images": images}, facts(list(range(6)), [True] * 6))
    for victim in (0, 1):
        own = images[3 * victim : 3 * victim + 3]
        for place in range(3):
            expected = 0.5 * (own[place] - own.mean(0)).norm()
            torch.testing.assert_close(found[3 * victim + place], expected)


def test_those_that_have_stopped_and_other_victims_do_not_count() -> None:
    torch.manual_seed(0)
    images = torch.randn(6, 2, 1, 3, 3)
    images[3] = torch.nan
    whole = GroupConsistency(1.0)({"images": images}, facts(list(range(6)), [True, False, True, False, True, True]))
    kept = [5, 4, 0, 2]  # as the engine leaves some, in some order
    few = GroupConsistency(1.0)({"images": images[kept]}, facts(kept, [True] * 4))
    assert few.tolist() == whole[kept].tolist()
    assert whole[[0, 2]].tolist() == pytest.approx([float((images[0] - images[2]).norm() / 2)] * 2)
    one = GroupConsistency(1.0)({"images": images[[4]]}, facts([4], [True]))
    assert one.tolist() == [0.0]


def test_the_mean_is_a_target_and_is_not_moved() -> None:
    images = torch.randn(3, 1, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    first = GroupConsistency(1.0)({"images": images}, facts([0, 1, 2], [True] * 3, total=3))[0]
    first.backward()
    assert images.grad is not None
    assert images.grad[0].any()
    assert not images.grad[1:].any()


def victims(count: int) -> list[Observation]:
    found = []
    for client in range(count):
        torch.manual_seed(client)
        found.append(seen(net(), torch.rand(1, 2, 4, 4, dtype=torch.float64) * 2 - 1, client=client))
    return found


def spread(group: float) -> float:
    """How far the restarts of one victim are apart in the end."""
    last: list[Tensor] = []
    attack = attacks.create("gradinversion", iterations=25, restarts=2, group=group)
    attack.watch = lambda iteration, numbers, guess: last.append(guess["images"].clone())
    attack.run(victims(1), THREAT, net())
    return float(last[-1].std(0).mean())


def test_restarts_agree_the_more_the_more_it_weighs() -> None:
    assert spread(1.0) < 0.5 * spread(0.0)


def test_a_victims_answer_does_not_depend_on_its_neighbours() -> None:
    """Nor on when theirs stop."""
    observations = victims(3)
    attack = attacks.create("gradinversion", iterations=40, restarts=2, group=0.5, patience=3, plateau=2)
    together = attack.run(observations, THREAT, net())
    backwards = attack.run(observations[::-1], THREAT, net())[::-1]
    iterations = set()
    for observation, one, other in zip(observations, together, backwards, strict=True):
        alone = attack(observation, THREAT, net())
        assert isinstance(one, Reconstruction)
        assert isinstance(other, Reconstruction)
        torch.testing.assert_close(one.images, alone.images, rtol=0, atol=1e-6)
        torch.testing.assert_close(one.images, other.images, rtol=0, atol=1e-6)
        assert one.iterations == alone.iterations == other.iterations
        iterations.add(one.iterations)
    assert len(iterations) > 1
    assert min(iterations) < 40


def test_it_takes_no_notice_of_what_declines() -> None:
    first, second = victims(2)
    broken = replace(first, buffers={})
    attack = attacks.create("gradinversion", iterations=5, restarts=2)
    answers = attack.run([broken, second], THREAT, net())
    assert "do not say" in str(answers[0])
    assert isinstance(answers[1], Reconstruction)
    torch.testing.assert_close(answers[1].images, attack(second, THREAT, net()).images, rtol=0, atol=1e-6)
