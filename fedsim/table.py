"""The results table: one row per reconstructed image, and what each column means.

`results.parquet` has these columns in this order. A victim whose attack did not apply, or whose client or job failed,
has a row as well, with `status` and `reason` and no scores.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import polars as pl

from attacks import ThreatModel
from fedsim.errors import Damaged, no_file

_TEXT, _INT, _REAL, _FLAG = pl.String, pl.Int64, pl.Float64, pl.Boolean

SCHEMA: dict[str, type[pl.DataType]] = {
    # which victim image
    "run": _TEXT,
    "scenario": _TEXT,
    "cell": _TEXT,  # key of the federation that was run
    "seed": _INT,
    "round": _INT,
    "client": _INT,
    "sample": _INT,  # index in the client's batch(es) of that round
    "development": _FLAG,  # of a victim on which attacks are chosen, and which no number reports
    "observed": _FLAG,  # whether the server received this client's update: only then was it attacked
    # what was trained
    "setting": _TEXT,  # JSON: all that can change a result, but for the defense, the seed, the client and the attack
    "dataset": _TEXT,
    "model": _TEXT,
    "model_params": _TEXT,  # JSON; with `pretrain` or `checkpoint` where the first weights come from there
    "dropout": _REAL,  # the effective rate
    "defense": _TEXT,  # the label; parts of a composition are joined by " + "
    "defense_params": _TEXT,  # JSON list
    "batch_size": _INT,  # of the federation: a defense may have its own
    "local_steps": _INT,  # likewise
    # who attacked, and what was granted
    "attack": _TEXT,
    "attack_params": _TEXT,  # JSON
    "details": _TEXT,  # JSON
    "oracle": _FLAG,  # it was told what the client drew
    "letter": _TEXT,  # of the threat model, A to G (Carletti et al. 2025), as far as the attack uses what it was told
    "beyond": _TEXT,  # fields of what it was told that no real server has; empty: feasible, else an upper bound
    **{f"threat_{field.name}": _TEXT for field in fields(ThreatModel)},
    "status": _TEXT,  # ok | not_applicable | failed
    "reason": _TEXT,
    # the state of what was attacked
    "model_state": _TEXT,  # init | pretrained | checkpoint | round_k: after k rounds
    "model_accuracy": _REAL,  # its test accuracy in [0, 1], before the attacked round
    "victim_loss": _REAL,
    "update_kind": _TEXT,
    "update_precision": _TEXT,
    # scores, in [0, 1] pixel space, after the optimal assignment to the originals
    "mse": _REAL,
    "psnr": _REAL,  # dB, at most 160
    "ssim": _REAL,
    "lpips": _REAL,
    "psnr_original": _REAL,  # to the image as the client has it; the scores are to the nearer of it and its views
    "ssim_original": _REAL,  # null where the defense shows no other views of an image
    "psnr_trained": _REAL,  # to the nearest of what a defense made of the image, mixtures and noise included
    "ssim_trained": _REAL,  # null where the defense leaves batches as they are
    "leaked_ssim": _FLAG,  # ssim >= 0.6
    "leaked_psnr": _FLAG,  # psnr > 19 dB
    "bit_exact": _FLAG,  # equal after rounding to uint8
    "identified": _FLAG,  # nearer to its reconstruction, in pixels, than up to 1,000 other images of the data set
    "identified_features": _FLAG,  # the same in features of LPIPS' backbone; null where LPIPS is not among the metrics
    "label_correct": _FLAG,  # null where the labels were granted
    "mask_accuracy": _REAL,
    "mask_accuracy_layers": _TEXT,  # JSON: {layer: accuracy}
    # the attack's own account
    "attack_loss": _REAL,
    "iterations": _INT,
    "stopped": _TEXT,  # why an attack that optimises stopped: converged | patience | budget
    "seconds": _REAL,  # the job's wall time divided by its victims
    "device": _TEXT,
    "environment": _TEXT,  # JSON: what the attack was computed with: versions, processor, vector extensions, threads
    # the cost of the defense
    "utility": _REAL,  # test accuracy of the utility training, in [0, 1]
    "utility_images": _INT,  # test images that it was measured on
    "utility_reachable": _REAL,  # test accuracy that the undefended model reaches in central training
    "epsilon": _REAL,  # of the client that spent most; of DP-SGD by Renyi divergences
    "epsilon_prv": _REAL,  # the same by the privacy loss itself: tighter; null where there is none
    "delta": _REAL,
    "bytes": _INT,  # of what the client sent, by a code without loss that fits it: `defenses.coding`
    "cost_of": _TEXT,  # JSON: the training that utility and epsilon are of: rounds, share, batch_size, steps, ...
    "fedsim_version": _TEXT,
    # where the pictures are
    "job": _TEXT,
    "picture": _INT,  # index into the job's stack of pictures
}

LEAKED_SSIM = 0.6
LEAKED_PSNR = 19.0
PSNR_CAP_ROW = 160.0
PSNR_CAP_SUMMARY = 100.0


def empty() -> pl.DataFrame:
    return pl.DataFrame(schema=SCHEMA)


def read(path: Path, columns: list[str] | None = None) -> pl.DataFrame:
    """A Parquet file; unlike polars' own reader this one takes a path at its word: brackets in it are no pattern."""
    return pl.read_parquet(path, columns=columns, glob=False)


