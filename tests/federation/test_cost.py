"""Accuracy and privacy of a cell are of one training, which is described; it is the attacked one's kind by default."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict

import pytest
import torch
from federation_cells import BASE, UTILITY, work
from opacus.accountants import PRVAccountant, RDPAccountant

from defenses import create
from fedsim.federation import cost, workers
from fedsim.federation.accuracy import accuracy
from fedsim.federation.plan import Plan
from fedsim.files import read_json
from fedsim.scenario import every_cell, parse
from fedsim.scenario.work import Work

DP = [{"name": "dp_sgd", "noise_multiplier": 1.5, "max_grad_norm": 1.0}]


def _utility(**local) -> dict:
    return {**UTILITY, "local": {**UTILITY["local"], **local}}


def _cell(utility: dict, **keys):
    named = {"name": "cost", "data": "mnist", "model": {"name": "mlp", "width": 8}, "attacks": [], **keys}
    return every_cell(parse({**named, "utility": utility}, rehearsed=False))[0]


@pytest.mark.parametrize(
    ("local", "steps", "rate"),
    [({}, 1, 0.1), ({"learning_rate": 0.3}, 1, 0.3), ({"share": "weights", "steps": 4, "learning_rate": 0.3}, 4, 0.3)],
)
def test_by_default_the_defense_acts_on_what_it_acts_on_in_the_attacked_rounds(local, steps, rate):
    plan = Plan(_cell({"rounds": 3}, federation={"local": local}).work())
    trained = cost.training_of(plan)
    assert trained.local.share == local.get("share", "gradient")
    assert trained.local.batch_size == 32
    assert (trained.local.training.steps, trained.local.training.learning_rate) == (steps, rate)
    assert asdict(cost.describe(plan)) == {
        "rounds": 3,
        "clients": 4,
        "clients_per_round": 4,
        "share": local.get("share", "gradient"),
        "batch_size": 32,
        "steps": steps,
        "learning_rate": rate,
        "same_form": True,
    }


@pytest.mark.parametrize(
    ("attacked", "utility", "same"),
    [
        ({}, {"steps": 1, "learning_rate": 0.9}, True),  # a gradient is what it is at any learning rate
        ({}, {"steps": 5}, False),
        ({"share": "weights", "steps": 5}, {"steps": 5, "learning_rate": 0.1}, True),
        ({"share": "weights", "steps": 5}, {"steps": 4, "learning_rate": 0.1}, False),
        ({"share": "weights", "steps": 5}, {"steps": 5, "learning_rate": 0.2}, False),
    ],
)
def test_another_form_of_sharing_is_said(attacked, utility, same):
    described = cost.describe(Plan(work(attacked, utility=_utility(**utility))))
    assert described.same_form is same
    assert described.share == ("weights" if utility["steps"] > 1 or attacked else "gradient")


def test_without_a_utility_block_the_costs_are_of_the_attacked_rounds():
    described = cost.describe(Plan(work()))
    assert asdict(described) == {
        "rounds": 2, "clients": 3, "clients_per_round": 2, "share": "gradient", "batch_size": 2, "steps": 1,
        "learning_rate": 0.1, "same_form": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("local", "utility", "per_round", "batch_size"),
    [
        ({}, None, lambda examples: 1, 2),
        ({"share": "weights", "steps": 3}, None, lambda examples: 3, 2),
        ({}, _utility(steps=5), lambda examples: 5, 32),
        ({"share": "weights", "epochs": 2, "batch_size": 30}, None, lambda examples: 2 * -(-examples // 30), 30),
    ],
)
def test_epsilon_is_that_of_the_client_that_spent_most_in_the_rounds_that_it_took_part_in(
    local, utility, per_round, batch_size
):
    federation = {**BASE["federation"], "clients": 6, "clients_per_round": 2, "rounds": 5}
    data = {**BASE["data"], "partition": {"kind": "dirichlet", "alpha": 0.5}}
    plan = Plan(work(local, defense=DP, utility=utility, data=data, federation=federation))
    rounds = range(1, (utility["rounds"] if utility else 5) + 1)
    took = Counter(client for round in rounds for client in plan.drawn(round))
    sizes = [len(part) for part in plan.partition()]
    renyi, loss, everybody_always = [], [], []
    for client, times in took.items():
        for accountants, updates in ((renyi, times), (everybody_always, len(rounds))):
            accountant = RDPAccountant()
            accountant.history = [(1.5, batch_size / sizes[client], updates * per_round(sizes[client]))]
            accountants.append(accountant.get_epsilon(1e-5))
        accountant = PRVAccountant()
        accountant.history = [(1.5, batch_size / sizes[client], times * per_round(sizes[client]))]
        loss.append(accountant.get_epsilon(1e-5))
    spent = cost.privacy(plan)
    assert spent.epsilon == pytest.approx(max(renyi), rel=1e-9, abs=1e-9)
    assert spent.epsilon_prv == pytest.approx(max(loss), rel=1e-9, abs=1e-9)
    assert min(renyi) < max(renyi) < max(everybody_always)


def test_examples_of_epochs_are_no_fewer_for_being_chosen_anew():
    """Epochs over 40 of a client's examples: each is in as many steps as if the client had no others."""
    local = {"share": "weights", "epochs": 3, "examples": 40, "batch_size": 10}
    accountant = RDPAccountant()
    accountant.history = [(1.5, 0.25, 2 * 3 * 4)]
    assert cost.privacy(Plan(work(local, defense=DP))).epsilon == pytest.approx(accountant.get_epsilon(1e-5))


