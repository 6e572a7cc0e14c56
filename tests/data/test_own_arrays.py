"""Arrays and labels of a user: what is ambiguous is refused at once, what is odd is said."""

from __future__ import annotations

import time
import warnings
import zipfile

import numpy as np
import pytest

from fedsim import data
from fedsim.errors import BadInput, Caution

SHAPE = (20, 8, 8)


def pixels():
    return np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)


def spec(tmp_path, **arrays):
    np.savez(tmp_path / "own.npz", **{"x": pixels(), "y": np.arange(20) % 2, **arrays})
    return {"name": "npz", "path": str(tmp_path / "own.npz")}


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.uint16, np.int32, np.int8, np.complex64])
def test_images_without_a_black_and_a_white_are_refused(tmp_path, kind):
    with pytest.raises(BadInput, match=rf"own.npz: x is {np.dtype(kind)} .*uint8 images .*0 is black, 255 white"):
        data.load(spec(tmp_path, x=(pixels() / 255).astype(kind)))


def test_truth_values_are_black_and_white(tmp_path):
    loaded = data.load(spec(tmp_path, x=pixels() > 127))
    assert loaded.train_images.unique().tolist() == [0, 255]


def test_pixels_of_0_and_1_are_said_to_be_black(tmp_path):
    with pytest.warns(Caution, match=r"own.npz: no pixel is above 1, of 255"):
        data.load(spec(tmp_path, x=(pixels() > 127).astype(np.uint8)))


@pytest.mark.parametrize("highest", [40_000, 200_000_000, 2**63 + 5])
def test_a_label_that_is_no_index_is_refused_at_once(tmp_path, highest):
    labels = np.zeros(20, np.uint64)
    labels[3] = highest
    given = spec(tmp_path, y=labels)
    started = time.perf_counter()
    with pytest.raises(BadInput, match=rf"own.npz: label {highest} would make .*at most 32,768 classes are accepted"):
        data.load(given)
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"y": np.arange(20) % 2 + 1}, "labels start at 1: class 0 has no image, and the model gets 3 outputs for 2"),
        ({"y": np.arange(20) % 2 * 9}, r"8 of 10 classes have no training image \(1, 2, 3, ...\)"),
        ({"classes": np.array(["ant", "bee", "cat"])}, r"1 of 3 classes has no training image \(cat\)$"),
        ({"y": np.zeros(20, int)}, "all training images are of one class"),
    ],
)
def test_odd_labels_are_said(tmp_path, arrays, said):
    with pytest.warns(Caution, match=rf"own.npz: {said}"):
        data.load(spec(tmp_path, **arrays))


def test_a_class_of_the_test_part_alone_is_said(tmp_path):
    x, y = pixels(), np.arange(20) % 2
    np.savez(tmp_path / "own.npz", x_train=x[:10], y_train=y[:10], x_test=x[10:], y_test=np.arange(10) % 3)
    with pytest.warns(Caution, match=r"1 of 3 classes has no training image \(2\), 1 of them only test images"):
        data.load({"name": "npz", "path": str(tmp_path / "own.npz")})


def test_ordinary_arrays_and_the_bundled_data_are_not_remarked_on(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", Caution)
        data.load(spec(tmp_path))
        data.load({"name": "mnist", "test_fraction": 0.3})
        data.load({"name": "photos", "test_fraction": 0.3})


def test_an_archive_that_declares_more_than_memory_holds_is_one_line(tmp_path):
    given = spec(tmp_path)
    header = {"descr": "|u1", "fortran_order": False, "shape": (2**50,)}
    with zipfile.ZipFile(tmp_path / "own.npz", "w") as archive, archive.open("x.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(BadInput, match=r"of plain arrays \(x declares [^\n]* but is cut off\)$"):
        data.load(given)


def test_objects_are_never_unpickled(tmp_path):
    for name in ("x", "y", "classes"):
        with pytest.raises(BadInput, match=rf"plain arrays \({name} holds objects, which are never read"):
            data.load(spec(tmp_path, **{name: np.array([{"a": 1}] * 20, dtype=object)}))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (np.array("a"), "expected a list of names"),
        (np.arange(6).reshape(3, 2), "expected a list of names"),
        (np.array([0.5, 1.5]), "expected a list of names"),
        (np.arange(40_000), "classes names 40,000; at most 32,768 are accepted"),
    ],
)
def test_names_of_classes_are_a_list_of_a_sensible_length(tmp_path, names, said):
    np.savez(tmp_path / "own.npz", x=np.zeros((3, 8, 8), np.uint8), y=np.arange(3), classes=names)
    with pytest.raises(BadInput, match=said):
        data.load({"name": "npz", "path": str(tmp_path / "own.npz")})
