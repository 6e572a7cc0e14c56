"""The loss curves that attack jobs left."""

from __future__ import annotations

from pathlib import Path

from fedsim import scenario as scenarios
from fedsim.errors import BadInput
from fedsim.files import read_json
from fedsim.runs.directory import RunDirectory
from fedsim.runs.jobs import AttackJob
from fedsim.runs.results import score_key

Curve = list[tuple[int, float]]
"""(iteration, loss) in rising order, thinned."""


def by_row(directory: RunDirectory) -> dict[str, dict[int, Curve]]:
    """By the key that the table's column `job` holds: each client's curve. Jobs that kept none are left out.

    Empty for a run of another version, whose keys cannot be told; a damaged record counts as none.
    """
    try:
        scenario = scenarios.parse(directory.marker()["scenario"], rehearsed=False)
    except (BadInput, KeyError):
        return {}
    found = {}
    for record in sorted((directory.path / "jobs").glob("*/job.json")):
        job, curves = _read(record)
        if job is not None and any(curves.values()):
            found[score_key(job, scenario)] = curves
    return found


def _read(record: Path) -> tuple[AttackJob | None, dict[int, Curve]]:
    try:
        account = read_json(record)
        job = AttackJob(account["spec"]["cell"], account["spec"])
        return job, {int(client): list(map(tuple, own.get("losses", []))) for client, own in account["clients"].items()}
    except (ValueError, KeyError):
        return None, {}
