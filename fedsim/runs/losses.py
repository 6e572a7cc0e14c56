"""The loss curves that attack jobs left."""

from __future__ import annotations

from pathlib import Path

from fedsim.files import read_json
from fedsim.runs.directory import RunDirectory
from fedsim.runs.results import score_key_of

Curve = list[tuple[int, float]]
"""(iteration, loss) in rising order, thinned."""


def by_row(directory: RunDirectory) -> dict[str, dict[int, Curve]]:
    """By the key that the table's column `job` holds: each client's curve. Jobs that kept none are left out.

    A damaged record counts as none. The curves of another version's run are not found: its keys hash the version.
    """
    metrics = directory.marker("scenario")["scenario"].get("metrics")
    if not isinstance(metrics, list):
        return {}
    records = sorted((directory.path / "jobs").glob("*/job.json"))
    curves = {score_key_of(record.parent.name, metrics): _read(record) for record in records}
    return {key: by_client for key, by_client in curves.items() if any(by_client.values())}


def _read(record: Path) -> dict[int, Curve]:
    try:
        clients = read_json(record)["clients"]
        return {
            int(client): [(int(i), float(loss)) for i, loss in own.get("losses", [])]
            for seen_as, own in clients.items()
            for client in own.get("of", [seen_as])  # a sum has one curve, which is each of its clients'
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
