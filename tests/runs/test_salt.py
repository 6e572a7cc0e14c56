"""A salted run: an attack that draws the client's batch and masks again is stopped, all else stays as it is."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import recorded_cell
import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from typer.testing import CliRunner

from fedsim import api, random
from fedsim.cli import app
from fedsim.errors import BadInput
from fedsim.federation import client as flower_client
from fedsim.federation import server
from fedsim.federation.plan import Plan
from fedsim.files import read_json, write_json
from fedsim.local import train
from fedsim.paths import USER_PATH
from fedsim.random import generator_for, rng_for, salted, seed_for
from fedsim.recording.eavesdropper import Eavesdropper
from fedsim.runs import execute as executing
from fedsim.runs.directory import MARKER
from fedsim.runs.execute import execute
from fedsim.runs.jobs import cell_key, cells_of
from fedsim.runs.salt import hash_of, settle
from fedsim.scenario import every_cell, parse
from fedsim.truth import unpack

SALT = "0123456789abcdef" * 2
OTHER = "f" * 32


def _drawn_again(plan: Plan, seen: dict[str, torch.Tensor], state: dict[str, torch.Tensor], guesses: int):
    """A cheating attack: what the client trained on and drew, if some small seed explains the update."""
    for seed in range(guesses):
        guess = Plan(replace(plan.work, seed=seed))
        pixels, labels = guess.batch(0, 1)
        model = plan.model()
        model.load_state_dict(state)
        where = {"local": plan.local, "defense": plan.defense(), "seed": seed, "client": 0, "round": 1}
        replayed = train(model, plan.dataset.normalise(pixels), labels, **where)
        if all(torch.equal(replayed.arrays[name], value) for name, value in seen.items()):
            return pixels, replayed.played.drawn
    return None


@pytest.mark.parametrize("salt", ["", SALT], ids=["unsalted", "salted"])
def test_drawing_batches_and_masks_again_from_a_guessed_seed_is_stopped_by_a_salt(salt):
    plan = Plan(replace(recorded_cell.work(), seed=3), salt)
    pixels, labels = plan.batch(0, 1)
    model = plan.model()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    where = {"local": plan.local, "defense": plan.defense(), "seed": plan.client_seed, "client": 0, "round": 1}
    honest = train(model, plan.dataset.normalise(pixels), labels, **where)
    found = _drawn_again(plan, honest.arrays, state, guesses=6)
    if salt:
        assert found is None
    else:
        assert torch.equal(found[0], pixels)
        assert all(torch.equal(found[1][layer], noise) for layer, noise in honest.played.drawn.items())


def test_a_salt_changes_what_clients_draw_and_nothing_else():
    work = recorded_cell.work()
    plain, one, again, other = Plan(work), Plan(work, SALT), Plan(work, SALT), Plan(work, OTHER)
    assert all(np.array_equal(left, right) for left, right in zip(plain.partition(), one.partition(), strict=True))
    weights = [list(plan.model().state_dict().values()) for plan in (plain, one)]
    assert all(torch.equal(left, right) for left, right in zip(*weights, strict=True))
    batches = [plan.batch(0, 1)[0] for plan in (plain, one, again, other)]
    assert torch.equal(batches[1], batches[2])
    assert not any(torch.equal(batches[1], batches[place]) for place in (0, 3))


def test_unsalted_seeds_are_what_they_were():
    assert seed_for(0, "noise", client=1, round=2) == 3981844573691387808
    assert rng_for(7, "batch", client=0, round=1).integers(1000, size=4).tolist() == [284, 338, 916, 108]
    generator = generator_for(0, "defense", client=0, round=1)
    assert torch.randint(1000, (4,), generator=generator).tolist() == [496, 420, 933, 167]


def test_a_salted_generator_is_not_one_of_the_few_that_torch_can_be_seeded_with(monkeypatch):
    """Of a seed torch's generator on the CPU takes 32 bits: two salts that share these must not draw the same."""
    monkeypatch.setattr(random, "seed_for", lambda *args, **names: 5)
    one, other = (torch.rand(4, generator=generator_for(salted(0, salt), "noise")) for salt in (SALT, OTHER))
    assert not torch.equal(one, other)
    draws = torch.rand(20_000, generator=generator_for(salted(0, SALT), "noise"))
    assert draws.mean().item() == pytest.approx(0.5, abs=0.01)
    assert draws.std().item() == pytest.approx(12**-0.5, abs=0.01)


