"""Run one attack job: read what the threat model allows, attack, write the answer. It never sees the truth.

jobs/<key>/job.json                     status, losses, iterations, details, time
           reconstructions.safetensors  images, labels and noise by client
           snapshots.safetensors        `attacks.recording.Snapshots` by client, where the scenario asks for them
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import attacks
from attacks import NotApplicable, Reconstruction, ThreatModel
from fedsim import hardware, models, observations
from fedsim.files import whole_directory, write_json, write_tensors

Report = Callable[[int, int, float], None]


def threat_model_of(spec: dict[str, Any]) -> ThreatModel:
    """What the scenario grants, and what this attack is given whatever the scenario grants (an oracle's noise)."""
    return ThreatModel(**{**spec["threat_model"], **attacks.get(spec["attack"]["name"]).given})


def attack(cell: Path, target: Path, spec: dict[str, Any], report: Report | None = None) -> None:
    """Run the job that `spec` describes on a cell's observations; leave the answer at `target`."""
    name = spec["attack"]["name"]
    algorithm = attacks.create(name, **{key: value for key, value in spec["attack"].items() if key != "name"})
    algorithm.compile = spec["engine"]["compile"]
    algorithm.record_every = spec["engine"].get("record", {}).get("every", 0)
    threat_model = threat_model_of(spec)
    seen = [observations.load(cell, spec["round"], client, threat_model) for client in spec["clients"]]
    threat_model = ThreatModel(**{**threat_model.as_dict(), **seen[0].derived})  # type: ignore[arg-type]
    device, dtype = _place(spec["engine"])
    first = seen[0].observation
    model = models.build(seen[0].model, input_shape=first.input_shape, classes=first.classes, seed=0)
    started = time.perf_counter()
    answers = algorithm.run(
        [observations.to(one.observation, device, dtype) for one in seen],
        threat_model,
        model.to(device, dtype),
        seed=spec["seed"],
        progress=report,
    )
    seconds = (time.perf_counter() - started - algorithm.compile_seconds) / len(seen)
    tensors: dict[str, Tensor] = {}
    snapshots: dict[str, Tensor] = {}
    clients: dict[str, Any] = {}
    for client, answer in zip(spec["clients"], answers, strict=True):
        clients[str(client)] = _account(answer)
        if isinstance(answer, Reconstruction):
            tensors |= {f"{client}.{key}": value for key, value in _tensors(answer).items()}
            snapshots |= {f"{client}.{key}": value for key, value in _snapshots(answer).items()}
    with whole_directory(target) as directory:
        if tensors:
            write_tensors(directory / "reconstructions.safetensors", tensors)
        if snapshots:
            write_tensors(directory / "snapshots.safetensors", snapshots)
        write_json(
            directory / "job.json",
            {
                "spec": spec,
                "threat_model": threat_model.as_dict(),
                "observed": {"kind": first.kind, "precision": first.precision},
                "clients": clients,
                "seconds": seconds,
                "device": hardware.describe(device),
                "environment": hardware.environment(),
            },
        )


def _place(engine: dict[str, Any]) -> tuple[torch.device, torch.dtype]:
    name = engine["device"]
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name), getattr(torch, engine["dtype"])


def _account(answer: Reconstruction | NotApplicable) -> dict[str, Any]:
    if isinstance(answer, NotApplicable):
        return {"status": "not_applicable", "reason": str(answer)}
    if not torch.isfinite(answer.images).all():
        return {"status": "failed", "reason": "the reconstruction holds NaN or infinity"}
    return {
        "status": "ok",
        "loss": None if math.isnan(answer.loss) else answer.loss,
        "iterations": answer.iterations,
        "stopped": answer.stopped,
        "losses": answer.losses,
        "details": answer.details,
    }


def _tensors(answer: Reconstruction) -> dict[str, Tensor]:
    tensors = {"images": answer.images.float()}
    if answer.labels is not None:
        tensors["labels"] = answer.labels
    for path, noise in (answer.noise or {}).items():
        tensors[f"noise.{path}"] = noise.float()
    return tensors


def _snapshots(answer: Reconstruction) -> dict[str, Tensor]:
    kept = answer.snapshots
    if kept is None:
        return {}
    noise = {f"noise.{path}": value for path, value in kept.noise.items()}
    return {"iterations": kept.iterations, "losses": kept.losses, "images": kept.images, **noise}
