"""What a real simulation leaves behind: the same for the same seed, paired across defenses, and honest about faults."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from federation_cells import work

from attacks import ThreatModel
from fedsim import observations, truth
from fedsim.federation.accuracy import accuracy
from fedsim.federation.plan import Plan
from fedsim.federation.unattacked import final_state
from fedsim.files import read_json, read_tensors
from fedsim.scenario.work import Work


def _seen(simulated, name, **grants):
    cell = simulated.cell(name)
    assert cell.exists(), simulated.log.read_text()[-3000:]
    return [observations.load(cell, r, c, ThreatModel(**grants)).observation for r, c in observations.listed(cell)]


def _equal(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def test_the_same_seed_gives_the_same_bytes(simulated):
    for left, right in zip(_seen(simulated, "first"), _seen(simulated, "again"), strict=True):
        assert (left.round, left.client) == (right.round, right.client)
        assert _equal(left.update, right.update)
        assert _equal(left.state, right.state)
    assert (
        read_json(simulated.cell("first") / "cell.json")["accuracy"]
        == (read_json(simulated.cell("again") / "cell.json")["accuracy"])
    )


def test_another_seed_gives_another_update(simulated):
    left, right = _seen(simulated, "first")[0], _seen(simulated, "other-seed")[0]
    assert not _equal(left.update, right.update)


def test_victims_and_their_noise_do_not_depend_on_the_defense(simulated):
    cells = simulated.cell("first"), simulated.cell("other-defense")
    pairs = observations.listed(cells[0])
    assert pairs == observations.listed(cells[1])
    for round, client in pairs:
        left, right = (truth.open_envelope(cell, round, client) for cell in cells)
        assert torch.equal(left.images, right.images)
        assert _equal(left.noise, right.noise)
    assert not _equal(_seen(simulated, "first")[0].update, _seen(simulated, "other-defense")[0].update)


GRANTED = {  # what a threat model grants, the value that grants it, and the fields that are empty without it
    "labels": ("known", {"labels"}),
    "batch_size": ("known", {"batch_size"}),
    "local_training": ("known", {"local"}),
    "defense": ("known", {"defense"}),
    "noise": ("known", {"noise"}),
    "auxiliary_data": ("public", {"public"}),
}


@pytest.mark.parametrize("grant", [None, *GRANTED])
def test_what_is_not_granted_is_not_loaded(simulated, grant):
    cell = simulated.cell("first")
    round, client = observations.listed(cell)[0]
    nothing = {key: "none" if key == "auxiliary_data" else "unknown" for key in GRANTED}
    given = {} if grant is None else {grant: GRANTED[grant][0]}
    seen = observations.load(cell, round, client, ThreatModel(**{**nothing, **given})).observation
    fields = set().union(*(names for _, names in GRANTED.values()))
    assert {name for name in fields if getattr(seen, name) is not None} == (GRANTED[grant][1] if grant else set())


def test_what_is_granted_is_what_was_drawn(simulated):
    cell = simulated.cell("first")
    for round, client in observations.listed(cell):
        envelope = truth.open_envelope(cell, round, client)
        seen = observations.load(cell, round, client, ThreatModel(noise="known", auxiliary_data="public")).observation
        assert torch.equal(seen.labels, envelope.labels)
        assert seen.noise
        assert _equal(seen.noise, envelope.noise)
        assert len(seen.public) == 256
        assert (seen.batch_size, seen.local.steps, seen.local.learning_rate) == (2, 1, 0.1)


@pytest.mark.parametrize(("rate", "told"), [("known", 0.5), ("unknown", 0.0)])
def test_the_dropout_rate_is_told_where_it_is_granted(simulated, rate, told):
    cell = simulated.cell("first")
    seen = observations.load(cell, *observations.listed(cell)[0], ThreatModel(dropout_rate=rate))
    assert seen.model["dropout"] == told


def _holding(folder: Path, secrets: list[torch.Tensor]) -> set[str]:
    """The files in which one of the secrets stands, whatever type its numbers were stored in."""
    kinds = (torch.uint8, torch.int64, torch.float32, torch.float64)
    needles = {secret.to(kind).numpy().tobytes() for secret in secrets for kind in kinds}
    return {path.name for path in folder.iterdir() if any(needle in path.read_bytes() for needle in needles)}


def test_the_observation_files_hold_no_truth(simulated):
    cell = simulated.cell("first")
    victims = observations.listed(cell)
    for round, client in victims:
        envelope = truth.open_envelope(cell, round, client)
        dataset = Plan(work()).dataset
        images = [image for batch in (envelope.images, dataset.normalise(envelope.images)) for image in batch]
        drawn = [mask for masks in envelope.noise.values() for mask in masks]
        assert _holding(cell / "observations", [*images, *drawn]) == set()
        assert _holding(cell / "grants", images) == set()
        own = f"round_{round}_client_{client}"
        assert _holding(cell / "grants", drawn) == {f"{own}.noise.safetensors"}
        assert _holding(cell / "truth", images) == _holding(cell / "truth", drawn) == {f"{own}.safetensors"}


def test_a_reply_that_is_not_finite_costs_its_own_rows(simulated):
    """Rounds 1 and 2 of two clients each: whoever was drawn is named, with what was wrong."""
    summary = read_json(simulated.cell("exploding") / "cell.json")
    plan = Plan(Work.from_dict(summary["work"]))
    expected = [(round, client) for round in (1, 2) for client in plan.drawn(round)]
    assert [(fault["round"], fault["client"]) for fault in summary["faults"]] == expected
    assert len(expected) == 4
    assert all(re.fullmatch(r"\S+ holds NaN or infinity", fault["reason"]) for fault in summary["faults"])
    assert observations.listed(simulated.cell("exploding")) == []
    assert len(set(summary["accuracy"])) == 1  # none of it reached the global model


def test_a_cell_that_fails_says_why_and_spares_the_others(simulated):
    assert not simulated.cell("refused").exists()
    assert "no_such_model" in read_json(simulated.cell_error("refused"))["reason"]
    assert simulated.cell("first").exists()


def test_a_process_that_dies_with_a_client_is_replaced_and_everybody_is_asked_again(simulated):
    assert (simulated.path / "died").exists()
    assert observations.listed(simulated.cell("dying")) == observations.listed(simulated.cell("factory"))
    summary = read_json(simulated.cell("dying") / "cell.json")
    assert summary["faults"] == []
    assert "lost" not in summary


def test_a_users_model_is_found_by_clients_and_reads_what_lies_in_the_users_directory(simulated):
    assert not simulated.cell_error("factory").exists()
    assert read_json(simulated.cell("factory") / "cell.json")["faults"] == []
    for seen in _seen(simulated, "factory"):
        assert sorted(tuple(value.shape) for value in seen.update.values()) == [(10,), (10, 16), (16,), (16, 784)]


def test_it_is_said_how_many_bytes_each_attacked_client_sent(simulated):
    """Of signs, also where they are sent as changed weights, whose rounding shows more values than two."""
    dense = 4 * sum(value.numel() for value in Plan(work()).model().parameters())
    found = {}
    for name in ("dp", "sum", "signs"):
        summary = read_json(simulated.cell(name) / "cell.json")
        lengths = summary["lengths"]
        plan = Plan(Work.from_dict(summary["work"]))
        drawn = [(round, client) for round in (1, 2) for client in plan.drawn(round)]
        assert [(one["round"], one["client"]) for one in lengths] == drawn
        found[name] = [one["bytes"] / dense for one in lengths]
    assert found["dp"] == found["sum"] == [1.0] * 4
    assert all(1 / 32 < share < 2.5 / 32 for share in found["signs"])  # dropped units have no sign
    [seen, *_] = _seen(simulated, "signs")
    assert len(seen.update["head.weight"].unique()) > 3


def test_differential_privacy_is_accounted_for(simulated):
    from opacus.accountants import RDPAccountant

    summary = read_json(simulated.cell("dp") / "cell.json")
    plan = Plan(Work.from_dict(summary["work"]))
    times = Counter(client for round in (1, 2) for client in plan.drawn(round))
    accountant = RDPAccountant()
    accountant.history = [(1.0, 2 / (4000 // 3), max(times.values()))]  # batches of 2 of a client's images
    assert summary["epsilon"] == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-9)
    assert summary["delta"] == 1e-5
    assert summary["accounting_note"] == "as if Poisson-sampled"


@pytest.mark.parametrize("name", ["first", "dirichlet", "utility"])
def test_accuracy_is_that_of_what_each_round_sends_and_of_the_end(simulated, name):
    cell = simulated.cell(name)
    summary = read_json(cell / "cell.json")
    plan = Plan(Work.from_dict(summary["work"]))
    states = [read_tensors(cell / f"observations/round_{round}.state.safetensors") for round in (1, 2)]
    states.append(final_state(plan, states[0], device=torch.device("cpu")))
    found = []
    for state in states:
        model = plan.model()
        model.load_state_dict(state)
        found.append(accuracy(model, plan.dataset))
    assert summary["accuracy"] == pytest.approx(found, abs=0.002)
