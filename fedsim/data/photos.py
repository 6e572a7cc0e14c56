"""`photos`: real colour crops at any size from 32 to 224 pixels, cut at run time from photographs that are installed.

They ship inside the scikit-image wheel, so nothing is downloaded and nothing is bundled twice. A class is a photograph.
Its right-hand end is the test part, the rest the training part: no test pixel is ever trained on.
"""

from __future__ import annotations

from importlib.resources import files

import numpy as np
from PIL import Image

from fedsim.data.arrays import Part, build
from fedsim.data.dataset import Dataset
from fedsim.errors import BadInput
from fedsim.random import rng_for

# All colour photographs in the wheel. `motorcycle_right` is left out: it is the same scene as `motorcycle_left`, and a
# crop of one would find its twin in the other. The colour pictures that are not photographs (charts, logos) are too.
PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)
SMALLEST, LARGEST = 32, 224
TRAIN_CROPS, TEST_CROPS = 100, 25  # of each photograph
FLAT = 12.0  # a crop whose grey values deviate by less (of 255) shows next to nothing
ZOOM = 5.0  # a crop shows at most this many times `image_size`, shrunk: 32 px cut at full scale are only texture


def load(*, image_size: int | None = None, test_fraction: float = 0.2) -> Dataset:
    """real colour crops (32 to 224 px) of the 8 photographs in scikit-image; the class is the photograph

    The test part is the source's own, 200 crops of 1,000; `test_fraction` does not change it.
    """
    size = SMALLEST if image_size is None else image_size
    if not SMALLEST <= size <= LARGEST:
        raise BadInput(f"data.image_size: photos are cut at {SMALLEST} to {LARGEST} pixels, not {size}")
    train, test = [], []
    for name in PHOTOGRAPHS:
        with files("skimage").joinpath("data", name).open("rb") as file:
            photograph = Image.open(file).convert("RGB")
        width, height = photograph.size
        # Wide enough for the largest crop whatever the size asked for, so that the parts never depend on it.
        border = width - max(LARGEST, round(0.3 * width))
        train.append(_crops(photograph.crop((0, 0, border, height)), size, TRAIN_CROPS, f"{name} train"))
        test.append(_crops(photograph.crop((border, 0, width, height)), size, TEST_CROPS, f"{name} test"))
    classes = [name.split("_")[0].split(".")[0] for name in PHOTOGRAPHS]
    return build("photos", _part(train), _part(test), classes=classes, image_size=None, test_fraction=test_fraction)


def _crops(region: Image.Image, size: int, count: int, name: str) -> np.ndarray:
    """`count` square crops (count, size, size, 3) at random places and scales, none of them nearly flat."""
    rng = rng_for(0, "photos", part=name)
    width, height = region.size
    largest = min(width, height, round(ZOOM * size))
    smallest = max(size, largest // 2)
    crops: list[np.ndarray] = []
    while len(crops) < count:
        side = int(rng.integers(smallest, largest + 1))
        left, top = int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1))
        crop = region.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
        if np.asarray(crop.convert("L")).std() >= FLAT:
            crops.append(np.asarray(crop))
    return np.stack(crops)


def _part(crops: list[np.ndarray]) -> Part:
    return np.concatenate(crops), np.repeat(np.arange(len(crops)), [len(part) for part in crops])
