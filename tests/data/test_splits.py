"""The splits of the benchmarks: what is tuned on is never shown, whatever the seed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

FILE = Path(__file__).parents[2] / "benchmarks" / "splits.py"


@pytest.fixture(scope="module")
def victims():
    spec = importlib.util.spec_from_file_location("splits", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.victims


@pytest.mark.parametrize("images", [7, 800])
def test_no_image_is_in_two_splits(victims, images):
    for seed in (0, 1):
        parts = [victims(images, split, seed=seed) for split in ("tune", "validate", "publish")]
        assert torch.cat(parts).sort().values.tolist() == list(range(images))
    apart = [set(victims(images, split, seed=seed).tolist()) for split, seed in (("tune", 0), ("publish", 3))]
    assert not apart[0] & apart[1]


def test_another_seed_takes_the_same_images_in_another_order(victims):
    one, other = (victims(800, "tune", seed=seed) for seed in (0, 1))
    assert not torch.equal(one, other)
    assert torch.equal(one.sort().values, other.sort().values)
