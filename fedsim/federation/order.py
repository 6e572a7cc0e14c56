"""What the simulation's process is asked to train: a file, written by the process that starts it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedsim.files import read_json, write_json
from fedsim.scenario.work import Work


@dataclass(frozen=True)
class Ordered:
    """One cell, and the directory that it is to leave.

    Args:
        deadline: seconds that a client may take for a round.
    """

    work: Work
    target: Path
    deadline: float

    @property
    def group(self) -> tuple[int, float, float]:
        """What one simulation can serve together: cells of equal size and resources."""
        federation = self.work.federation
        return federation.clients, federation.resources.cpus, federation.resources.gpus


@dataclass(frozen=True, kw_only=True)
class Order:
    """
    Args:
        address: of the Ray to attach to.
        pretrained: where pretrained states are kept.
        salt: of the clients' seeds, in hexadecimal digits; empty for none.
        cells: in the order in which they are trained, group by group.
    """

    address: str
    pretrained: Path
    salt: str
    cells: Sequence[Ordered]

    def write(self, path: Path) -> None:
        cells = [
            {"work": cell.work.to_dict(), "target": str(cell.target), "deadline": cell.deadline} for cell in self.cells
        ]
        plain = {"address": self.address, "pretrained": str(self.pretrained), "salt": self.salt, "cells": cells}
        write_json(path, plain)

    @classmethod
    def read(cls, path: Path) -> Order:
        plain = read_json(path)
        cells = [
            Ordered(Work.from_dict(cell["work"]), Path(cell["target"]), cell["deadline"]) for cell in plain["cells"]
        ]
        return cls(**{**plain, "pretrained": Path(plain["pretrained"]), "cells": cells})
