"""EfficientNet-Lite0, and the weights that ImageNet gave it where the extra is installed."""

from __future__ import annotations

import io
import os
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fedsim.errors import BadInput
from fedsim.models import build
from fedsim.models import efficientnet_lite0 as network

SHAPE = (3, 32, 32)
PUBLISHED = 4_652_008
"""Parameters of the network whose weights are published."""


def test_it_has_as_many_parameters_as_the_published_one():
    model = build({"name": "efficientnet_lite0", "weights": "none"}, input_shape=SHAPE, classes=1000, seed=0)
    assert sum(parameter.numel() for parameter in model.parameters()) == PUBLISHED
    assert model.eval()(torch.rand(2, *SHAPE)).shape == (2, 1000)


@pytest.mark.parametrize(
    ("keys", "shape", "expected"),
    [
        ({"weights": "imagenette"}, SHAPE, "weights = 'imagenette' is not one of imagenet, none"),
        ({"weights": "none"}, (1, 32, 32), r"takes images of \(3, H, W\) from 32 x 32"),
        ({}, SHAPE, r"pip install 'fedsim-privacy\[pretrained\]', or weights: none"),
    ],
)
def test_what_it_cannot_be_is_one_line(monkeypatch, keys, shape, expected):
    monkeypatch.setattr(network, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=expected):
        build({"name": "efficientnet_lite0", **keys}, input_shape=shape, classes=8, seed=0)


@pytest.mark.skipif(find_spec(network.WHEEL) is None, reason="the extra `pretrained` is not installed")
def test_the_published_weights_know_photographs():
    """As they were trained: pixels `(255 x - 127) / 128`."""
    archive = Path(os.environ.get("FEDSIM_DEV_DATA", ""), "imagenet_96x224_jpeg.zip")
    if not archive.is_file():
        pytest.skip("no development data")
    with zipfile.ZipFile(archive) as pictures:
        names = [name for name in pictures.namelist() if name.endswith(".jpg")][:12]
        images = [np.asarray(Image.open(io.BytesIO(pictures.read(name))).convert("RGB")) for name in names]
    labels = torch.tensor([int(Path(name).name.split("_")[0]) for name in names])
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
    model = build({"name": "efficientnet_lite0"}, input_shape=(3, 224, 224), classes=1000, seed=0).eval()
    with torch.no_grad():
        right = model((pixels - 127) / 128).argmax(1) == labels
    assert right.float().mean() >= 0.6
