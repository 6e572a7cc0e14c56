"""One entry of a store, as JSON: whose reply, in which files its arrays are, and what else was told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from fedsim.files import read_tensors
from fedsim.recording.plain import from_plain, to_plain
from fedsim.recording.recorded import Recorded, Value


@dataclass(frozen=True)
class Arrays:
    """A safetensors file beside the entry, and the order of its arrays, which the format itself does not keep.

    Args:
        names: empty where a writer did not say: then the order is the file's.
    """

    file: str
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, plain: Any) -> Arrays:
        """Raises: ValueError: it is not what `to_plain` writes, or the file would lie elsewhere."""
        if not isinstance(plain, dict) or not isinstance(plain.get("file"), str):
            raise ValueError('"sent" and "received" must be objects with a "file"')
        file, names = plain["file"], plain.get("arrays", [])
        if Path(file).name != file or "\\" in file:
            raise ValueError(f"{file!r} is not the name of a file beside the entry")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError('"arrays" must be a list of names')
        return cls(file, tuple(names))

    def to_plain(self) -> dict[str, Any]:
        return {"file": self.file, "arrays": list(self.names)}

    def check(self, folder: Path) -> None:
        """Look at the file's head, which says whether it is whole.

        Raises:
            ValueError, OSError, safetensors.SafetensorError: it is not, or holds other arrays.
        """
        with safe_open(folder / self.file, "pt") as opened:
            self._check_names(set(opened.keys()))

    def read(self, folder: Path) -> dict[str, Tensor]:
        """Raises: as `check`."""
        tensors = read_tensors(folder / self.file)
        self._check_names(set(tensors))
        return {name: tensors[name] for name in self.names} if self.names else tensors

    def _check_names(self, there: set[str]) -> None:
        if self.names and (len(self.names) != len(there) or set(self.names) != there):
            raise ValueError(f"{self.file} holds other arrays than the entry names")


@dataclass(frozen=True)
class Entry:
    """What `node_<id>.json` holds."""

    round: int
    node: str
    sent: Arrays
    received: Arrays
    metrics: Mapping[str, Value]
    config: Mapping[str, Value]
    records: tuple[str, ...] = ()
    record: str = "arrays"
    config_record: str = "config"

    @classmethod
    def of(cls, plain: Any) -> Entry:
        """Raises: ValueError: a key is missing, or of another type than `to_plain` writes."""
        if not isinstance(plain, dict):
            raise ValueError("it is no JSON object")
        round, node = plain.get("round"), plain.get("node")
        if not isinstance(round, int) or isinstance(round, bool) or not isinstance(node, str):
            raise ValueError('it needs "round", a number, and "node", a text')
        told = {key: plain.get(key, {}) for key in ("metrics", "config")}
        if not all(isinstance(record, dict) for record in told.values()):
            raise ValueError('"metrics" and "config" must be objects')
        records = plain.get("records", [])
        if not isinstance(records, list) or not all(isinstance(record, str) for record in records):
            raise ValueError('"records" must be a list of names')
        names = {key: plain.get(key, key.rpartition("_")[0] or "arrays") for key in ("record", "config_record")}
        if not all(isinstance(name, str) for name in names.values()):
            raise ValueError('"record" and "config_record" must be names')
        return cls(
            round,
            node,
            Arrays.of(plain.get("sent")),
            Arrays.of(plain.get("received")),
            metrics=from_plain(told["metrics"]),
            config=from_plain(told["config"]),
            records=tuple(records),
            record=names["record"],
            config_record=names["config_record"],
        )

    def to_plain(self) -> dict[str, Any]:
        """Raises: TypeError: a metric or a value of the config is of a type that no record holds."""
        return {
            "round": self.round,
            "node": self.node,
            "sent": self.sent.to_plain(),
            "received": self.received.to_plain(),
            "metrics": to_plain(self.metrics),
            "config": to_plain(self.config),
            **({"records": list(self.records)} if self.records else {}),
            **({"record": self.record} if self.record != "arrays" else {}),
            **({"config_record": self.config_record} if self.config_record != "config" else {}),
        }

    def read(self, folder: Path) -> Recorded:
        """The entry with its arrays, which lie in `folder`. Raises: as `Arrays.check`."""
        sent, received = self.sent.read(folder), self.received.read(folder)
        return Recorded(
            self.round,
            self.node,
            sent,
            received,
            dict(self.metrics),
            dict(self.config),
            self.records,
            self.record,
            self.config_record,
        )