def test_updates_are_what_local_dp_is_accounted_by():
    federation = {**BASE["federation"], "clients": 1, "clients_per_round": 1}
    parts = [{"name": "local_dp", "epsilon": 0.5}]
    spent = cost.privacy(Plan(work({"share": "weights", "steps": 9}, defense=parts, federation=federation)))
    single = create("local_dp", epsilon=0.5).accounting(updates=1, steps=1, batch_size=1, examples=1)
    assert single.epsilon < spent.epsilon < 2 * single.epsilon  # two rounds
    assert spent.epsilon_prv is None


def test_a_defense_that_accounts_for_nothing_has_no_epsilon():
    nothing = {"epsilon": None, "epsilon_prv": None, "delta": None, "accounting_note": ""}
    assert asdict(cost.privacy(Plan(work(defense=[{"name": "clip"}])))) == nothing


def test_a_cell_says_what_its_costs_are_of(simulated):
    summary = read_json(simulated.cell("utility") / "cell.json")
    plan = Plan(Work.from_dict(summary["work"]))
    assert summary["cost_of"] == asdict(cost.describe(plan))
    assert summary["test_images"] == 1000
    start = plan.model().state_dict()
    assert summary["utility"] == pytest.approx(cost.utility(plan.work, start), abs=0.005)
    assert summary["utility_reachable"] == pytest.approx(cost.reachable(plan.work, start), abs=0.005)
    first = read_json(simulated.cell("first") / "cell.json")
    assert first["utility"] is first["utility_reachable"] is None


def test_the_defense_acts_in_the_utility_training():
    start = Plan(work()).model().state_dict()
    free, bound, drowned = (
        cost.utility(work(defense=defense, utility=UTILITY), start)
        for defense in ([], [{"name": "clip", "norm": 0.02}], [{"name": "gaussian_noise", "std": 1.0}])
    )
    assert free > 0.45
    assert bound < 0.3
    assert drowned < 0.3


def test_what_is_reachable_depends_on_neither_defense_nor_federation():
    plain = work(utility=UTILITY)
    same = [
        work(utility=UTILITY, defense=[{"name": "gaussian_noise", "std": 9.0}]),
        work({"batch_size": 1}, utility=UTILITY),
        work(utility={**UTILITY, "rounds": 1}, model={**plain.model, "dropout": 0.75}),  # as a `dropout` defense
    ]
    other = [
        work(utility=UTILITY, seed=1),
        work(utility=UTILITY, source="0123"),
        work(utility=UTILITY, model={**plain.model, "width": 16}),
        *(work(utility={**UTILITY, "reachable": {**UTILITY["reachable"], key: value}})
          for key, value in (("steps", 61), ("batch_size", 16), ("learning_rate", 0.4), ("dropout", 0.5))),
    ]  # fmt: skip
    assert {cost.reachable_key(described) for described in same} == {cost.reachable_key(plain)}
    assert len({cost.reachable_key(described) for described in [plain, *other]}) == 1 + len(other)
    start = Plan(plain).model().state_dict()
    reached = cost.reachable(plain, start)
    assert reached > 0.45  # chance is 0.1
    assert all(cost.reachable(described, start) == reached for described in same)


def test_the_models_own_dropout_is_what_reaches():
    own = {"name": "mlp", "width": 8, "dropout": 0.25}
    defended = _cell({"rounds": 1}, model=own, defenses=[{"name": "dropout", "p": 0.9}])
    assert defended.work().model["dropout"] == 0.9
    assert defended.work().utility.reachable.dropout == 0.25
    assert _cell({"rounds": 1, "reachable": None}).work().utility.reachable is None


def test_a_training_that_diverges_reaches_nothing():
    wild = {**UTILITY, "reachable": {**UTILITY["reachable"], "learning_rate": 1e38}}
    assert cost.reachable(work(utility=wild), Plan(work()).model().state_dict()) is None


def test_accuracy_is_that_of_the_model_in_evaluation_mode():
    plan = Plan(work(model={"name": "mlp", "dropout": 0.9, "width": 32}))
    dataset, model = plan.dataset, plan.model().train()
    still = Plan(work(model={"name": "mlp", "dropout": 0.0, "width": 32})).model()
    with torch.no_grad():
        scores = still(dataset.normalise(dataset.test_images))
    expected = float((scores.argmax(1) == dataset.test_labels).double().mean())
    assert accuracy(model, dataset) == pytest.approx(expected, abs=1e-9)


def test_cells_that_train_alike_are_measured_by_one_training(monkeypatch, tmp_path):
    """How large an attacked batch is changes nothing of the training that a cell's accuracy is of."""
    begun: list[Work] = []

    class Method:
        def remote(self, work, start):
            begun.append(work)
            return len(begun)

    class Worker:
        utility = reachable = Method()

        @classmethod
        def remote(cls, user_path):
            return cls()

    monkeypatch.setattr(workers, "_Worker", Worker)
    monkeypatch.setattr(workers.Workers, "_start", lambda self, work: None)
    measuring = workers.Workers(2, tmp_path)
    own = {**UTILITY, "reachable": None}
    one, larger, defended, longer = (
        measuring.begin(described).utility
        for described in (
            work({"batch_size": 1}, utility=own),
            work({"batch_size": 4}, utility=own),
            work({"batch_size": 1}, utility=own, defense=[{"name": "clip", "norm": 1.0}]),
            work({"batch_size": 1}, utility={**own, "rounds": own["rounds"] + 1}),
        )
    )
    assert one == larger
    assert len({one, defended, longer}) == 3 == len(begun)
