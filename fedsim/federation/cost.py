"""What a defense costs: the accuracy of the same training without an attack, the privacy it spends, and which training
that is.

Accuracy and privacy are of one training, the one of the `utility` block; without such a block only the privacy is
stated, that of the attacked rounds. `describe` says what was trained, and whether a defense acts there on what it acts
on in the attacked rounds: a clipping bound or a noise that is strong on gradients may be weak on weight deltas.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from fedsim import models
from fedsim.federation.accuracy import accuracy
from fedsim.federation.plan import Plan
from fedsim.federation.start import adding_parameters, train
from fedsim.federation.unattacked import final_state
from fedsim.files import key_of
from fedsim.version import __version__


def training_of(plan: Plan) -> Plan:
    """The training that the costs are of: the `utility` block's, or the attacked rounds where there is none."""
    block = plan.work["utility"]
    if block is None:
        return plan
    work = copy.deepcopy(plan.work)
    work["federation"]["rounds"] = block["rounds"]
    work["federation"]["local"] |= block["local"]
    if work["federation"]["local"]["steps"] > 1:
        work["federation"]["local"]["share"] = "weights"
    work["victims"] = {"rounds": [], "clients": 0}
    return Plan(work)


def describe(plan: Plan) -> dict[str, Any]:
    """`training_of(plan)` in short, JSON-able.

    `same_form` is true where its clients send what the attacked ones send: gradients, or the weight deltas of as many
    steps at the same learning rate. The size of a batch may differ; it is stated.
    """
    trained = training_of(plan)
    federation, local = trained.federation, trained.local
    form = ("share", "steps", "learning_rate") if local["share"] == "weights" else ("share",)
    return {
        "rounds": federation["rounds"],
        "clients": federation["clients"],
        "clients_per_round": federation["clients_per_round"],
        "share": local["share"],
        "batch_size": local["batch_size"],
        "steps": local["steps"],
        "learning_rate": local["learning_rate"],
        "same_form": all(local[key] == plan.local[key] for key in form),
    }


def privacy(plan: Plan) -> dict[str, Any]:
    """Epsilon and delta of `training_of(plan)`, for the client with the fewest images, as if it trained every round."""
    trained = training_of(plan)
    examples = min(len(part) for part in plan.partition())
    accounting = plan.defense().accounting(
        steps=trained.federation["rounds"] * trained.training.count(examples, trained.local["batch_size"]),
        batch_size=trained.local["batch_size"],
        examples=examples,
    )
    return {
        "epsilon": accounting.epsilon if accounting else None,
        "delta": accounting.delta if accounting else None,
        "accounting_note": accounting.note if accounting else "",
    }


def utility(work: dict[str, Any], start: dict[str, Tensor]) -> float | None:
    """The final test accuracy of the training that a cell's `utility` block asks for."""
    plan = training_of(Plan(work))
    wanted = plan.federation["resources"]["gpus"] > 0 and torch.cuda.is_available()
    model = plan.model()
    model.load_state_dict(final_state(plan, start, device=torch.device("cuda" if wanted else "cpu")))
    return accuracy(model, plan.dataset)


def reachable(work: dict[str, Any], start: dict[str, Tensor]) -> float | None:
    """The test accuracy that the model reaches from the same start without a defense, trained centrally.

    `utility.reachable` of the work says how long, and the model's own dropout rate. None if the training diverges, or
    if there is no test part.
    """
    plan = Plan(work)
    dataset, block = plan.dataset, work["utility"]["reachable"]
    spec = {**work["model"], "dropout": block["dropout"], "defenses": adding_parameters(work)}
    model = models.build(spec, input_shape=dataset.input_shape, classes=len(dataset.classes))
    model.load_state_dict(start)
    steps, batch_size, learning_rate = block["steps"], block["batch_size"], block["learning_rate"]
    diverged = train(
        model, dataset, steps=steps, batch_size=batch_size, learning_rate=learning_rate, seed=plan.seed
    )
    return accuracy(model, dataset) if diverged is None else None


def reachable_key(work: dict[str, Any]) -> str:
    """A hash of all that `reachable` depends on: neither the defense nor the federation is part of it."""
    return key_of(
        {
            "data": {key: value for key, value in work["data"].items() if key != "partition"},
            "content": work.get("content"),
            "source": work.get("source"),
            "model": {**work["model"], "dropout": None},
            "defenses": adding_parameters(work),
            "start": work.get("start"),
            "reachable": work["utility"]["reachable"],
            "seed": work["seed"],
            "version": __version__,
        }
    )
