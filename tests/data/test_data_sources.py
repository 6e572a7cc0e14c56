"""The data sources: what they return, that it never changes by itself, and what they say of input they cannot use."""

from __future__ import annotations

import os
import re
from importlib.resources import files

import numpy as np
import pytest
import torch
from PIL import Image

from fedsim import data
from fedsim.data import photos
from fedsim.errors import BadInput


def test_mnist_is_stratified_shuffled_and_fixed():
    mnist = data.load({"name": "mnist", "path": None, "image_size": None, "test_fraction": 0.2})
    assert mnist.train_images.shape == (4000, 1, 28, 28)
    assert mnist.test_images.shape == (1000, 1, 28, 28)
    assert mnist.train_images.dtype == torch.uint8
    assert mnist.input_shape == (1, 28, 28)
    assert mnist.train_labels.bincount().tolist() == [400] * 10
    assert mnist.test_labels.bincount().tolist() == [100] * 10
    assert len(mnist.train_labels[:50].unique()) > 5, "sorted by class"
    assert (mnist.mean, mnist.std) == ((0.13066373765468597,), (0.30810782313346863,))
    # Jobs are keyed by this: a change makes every stored run stale, so it must be meant.
    assert mnist.fingerprint == "6f8a4b37010340fa"


def test_mnist_digits_show_what_their_labels_say():
    mnist = data.load({"name": "mnist"})
    means = torch.stack([mnist.train_images[mnist.train_labels == digit].double().mean(0) for digit in range(10)])
    nearest = (mnist.test_images.double()[:, None] - means).square().flatten(2).sum(2).argmin(1)
    assert (nearest == mnist.test_labels).double().mean() > 0.75


def test_normalise_undoes_mean_and_std():
    mnist = data.load({"name": "mnist"})
    normalised = mnist.normalise(mnist.train_images)
    assert normalised.dtype == torch.float32
    assert abs(float(normalised.mean())) < 0.05
    assert abs(float(normalised.std()) - 1) < 0.05
    pixels = (normalised * mnist.std[0] + mnist.mean[0]) * 255
    assert torch.equal(pixels.round().to(torch.uint8), mnist.train_images)


def test_test_fraction_0_leaves_everything_to_train_on():
    mnist = data.load({"name": "mnist", "test_fraction": 0})
    assert len(mnist.train_images) == 5000
    assert mnist.test_images.shape == (0, 1, 28, 28)


def test_image_size_resizes():
    mnist = data.load({"name": "mnist", "image_size": 14})
    assert mnist.input_shape == (1, 14, 14)
    whole = data.load({"name": "mnist"})
    assert abs(float(mnist.train_images.double().mean() - whole.train_images.double().mean())) < 2


def test_photos_hold_as_many_crops_of_each_photograph_and_none_is_flat():
    crops = data.load({"name": "photos", "test_fraction": 0.2})
    assert crops.train_images.shape == (800, 3, 32, 32)
    assert crops.train_labels.bincount().tolist() == [100] * 8
    assert crops.test_labels.bincount().tolist() == [25] * 8
    assert len(crops.classes) == len(set(crops.classes)) == 8
    luminance = (crops.train_images.double() * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1)
    assert float(luminance.flatten(1).std(1).min()) > photos.FLAT - 0.5
    colourful = (crops.train_images.double().amax(1) - crops.train_images.double().amin(1)).mean()
    assert float(colourful) > 20, "grey"


