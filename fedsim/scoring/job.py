"""Score one attack job: open the envelopes of its victims, match, measure, keep the pictures.

scores/<key>/rows.parquet    one row per victim image, the columns that do not depend on a scenario's labels
             pictures.npz    `original` and `reconstruction`, uint8 (N, H, W, C), matched to each other
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedsim import table
from fedsim.files import read_json, read_tensors, whole_directory, write_bytes
from fedsim.observations import name_of
from fedsim.scoring.score import score_victim
from fedsim.truth import Truth, open_envelope


def score_job(cell: Path, job: Path, target: Path, *, key: str, metrics: Sequence[str]) -> None:
    """Score the answers under `job` against the truth under `cell`; leave rows and pictures at `target`."""
    account = read_json(job / "job.json")
    answers = job / "reconstructions.safetensors"
    tensors = read_tensors(answers) if answers.exists() else {}
    rows: list[dict[str, object]] = []
    originals: list[Tensor] = []
    reconstructions: list[Tensor] = []
    for client, outcome in account["clients"].items():
        round = account["spec"]["round"]
        truth = open_envelope(cell, round, int(client))
        common = _common(account, outcome, truth, key, round, int(client))
        own = {name.removeprefix(f"{client}."): v for name, v in tensors.items() if name.startswith(f"{client}.")}
        if outcome["status"] == "ok" and len(own["images"]) > len(truth.labels):
            # matched to the truth, the best of many guesses would be chosen by the truth
            reason = f"the attack answered {len(own['images'])} images, but the client had {len(truth.labels)}"
            common |= {"status": "failed", "reason": reason}
        if common["status"] != "ok":
            rows += [{**common, "sample": sample} for sample in range(len(truth.labels))]
            continue
        seen = read_json(cell / "observations" / f"{name_of(round, int(client))}.json")["observation"]
        scored = score_victim(
            original=truth.images,
            reconstruction=own["images"],
            mean=seen["mean"],
            std=seen["std"],
            true_labels=truth.labels,
            # labels that were granted are no achievement: a column of them would measure the matching of images
            labels=None if account["threat_model"]["labels"] == "known" else own.get("labels"),
            true_noise=truth.noise,
            axes=truth.axes,
            noise={n.removeprefix("noise."): v for n, v in own.items() if n.startswith("noise.")} or None,
            metrics=metrics,
        )
        pictures = sum(map(len, originals))
        for sample, scores in enumerate(scored.rows):
            rows.append({**common, **scores, "sample": sample, "picture": pictures + sample})
        originals.append(truth.images)
        reconstructions.append(scored.reconstructions)
    with whole_directory(target) as directory:
        table.frame(rows).write_parquet(directory / "rows.parquet")
        if originals:
            buffer = io.BytesIO()
            np.savez_compressed(buffer, original=_stack(originals), reconstruction=_stack(reconstructions))
            write_bytes(directory / "pictures.npz", buffer.getvalue())


def _common(
    account: dict[str, Any], outcome: dict[str, Any], truth: Truth, key: str, round: int, client: int
) -> dict[str, object]:
    spec = account["spec"]["attack"]
    return {
        "round": round,
        "client": client,
        "attack": spec["name"],
        "attack_params": json.dumps({name: value for name, value in spec.items() if name != "name"}, sort_keys=True),
        "details": json.dumps(outcome.get("details", {}), sort_keys=True),
        **{f"threat_{aspect}": value for aspect, value in account["threat_model"].items()},
        "status": outcome["status"],
        "reason": outcome.get("reason"),
        "victim_loss": truth.loss if np.isfinite(truth.loss) else None,
        "update_kind": account["observed"]["kind"],
        "update_precision": account["observed"]["precision"],
        "attack_loss": outcome.get("loss"),
        "iterations": outcome.get("iterations"),
        "stopped": outcome.get("stopped"),
        "seconds": account["seconds"],
        "device": account["device"],
        "environment": json.dumps(account["environment"], sort_keys=True) if "environment" in account else None,
        "job": key,
    }


def _stack(images: list[Tensor]) -> np.ndarray:
    return torch.cat(images).permute(0, 2, 3, 1).contiguous().numpy()
