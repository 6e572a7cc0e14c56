"""`hub`: any image-classification data set of the Hugging Face Hub, through flwr-datasets.

Its name may also be a local folder that `datasets.load_dataset` understands (Parquet files, an image folder).
"""

from __future__ import annotations

import io
import os
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from fedsim.data.arrays import Part, build
from fedsim.data.dataset import Dataset
from fedsim.data.pixels import Pictures
from fedsim.data.resize import check_memory, to_square
from fedsim.errors import BadInput


def load(
    *,
    dataset: str,
    subset: str | None = None,
    image_key: str | None = None,
    label_key: str | None = None,
    image_size: int | None = None,
    test_fraction: float = 0.2,
) -> Dataset:
    """a data set of the Hugging Face Hub: dataset `owner/name`, and subset, image_key, label_key where it needs them

    Reads the splits `train` and, where there is one, `test`. The image and the label column are found by their types
    (`Image`, `ClassLabel`) unless named.
    """
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # read when flwr-datasets is imported
    from datasets import ClassLabel, get_dataset_split_names
    from datasets import Image as ImageColumn
    from flwr_datasets import FederatedDataset

    try:
        source = FederatedDataset(dataset=dataset, subset=subset, partitioners={}, shuffle=False)
        splits = get_dataset_split_names(dataset, subset)
        train = source.load_split("train")
        test = source.load_split("test") if "test" in splits else None
    except Exception as error:  # not found, no connection, no such subset, no train split: the libraries raise anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadInput(f"data.dataset {dataset}: cannot be loaded as a Hugging Face data set: {reason}") from error
    image_key = _column(dataset, train, "image_key", image_key, ImageColumn)
    label_key = _column(dataset, train, "label_key", label_key, ClassLabel)

    train_part = _part(dataset, train, image_key, label_key, image_size)
    if min(train_part[1], default=-1) < 0:
        raise BadInput(f"data.dataset {dataset}: the train split has no labels in {label_key} (they count from 0)")
    test_part = None
    if test is not None and min(test[label_key], default=-1) >= 0:  # some test parts are published unlabelled, as -1
        test_part = _part(dataset, test, image_key, label_key, image_size)
    label_type = train.features[label_key]
    return build(
        dataset,
        train_part,
        test_part,
        classes=label_type.names if isinstance(label_type, ClassLabel) else None,
        source=f"data.dataset {dataset}",
        image_size=None,
        test_fraction=test_fraction,
    )


def _column(dataset: str, split: Any, option: str, given: str | None, kind: type) -> str:
    columns = list(split.features)
    if given is not None:
        if given not in columns:
            raise BadInput(f"data.{option}: {dataset} has no column {given!r} (columns: {', '.join(columns)})")
        return given
    found = [name for name in columns if isinstance(split.features[name], kind)]
    if len(found) != 1:
        raise BadInput(
            f"data.{option}: {dataset} has {len(found)} columns of type {kind.__name__}; "
            f"name one (columns: {', '.join(columns)})"
        )
    return found[0]


def _part(dataset: str, split: Any, image_key: str, label_key: str, image_size: int | None) -> Part:
    from datasets import Image as ImageColumn

    labels = np.array(split[label_key])
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise BadInput(f"data.label_key: {label_key} of {dataset} does not hold one integer label for each image")
    if not isinstance(split.features[image_key], ImageColumn):
        raise BadInput(f"data.image_key: {image_key} of {dataset} does not hold images")
    images, sizes = [], set()
    reader = Pictures(f"data.dataset {dataset}")
    check_memory(split.num_rows, image_size, image_size, channels=3)
    for number, stored in enumerate(split.cast_column(image_key, ImageColumn(decode=False))[image_key]):
        if stored is None:
            raise BadInput(f"data.dataset {dataset}: image {number} of {image_key} is missing")
        try:
            read = reader.read(f"image {number}", partial(_open, stored))
        except ValueError as error:
            raise BadInput(f"data.dataset {dataset}: image {number} of {image_key}: {error}") from None
        images.append(read if image_size is None else to_square(read, image_size))
        sizes.add(images[-1].size)
    if len(sizes) > 1:
        raise BadInput(
            f"data.image_size: the images of {dataset} have {len(sizes)} sizes; set the one to bring them to"
        )
    reader.warn()
    if any(image.mode == "RGB" for image in images):
        images = [image.convert("RGB") for image in images]
    return np.stack([np.asarray(image) for image in images]), labels


def _open(stored: dict[str, Any]) -> Image.Image:
    """A picture as the data set keeps it: its bytes, or where it lies."""
    return Image.open(stored["path"] if stored["bytes"] is None else io.BytesIO(stored["bytes"]))