@pytest.mark.parametrize("name", photos.PHOTOGRAPHS)
def test_a_photo_test_crop_holds_no_pixel_that_is_trained_on(name, monkeypatch):
    """Record where the crops are cut, and check the rectangles of the two parts."""
    cut = []
    resize = Image.Image.resize

    def recording(image, size, resample=None, box=None, **options):
        cut.append((image.size, box))
        return resize(image, size, resample, box=box, **options)

    monkeypatch.setattr(Image.Image, "resize", recording)
    monkeypatch.setattr(photos, "PHOTOGRAPHS", (name,))
    photos.load(image_size=224)
    width = Image.open(str(files("skimage").joinpath("data", name))).size[0]
    regions = {size for size, _ in cut}
    assert len(regions) == 2
    assert sum(region[0] for region in regions) == width, "the two parts overlap"
    for (region_width, region_height), (left, top, right, bottom) in cut:
        assert 0 <= left < right <= region_width
        assert 0 <= top < bottom <= region_height
        assert right - left >= 224, "enlarged"


@pytest.mark.parametrize("size", [16, 225])
def test_photos_of_a_size_that_they_cannot_have(size):
    with pytest.raises(BadInput, match=rf"data.image_size: .*32 to 224.* {size}"):
        data.load({"name": "photos", "image_size": size})


def archive(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def pixels(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(("shape", "channels"), [((40, 9, 7), 1), ((40, 9, 7, 1), 1), ((40, 9, 7, 3), 3)])
def test_npz_of_each_layout(tmp_path, shape, channels):
    x, y = pixels(*shape), np.arange(40) % 4
    loaded = data.load({"name": "npz", "path": archive(tmp_path / "a.npz", x=x, y=y), "test_fraction": 0.2})
    assert loaded.train_images.shape == (32, channels, 9, 7)
    assert loaded.test_labels.bincount().tolist() == [2, 2, 2, 2]
    # Every image is still beside its own label.
    given = {x[i].tobytes(): int(y[i]) for i in range(40)}
    for images, labels in ((loaded.train_images, loaded.train_labels), (loaded.test_images, loaded.test_labels)):
        for image, label in zip(images, labels):
            assert given[image.permute(1, 2, 0).contiguous().numpy().tobytes()] == int(label)
    scaled = loaded.train_images.double() / 255
    assert loaded.mean == pytest.approx(scaled.mean((0, 2, 3)).tolist(), abs=1e-12)
    assert loaded.std == pytest.approx(scaled.transpose(0, 1).flatten(1).std(1, correction=0).tolist(), abs=1e-12)


def test_npz_with_its_own_test_part_and_class_names(tmp_path):
    path = archive(
        tmp_path / "a.npz",
        x_train=pixels(6, 8, 8),
        y_train=np.array([0, 1] * 3),
        x_test=pixels(4, 8, 8),
        y_test=np.array([0, 1, 1, 0]),
        classes=np.array(["cat", "dog"]),
    )
    loaded = data.load({"name": "npz", "path": path, "test_fraction": 0.5, "image_size": 4})
    assert (len(loaded.train_images), len(loaded.test_images)) == (6, 4)
    assert loaded.classes == ("cat", "dog")
    assert loaded.input_shape == (1, 4, 4)


def test_a_changed_file_is_read_again(tmp_path):
    path = tmp_path / "a.npz"
    spec = {"name": "npz", "path": archive(path, x=pixels(4, 8, 8), y=np.arange(4)), "test_fraction": 0}
    before = data.load(spec)
    assert data.load(dict(spec)) is before
    archive(path, x=255 - pixels(4, 8, 8), y=np.arange(4))
    os.utime(path, ns=(1, 1))
    assert data.load(spec).fingerprint != before.fingerprint


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": pixels(4, 8, 8)}, "holds x; expected x and y, or x_train"),
        ({"x": pixels(4, 8, 8).astype(float), "y": np.arange(4)}, "x is float64 (4, 8, 8); expected uint8 images"),
        ({"x": pixels(4, 8), "y": np.arange(4)}, "x is uint8 (4, 8); expected uint8 images (N, H, W)"),
        ({"x": pixels(4, 3, 8, 8), "y": np.arange(4)}, "x is uint8 (4, 3, 8, 8); expected uint8 images"),
        ({"x": pixels(4, 8, 8), "y": np.arange(3)}, "4 images in x, but 3 labels in y"),
        ({"x": pixels(4, 8, 8), "y": np.ones(4)}, "y is float64 (4,); expected integer labels"),
        ({"x": pixels(4, 8, 8), "y": np.arange(4) - 1}, "y holds -1; labels count from 0"),
        ({"x": pixels(4, 8, 8), "y": np.arange(4), "classes": np.array(["a"])}, "label 3, but `classes` names only 1"),
        ({"x": pixels(0, 8, 8), "y": np.arange(0)}, "expected uint8 images"),
        ({"x_train": pixels(4, 8, 8), "y_train": np.arange(4), "x_test": pixels(2, 8, 8)}, "y_test is missing"),
        (
            {"x_train": pixels(4, 8, 8), "y_train": np.arange(4), "x_test": pixels(2, 9, 8), "y_test": np.arange(2)},
            "images of x_train are (8, 8), of x_test (9, 8)",
        ),
        ({"x": np.array([{"a": 1}], dtype=object), "y": np.arange(1)}, "not a readable NumPy archive of plain arrays"),
    ],
)
def test_an_npz_that_cannot_be_used(tmp_path, arrays, said):
    path = archive(tmp_path / "a.npz", **arrays)
    with pytest.raises(BadInput, match=rf"{re.escape(path)}: .*{re.escape(said)}"):
        data.load({"name": "npz", "path": path})