def _begun(path, salt: str | None):
    path.mkdir()
    write_json(path / MARKER, {"name": "demo", "salted": salt is not None})
    if salt is not None:
        (path / "truth").mkdir()
        (path / "truth" / "salt").write_text(salt + "\n")
    return path


def test_a_new_run_has_the_salt_that_is_asked_for(tmp_path):
    path = tmp_path / "new"
    assert settle(path, False, fresh=False) is None
    assert settle(path, SALT.upper(), fresh=False) == SALT
    first, second = settle(path, True, fresh=False), settle(path, True, fresh=False)
    assert re.fullmatch("[0-9a-f]{32}", first)
    assert first != second
    assert not path.exists()


def test_a_salted_run_goes_on_with_its_salt(tmp_path):
    path = _begun(tmp_path / "run", SALT)
    assert [settle(path, asked, fresh=False) for asked in (False, True, SALT)] == [SALT] * 3
    with pytest.raises(BadInput, match="another salt"):
        settle(path, OTHER, fresh=False)
    assert settle(path, True, fresh=True) not in (SALT, None)
    assert settle(path, OTHER, fresh=True) == OTHER
    assert settle(path, False, fresh=True) is None
    (path / "truth" / "salt").unlink()  # as if it was killed before it had written it
    assert settle(path, False, fresh=False) is not None


def test_an_unsalted_run_cannot_be_salted_afterwards(tmp_path):
    path = _begun(tmp_path / "run", None)
    assert settle(path, False, fresh=False) is None
    for asked in (True, SALT):
        with pytest.raises(BadInput, match="without a salt"):
            settle(path, asked, fresh=False)
    assert settle(path, SALT, fresh=True) == SALT


@pytest.mark.parametrize("salt", ["", "abc", "g" * 32, SALT + "0"])
def test_what_is_no_salt_is_refused(tmp_path, salt):
    with pytest.raises(BadInput, match="32 hexadecimal digits"):
        settle(tmp_path / "run", salt, fresh=False)


SCENARIO = {
    "name": "demo",
    "model": {"name": "mlp", "width": 16, "depth": 1},
    "federation": {"clients": 2, "clients_per_round": 2},
    "attacks": ["null_mean"],
    "metrics": ["mse"],
    "defenses": ["none"],
}


def test_only_the_hash_of_a_salt_is_outside_of_truth(tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(executing, "_bring_up_to_date", lambda directory, cells, *rest: trained.extend(cells))
    scenario = parse(SCENARIO)
    directory = execute(scenario, tmp_path / "demo", command="fedsim run demo --salt", salt=SALT)
    assert directory.salt() == SALT
    assert directory.marker()["salted"] is True
    files = [path for path in directory.path.rglob("*") if path.is_file()]
    assert [path for path in files if SALT.encode() in path.read_bytes()] == [directory.path / "truth" / "salt"]
    [salted_cell], [plain] = trained, every_cell(scenario)
    assert salted_cell.work() == replace(plain.work(), salt=hash_of(SALT))
    assert cell_key(salted_cell) != cell_key(plain)
    assert salted_cell.setting(1) == plain.setting(1)
    assert [cell_key(cell) for cell in cells_of(directory, scenario)] == [cell_key(salted_cell)]
    with pytest.raises(BadInput, match="another salt"):
        execute(scenario, directory.path, command="", salt=OTHER)
    assert directory.salt() == SALT
    execute(scenario, directory.path, command="", fresh=True)
    assert (directory.salt(), directory.marker()["salted"]) == (None, False)


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (["smoke"], False),
        (["--salt", "smoke"], True),
        (["smoke", "--salt"], True),
        (["smoke", "--salt", "--fresh"], True),
        (["smoke", "--salt", SALT], SALT),
        (["--salt", SALT, "smoke"], SALT),
        ([f"--salt={SALT}", "smoke"], SALT),
    ],
    ids=str,
)
def test_the_command_line_takes_a_salt_with_or_without_its_digits(tmp_path, monkeypatch, words, asked):
    class Asked(Exception):
        pass

    def run(scenario, **keywords):
        raise Asked(keywords["salt"], keywords["command"])

    monkeypatch.setattr(api, "run", run)
    outcome = CliRunner().invoke(app, ["run", *words, "--out", str(tmp_path / "run")])
    assert outcome.exception.args[0] == asked
    assert type(outcome.exception.args[0]) is type(asked)
    assert outcome.exception.args[1] == "fedsim run smoke" + (" --salt" if asked else "")


