"""What a defense costs: the accuracy of the same training without an attack, the privacy it spends, and which training
that is.

Accuracy and privacy are of one training, the one of the `utility` block; without such a block only the privacy is
stated, that of the attacked rounds. `describe` says what was trained, and whether a defense acts there on what it acts
on in the attacked rounds: a clipping bound or a noise that is strong on gradients may be weak on weight deltas.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, replace

from torch import Tensor

from fedsim import hardware, models
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
    return Plan(replace(plan.work, federation=federation, victims=Victims(rounds=(), clients=0), malicious=None))


@dataclass(frozen=True, kw_only=True)
class CostOf:
    """A training in short.

    Args:
        same_form: its clients send what the attacked ones send: gradients, or the weight deltas of as many steps at the
            same learning rate. The size of a batch may differ; it is stated.
    """

    rounds: int
    clients: int
    clients_per_round: int
    share: str
    batch_size: int
    steps: int
    learning_rate: float
    same_form: bool


@dataclass(frozen=True, kw_only=True)
class Spent:
    """The privacy that the most exposed client spent; None where the defense accounts for none.

    Args:
        accounting_note: the assumption that epsilon was computed under, or empty.
    """

    epsilon: float | None
    epsilon_prv: float | None
    delta: float | None
    accounting_note: str


def describe(plan: Plan) -> CostOf:
    """`training_of(plan)` in short."""
    federation = training_of(plan).federation
    local = federation.local
    return CostOf(
        rounds=federation.rounds,
        clients=federation.clients,
        clients_per_round=federation.clients_per_round,
        share=local.share,
        batch_size=local.batch_size,
        steps=local.training.steps,
        learning_rate=local.training.learning_rate,
        same_form=_form(local) == _form(plan.local),
    )


def _form(local: Local) -> tuple[object, ...]:
    """What clients send, but for the size of their batches."""
    training = local.training
    return (local.share, training.steps, training.learning_rate) if local.share == "weights" else (local.share,)


def privacy(plan: Plan) -> Spent:
    """Epsilon and delta of `training_of(plan)`: of the client that spent most in the rounds that it took part in."""
    trained, defense = training_of(plan), plan.defense()
    batch_size = trained.local.batch_size
    found = [
        defense.accounting(updates=one.updates, steps=one.steps, batch_size=batch_size, examples=one.examples)
        for one in _most_exposed(_parts_taken(trained))
    ]
    spent = [accounting for accounting in found if accounting is not None]
    worst = max(spent, key=lambda accounting: accounting.epsilon, default=None)
    tighter = [accounting.epsilon_prv for accounting in spent if accounting.epsilon_prv is not None]
    return Spent(
        epsilon=worst.epsilon if worst else None,
        epsilon_prv=max(tighter) if tighter and len(tighter) == len(spent) else None,
        delta=worst.delta if worst else None,
        accounting_note=worst.note if worst else "",
    )


@dataclass(frozen=True)
class _Part:
    """A client's part in a training: updates that it sent, local steps that it took, examples it took them from."""

    updates: int
    steps: int
    examples: int


def _parts_taken(plan: Plan) -> set[_Part]:
    """Of every client that was drawn at least once; an update that got lost counts as if it had not."""
    rounds = Counter(client for round in range(1, plan.federation.rounds + 1) for client in plan.drawn(round))
    found = set()
    for client, updates in rounds.items():
        examples = plan.examples(client)
        found.add(_Part(updates, updates * plan.local.training.count(examples, plan.local.batch_size), examples))
    return found


def _most_exposed(parts: set[_Part]) -> list[_Part]:
    """Those that no other part exceeds: as many updates and steps out of as few examples. One of them spent most."""

    def exceeds(one: _Part, other: _Part) -> bool:
        return one.updates >= other.updates and one.steps >= other.steps and one.examples <= other.examples

    return [one for one in parts if not any(other != one and exceeds(other, one) for other in parts)]


def utility(work: Work, start: dict[str, Tensor]) -> float | None:
    """The final test accuracy of the training that a cell's `utility` block asks for."""
    plan = training_of(Plan(work))
    device = hardware.of_training(plan.federation.resources.gpus)
    model = plan.model()
    model.load_state_dict(final_state(plan, start, device=device))
    return accuracy(model.to(device), plan.dataset)


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
    model.to(hardware.of_training(work.federation.resources.gpus))
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