def _arrow(path: Path) -> Any:
    """By Arrow's reader: of damaged lengths polars' own panics, in threads that print a backtrace of theirs."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        return file.read(use_threads=False)


_JSON = {
    "setting": dict,
    "model_params": dict,
    "defense_params": list,
    "attack_params": dict,
    "details": dict,
    "mask_accuracy_layers": dict,
    "environment": dict,
    "cost_of": dict,
}
"""Columns that hold JSON, and of what kind."""
_ALWAYS = ("attack", "attack_params", "status")
"""Columns that every row has a value in."""
_LABELS = ("model_params", "defense_params")
"""Likewise, once a scenario's labels are put to it."""


def read_valid(path: Path, *, labelled: bool = True) -> pl.DataFrame:
    """A file of result rows, by its schema and by what its columns must hold.

    Args:
        labelled: whether it is of a scenario, and not of one job alone, whose rows have no labels yet.

    Raises:
        Damaged: it is no Parquet file, has other columns, or holds what no row of a result can; one line.
    """
    if not path.is_file():
        raise Damaged(path, no_file(path))
    import pyarrow as pa

    try:
        rows = pl.DataFrame(pl.from_arrow(_arrow(path)))
    except (pl.exceptions.PolarsError, pa.ArrowException, OSError, ValueError):  # damaged text is a ValueError
        raise Damaged(path, "not the Parquet table that fedsim wrote") from None
    if differences := differing(rows.schema):
        raise Damaged(path, f"has other columns than this version ({differences})")
    if fault := _fault(rows, (*_ALWAYS, *_LABELS) if labelled else _ALWAYS):
        raise Damaged(path, fault)
    return rows.select(*SCHEMA)


def differing(schema: pl.Schema) -> str:
    """By which columns a table differs from a table of results, in short; empty where it does not."""
    absent = [name for name in SCHEMA if name not in schema]
    surplus = [name for name in schema if name not in SCHEMA]
    changed = [name for name, kind in SCHEMA.items() if name in schema and schema[name] != kind]
    named = (("missing", absent), ("unknown", surplus), ("of another type", changed))
    return "; ".join(f"{what}: {_some(names)}" for what, names in named if names)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _fault(rows: pl.DataFrame, always: tuple[str, ...]) -> str:
    for name in always:
        if rows[name].has_nulls():
            return f"a row has no {name}"
    strange = set(rows["status"].unique()) - {"ok", "not_applicable", "failed"}
    if strange:
        return f"no row has the status {min(strange)[:40]!r}"
    for name, kind in _JSON.items():
        for text in rows[name].drop_nulls().unique():
            try:
                value = json.loads(text)
            except (ValueError, RecursionError):
                value = None
            if not isinstance(value, kind):
                return f"{name} holds {text[:40]!r}, which is no JSON {'list' if kind is list else 'object'}"
            if name == "defense_params" and not all(isinstance(part, dict) and "name" in part for part in value):
                return f"{name} holds {text[:40]!r}, of which a part has no name"
    return ""


def frame(rows: list[dict[str, object]]) -> pl.DataFrame:
    """Rows as a table; missing columns are null, an unknown column is an error."""
    unknown = {key for row in rows for key in row} - SCHEMA.keys()
    if unknown:
        raise ValueError(f"no such column: {', '.join(sorted(unknown))}")
    return pl.DataFrame([{key: row.get(key) for key in SCHEMA} for row in rows], schema=SCHEMA, orient="row")