@pytest.mark.parametrize("word", ["--salt=xyz", "--salt=abc"])
def test_a_bad_salt_on_the_command_line_is_one_line(tmp_path, word):
    outcome = CliRunner().invoke(app, ["run", "smoke", word, "--out", str(tmp_path / "run")])
    assert isinstance(outcome.exception, BadInput)
    assert outcome.exception.exit_code == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("words", [["smoke", "--salt", "xyz"], ["--salt", "xyz", "smoke"]], ids=str)
def test_a_bad_salt_after_a_space_names_the_option(tmp_path, words):
    outcome = CliRunner().invoke(app, ["run", *words, "--out", str(tmp_path / "run")])
    assert isinstance(outcome.exception, BadInput)
    assert "--salt xyz" in str(outcome.exception)
    assert "32 hexadecimal digits" in str(outcome.exception)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("salt", ["", SALT], ids=["unsalted", "salted"])
def test_a_flower_client_trains_on_what_the_salt_says(salt, monkeypatch):
    monkeypatch.setenv(USER_PATH, "")  # the client sets it
    plan = Plan(recorded_cell.work(), salt)
    described = json.dumps(plan.work.to_dict())
    config = {"work": described, "salt": salt, "user-path": json.dumps([os.getcwd()]), "server-round": 1}
    config |= {"deadline": 60.0}
    content = RecordDict({"arrays": ArrayRecord(plan.model().state_dict()), "config": ConfigRecord(config)})
    monkeypatch.setattr(flower_client, "Message", lambda content, reply_to: content)
    context = SimpleNamespace(node_config={"partition-id": 0}, state=RecordDict({}))
    reply = flower_client.train_round(SimpleNamespace(content=content), context)
    sealed = unpack(reply.config_records[flower_client.TRUTH]["safetensors"])
    assert torch.equal(sealed.images, plan.batch(0, 1)[0])
    assert SALT not in str(reply)


def test_the_salt_is_not_among_what_flower_writes_into_its_log(monkeypatch):
    """Flower logs what a strategy is started with; the salt joins it in the messages to the clients."""
    strategies, started = [], {}

    def eavesdropper(*args, **keywords):
        strategies.append(Eavesdropper(*args, **keywords))
        monkeypatch.setattr(strategies[0], "start", lambda *args, **keywords: started.update(keywords))
        return strategies[0]

    monkeypatch.setattr(server, "Eavesdropper", eavesdropper)
    plan = Plan(recorded_cell.work(), SALT)
    view = SimpleNamespace(partition_of={}, envelopes={}, lost=set(), at_once=lambda: 1)
    grid = SimpleNamespace(first=lambda clients, deadline: view)
    server._run_rounds(grid, plan, server.CaptureWriter(plan, None), plan.model().state_dict(), 60.0)
    assert SALT not in str(dict(started["train_config"]))
    served = strategies[0].strategy.strategy
    monkeypatch.setattr(served.strategy, "configure_train", lambda round, arrays, config, grid: [])
    strategies[0].configure_train(1, ArrayRecord({}), started["train_config"], grid)
    assert started["train_config"]["salt"] == SALT


def test_the_observation_of_a_salted_client_does_not_hold_the_salt(tmp_path):
    recorded_cell.record(tmp_path, Plan(recorded_cell.work(), SALT))
    held = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert SALT.encode() not in held
    assert not any("salt" in str(read_json(path)) for path in tmp_path.rglob("*.json"))