def test_an_npz_that_is_none(tmp_path):
    text = tmp_path / "a.npz"
    text.write_text("not an archive")
    single = tmp_path / "b.npy"
    np.save(single, pixels(4, 8, 8))
    alone = r"not a readable .* \(a single array"
    for path, said in ((tmp_path / "c.npz", "no such file"), (text, "not a readable"), (single, alone)):
        with pytest.raises(BadInput, match=rf"{re.escape(str(path))}: {said}"):
            data.load({"name": "npz", "path": str(path)})


def folder_of_pictures(root, sizes=((12, 10),), mode="RGB", each=5):
    for label, name in enumerate(("bird", "fish")):
        (root / name).mkdir(parents=True)
        for i in range(each):
            width, height = sizes[i % len(sizes)]
            colour = (40 + 100 * label, 90, 10 * i) if mode == "RGB" else 40 + 100 * label
            Image.new(mode, (width, height), colour).save(root / name / f"{i}.png")
    return str(root)


def test_folder_with_a_class_in_each_sub_folder(tmp_path):
    path = folder_of_pictures(tmp_path / "own")
    (tmp_path / "own" / "fish" / "notes.txt").write_text("not a picture")
    (tmp_path / "own" / ".cache").mkdir()
    loaded = data.load({"name": "folder", "path": path, "test_fraction": 0.2})
    assert loaded.classes == ("bird", "fish")
    assert loaded.input_shape == (3, 10, 12)
    assert (loaded.train_labels.bincount().tolist(), loaded.test_labels.bincount().tolist()) == ([4, 4], [1, 1])
    assert torch.equal(loaded.train_images[:, 0, 0, 0].long(), 40 + 100 * loaded.train_labels)


def test_folder_resizes_different_sizes_and_keeps_grey_grey(tmp_path):
    path = folder_of_pictures(tmp_path / "own", sizes=((12, 10), (30, 40)), mode="L")
    loaded = data.load({"name": "folder", "path": path, "image_size": 8})
    assert loaded.input_shape == (1, 8, 8)
    with pytest.raises(BadInput, match=r"bird/1.png: \(30, 40\) pixels, but .*bird/0.png has \(12, 10\).*image_size"):
        data.load({"name": "folder", "path": path})


