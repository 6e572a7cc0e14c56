"""NumPy archives that somebody else made: what each array declares is looked at before any of it is unpacked.

A few kilobytes may announce terabytes, or hold what unpacks to gigabytes. Objects are never unpickled.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from fedsim.errors import no_file, on_one_line

MOST_BYTES = 8 * 2**30
"""Of all arrays that are read together."""


def read_npz(path: Path, names: Collection[str], *, most: int = MOST_BYTES) -> dict[str, np.ndarray]:
    """The arrays of these names, as far as the archive has them.

    Raises:
        ValueError: it is no archive, an array holds objects or is cut off, or all are larger than `most` bytes.
        OSError: the file cannot be read.
    """
    if not path.is_file():
        raise ValueError(no_file(path))
    if _single(path):
        raise ValueError("a single array, as np.save writes it; np.savez makes an archive of several")
    try:
        with zipfile.ZipFile(path) as archive:
            known = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            wanted = {name: known[name] for name in names if name in known}
            left = most
            for name, info in wanted.items():
                left -= _declared(archive, info, name)
                if left < 0:
                    raise ValueError(f"its arrays are larger than {most / 2**30:.3g} GiB, up to which they are read")
            return {name: _read(archive, info) for name, info in wanted.items()}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, KeyError) as error:
        raise ValueError(on_one_line(error)) from None
    except MemoryError:
        raise ValueError("does not fit into memory") from None


def _single(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX


def _declared(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> int:
    """The bytes of an array by its own header. Raises ValueError where that cannot be."""
    with archive.open(info) as file:
        version = npy.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{name} has an unknown version of the format")
        shape, _, kind = npy.read_array_header_1_0(file) if version == (1, 0) else npy.read_array_header_2_0(file)
    if kind.hasobject:
        raise ValueError(f"{name} holds objects, which are never read; expected plain arrays")
    size = kind.itemsize
    for side in shape:
        if side < 0:
            raise ValueError(f"{name} declares the shape {shape}")
        size *= side
    if info.file_size < size:
        raise ValueError(f"{name} declares {shape} of {kind}, but is cut off")
    return size


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as file:
        found: np.ndarray = npy.read_array(file, allow_pickle=False)
    return found
