"""Pictures of every depth and kind come out as they look, or are refused by name: never black or white in silence."""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from fedsim import data
from fedsim.errors import BadInput, Caution

RAMP = np.linspace(0, 1, 64).reshape(8, 8)
"""What all pictures here show: grey from black to white."""


def folder(root, name="0.png", picture=None, raw=None):
    """A folder of two classes; the picture in question is the first of `a`, beside an ordinary one in `b`."""
    for label in "ab":
        (root / label).mkdir()
    if raw is not None:
        (root / "a" / name).write_bytes(raw)
    else:
        picture.save(root / "a" / name)
    Image.fromarray((RAMP * 255).round().astype(np.uint8)).save(root / "b" / "0.png")
    return {"name": "folder", "path": str(root), "test_fraction": 0}


def of_a(spec):
    """The picture of class `a` as it was read, (C, H, W) in 0 to 1."""
    loaded = data.load(spec)
    return loaded.train_images[loaded.train_labels == 0][0].double().numpy() / 255


def tiff(values, *, bits, white_is_zero=False):
    """A TIFF of unsigned grey values, packed to `bits` a pixel; Pillow writes none with 12."""
    if bits == 12:
        flat = values.astype(int).ravel()
        packed = bytes(b for x, y in zip(flat[::2], flat[1::2]) for b in (x >> 4, (x & 15) << 4 | y >> 8, y & 255))
    else:
        packed = values.astype(f"<u{bits // 8}").tobytes()
    height, width = values.shape
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, 0 if white_is_zero else 1), (273, 8)]
    tags += [(277, 1), (278, height), (279, len(packed))]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + directory + struct.pack("<I", 0)


def in_memory(picture, format, **options):
    buffer = io.BytesIO()
    picture.save(buffer, format=format, **options)
    return buffer.getvalue()


SIXTEEN = (RAMP * 65535).round().astype(np.uint16)


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("16.png", in_memory(Image.fromarray(SIXTEEN), "PNG")),
        ("16.tif", in_memory(Image.fromarray(SIXTEEN), "TIFF")),
        ("16-inverted.tif", tiff(65535 - SIXTEEN, bits=16, white_is_zero=True)),
        ("12.tif", tiff((RAMP * 4095).round(), bits=12)),
        ("grey.jfif", in_memory(Image.fromarray((RAMP * 255).astype(np.uint8)), "JPEG", quality=100)),
        ("cmyk.tif", in_memory(Image.fromarray((RAMP * 255).astype(np.uint8)).convert("CMYK"), "TIFF")),
        ("palette.png", in_memory(Image.fromarray((RAMP * 255).astype(np.uint8)).convert("P"), "PNG")),
    ],
)
def test_a_ramp_stays_a_ramp(tmp_path, name, raw):
    with warnings.catch_warnings():
        warnings.simplefilter("error", Caution)
        read = of_a(folder(tmp_path, name, raw=raw))
    assert np.abs(read - RAMP).max() < 2.5 / 255


def test_sixteen_bits_are_rounded_to_eight_not_cut(tmp_path):
    read = of_a(folder(tmp_path, "16.png", Image.fromarray(SIXTEEN)))
    assert np.array_equal((read[0] * 255).round(), (SIXTEEN / 257).round())


@pytest.mark.parametrize(
    ("mode", "values"), [("F", RAMP.astype(np.float32)), ("I", (RAMP * 40000).astype(np.int32))], ids=["F", "I"]
)
def test_pixels_without_a_range_are_refused_by_file_and_mode(tmp_path, mode, values):
    spec = folder(tmp_path, "odd.tif", Image.fromarray(values))
    with pytest.raises(BadInput, match=rf"a/odd.tif: .*mode {mode}\).*accepted: 8 bits"):
        data.load(spec)


def checkered(mode):
    """Left half red or grey, right half black and wholly transparent."""
    red = np.zeros((8, 8, 4), np.uint8)
    red[:, :4] = (255, 0, 0, 255)
    picture = Image.fromarray(red)
    if mode == "RGBA":
        return in_memory(picture, "PNG")
    if mode == "LA":
        return in_memory(picture.convert("LA"), "PNG")
    if mode == "RGB with a clear colour":
        return in_memory(picture.convert("RGB"), "PNG", transparency=(0, 0, 0))
    if mode == "P":
        return in_memory(picture.convert("RGB").quantize(2), "PNG", transparency=b"\xff\x00")
    grey = np.where(red[..., 0] > 0, 20000, 0).astype(np.uint16)
    return in_memory(Image.fromarray(grey), "PNG", transparency=0)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB with a clear colour", "16 bits with a clear value"])
