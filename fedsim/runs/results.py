"""The results table of a scenario, put together from the scores of its jobs and the faults of its cells."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from fedsim import decoders, observations, records, table
from fedsim.answers import JobSpec
from fedsim.errors import Damaged, caution
from fedsim.federation.plan import Plan
from fedsim.files import key_of, write_table
from fedsim.knowledge import with_knowledge
from fedsim.runs.attack import threat_model_of
from fedsim.runs.attacking import error_file
from fedsim.runs.directory import RunDirectory
from fedsim.runs.jobs import Attempt, attempts, cell_key, cells_of, jobs_of
from fedsim.scenario import Cell, Scenario
from fedsim.version import __version__


def score_key(job: JobSpec, scenario: Scenario) -> str:
    return score_key_of(job.key, list(scenario.metrics))


def score_key_of(job: str, metrics: list[str]) -> str:
    """The key of a job's scores, which is what the table's column `job` holds."""
    return key_of({"job": job, "metrics": metrics, "version": __version__})


def assemble(directory: RunDirectory, scenario: Scenario) -> pl.DataFrame:
    """Every row of the present scenario. Equal work was done once; it has its rows under each label that names it."""
    parts = [table.empty()]
    for cell in cells_of(directory, scenario):
        labels = _labels(directory, scenario, cell)
        parts += [with_knowledge(part.with_columns(labels)).select(*table.SCHEMA) for part in _parts(directory, cell)]
    return pl.concat(parts)


def write(directory: RunDirectory, results: pl.DataFrame) -> None:
    write_table(directory.results, results)


def _parts(directory: RunDirectory, cell: Cell) -> Iterator[pl.DataFrame]:
    key = cell_key(cell)
    if not directory.cell(key).exists():
        error = directory.cell_error(key)
        if error.exists():
            victims = cell.scenario.victims
            reason = f"the federation failed: {_reason(error)}"
            faults = [(r, c, reason) for r in victims.rounds for c in range(victims.clients)]
            yield table.frame(list(_failed(cell, faults)))
        return
    faults = [(f["round"], f["client"], f["reason"]) for f in _trained(directory, key).get("faults", [])]
    chosen_on = _development(directory.cell(key), faults, cell.scenario.victims.development)
    yield table.frame(list(_failed(cell, faults))).with_columns(chosen_on)
    for job in jobs_of(directory, cell):
        score = directory.score(score_key(job, cell.scenario)) / "rows.parquet"
        error = error_file(directory, job)
        if score.exists():
            try:
                yield table.read_valid(score, labelled=False).with_columns(chosen_on, observed=True)
                continue
            except Damaged as damage:
                caution(f"{damage}; its rows are shown as failed")
                reason = "its scores are damaged"
        elif error.exists():
            reason = _reason(error)
        else:
            continue
        each = [_clients_of(directory.cell(key), job.round, client) for client in job.clients]
        faults = [(job.round, client, reason) for clients in each for client in clients]
        failed = table.frame(list(_failed(cell, faults, [Attempt(job.attack, job.grants)])))
        yield failed.with_columns(chosen_on, observed=True)


def _reason(error: Path) -> str:
    """Why a cell or a job failed."""
    try:
        return str(records.read(error, records.Reason)["reason"])
    except Damaged as damage:
        caution(str(damage))
        return "nobody knows why: the record of it is damaged"


def _trained(directory: RunDirectory, key: str) -> dict[str, Any]:
    """What is said of a cell that was trained; nothing of another, or where that is damaged."""
    try:
        return records.read(directory.cell(key) / "cell.json", records.Trained)
    except FileNotFoundError:
        return {}
    except Damaged as damage:
        caution(f"{damage}; accuracies and clients that failed are missing")
        return {}


def _clients_of(cell: Path, round: int, client: int) -> list[int]:
    try:
        return observations.clients_of(cell, round, client)
    except (Damaged, OSError):
        return [client]


def _development(cell: Path, faults: list[tuple[int, int, str]], count: int) -> pl.Expr:
    """Which rows are of the first `count` victims of their round, those that failed included."""
    victims = sorted({*observations.listed(cell), *((round, client) for round, client, _ in faults)})
    chosen = pl.lit(False)
    for _, of_round in itertools.groupby(victims, key=lambda victim: victim[0]):
        for round, client in itertools.islice(of_round, count):
            chosen = chosen | ((pl.col("round") == round) & (pl.col("client") == client))
    return chosen.alias("development")


def _failed(
    cell: Cell, faults: list[tuple[int, int, str]], tried: list[Attempt] | None = None
) -> Iterator[dict[str, object]]:
    plan = Plan(cell.work())
    for spec, grants in tried or attempts(cell):
        threat = threat_model_of(spec, grants).as_dict()
        for round, client, reason in faults:
            for sample in range(plan.images(client)):
                yield {
                    "round": round,
                    "client": client,
                    "sample": sample,
                    "attack": spec["name"],
                    "attack_params": decoders.params_of(spec),
                    **{f"threat_{aspect}": value for aspect, value in threat.items()},
                    "status": "failed",
                    "reason": reason,
                    "observed": False,
                    "development": False,
                }


def _labels(directory: RunDirectory, scenario: Scenario, cell: Cell) -> list[pl.Expr]:
    """The columns that the cell and its label decide."""
    key = cell_key(cell)
    summary = _summary(directory, cell)
    honest = _summary(directory, replace(cell, malicious=None))  # of which a defense's costs are
    work = cell.work()
    model, own = work.model, cell.scenario.federation.local
    columns = {
        "run": directory.path.name,
        "scenario": scenario.name,
        "cell": key,
        "seed": cell.seed,
        "dataset": work.data["name"],
        "model": model.get("name") or model["factory"],
        "model_params": json.dumps(_model_params(cell), sort_keys=True),
        "dropout": summary.get("dropout", model.get("dropout")),
        "defense": cell.defense_label,
        "defense_params": json.dumps(list(cell.defense), sort_keys=True),
        "batch_size": own.batch_size,
        "local_steps": own.steps,
        "update_kind": work.federation.local.kind,
        "utility": honest.get("utility"),
        "utility_images": summary.get("test_images"),
        "utility_reachable": honest.get("utility_reachable"),
        "epsilon": summary.get("epsilon"),
        "epsilon_prv": summary.get("epsilon_prv"),
        "delta": summary.get("delta"),
        "cost_of": json.dumps(summary["cost_of"], sort_keys=True) if "cost_of" in summary else None,
        "fedsim_version": __version__,
    }
    accuracies = dict(enumerate(summary.get("accuracy", []), start=1))
    states = {round: cell.state_before(round) for round in work.victims.rounds}
    settings = {round: json.dumps(cell.setting(round), sort_keys=True) for round in states}
    lengths = {(one["round"], one["client"]): one["bytes"] for one in honest.get("lengths", [])}
    literals = [pl.lit(value, dtype=table.SCHEMA[name]).alias(name) for name, value in columns.items()]
    return [
        *literals,
        _by_round("setting", settings),
        _by_round("model_state", states),
        _by_round("model_accuracy", {round: accuracies.get(round) for round in states}),
        _by_victim("bytes", lengths),
    ]


def _summary(directory: RunDirectory, cell: Cell) -> dict[str, Any]:
    """What is said of a cell that was trained; nothing of another."""
    return _trained(directory, cell_key(cell))


def _by_round(name: str, values: dict[int, Any]) -> pl.Expr:
    column = pl.col("round").replace_strict(list(values), list(values.values()), return_dtype=table.SCHEMA[name])
    return column.alias(name)


def _by_victim(name: str, values: dict[tuple[int, int], Any]) -> pl.Expr:
    """Of every client of every round; null where nothing is known."""
    if not values:
        return pl.lit(None, dtype=table.SCHEMA[name]).alias(name)
    key = pl.concat_str("round", "client", separator=" ")
    known = {f"{round} {client}": value for (round, client), value in values.items()}
    return key.replace_strict(known, default=None, return_dtype=table.SCHEMA[name]).alias(name)


def _model_params(cell: Cell) -> dict[str, Any]:
    """The model block as the cell trained it, and where its first weights came from: a file by its name and content."""
    params = {key: value for key, value in cell.model_spec().items() if key not in ("name", "factory")}
    start = cell.start()
    if (file := start.checkpoint) is not None:
        return {**params, "checkpoint": {"file": Path(file.path).name, "content": file.content}}
    return {**params, **start.to_dict()}


@dataclass(frozen=True, kw_only=True)
class History:
    """How the global model of a trained cell learnt, under one label of the table.

    Args:
        accuracy: on the test part, before the first round and after each.
        accounting_note: the assumption that its epsilon was computed under, or empty.
    """

    cell: str
    model: str
    defense: str
    seed: int
    accuracy: list[float | None]
    accounting_note: str


def history(directory: RunDirectory, results: pl.DataFrame) -> list[History]:
    """Of every trained cell, under each label of the table."""
    found: list[History] = []
    honest = results.filter(pl.col("threat_server").fill_null("passive") != "malicious")  # another is not what it sends
    for row in honest.select("cell", "model", "defense", "seed").unique(maintain_order=True).iter_rows(named=True):
        if content := _trained(directory, row["cell"]):
            found.append(History(**row, accuracy=content["accuracy"], accounting_note=content["accounting_note"]))
    return found
