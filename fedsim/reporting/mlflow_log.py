"""A run as MLflow runs, for those who keep their experiments there.

One parent for the scenario, with its keys as parameters and the pictures as artifacts; below it one child for each cell
and attack, with its parameters, its medians and rates as metrics and its loss curve as a stepped metric.
"""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from fedsim.errors import BadInput, on_one_line
from fedsim.reporting.leaderboard import ROW, THREAT, labelled
from fedsim.reporting.paper import curves
from fedsim.scoring.summary import RATES, summarise

_INSTALL = "mlflow is not installed; install it by: pip install 'fedsim-privacy[mlflow]'"
_SCORES = ("psnr", "ssim", "lpips", "mask_accuracy")
_COSTS = ("seconds", "iterations", "utility", "epsilon")
_FACTS = ("dataset", "model", "model_params", "dropout", "defense", "defense_params", "batch_size", "local_steps")
_MOST_METRICS, _MOST_PARAMS = 1000, 100  # that MLflow takes at once


def log(
    results: pl.DataFrame,
    losses: curves.Losses,
    *,
    scenario: dict[str, Any],
    command: str,
    pictures: dict[str, bytes],
    files: list[Path],
    tracking_uri: str | None,
    experiment: str,
) -> str:
    """Log a run; returns the id of the parent run.

    Args:
        results: rows of `fedsim.table.SCHEMA`.
        losses: where the loss curves of a job are.
        scenario: the scenario as plain data.
        command: what repeats the run.
        pictures: files to make and keep with the parent, by name.
        files: files to keep with the parent.
        tracking_uri: where MLflow keeps its runs, e.g. `sqlite:///mlflow.db`; None leaves it to MLflow.
        experiment: it is made where there is none of that name.

    Raises:
        fedsim.errors.BadInput: MLflow is not installed, or cannot be written to.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # fedsim tells nobody that it was used
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
    except ImportError:
        raise BadInput(_INSTALL) from None
    try:
        client = MlflowClient(tracking_uri=tracking_uri)
        found = client.get_experiment_by_name(experiment)
        place = found.experiment_id if found is not None else client.create_experiment(experiment)
        parent = client.create_run(place, run_name=str(scenario["name"])).info.run_id
        _log_batch(client, parent, params={"command": command, **_flat(scenario)})
        with tempfile.TemporaryDirectory() as folder:
            for name, content in pictures.items():
                (Path(folder) / name).write_bytes(content)
                client.log_artifact(parent, str(Path(folder) / name))
        for file in files:
            client.log_artifact(parent, str(file))
        for name, params, metrics, curve in _children(results, losses):
            tags = {"mlflow.parentRunId": parent}
            child = client.create_run(place, run_name=name, tags=tags).info.run_id
            _log_batch(client, child, params=params, metrics=metrics, curve=curve)
            client.set_terminated(child)
        client.set_terminated(parent)
    except MlflowException as error:
        raise BadInput(f"mlflow: {on_one_line(error)}") from None
    return parent


def _log_batch(
    client: Any,
    run: str,
    *,
    params: dict[str, Any],
    metrics: dict[str, float | None] | None = None,
    curve: list[tuple[int, float]] | None = None,
) -> None:
    from mlflow.entities import Metric, Param

    now = int(time.time() * 1000)
    values = [Metric(name, value, now, 0) for name, value in (metrics or {}).items() if _is_number(value)]
    values += [Metric("attack_loss", loss, now, iteration) for iteration, loss in curve or []]
    pairs = [Param(_name(key), str(value)) for key, value in params.items()]
    for start in range(0, len(pairs), _MOST_PARAMS):
        client.log_batch(run, params=pairs[start : start + _MOST_PARAMS])
    for start in range(0, len(values), _MOST_METRICS):
        client.log_batch(run, metrics=values[start : start + _MOST_METRICS])


def _children(
    results: pl.DataFrame, losses: curves.Losses
) -> Iterator[tuple[str, dict[str, Any], dict[str, float | None], list[tuple[int, float]]]]:
    """Per cell and attack: a name, parameters, metrics, and the median loss curve."""
    if results.is_empty():
        return
    rows = labelled(results)
    by = ["cell", "seed", *ROW]
    summaries = {tuple(row[name] for name in by): row for row in summarise(rows, by, _SCORES).to_dicts()}
    for key, part in rows.group_by(by, maintain_order=True):
        first = part.row(0, named=True)
        name = f"{first['setting_label']}, {first['defense_label']}, seed {first['seed']}: {first['attack_label']}"
        params = {column: first[column] for column in ("cell", "seed", *_FACTS, "attack", "oracle", *THREAT)}
        params |= {f"attack.{name}": value for name, value in json.loads(first["attack_params"]).items()}
        summary = summaries[key]
        metrics = {name: summary[name] for name in ("n", "not_applicable", "failed", *_SCORES, *RATES)}
        scored = part.filter(pl.col("status") == "ok")
        metrics |= {name: _median(scored[name]) for name in _COSTS}
        curve = curves.of_rows(scored, losses)
        points = [] if curve is None else [(int(at), float(loss)) for at, loss in zip(curve[0], curve[1][1])]
        yield name, {name: value for name, value in params.items() if value is not None}, metrics, points


def _median(values: pl.Series) -> float | None:
    middle = values.median()
    return None if middle is None else float(middle)  # type: ignore[arg-type]


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"model": {"name": "mlp"}}` as `{"model.name": "mlp"}`; lists stay whole, as JSON."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value)
    return flat


def _name(key: str) -> str:
    """The key with what MLflow does not take in a name left out."""
    return re.sub(r"[^\w. :/-]", "_", key, flags=re.ASCII)[:250]


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
