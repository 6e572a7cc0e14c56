"""One attack job: what is sent to whoever computes it, the attack itself, and what is written of its answer.

    prepare   reads what the threat model allows        on the driver, which knows the run directory
    respond   attacks                                   anywhere: it is given no path and opens no file
    write     jobs/<key>/job.json                       status, losses, iterations, details, time
                         reconstructions.safetensors    images, labels and noise by client
                         snapshots.safetensors          `attacks.base.Snapshots` by client, where asked for
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import attacks
from attacks import Observation, Reconstruction, ThreatModel
from defenses import stochastic
from fedsim import answers, decoders, hardware, models, observations
from fedsim.answers import Account, JobSpec, Outcome
from fedsim.files import whole_directory, write_tensors
from fedsim.runs.guard import guarded, lifted
from fedsim.runs.returned import check_answers
from fedsim.scenario.schema import Engine
from fedsim.scenario.work import Spec

Report = Callable[[int, int, float], None]


@dataclass(frozen=True)
class Task:
    """All that an attack is given, and how it is to be run. It holds no path.

    Args:
        seed: of the attack's own randomness.
        threat_model: what is granted, with what follows from the federation.
        model: the specification of the attacker's own model.
        observations: of some clients of one round, as the threat model allows them to be seen.
        decoder: the weights of the attack's decoder, if it has one whose weights are those of a file.
    """

    attack: Spec
    engine: Engine
    seed: int
    threat_model: ThreatModel
    model: Spec
    observations: list[Observation]
    decoder: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What came of a task.

    Args:
        reconstructions, snapshots: tensors by `<client>.<what>`.
    """

    account: Account
    reconstructions: dict[str, Tensor]
    snapshots: dict[str, Tensor]


def attack(cell: Path, target: Path, spec: JobSpec) -> None:
    """Run the job that `spec` describes on a cell's observations, in this process; leave the answer at `target`."""
    write(target, spec, respond(prepare(cell, spec)))


def threat_model_of(attack: Spec, grants: Mapping[str, str]) -> ThreatModel:
    """What the scenario grants, and what this attack is given whatever the scenario grants (an oracle's noise)."""
    return ThreatModel(**{**grants, **attacks.get(attack["name"]).given})  # type: ignore[arg-type]


def prepare(cell: Path, spec: JobSpec) -> Task:
    """Read what the job that `spec` describes is given of a cell's observations."""
    threat_model = threat_model_of(spec.attack, spec.grants)
    seen = [observations.load(cell, spec.round, client, threat_model) for client in spec.clients]
    if attacks.get(spec.attack["name"]).looks_back:
        seen = [_looking_back(one, cell, threat_model) for one in seen]
    first = seen[0]
    state, public = first.observation.state, first.observation.public  # sent once, not once a client
    attack, decoder = decoders.sent(spec.attack)
    return Task(
        attack=attack,
        engine=spec.engine,
        seed=spec.seed,
        threat_model=ThreatModel(**{**threat_model.as_dict(), **first.derived}),  # type: ignore[arg-type]
        model=first.model,
        observations=[dataclasses.replace(one.observation, state=state, public=public) for one in seen],
        decoder=decoder,
    )


def _looking_back(seen: observations.Seen, cell: Path, threat_model: ThreatModel) -> observations.Seen:
    """With the earlier rounds of the same client."""
    now = seen.observation
    earlier = observations.load_earlier(cell, now.round, now.client, threat_model)
    return dataclasses.replace(seen, observation=dataclasses.replace(now, earlier=earlier))


def respond(task: Task, report: Report | None = None) -> Answer:
    """Attack. While it runs, this process opens no file for it (see `fedsim.runs.guard`).

    Args:
        report: called now and then with (iterations done, iterations at most, median attack loss now).

    Raises:
        RuntimeError: the attack opened a file or started a process.
        MisshapenAnswer: what it returned is no answer.
    """
    first = task.observations[0]
    algorithm = attacks.create(**decoders.built(task.attack, task.decoder, input_shape=first.input_shape))
    algorithm.compile = task.engine.compile
    algorithm.record_every = task.engine.record.every if task.engine.record else 0
    device, dtype = _place(task.engine)
    hardware.exact()
    model = models.build(task.model, input_shape=first.input_shape, classes=first.classes, seed=0).to(device, dtype)
    stochastic.begin(model, first.round)
    seen = [observations.to(one, device, dtype) for one in task.observations]
    started = time.perf_counter()
    with guarded():
        found = algorithm.run(seen, task.threat_model, model, seed=task.seed, progress=_outside(report))
    seconds = (time.perf_counter() - started - algorithm.compile_seconds) / len(seen)
    check_answers(found, seen)
    reconstructions: dict[str, Tensor] = {}
    snapshots: dict[str, Tensor] = {}
    outcomes: dict[int, Outcome] = {}
    for one, answer in zip(seen, found, strict=True):
        outcomes[one.client] = Outcome.of_answer(answer, of=one.clients)
        if isinstance(answer, Reconstruction):
            reconstructions |= {f"{one.client}.{key}": value for key, value in _tensors(answer).items()}
            snapshots |= {f"{one.client}.{key}": value for key, value in _snapshots(answer).items()}
    account = Account(
        threat_model=task.threat_model,
        kind=first.kind,
        precision=first.precision,
        outcomes=outcomes,
        seconds=seconds,
        device=hardware.describe(device),
        environment=hardware.environment(),
    )
    # through JSON here already, so that details which are none cost this job only
    return Answer(Account.from_dict(json.loads(json.dumps(account.to_dict()))), reconstructions, snapshots)


def write(target: Path, spec: JobSpec, answer: Answer) -> None:
    """Leave the answer to the job that `spec` describes at `target`, whole or not at all."""
    with whole_directory(target) as directory:
        if answer.reconstructions:
            write_tensors(directory / "reconstructions.safetensors", answer.reconstructions)
        if answer.snapshots:
            write_tensors(directory / "snapshots.safetensors", answer.snapshots)
        answers.write(directory, spec, answer.account)


def _outside(report: Report | None) -> Report | None:
    """The same report, called without the guard: it is ours."""
    if report is None:
        return None

    def call(done: int, most: int, loss: float) -> None:
        with lifted():
            report(done, most, loss)

    return call


def _place(engine: Engine) -> tuple[torch.device, torch.dtype]:
    name: str = engine.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name), getattr(torch, engine.dtype)


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
