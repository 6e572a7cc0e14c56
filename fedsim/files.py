"""Small promises about files: written whole or not at all, read without trusting what they hold."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from fedsim.errors import Damaged, no_file

if TYPE_CHECKING:
    import polars as pl

READ = "fedsim.read"
"""The audit event of our own readers, with the path: a native one, as safetensors has, raises none."""


def write_bytes(path: Path, content: bytes) -> None:
    """Write to a temporary name beside the target and rename: a reader sees the old file or the new one.

    Raises:
        OSError: with the target as its file name, e.g. on a full disk; nothing is left then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _refusing(path):
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def check_place(path: Path) -> None:
    """Raise OSError, with the target as its file name, unless a file can be written there: before hours of work."""
    with _refusing(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")
        os.close(handle)
        os.unlink(temporary)


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """What the system refuses within the block is refused to this file, not to a temporary one beside it."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def write_text(path: Path, content: str) -> None:
    write_bytes(path, content.encode())


def as_json(content: Any) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


def write_json(path: Path, content: Any) -> None:
    write_bytes(path, as_json(content))


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises Damaged: it is no JSON; OSError: it cannot be read."""
    sys.audit(READ, str(path))
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise Damaged(path, f"no JSON: {error or type(error).__name__}") from None


def as_safetensors(tensors: Mapping[str, Tensor]) -> bytes:
    return save(_apart(tensors))


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    write_bytes(path, as_safetensors(tensors))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors by name, from safetensors: nothing in the file is ever executed.

    Raises:
        Damaged: it is no such file, or is cut off.
        OSError: it cannot be read.
    """
    sys.audit(READ, str(path))
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise Damaged(path, no_file(path))
    try:
        return load_file(path)
    except (SafetensorError, KeyError) as error:  # a KeyError names a number format that this torch does not have
        raise Damaged(path, f"not a safetensors file: {error}") from None


def tensor_named(tensors: Mapping[str, Tensor], name: str, path: Path) -> Tensor:
    """One of a file's tensors; raises Damaged where it is not there."""
    if name not in tensors:
        raise Damaged(path, f"holds no {name}")
    return tensors[name]


def write_table(path: Path, table: pl.DataFrame) -> None:
    """A Parquet file."""
    buffer = io.BytesIO()
    table.write_parquet(buffer)
    write_bytes(path, buffer.getvalue())


@contextmanager
def whole_directory(target: Path) -> Iterator[Path]:
    """A temporary directory that becomes `target` if the block succeeds, and vanishes if it does not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=".tmp-"))
    try:
        yield temporary
        if target.exists():  # left by a run that was killed between its rename and its record
            shutil.rmtree(target)
        os.chmod(temporary, 0o755)
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def key_of(content: Any) -> str:
    """A content hash of JSON-able content: equal content, equal key."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The values, each in memory of its own: the format refuses tensors that share any, such as one draw of several."""
    found, known = {}, set()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        place = value.untyped_storage().data_ptr()
        found[name] = value.clone() if place in known else value
        known.add(place)
    return found