def test_what_is_transparent_is_white_and_said_so_once(tmp_path, mode):
    raw = checkered(mode)
    if mode == "P":  # which of the two entries is red is the quantiser's choice: make the black one the clear one
        with Image.open(io.BytesIO(raw)) as picture:
            clear = picture.getpixel((7, 0))
            raw = in_memory(picture.copy(), "PNG", transparency=bytes(0 if i == clear else 255 for i in range(2)))
    spec = folder(tmp_path, "0.png", raw=raw)
    (tmp_path / "a" / "1.png").write_bytes(raw)
    with pytest.warns(Caution) as said:
        read = of_a(spec)
    assert [str(one.message) for one in said] == [
        f"{tmp_path}: 2 pictures with transparent parts: they are put on white (a/0.png, ...)"
    ]
    assert np.all(read[:, :, 4:] == 1)
    assert np.all(read[-1, :, :4] < 0.5)


def test_an_opaque_alpha_channel_is_no_remark(tmp_path):
    picture = Image.fromarray((RAMP * 255).astype(np.uint8)).convert("RGBA")
    with warnings.catch_warnings():
        warnings.simplefilter("error", Caution)
        assert np.abs(of_a(folder(tmp_path, "0.png", picture)) - RAMP).max() < 1 / 255


def test_of_several_frames_the_first_is_used_and_said_so(tmp_path):
    first, second = (Image.new("L", (8, 8), value) for value in (255, 0))
    raw = in_memory(first, "GIF", save_all=True, append_images=[second])
    with pytest.warns(Caution, match=r"1 picture of several frames: only the first is used \(a/0.gif\)"):
        assert np.all(of_a(folder(tmp_path, "0.gif", raw=raw)) == 1)


def test_litter_is_skipped_and_pictures_left_out_are_named(tmp_path):
    spec = folder(tmp_path, "0.png", Image.new("L", (8, 8), 9))
    (tmp_path / "__MACOSX").mkdir()
    for litter in ("a/._0.png", "a/.DS_Store", "__MACOSX/._0.png", "a/notes.txt"):
        (tmp_path / litter).write_bytes(b"\0\5\x16\7")
    with warnings.catch_warnings():
        warnings.simplefilter("error", Caution)
        assert data.load(spec).classes == ("a", "b")
    (tmp_path / "stray.png").write_bytes(b"")
    (tmp_path / "b" / "1.heic").write_bytes(b"")
    with pytest.warns(Caution, match=r"2 pictures are left out \(stray.png, ...\); read are .png .*in the sub-folders"):
        data.load({**spec, "image_size": 8})


def bomb(side=20_000):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    content = chunk(b"IDAT", zlib.compress(b"\0" * 9))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + content + chunk(b"IEND", b"")


PNG = in_memory(Image.fromarray((np.random.default_rng(0).random((64, 64)) * 255).astype(np.uint8)), "PNG")


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (bomb(), "declares more than 89,478,485 pixels"),
        (bomb(10_000), "declares more than"),
        (PNG[: len(PNG) // 2], "not a readable picture"),
        (PNG[:40] + b"IDAX" + PNG[44:], "not a readable picture"),
        (b"", "not a readable picture"),
        (b"GIF89a", "not a readable picture"),
    ],
    ids=["bomb", "half a bomb", "cut", "broken chunk", "empty", "GIF header"],
)
def test_a_picture_that_cannot_be_read_is_one_line(tmp_path, raw, said):
    spec = folder(tmp_path, "bad.png", raw=raw)
    with pytest.raises(BadInput, match=rf"^{re.escape(str(tmp_path))}/a/bad.png: {said}[^\n]*$"):
        data.load(spec)


@pytest.fixture
def hub_offline(monkeypatch, tmp_path):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def hub(root, raws):
    from datasets import ClassLabel, Features
    from datasets import Dataset as Table
    from datasets import Image as ImageColumn

    root.mkdir()
    Table.from_dict(
        {"image": [{"bytes": raw, "path": None} for raw in raws], "label": [i % 2 for i in range(len(raws))]},
        features=Features({"image": ImageColumn(), "label": ClassLabel(names=["a", "b"])}),
    ).to_parquet(str(root / "train.parquet"))
    return {"name": "hub", "dataset": str(root), "test_fraction": 0}


def test_the_hub_shares_the_checks(tmp_path, hub_offline):
    raw = in_memory(Image.fromarray(SIXTEEN), "PNG")
    loaded = data.load(hub(tmp_path / "deep", [raw, raw]))
    assert np.abs(loaded.train_images[0].double().numpy() / 255 - RAMP).max() < 1 / 255
    with pytest.warns(Caution, match=r"2 pictures with transparent parts: they are put on white \(image 0, ...\)"):
        clear = data.load(hub(tmp_path / "clear", [checkered("RGBA")] * 2))
    assert bool((clear.train_images[:, :, :, 4:] == 255).all())
    odd = in_memory(Image.fromarray(RAMP.astype(np.float32)), "TIFF")
    bad_ones = (("odd", odd, r"mode F\)"), ("bomb", bomb(), "declares more than"), ("cut", b"?", "not a readable"))
    for name, bad, said in bad_ones:
        with pytest.raises(BadInput, match=rf"/{name}: image 1 of image: .*{said}"):
            data.load(hub(tmp_path / name, [raw, bad]))
