"""Returned buffers say what the statistics of a client's batches were: torch's momentum rule, undone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attacks.statistics import of_batches, revealed, running


def passed(layer: nn.Module, batches: list[torch.Tensor]) -> tuple[dict, dict]:
    """The buffers of a batch norm `norm` before and after these batches, which it does not see for the first time."""
    model = nn.ModuleDict({"norm": layer}).double().train()
    layer(torch.randn((4, 3) if isinstance(layer, nn.BatchNorm1d) else (4, 3, 4, 4), dtype=torch.float64) + 3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for batch in batches:
        layer(batch)
    return before, {name: value.clone() for name, value in model.named_buffers()}


@pytest.mark.parametrize("momentum", [0.1, 0.7, 1.0, None])
@pytest.mark.parametrize("shape", [(4, 3, 5, 5), (1, 3, 4, 4), (6, 3)])
def test_of_one_step_they_are_the_batchs_own(momentum: float | None, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(3, momentum=momentum)
    batch = torch.randn(shape, dtype=torch.float64) * 2 - 1
    before, after = passed(layer, [batch])
    found = of_batches("norm", layer, before, after)
    assert found is not None
    rows = batch.transpose(0, 1).flatten(1)
    torch.testing.assert_close(found.mean, rows.mean(1))
    torch.testing.assert_close(found.variance, rows.var(1))
    assert found.shares.tolist() == pytest.approx([1.0])
    assert revealed(before, after) == "batch"


@pytest.mark.parametrize("momentum", [0.1, 0.7, None])
def test_of_several_steps_they_are_a_mean_with_known_shares(momentum: float | None) -> None:
    torch.manual_seed(0)
    layer = nn.BatchNorm2d(3, momentum=momentum)
    batches = [torch.randn(count, 3, 4, 4, dtype=torch.float64) + count for count in (2, 4, 1)]
    found = of_batches("norm", layer, *passed(layer, batches))
    assert found is not None
    assert float(found.shares.sum()) == pytest.approx(1)
    means = torch.stack([batch.mean((0, 2, 3)) for batch in batches])
    variances = torch.stack([batch.var((0, 2, 3)) for batch in batches])
    torch.testing.assert_close(found.mean, found.shares @ means)
    torch.testing.assert_close(found.variance, found.shares @ variances)
    assert found.shares.tolist() == sorted(found.shares.tolist())  # the last step counts most, or all alike


def test_what_no_batch_has_moved_says_nothing_of_one() -> None:
    batch = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    still = nn.BatchNorm2d(3, momentum=0.0)
    for layer, before, after in (
        (still, *passed(still, [batch])),  # it counts, and keeps what it has
        (nn.BatchNorm2d(3), *passed(nn.BatchNorm2d(3), [])),  # as of a client in eval mode
    ):
        assert of_batches("norm", layer, before, after) is None
        assert revealed(before, after) == "running"
        assert revealed(before, {}) == "running"
    assert revealed(*passed(nn.BatchNorm2d(3, track_running_stats=False), [batch])) == "none"
    assert revealed(*passed(nn.GroupNorm(1, 3), [batch])) == "none"


def test_running_ones_are_those_that_were_sent() -> None:
    layer = nn.BatchNorm2d(3)
    before, _ = passed(layer, [torch.randn(2, 3, 4, 4, dtype=torch.float64)])
    found = running("norm", before, steps=2)
    assert torch.equal(found.mean, before["norm.running_mean"])
    assert torch.equal(found.variance, before["norm.running_var"])
    assert found.shares.tolist() == [0.5, 0.5]
