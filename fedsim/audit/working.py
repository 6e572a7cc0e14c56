"""One attempt on one reply: laid out as a run's cell, attacked as a run's job, scored where the truth is there.

    cells/<key>/     observations/, and grants/ and truth/ of a canary       (fedsim.observations, fedsim.truth)
    jobs/<key>/      what an attack answered                                 (fedsim.runs.attack)
    scores/<key>/    rows and pictures                                       (fedsim.scoring)

Keys are content hashes: what was done before is found, and not done again.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from torch import Tensor

from fedsim import answers, observations, records, table
from fedsim.answers import JobSpec
from fedsim.audit.adversaries import Attempt
from fedsim.audit.finding import Finding
from fedsim.audit.observing import Form, Reply, derived, observation
from fedsim.audit.told import Told
from fedsim.data.dataset import pixels
from fedsim.errors import reason_of
from fedsim.files import key_of, read_tensors, whole_directory, write_bytes, write_table
from fedsim.knowledge import with_knowledge
from fedsim.random import seed_for
from fedsim.runs.attack import attack
from fedsim.runs.directory import RunDirectory
from fedsim.runs.results import score_key_of
from fedsim.scenario.filled import filled
from fedsim.scenario.schema import METRICS, Engine
from fedsim.scoring.job import common_columns, score_job
from fedsim.truth import Truth, seal
from fedsim.version import __version__


@dataclass(frozen=True)
class Subject:
    """A reply that is attacked.

    Args:
        name: as the page has it.
        client: a number that stands for its node.
        told: what is true of its training: of a canary its own batch size and steps.
        truth: what it was computed from; None where nobody knows.
        findings: what it says of its training.
        server: whether what was sent is what an honest server would send.
        trial: it is what a defense would make of a canary, and no reply of the app as it is.
    """

    name: str
    reply: Reply
    client: int
    told: Told
    truth: Truth | None = None
    findings: tuple[Finding, ...] = ()
    server: Literal["passive", "malicious"] = "passive"
    trial: bool = False


def lay_out(directory: RunDirectory, subject: Subject, form: Form, *, source: str) -> str:
    """Write a subject's cell in one form, unless it is there; returns its key.

    Args:
        source: the hash of the model's code.
    """
    seen = observation(subject.reply, subject.told, form=form, client=subject.client)
    told = {**derived(subject.reply, subject.told, form=form), "server": subject.server}
    key = key_of(
        {
            "audit": subject.told.to_dict(),
            "form": form,
            "server": subject.server,
            "source": source,
            "reply": [subject.reply.round, subject.client, _digest(seen.state), _digest(seen.update)],
            "buffers": _digest(seen.buffers),
            "truth": None if subject.truth is None else _digest(subject.truth.tensors()),
            "version": __version__,
        }
    )
    cell = directory.cell(key)
    if not cell.exists():
        with whole_directory(cell) as folder:
            if subject.truth is not None:
                seen = replace(seen, labels=subject.truth.labels)
                seal(folder, subject.reply.round, subject.client, subject.truth)
            observations.save(folder, seen, model=subject.told.spec(), derived=told)
    return key


def work(directory: RunDirectory, subject: Subject, attempt: Attempt, *, source: str) -> pl.DataFrame:
    """Run an attempt on a subject, unless that was done before; returns its rows, columns as `fedsim.table.SCHEMA`.

    What an attack raises costs its own rows: they are `failed`, with the reason.
    """
    cell = lay_out(directory, subject, attempt.form, source=source)
    job = JobSpec(
        cell=cell,
        round=subject.reply.round,
        clients=(subject.client,),
        attack=filled(attempt.attack),
        grants=attempt.grants,
        engine=Engine(chunk=1),
        seed=seed_for(0, "attack"),
        version=__version__,
    )
    key = score_key_of(job.key, list(METRICS))
    target = directory.score(key)
    if not (target / "rows.parquet").exists():
        if not (directory.job(job.key) / "job.json").exists():
            try:
                attack(directory.cell(cell), directory.job(job.key), job)
            except (RuntimeError, ValueError, ArithmeticError) as fault:
                return _rows(pl.DataFrame([_failed(job, fault)]), directory, subject, cell)
        if subject.truth is not None:
            score_job(directory.cell(cell), directory.job(job.key), target, key=key, metrics=METRICS)
        else:
            _unscored(directory.cell(cell), directory.job(job.key), target, key=key)
    return _rows(table.read(target / "rows.parquet"), directory, subject, cell)


def certain_of(details: str | None) -> list[bool]:
    """Of which of an answer's images it is certain, by checks that need no truth."""
    found = json.loads(details or "{}").get("certain", [])
    return [bool(one) for one in found] if isinstance(found, list) else []


def _unscored(cell: Path, job: Path, target: Path, *, key: str) -> None:
    """Rows of an answer whose truth nobody knows: what the attack says of itself, and pictures without originals."""
    spec, account = answers.read(job)
    [(client, outcome)] = account.outcomes.items()
    file = job / "reconstructions.safetensors"
    images = read_tensors(file)[f"{client}.images"] if outcome.status == "ok" and file.exists() else None
    seen = observations.recorded(cell, spec.round, client, records.Shown)["observation"]
    common = {**common_columns(spec, account, outcome, key), "client": client}
    count = 1 if images is None else len(images)
    placed = [{} if images is None else {"picture": place} for place in range(count)]
    rows: list[dict[str, object]] = [{**common, "sample": place, **placed[place]} for place in range(count)]
    with whole_directory(target) as folder:
        write_table(folder / "rows.parquet", table.frame(rows))
        if images is not None:
            buffer = io.BytesIO()
            np.savez_compressed(buffer, reconstruction=pixels(images, mean=seen["mean"], std=seen["std"]))
            write_bytes(folder / "pictures.npz", buffer.getvalue())


def _failed(job: JobSpec, fault: Exception) -> dict[str, Any]:
    own = dict(job.attack)
    reason = reason_of(fault)
    return {
        **dict.fromkeys(table.SCHEMA),
        "round": job.round,
        "client": job.clients[0],
        "sample": 0,
        "attack": own.pop("name"),
        "attack_params": json.dumps(own, sort_keys=True),
        **{f"threat_{name}": value for name, value in job.grants.items()},
        "status": "failed",
        "reason": reason,
    }


def _rows(rows: pl.DataFrame, directory: RunDirectory, subject: Subject, cell: str) -> pl.DataFrame:
    """With the columns that the subject decides."""
    told = subject.told
    local = told.local
    setting = {"data": {"name": subject.name}, "model": told.spec(), "federation": {"local": told.to_dict()["local"]}}
    columns: Mapping[str, Any] = {
        "run": directory.path.name,
        "scenario": "audit",
        "cell": cell,
        "seed": 0,
        "development": False,
        "observed": True,
        "setting": json.dumps(setting, sort_keys=True, default=str),
        "dataset": subject.name,
        "model": told.model,
        "model_params": json.dumps(told.spec(), sort_keys=True, default=str),
        "defense": " + ".join(part["name"] for part in told.defense) or "none",
        "defense_params": json.dumps([dict(part) for part in told.defense], sort_keys=True),
        "batch_size": told.batch_size,
        "local_steps": None if local is None else local.steps,
        "model_state": f"round_{subject.reply.round - 1}" if subject.reply.round > 1 else "init",
        "fedsim_version": __version__,
    }
    literals = [pl.lit(value, dtype=table.SCHEMA[name]).alias(name) for name, value in columns.items()]
    rows = table.frame(rows.to_dicts()).with_columns(literals)
    return with_knowledge(rows).select(*table.SCHEMA)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
