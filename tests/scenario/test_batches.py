"""A batch that is larger than its client's data would repeat images in silence."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from fedsim.errors import BadInput, Caution
from fedsim.scenario import parse


@pytest.fixture
def scenario(tmp_path):
    """20 training images for 4 clients."""
    images = np.random.default_rng(0).integers(0, 256, (25, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "own.npz", x=images, y=np.arange(25) % 2)

    def make(local=None, **further):
        return parse(
            {
                "name": "mine",
                "seeds": [0, 1],
                "data": {"name": "npz", "path": str(tmp_path / "own.npz"), "test_fraction": 0.2},
                "model": {"name": "mlp", "width": 8, **further.pop("model", {})},
                "federation": {"clients": 4, "local": local or {}},
                "attacks": [],
                **further,
            }
        )

    return make


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"local": {"batch_size": 6}}, "federation.local.batch_size: 6 images a batch, but client . has only 5"),
        ({"utility": {"rounds": 1}}, "utility.local.batch_size: 32 images a batch, but client . has only 5"),
        ({"model": {"pretrain": {"steps": 1}}}, "model.pretrain.batch_size: 32 images a batch, but there are only 20"),
    ],
)
def test_a_batch_that_repeats_images_is_said_once(scenario, given, said):
    with pytest.warns(Caution, match=said) as warned:
        scenario(**given)
    assert len([one for one in warned if issubclass(one.category, Caution)]) == 1


def test_several_steps_over_little_data_are_as_they_should_be(scenario):
    with warnings.catch_warnings():
        warnings.simplefilter("error", Caution)
        scenario({"batch_size": 5, "steps": 7, "share": "weights"})


def test_a_batch_beyond_all_data_is_refused(scenario):
    with pytest.raises(BadInput, match=r"federation.local.batch_size: 21 images a batch, but .* accepted: 1 to 20"):
        scenario({"batch_size": 21})
