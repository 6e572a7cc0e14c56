"""Score one attack job: open the envelopes of its victims, match, measure, keep the pictures.

scores/<key>/rows.parquet    one row per victim image, the columns that do not depend on a scenario's labels
             pictures.npz    `original` and `reconstruction`, uint8 (N, H, W, C), matched to each other
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from fedsim import answers, decoders, models, records, table
from fedsim.answers import Account, JobSpec, Outcome
from fedsim.errors import reason_of
from fedsim.files import read_tensors, whole_directory, write_bytes, write_table
from fedsim.observations import clients_of, recorded
from fedsim.scoring import detection
from fedsim.scoring.identify import Candidates
from fedsim.scoring.score import score_victim
from fedsim.truth import Truth, open_envelope, together


class DamagedTruth(Exception):
    """A client's sealed truth cannot be opened: no answer is to blame."""


def score_job(
    cell: Path, job: Path, target: Path, *, key: str, metrics: Sequence[str], candidates: Candidates | None = None
) -> None:
    """Score the answers under `job` against the truth under `cell`; leave rows and pictures at `target`.

    Args:
        candidates: of the data set, among which originals are to be identified; None where nobody has others.

    Raises:
        DamagedTruth: what is true cannot be read.
    """
    spec, account = answers.read(job)
    file = job / "reconstructions.safetensors"
    tensors = read_tensors(file) if file.exists() else {}
    round = spec.round
    rows: list[dict[str, object]] = []
    originals: list[Tensor] = []
    reconstructions: list[Tensor] = []
    shown = account.threat_model.server == "malicious"
    for seen_as, outcome in account.outcomes.items():
        clients = clients_of(cell, round, seen_as)
        own_truths = [_open(cell, round, client) for client in clients]
        truth = own_truths[0] if len(clients) == 1 else together(own_truths)
        common = common_columns(spec, account, outcome, key)
        if shown and len(clients) == 1:
            detectable = _detectable(cell, round, seen_as, truth)
            common["details"] = json.dumps({**outcome.details, "detectable": detectable}, sort_keys=True)
        owners = [
            {"client": client, "victim_loss": own.loss if np.isfinite(own.loss) else None, "sample": sample}
            for client, own in zip(clients, own_truths)
            for sample in range(len(own.labels))
        ]
        own = {name.removeprefix(f"{seen_as}."): v for name, v in tensors.items() if name.startswith(f"{seen_as}.")}
        if outcome.status == "ok" and len(own["images"]) > len(truth.labels):
            # matched to the truth, the best of many guesses would be chosen by the truth
            who = "client" if len(clients) == 1 else "clients"
            reason = f"the attack answered {len(own['images'])} images, but the {who} had {len(truth.labels)}"
            common |= {"status": "failed", "reason": reason}
        if common["status"] != "ok":
            rows += [{**common, **owner} for owner in owners]
            continue
        seen = recorded(cell, round, seen_as, records.Shown)["observation"]
        scored = score_victim(
            original=truth.images,
            reconstruction=own["images"],
            mean=seen["mean"],
            std=seen["std"],
            true_labels=truth.labels,
            # labels that were granted are no achievement: a column of them would measure the matching of images
            labels=None if account.threat_model.labels == "known" else own.get("labels"),
            true_noise=truth.noise,
            trained=truth.trained,
            views=truth.views,
            axes=truth.axes,
            noise={n.removeprefix("noise."): v for n, v in own.items() if n.startswith("noise.")} or None,
            candidates=candidates,
            metrics=metrics,
        )
        pictures = sum(map(len, originals))
        for place, (owner, scores) in enumerate(zip(owners, scored.rows, strict=True)):
            rows.append({**common, **scores, **owner, "picture": pictures + place})
        originals.append(truth.images)
        reconstructions.append(scored.reconstructions)
    with whole_directory(target) as directory:
        write_table(directory / "rows.parquet", table.frame(rows))
        if originals:
            buffer = io.BytesIO()
            np.savez_compressed(buffer, original=_stack(originals), reconstruction=_stack(reconstructions))
            write_bytes(directory / "pictures.npz", buffer.getvalue())


def _open(cell: Path, round: int, client: int) -> Truth:
    try:
        return open_envelope(cell, round, client)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        what = reason_of(error)
        raise DamagedTruth(f"the truth of round {round}, client {client} cannot be read: {what}") from error


def _detectable(cell: Path, round: int, client: int, truth: Truth) -> dict[str, float | None]:
    """What the client could have seen of the model that it was sent (`fedsim.scoring.detection`)."""
    folder = cell / "observations"
    record = recorded(cell, round, client)
    seen = record["observation"]
    model = models.build(record["model"], input_shape=tuple(seen["input_shape"]), classes=seen["classes"], seed=0)
    model.load_state_dict(read_tensors(folder / f"round_{round}.state.safetensors"))
    mean, std = (torch.tensor(seen[name]).view(-1, 1, 1) for name in ("mean", "std"))
    ratio = detection.disaggregation(model, (truth.images / 255 - mean) / std, truth.labels)
    return {"d_snr": ratio if math.isfinite(ratio) else None, "alike": detection.alike(model)}


def common_columns(spec: JobSpec, account: Account, outcome: Outcome, key: str) -> dict[str, object]:
    """The columns that all images of a victim share, whether or not anybody knows what they were."""
    return {
        "round": spec.round,
        "attack": spec.attack["name"],
        "attack_params": decoders.params_of(spec.attack),
        "details": json.dumps(outcome.details, sort_keys=True),
        **{f"threat_{aspect}": value for aspect, value in account.threat_model.as_dict().items()},
        "status": outcome.status,
        "reason": outcome.reason,
        "update_kind": account.kind,
        "update_precision": account.precision,
        "attack_loss": outcome.loss,
        "iterations": outcome.iterations,
        "stopped": outcome.stopped,
        "seconds": account.seconds,
        "device": account.device,
        "environment": None if account.environment is None else json.dumps(account.environment, sort_keys=True),
        "job": key,
    }


def _stack(images: list[Tensor]) -> np.ndarray:
    return torch.cat(images).permute(0, 2, 3, 1).contiguous().numpy()
