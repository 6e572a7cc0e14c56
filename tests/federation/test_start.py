"""The attacked model can be a trained one: paired across defenses, better with more steps, told apart in every row."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from federation_cells import BASE, MODELS, PHOTOS, TRAINED, checkpoint, work

from fedsim.federation.accuracy import accuracy
from fedsim.federation.plan import Plan
from fedsim.federation.start import initial_state, pretrained, pretrained_file
from fedsim.files import read_json, read_tensors
from fedsim.reporting import leaderboard
from fedsim.runs.attack import attack
from fedsim.runs.directory import RunDirectory
from fedsim.runs.jobs import cell_key, jobs_of
from fedsim.runs.results import assemble, score_key
from fedsim.scenario import every_cell, parse
from fedsim.scoring.job import score_job


def _pretrained(steps: int, *, local: dict | None = None, batch_size: int = 32, rate: float = 0.5, lr=0.1, **changes):
    block = {"steps": steps, "batch_size": batch_size, "learning_rate": lr, "dropout": rate}
    return Plan(work(local, start={"pretrain": block}, **changes))


def _equal(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def _accuracy(plan: Plan, state) -> float:
    model = plan.model()
    model.load_state_dict(state)
    return accuracy(model, plan.dataset)


@pytest.mark.parametrize(("name", "steps"), [("mlp", (0, 40, 160)), ("lenet", (0, 40, 240)), ("vit", (0, 10, 60))])
def test_accuracy_rises_with_the_steps(name, steps):
    model, data = MODELS[name]
    plan = _pretrained(1, model=model, data=data, rate=0.1)
    accuracies = [_accuracy(plan, pretrained(plan, steps=count)) for count in steps]
    assert accuracies[0] < 0.3
    assert accuracies[0] < accuracies[1] < accuracies[2]
    assert accuracies[2] > 0.5


def test_what_the_federation_does_cannot_change_the_pretrained_weights(tmp_path):
    plans = [
        _pretrained(20),
        _pretrained(20, defense=[{"name": "clip", "norm": 1.0}]),
        _pretrained(20, model={**BASE["model"], "dropout": 0.75}),  # as the `dropout` defense replaces it
        _pretrained(20, local={"share": "weights", "steps": 3, "learning_rate": 0.5}),
        _pretrained(20, data={**BASE["data"], "partition": {"kind": "dirichlet", "alpha": 1.0}}),
    ]
    states = [initial_state(plan, tmp_path / str(i)) for i, plan in enumerate(plans)]
    assert all(_equal(states[0], state) for state in states[1:])
    assert len({pretrained_file(plan.work, tmp_path) for plan in plans}) == 1
    double = initial_state(_pretrained(20, local={"precision": "float64"}), tmp_path / "0")
    assert all(torch.equal(value.double(), double[name]) for name, value in states[0].items())
    assert all(value.dtype == torch.float64 for value in double.values())


def test_what_it_is_made_of_does_change_them(tmp_path):
    plans = [
        _pretrained(20),
        _pretrained(21),
        _pretrained(20, lr=0.2),
        _pretrained(20, batch_size=16),
        _pretrained(20, rate=0.25),
        _pretrained(20, seed=1),
        _pretrained(20, model={**BASE["model"], "activation": "relu"}),
        _pretrained(20, data={**BASE["data"], "image_size": 20}),
    ]
    edited = _pretrained(20, source="0123")  # the user's own model function, changed since
    assert len({pretrained_file(plan.work, tmp_path) for plan in [*plans, edited]}) == len(plans) + 1
    states = [pretrained(plan) for plan in plans]
    for state in states[1:]:
        assert not _equal(states[0], state)


def test_it_is_trained_once_and_kept(tmp_path, monkeypatch):
    plan = _pretrained(5)
    first = initial_state(plan, tmp_path)
    assert _equal(read_tensors(pretrained_file(plan.work, tmp_path)), first)
    monkeypatch.setattr("fedsim.federation.start.pretrained", lambda plan: pytest.fail("trained again"))
    assert _equal(initial_state(plan, tmp_path), first)


def test_it_repeats_to_the_bit_and_leaves_the_global_generator_alone():
    plan = _pretrained(5)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = pretrained(plan)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert _equal(first, pretrained(plan))


def test_dropout_is_active_and_batch_norm_follows_the_data():
    assert not _equal(pretrained(_pretrained(5, rate=0.0)), pretrained(_pretrained(5, rate=0.5)))
    plan = _pretrained(3, model=MODELS["resnet18"][0], data=PHOTOS)
    fresh, state = plan.model().state_dict(), pretrained(plan)
    moved = [name for name in state if "running" in name and not torch.equal(state[name], fresh[name])]
    assert moved
    assert all(int(value) == 3 for name, value in state.items() if name.endswith("num_batches_tracked"))


def test_a_batch_may_be_larger_than_the_data(tmp_path):
    plan = _pretrained(1, batch_size=4500)
    assert len(plan.dataset.train_labels) == 4000
    assert not _equal(pretrained(plan), plan.model().state_dict())


@pytest.mark.parametrize("steps", [2, 8])
def test_a_pretraining_that_diverges_says_so(steps):
    with pytest.raises(RuntimeError, match=r"diverged in step 2; lower model\.pretrain\.learning_rate"):
        pretrained(_pretrained(steps, lr=1e38))


def test_a_checkpoint_is_what_the_first_round_sends(simulated):
    cell = simulated.cell("checkpoint")
    assert cell.exists(), simulated.log.read_text()[-3000:]
    sent = read_tensors(cell / "observations" / "round_1.state.safetensors")
    assert _equal(sent, read_tensors(checkpoint(simulated.path)))
    assert not _equal(sent, read_tensors(simulated.cell("first") / "observations" / "round_1.state.safetensors"))


@pytest.fixture(scope="module")
def rows(simulated, tmp_path_factory):
    """The table of the scenario, its null attacks run in this process, on a copy: others read what was trained."""
    scenario = parse(TRAINED)
    copied = tmp_path_factory.mktemp("attacked") / "run"
    simulated = RunDirectory(shutil.copytree(simulated.path, copied))
    for cell in every_cell(scenario):
        for job in jobs_of(simulated, cell):
            attack(simulated.cell(job.cell), simulated.job(job.key), job)
            target = simulated.score(score_key(job, scenario))
            place = simulated.cell(job.cell), simulated.job(job.key), target
            score_job(*place, key=target.name, metrics=scenario.metrics)
    return assemble(simulated, scenario)


def test_every_defense_is_attacked_on_the_same_pretrained_weights(simulated):
    cells = every_cell(parse(TRAINED))[3:]
    assert [cell.defense_label for cell in cells] == ["none", "dropout(p=0.75)", "gaussian_noise(std=0.01)"]
    folders = [simulated.cell(cell_key(cell)) for cell in cells]
    assert all(folder.exists() for folder in folders), simulated.log.read_text()[-3000:]
    states = [read_tensors(folder / "observations" / "round_1.state.safetensors") for folder in folders]
    assert _equal(states[0], states[1])
    assert _equal(states[0], states[2])
    [kept] = simulated.pretrained.glob("*.safetensors")
    assert _equal(read_tensors(kept), states[0])
    assert [read_json(folder / "cell.json")["dropout"] for folder in folders] == [0.5, 0.75, 0.5]


def test_the_attacker_is_not_told_how_the_model_was_trained(simulated):
    cell = simulated.cell(cell_key(every_cell(parse(TRAINED))[3]))
    for path in (cell / "observations").glob("*.json"):
        assert "pretrain" not in path.read_text()


def test_every_row_has_its_models_state_and_accuracy(simulated, rows):
    assert rows["status"].unique().to_list() == ["ok"]
    states = {}
    for row in rows.iter_rows(named=True):
        steps = json.loads(row["model_params"]).get("pretrain", {}).get("steps", 0)
        states.setdefault((steps, row["round"]), set()).add(row["model_state"])
        history = read_json(simulated.cell(row["cell"]) / "cell.json")["accuracy"]
        assert row["model_accuracy"] == history[row["round"] - 1]
        if row["round"] == 1:
            assert (row["model_accuracy"] > 0.5) == (steps == 150)
    assert states == {(0, 1): {"init"}, (0, 2): {"round_1"}, (150, 1): {"pretrained"}, (150, 2): {"round_1"}}


def test_a_failed_federation_still_says_what_would_have_been_attacked(simulated, tmp_path):
    from fedsim.files import write_json
    from fedsim.runs.directory import RunDirectory

    scenario = parse({**TRAINED, "sweep": {}, "model": {**TRAINED["model"], "pretrain": {"steps": 9}}})
    empty = RunDirectory(tmp_path)
    for cell in every_cell(scenario):
        write_json(empty.cell_error(cell_key(cell)), {"reason": "RuntimeError: pretraining diverged in step 3"})
    rows = assemble(empty, scenario)
    assert set(rows["status"]) == {"failed"}
    assert set(rows.select("round", "model_state", "model_accuracy").iter_rows()) == {
        (1, "pretrained", None), (2, "round_1", None),
    }  # fmt: skip


def test_the_leaderboard_keeps_trained_and_untrained_apart_and_says_which(rows):
    board = leaderboard.build(rows)
    labels = board["setting_label"].unique(maintain_order=True).to_list()
    starts = {(label.split(" · ")[2], label.split(" · ")[4]) for label in labels}
    assert starts == {(start, f"round {k}") for start in ("init", "pretrained") for k in (1, 2)}
    entries = ["setting_label", "defense_label", "attack_label"]
    assert not board.select(entries).is_duplicated().any()
    assert board.height == 2 * 2 * 3 * 2  # starts, rounds, defenses, floors


def test_what_tells_two_pretrainings_apart_is_shown(rows):
    import polars as pl

    first = rows.filter((pl.col("round") == 1) & (pl.col("model_state") == "pretrained"))
    longer = first.with_columns(
        pl.col("model_params", "setting").str.replace('"steps": 150', '"steps": 900'), pl.lit("other").alias("cell")
    )
    assert not (longer["setting"] == first["setting"]).any()
    labels = set(leaderboard.build(pl.concat([first, longer]))["setting_label"])
    assert len(labels) == 2
    assert {steps for steps in ("150", "900") for label in labels if steps in label} == {"150", "900"}


def test_cells_share_their_start_unless_the_defense_adds_parameters():
    """What a client starts from is sent once for all cells; a model with a bottleneck has a state of its own."""
    from fedsim.federation.workers import start_key

    plain = work()
    assert start_key(replace(plain, defense=({"name": "clip", "norm": 1.0},))) == start_key(plain)
    assert start_key(replace(plain, defense=({"name": "dropconnect", "p": 0.1},))) == start_key(plain)
    assert start_key(replace(plain, defense=({"name": "precode"},))) != start_key(plain)
    assert start_key(replace(plain, defense=({"name": "lora_dropout"},))) != start_key(plain)


def test_adapters_are_added_to_the_pretrained_model(tmp_path):
    lora = [{"name": "lora_dropout", "rank": 2}]
    plain, adapted = _pretrained(2), _pretrained(2, defense=lora)
    assert pretrained_file(plain.work, tmp_path) == pretrained_file(adapted.work, tmp_path)
    start, alike = initial_state(plain, tmp_path), initial_state(adapted, tmp_path)
    assert all(torch.equal(value, alike[name]) for name, value in start.items())
    others = alike.keys() - start.keys()
    assert others
    assert all(".lora." in name and bool(alike[name].any()) == name.endswith("down.weight") for name in others)
    path = checkpoint(tmp_path)
    own = {"checkpoint": {"path": str(path), "content": None}}
    loaded = initial_state(Plan(work(start=own, defense=lora)), tmp_path)
    assert all(torch.equal(value, loaded[name]) for name, value in read_tensors(path).items())
    assert loaded.keys() == alike.keys()
