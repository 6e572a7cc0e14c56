"""What came of an audit, as the page draws it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from fedsim.audit.attempted import Tried
from fedsim.audit.told import Told
from fedsim.audit.verdict import Verdict
from fedsim.audit.working import Subject
from fedsim.recording import Fault


@dataclass(frozen=True)
class Audit:
    """What came of an audit.

    Args:
        path: its directory: a run's, with `audit.html` and `verdict.json`.
        subjects: the replies that were attacked, and how each attempt went, in this order.
        faults: what of the store could not be audited.
        rows: of `fedsim.table.SCHEMA`; without scores where nobody knows the truth.
        command: what repeats it.
    """

    path: Path
    told: Told
    verdict: Verdict
    subjects: tuple[tuple[Subject, tuple[Tried, ...]], ...]
    faults: tuple[Fault, ...]
    rows: pl.DataFrame
    command: str
