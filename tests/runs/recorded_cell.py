"""One honest client's round, seen and sealed as the federation does it, without Flower."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from fedsim import observations, truth
from fedsim.answers import JobSpec
from fedsim.federation.plan import Plan
from fedsim.local import Local, observed, train
from fedsim.scenario.schema import Engine
from fedsim.scenario.work import Federation, Victims, Work

MODEL = {"name": "mlp", "width": 16, "depth": 1, "dropout": 0.5}


def work(model: dict[str, Any] = MODEL) -> Work:
    return Work(
        data={"name": "mnist", "partition": {"kind": "iid"}},
        model=model,
        federation=Federation(clients=4, clients_per_round=2, rounds=1, local=Local()),
        defense=(),
        seed=0,
        victims=Victims(rounds=(1,), clients=2),
    )


def record(cell: Path, plan: Plan, clients: tuple[int, ...] = (0, 1)) -> None:
    """Let the clients of a plan train in round 1, and write what the server sees and what is true of it."""
    for client in clients:
        pixels, labels = plan.batch(client, 1)
        model = plan.model()
        state = {name: value.detach().clone() for name, value in model.state_dict().items()}
        where = {"local": plan.local, "defense": plan.defense(), "client": client, "round": 1}
        result = train(model, plan.dataset.normalise(pixels), labels, seed=plan.client_seed, **where)
        seen = replace(
            observed(plan.dataset, plan.local, state=state, update=result.arrays),
            labels=labels,
            noise=result.played.drawn,
            client=client,
        )
        derived = {"client_mode": "train", "batch_norm": "none"}
        observations.save(cell, seen, model=plan.work.model, derived=derived)
        truth.seal(cell, 1, client, truth.Truth.of_round(pixels, labels, result.played))


def spec(attack: dict[str, Any], clients: tuple[int, ...] = (0, 1), *, cell: str = "cell", seed: int = 0) -> JobSpec:
    """A job on a recorded cell."""
    return JobSpec(
        cell=cell,
        round=1,
        clients=clients,
        attack=attack,
        grants={},
        engine=Engine(device="cpu", compile="never"),
        seed=seed,
        version="",
    )
