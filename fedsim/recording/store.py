"""A directory of recorded replies: safetensors and JSON, versioned, each entry written whole or not at all.

    observations/store.json                              {"format": "fedsim-observations", "version": 1}
                 round_1/sent_<digest>.safetensors       what was sent: once for all nodes that were sent the same
                         node_<id>.safetensors           what came back
                         node_<id>.json                  round, node, metrics, config, the names of both files: last
                         fault_<id>.json                 why a reply is missing

An entry that is half written, or not in this format, costs itself only: `listed` leaves it out, and `faults` names it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import torch
from safetensors import SafetensorError
from torch import Tensor

from fedsim.errors import BadInput, on_one_line
from fedsim.files import as_json, as_safetensors, read_json, write_bytes, write_json
from fedsim.recording.entry import Arrays, Entry
from fedsim.recording.recorded import Fault, Recorded, fault_of
from fedsim.version import __version__

FORMAT = "fedsim-observations"
VERSION = 1
MARKER = "store.json"
UNREADABLE = (ValueError, OSError, SafetensorError, BadInput)
"""What a file raises that is not what it should be, its own name for a node included."""


class Store:
    """Recorded replies in a directory; made by `create` or `open`.

    Args:
        path: of the directory.
        max_bytes: the most that its entries may take; None for no limit.
    """

    def __init__(self, path: Path, max_bytes: int | None = None) -> None:
        if max_bytes is not None and max_bytes < 1:
            raise BadInput(f"max_bytes = {max_bytes}: a number of at least 1 is accepted")
        self.path = path
        self._max_bytes = max_bytes
        self._bytes: int | None = None  # known once it is needed
        self._last_sent: tuple[Mapping[str, Tensor], str] | None = None

    @classmethod
    def create(cls, path: str | Path, *, max_bytes: int | None = None) -> Store:
        """A new store.

        Raises:
            BadInput: something is there that is not an empty folder or an empty store.
        """
        made = cls(path := Path(path).absolute(), max_bytes)
        if path.exists():
            if (path / MARKER).exists() and not any(cls.open(path).path.glob("round_*")):
                return made
            if not path.is_dir() or any(path.iterdir()):
                what = "records of an earlier run" if (path / MARKER).exists() else "something else"
                raise BadInput(f"{path} holds {what}: name a new folder for what is recorded, or remove that one")
        try:
            write_json(path / MARKER, {"format": FORMAT, "version": VERSION, "written_by": f"fedsim {__version__}"})
        except OSError as error:
            raise BadInput(f"{path}: nothing can be recorded there ({error.strerror})") from error
        return made

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """A store that is there.

        Raises:
            BadInput: it is not, or it is of a version that this fedsim does not read.
        """
        path = Path(path).absolute()
        if not (path / MARKER).is_file():
            raise BadInput(f"{path} is no store of observations: it has no {MARKER}")
        try:
            marker = _object(path / MARKER)
        except UNREADABLE as error:
            raise BadInput(f"{path / MARKER} cannot be read: {on_one_line(error)}") from error
        if marker.get("format") != FORMAT:
            raise BadInput(f"{path / MARKER}: format is {marker.get('format')!r}, not {FORMAT!r}")
        if marker.get("version") != VERSION:
            raise BadInput(
                f"{path / MARKER}: version {marker.get('version')!r}; fedsim {__version__} reads version {VERSION}"
            )
        return cls(path)

    def add(self, recorded: Recorded, *, sound: bool = False) -> None:
        """Write one entry.

        Args:
            sound: whether the caller has asked `fault_of` already.

        Raises:
            BadInput: it is there already, or its arrays do not fit together, or something in it cannot be written,
                or it would exceed `max_bytes`. Nothing is written then.
            OSError: the disk is full, or the folder is gone.
        """
        folder, name = self._folder(recorded.round), _name(recorded.node)
        where = f"round {recorded.round}, node {recorded.node}"
        if (folder / f"{name}.json").exists():
            raise BadInput(f"{self.path}: {where} is there already")
        if not sound and (fault := fault_of(recorded.sent, recorded.received, recorded.records)) is not None:
            raise BadInput(f"{where}: {fault}")
        entry = Entry(
            recorded.round,
            recorded.node,
            Arrays(self._name_of(recorded.sent), tuple(recorded.sent)),
            Arrays(f"{name}.safetensors", tuple(recorded.received)),
            recorded.metrics,
            recorded.config,
            recorded.records,
            recorded.record,
            recorded.config_record,
        )
        try:
            plain = entry.to_plain()
        except TypeError as error:
            raise BadInput(f"{where}: {error}") from error
        files = {f"{name}.safetensors": as_safetensors(recorded.received), f"{name}.json": as_json(plain)}
        if not (folder / entry.sent.file).exists():
            files = {entry.sent.file: as_safetensors(recorded.sent), **files}
        self._make_room(sum(len(content) for content in files.values()))
        for file, content in files.items():
            write_bytes(folder / file, content)

    def fault(self, round: int, node: str, reason: str) -> None:
        """Write why there is no entry of a node in a round."""
        write_json(self._folder(round) / f"{_name(node, 'fault')}.json", asdict(Fault(round, node, reason)))

    def listed(self) -> list[tuple[int, str]]:
        """Rounds and nodes of the entries that can be read, in the order of the rounds, then of the names."""
        return sorted((found.round, found.node) for found in self._entries() if isinstance(found, Entry))

    def read(self, round: int, node: str) -> Recorded:
        """One entry.

        Raises:
            BadInput: it is not there, or cannot be read, or its arrays do not fit together.
        """
        file = self._folder(round) / f"{_name(node)}.json"
        where = f"{self.path}: round {round}, node {node}"
        if not file.is_file():
            raise BadInput(f"{where} is not there")
        try:
            recorded = _entry(file).read(file.parent)
        except UNREADABLE as error:
            raise BadInput(f"{where} cannot be read: {on_one_line(error)}") from error
        if (fault := fault_of(recorded.sent, recorded.received, recorded.records)) is not None:
            raise BadInput(f"{where}: {fault}")
        return recorded

    def faults(self) -> list[Fault]:
        """What could not be recorded, and what was and cannot be read: nothing is lost in silence."""
        found = [reason for reason in self._entries() if isinstance(reason, Fault)]
        for file in self.path.glob("round_*/fault_*.json"):
            try:
                plain = _object(file)
                found.append(Fault(int(plain["round"]), str(plain["node"]), str(plain["reason"])))
            except (*UNREADABLE, KeyError, TypeError):
                found.append(Fault(_round_of(file), _node_of(file), "this fault cannot be read"))
        return sorted(found, key=lambda fault: (fault.round, fault.node, fault.reason))

    def bytes(self) -> int:
        """The size of all its files."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())

    def _make_room(self, more: int) -> None:
        if self._max_bytes is None:
            return
        there = self.bytes() if self._bytes is None else self._bytes
        if there + more > self._max_bytes:
            raise BadInput(f"{more} bytes more than {there} would exceed max_bytes = {self._max_bytes}")
        self._bytes = there + more

    def _folder(self, round: int) -> Path:
        return self.path / f"round_{round}"

    def _name_of(self, sent: Mapping[str, Tensor]) -> str:
        """Of the file that holds what was sent: by its content, which is looked at once while it is the same object."""
        if self._last_sent is None or self._last_sent[0] is not sent:
            self._last_sent = (sent, f"sent_{_digest(sent)}.safetensors")
        return self._last_sent[1]

    def _entries(self) -> list[Entry | Fault]:
        """What each entry says, or why it cannot be read; of its arrays only the heads of their files are looked at."""
        found: list[Entry | Fault] = []
        for file in sorted(self.path.glob("round_*/node_*.json")):
            try:
                entry = _entry(file)
                for arrays in (entry.sent, entry.received):
                    arrays.check(file.parent)
                found.append(entry)
            except UNREADABLE as error:
                found.append(Fault(_round_of(file), _node_of(file), f"the entry cannot be read: {on_one_line(error)}"))
        for file in sorted(self.path.glob("round_*/node_*.safetensors")):
            if not file.with_name(f"{file.stem}.json").exists():
                found.append(Fault(_round_of(file), _node_of(file), "half written: its JSON file is missing"))
        return found


