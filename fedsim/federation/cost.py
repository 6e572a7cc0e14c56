"""What a defense costs: the accuracy of the same training without an attack, the privacy it spends, and which training
that is.

Accuracy and privacy are of one training, the one of the `utility` block; without such a block only the privacy is
stated, that of the attacked rounds. `describe` says what was trained, and whether a defense acts there on what it acts
on in the attacked rounds: a clipping bound or a noise that is strong on gradients may be weak on weight deltas.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from fedsim import models
from fedsim.federation.accuracy import accuracy
from fedsim.federation.plan import Plan
from fedsim.federation.start import pretraining_with, train_centrally
from fedsim.federation.unattacked import final_state
from fedsim.files import key_of
from fedsim.local import Local
from fedsim.scenario.work import Victims, Work
from fedsim.version import __version__


def training_of(plan: Plan) -> Plan:
    """The training that the costs are of: the `utility` block's, or the attacked rounds where there is none."""
    utility = plan.work.utility
    if utility is None:
        return plan
    federation = replace(plan.federation, rounds=utility.rounds, local=utility.local.of(plan.local))
    return Plan(replace(plan.work, federation=federation, victims=Victims(rounds=(), clients=0)))


def describe(plan: Plan) -> dict[str, Any]:
    """`training_of(plan)` in short, JSON-able.

    `same_form` is true where its clients send what the attacked ones send: gradients, or the weight deltas of as many
    steps at the same learning rate. The size of a batch may differ; it is stated.
    """
    federation = training_of(plan).federation
    local = federation.local
    return {
        "rounds": federation.rounds,
        "clients": federation.clients,
        "clients_per_round": federation.clients_per_round,
        "share": local.share,
        "batch_size": local.batch_size,
        "steps": local.training.steps,
        "learning_rate": local.training.learning_rate,
        "same_form": _form(local) == _form(plan.local),
    }


def _form(local: Local) -> tuple[object, ...]:
    """What clients send, but for the size of their batches."""
    training = local.training
    return (local.share, training.steps, training.learning_rate) if local.share == "weights" else (local.share,)


def privacy(plan: Plan) -> dict[str, Any]:
    """Epsilon and delta of `training_of(plan)`, for the client with the fewest images, as if it trained every round."""
    trained = training_of(plan)
    examples = min(len(part) for part in plan.partition())
    accounting = plan.defense().accounting(
        updates=trained.federation.rounds,
        steps=trained.federation.rounds * trained.local.training.count(examples, trained.local.batch_size),
        batch_size=trained.local.batch_size,
        examples=examples,
    )
    return {
        "epsilon": accounting.epsilon if accounting else None,
        "delta": accounting.delta if accounting else None,
        "accounting_note": accounting.note if accounting else "",
    }


def utility(work: Work, start: dict[str, Tensor]) -> float | None:
    """The final test accuracy of the training that a cell's `utility` block asks for."""
    plan = training_of(Plan(work))
    wanted = plan.federation.resources.gpus > 0 and torch.cuda.is_available()
    model = plan.model()
    model.load_state_dict(final_state(plan, start, device=torch.device("cuda" if wanted else "cpu")))
    return accuracy(model, plan.dataset)


def reachable(work: Work, start: dict[str, Tensor]) -> float | None:
    """The test accuracy that the model reaches from the same start without a defense, trained centrally.

    None if the work asks for no such training, if that diverges, or if there is no test part.
    """
    if work.utility is None or (training := work.utility.reachable) is None:
        return None
    dataset = Plan(work).dataset
    spec = {**work.model, "dropout": training.dropout, "defenses": pretraining_with(work)}
    model = models.build(spec, input_shape=dataset.input_shape, classes=len(dataset.classes))
    model.load_state_dict({name: start[name] for name in model.state_dict()})
    diverged = train_centrally(
        model,
        dataset,
        steps=training.steps,
        batch_size=training.batch_size,
        learning_rate=training.learning_rate,
        seed=work.seed,
    )
    return accuracy(model, dataset) if diverged is None else None


def reachable_key(work: Work) -> str:
    """A hash of all that `reachable` depends on: neither the defense nor the federation is part of it."""
    return key_of(
        {
            "data": {key: value for key, value in work.data.items() if key != "partition"},
            "content": work.content,
            "source": work.source,
            "model": {**work.model, "dropout": None},
            "defenses": pretraining_with(work),
            "start": work.start.to_dict() or None,
            "reachable": asdict(work.utility.reachable) if work.utility and work.utility.reachable else None,
            "seed": work.seed,
            "version": __version__,
        }
    )
