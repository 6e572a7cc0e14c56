"""What an attack job is asked, and the account of what it answered, as `jobs/<key>/job.json` holds them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from attacks import NotApplicable, Reconstruction, ThreatModel
from fedsim import records
from fedsim.errors import Damaged
from fedsim.files import key_of, write_json
from fedsim.scenario.schema import Engine
from fedsim.scenario.work import Spec


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """One attack on some clients of one round of one cell: the unit that is run, kept and scored.

    It holds all that the answer depends on; `key` is its hash.

    Args:
        cell: the key of the cell that is attacked, which holds what its server saw.
        clients: by the names of their observations; `SUM` of a sum.
        grants: what the scenario grants to know.
        seed: of the attack's own randomness.
        observed: a hash of what was seen, where the cell may be trained again and then be seen otherwise; else empty.
    """

    cell: str
    round: int
    clients: tuple[int, ...]
    attack: Spec
    grants: Mapping[str, str]
    engine: Engine
    seed: int
    version: str
    observed: str = ""

    @property
    def key(self) -> str:
        return key_of(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `from_dict` reads it."""
        return {
            "cell": self.cell,
            "round": self.round,
            "clients": list(self.clients),
            "attack": self.attack,
            "threat_model": self.grants,
            "engine": self.engine.model_dump(exclude_none=True, exclude={"gpus"}),
            "seed": self.seed,
            "version": self.version,
            **({"observed": self.observed} if self.observed else {}),
        }

    @classmethod
    def from_dict(cls, plain: Spec) -> JobSpec:
        own = {key: value for key, value in plain.items() if key != "threat_model"}
        engine, clients = Engine.model_validate(plain["engine"]), tuple(plain["clients"])
        return cls(**{**own, "clients": clients, "engine": engine, "grants": plain["threat_model"]})


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one client, or of one sum. Where the status is not `ok` there is a reason, and nothing else.

    Args:
        loss: None where the attack has none.
        stopped, losses, details: as a `Reconstruction` has them.
        of: whose sum it is; empty for one client.
    """

    status: Literal["ok", "not_applicable", "failed"]
    reason: str | None = None
    loss: float | None = None
    iterations: int | None = None
    stopped: str | None = None
    losses: Sequence[Sequence[float]] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    of: Sequence[int] = ()

    @classmethod
    def of_answer(cls, answer: Reconstruction | NotApplicable, of: Sequence[int] = ()) -> Outcome:
        if isinstance(answer, NotApplicable):
            return cls(status="not_applicable", reason=str(answer), of=of)
        if not torch.isfinite(answer.images).all():
            return cls(status="failed", reason="the reconstruction holds NaN or infinity", of=of)
        return cls(
            status="ok",
            loss=None if math.isnan(answer.loss) else answer.loss,
            iterations=answer.iterations,
            stopped=answer.stopped,
            losses=answer.losses,
            details=answer.details,
            of=of,
        )

    def to_dict(self) -> dict[str, Any]:
        said = ("loss", "iterations", "stopped", "losses", "details") if self.status == "ok" else ("reason",)
        return {name: getattr(self, name) for name in ("status", *said)} | ({"of": list(self.of)} if self.of else {})


@dataclass(frozen=True, kw_only=True)
class Account:
    """What came of a job, but for the images.

    Args:
        threat_model: the grants, what follows from the federation, and what the attack is given in any case.
        kind, precision: of the updates.
        outcomes: by client; of a sum under `SUM`.
        seconds: wall time a victim, without compiling.
        environment: what it was computed with; None in what an early version wrote.
    """

    threat_model: ThreatModel
    kind: str
    precision: str
    outcomes: Mapping[int, Outcome]
    seconds: float
    device: str
    environment: Mapping[str, Any] | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `from_dict` reads it."""
        return {
            "threat_model": self.threat_model.as_dict(),
            "observed": {"kind": self.kind, "precision": self.precision},
            "clients": {str(client): outcome.to_dict() for client, outcome in self.outcomes.items()},
            "seconds": self.seconds,
            "device": self.device,
            "environment": self.environment,
        }

    @classmethod
    def from_dict(cls, plain: Spec) -> Account:
        return cls(
            threat_model=ThreatModel(**plain["threat_model"]),
            **plain["observed"],
            outcomes={int(client): Outcome(**outcome) for client, outcome in plain["clients"].items()},
            seconds=plain["seconds"],
            device=plain["device"],
            environment=plain.get("environment"),
        )


def write(job: Path, spec: JobSpec, account: Account) -> None:
    write_json(job / "job.json", {"spec": spec.to_dict(), **account.to_dict()})


def read(job: Path) -> tuple[JobSpec, Account]:
    """What was asked and what was answered under a job's directory."""
    path = job / "job.json"
    plain = records.read(path, records.Answered)
    try:
        return JobSpec.from_dict(plain["spec"]), Account.from_dict(plain)
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(path, f"{type(error).__name__}: {error}") from None