def _name(node: str, kind: str = "node") -> str:
    """A file name for any name of a node: what is no letter, digit or one of `_.-~` is escaped as in an URL.

    Raises:
        BadInput: it is empty, or too long for a file.
    """
    name = quote(str(node), safe="")
    if not 0 < len(name) <= 200:
        raise BadInput(f"a node's name has 1 to 200 letters, once escaped; {str(node)[:40]!r} has {len(name)}")
    return f"{kind}_{name}"


def _round_of(file: Path) -> int:
    found = re.fullmatch(r"round_(\d+)", file.parent.name)
    return int(found[1]) if found else 0


def _node_of(file: Path) -> str:
    return unquote(file.stem.partition("_")[2])


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Of names, dtypes, shapes and numbers, in their order."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _entry(file: Path) -> Entry:
    """Raises: UNREADABLE: it is no entry, or does not lie where its round and its node would."""
    entry = Entry.of(_object(file))
    if file.parent.name != f"round_{entry.round}" or file.stem != _name(entry.node):
        raise ValueError(f"it is of round {entry.round}, node {entry.node}, whose place is another")
    return entry


def _object(file: Path) -> dict[str, Any]:
    """Raises: ValueError or OSError: the file cannot be read, or holds no JSON object."""
    plain = read_json(file)
    if not isinstance(plain, dict):
        raise ValueError(f"{file.name} holds no JSON object")
    return plain