def test_a_folder_that_cannot_be_used(tmp_path):
    with pytest.raises(BadInput, match="no such folder"):
        data.load({"name": "folder", "path": str(tmp_path / "none")})
    with pytest.raises(BadInput, match="no sub-folder; expected one sub-folder for each class"):
        data.load({"name": "folder", "path": str(tmp_path)})
    (tmp_path / "cat").mkdir()
    with pytest.raises(BadInput, match="sub-folder cat holds no picture"):
        data.load({"name": "folder", "path": str(tmp_path)})
    (tmp_path / "cat" / "a.png").write_text("not a picture")
    with pytest.raises(BadInput, match=r"cat/a.png: not a readable picture"):
        data.load({"name": "folder", "path": str(tmp_path)})


@pytest.fixture
def hub_offline(monkeypatch, tmp_path):
    """No look-up may leave the machine, and what the library prepares goes to a folder of the test."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_hub_reads_a_local_image_folder_with_train_and_test(tmp_path, hub_offline):
    folder_of_pictures(tmp_path / "own" / "train")
    folder_of_pictures(tmp_path / "own" / "test", each=2)
    loaded = data.load({"name": "hub", "dataset": str(tmp_path / "own"), "test_fraction": 0.5})
    assert loaded.classes == ("bird", "fish")
    assert (len(loaded.train_images), len(loaded.test_images)) == (10, 4)
    assert loaded.input_shape == (3, 10, 12)
    assert torch.equal(loaded.test_images[:, 0, 0, 0].long(), 40 + 100 * loaded.test_labels)


def test_hub_reads_parquet_with_columns_of_other_names(tmp_path, hub_offline):
    from datasets import Dataset as Table
    from datasets import Features, Value
    from datasets import Image as ImageColumn

    pictures = [Image.new("L", (6, 6), 10 * i) for i in range(8)]
    table = Table.from_dict(
        {"scan": pictures, "finding": [i % 2 for i in range(8)], "age": list(range(8))},
        features=Features({"scan": ImageColumn(), "finding": Value("int32"), "age": Value("int32")}),
    )
    (tmp_path / "own").mkdir()
    table.to_parquet(str(tmp_path / "own" / "train.parquet"))
    spec = {"name": "hub", "dataset": str(tmp_path / "own"), "test_fraction": 0.25}
    with pytest.raises(BadInput, match=r"data.label_key: .* 0 columns of type ClassLabel; .*scan, finding, age"):
        data.load(spec)
    with pytest.raises(BadInput, match=r"data.label_key: .* has no column 'diagnosis' \(columns: scan, finding, age\)"):
        data.load({**spec, "label_key": "diagnosis"})
    loaded = data.load({**spec, "label_key": "finding"})
    assert loaded.input_shape == (1, 6, 6)
    assert (loaded.classes, len(loaded.train_images), len(loaded.test_images)) == (("0", "1"), 6, 2)
    assert torch.equal((loaded.train_images[:, 0, 0, 0] / 10 % 2).long(), loaded.train_labels)


def test_hub_that_is_not_there(tmp_path, hub_offline):
    with pytest.raises(BadInput, match=r"data.dataset nobody/nothing-at-all: cannot be loaded"):
        data.load({"name": "hub", "dataset": "nobody/nothing-at-all"})


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"name": "mnits"}, r"data.name: unknown data set 'mnits'; did you mean 'mnist'\? \(known: mnist, photos"),
        (
            {"name": "mnist", "path": "a.npz"},
            r"data.path: mnist takes no such key \(it takes image_size, test_fraction",
        ),
        ({"name": "npz"}, "data.path: npz needs it"),
        ({"name": "mnist", "test_fraction": 1.0}, r"data.test_fraction: 1.0 is not in \[0, 1\)"),
        ({"name": "mnist", "image_size": 0}, "data.image_size: 0 is not a number of pixels"),
    ],
)
def test_a_data_block_that_cannot_be_used(spec, said):
    with pytest.raises(BadInput, match=said):
        data.load(spec)


def test_every_source_is_described_in_one_line():
    assert data.names() == ["mnist", "photos", "npz", "folder", "hub"]
    assert all(line.strip() for line in data.describe().values())
