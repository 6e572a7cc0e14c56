"""`mnist`: 5,000 real handwritten digits, bundled with the package."""

from __future__ import annotations

from importlib.resources import files

import numpy as np

from fedsim.data.arrays import build
from fedsim.data.dataset import Dataset

# Of MNIST's whole training part: what models trained elsewhere, and the dropout-inversion paper's code, use.
MEAN, STD = 0.13066373765468597, 0.30810782313346863


def load(*, image_size: int | None = None, test_fraction: float = 0.2) -> Dataset:
    """5,000 bundled MNIST digits, 28 x 28 grey, 500 of each class"""
    with files("fedsim").joinpath("assets/mnist_5k.npz").open("rb") as file, np.load(file) as arrays:
        part = arrays["x"], arrays["y"]
    return build(
        "mnist",
        part,
        None,
        classes=[str(digit) for digit in range(10)],
        image_size=image_size,
        test_fraction=test_fraction,
        statistics=((MEAN,), (STD,)),
    )
