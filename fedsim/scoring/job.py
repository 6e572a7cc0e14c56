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
from fedsim.observations import clients_of, name_of
from fedsim.scoring.score import score_victim
from fedsim.truth import open_envelope, together


def score_job(cell: Path, job: Path, target: Path, *, key: str, metrics: Sequence[str]) -> None:
    """Score the answers under `job` against the truth under `cell`; leave rows and pictures at `target`."""
    account = read_json(job / "job.json")
    answers = job / "reconstructions.safetensors"
    tensors = read_tensors(answers) if answers.exists() else {}
    rows: list[dict[str, object]] = []
    originals: list[Tensor] = []
    reconstructions: list[Tensor] = []
    for seen_as, outcome in account["clients"].items():
        round = account["spec"]["round"]
        clients = clients_of(cell, round, int(seen_as))
        own_truths = [open_envelope(cell, round, client) for client in clients]
        truth = own_truths[0] if len(clients) == 1 else together(own_truths)
        common = _common(account, outcome, key, round)
        owners = [
            {"client": client, "victim_loss": own.loss if np.isfinite(own.loss) else None, "sample": sample}
            for client, own in zip(clients, own_truths)
            for sample in range(len(own.labels))
        ]
        own = {name.removeprefix(f"{seen_as}."): v for name, v in tensors.items() if name.startswith(f"{seen_as}.")}
        if outcome["status"] == "ok" and len(own["images"]) > len(truth.labels):
            # matched to the truth, the best of many guesses would be chosen by the truth
            who = "client" if len(clients) == 1 else "clients"
            reason = f"the attack answered {len(own['images'])} images, but the {who} had {len(truth.labels)}"
            common |= {"status": "failed", "reason": reason}
        if common["status"] != "ok":
            rows += [{**common, **owner} for owner in owners]
            continue
        seen = read_json(cell / "observations" / f"{name_of(round, int(seen_as))}.json")["observation"]
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
        for place, (owner, scores) in enumerate(zip(owners, scored.rows, strict=True)):
            rows.append({**common, **scores, **owner, "picture": pictures + place})
        originals.append(truth.images)
        reconstructions.append(scored.reconstructions)
    with whole_directory(target) as directory:
        table.frame(rows).write_parquet(directory / "rows.parquet")
        if originals:
            buffer = io.BytesIO()
            np.savez_compressed(buffer, original=_stack(originals), reconstruction=_stack(reconstructions))
            write_bytes(directory / "pictures.npz", buffer.getvalue())


def _common(account: dict[str, Any], outcome: dict[str, Any], key: str, round: int) -> dict[str, object]:
    spec = account["spec"]["attack"]
    return {
        "round": round,
        "attack": spec["name"],
        "attack_params": json.dumps({name: value for name, value in spec.items() if name != "name"}, sort_keys=True),
        "details": json.dumps(outcome.get("details", {}), sort_keys=True),
        **{f"threat_{aspect}": value for aspect, value in account["threat_model"].items()},
        "status": outcome["status"],
        "reason": outcome.get("reason"),
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
