"""What a run needs follows from what there is to do and where: `fedsim plan`."""

from __future__ import annotations

from dataclasses import replace

import pytest
from typer.testing import CliRunner

from fedsim import scenario as scenarios
from fedsim.cli.shell import app
from fedsim.federation.waves import WAVE
from fedsim.files import write_json
from fedsim.runs import calibration, estimate, probes
from fedsim.runs.calibration import Machine
from fedsim.runs.directory import RunDirectory
from fedsim.runs.jobs import cell_key, jobs_of
from fedsim.runs.needs import Nodes, Todo, needs
from fedsim.scenario import every_cell

MACHINE = Machine(start=4.0, own=200, shared=100)
TODO = Todo(
    cells=2, simulations=1, clients=4, messages=8, training=8.0, jobs=6, attacking=60.0, longest=10.0, weight=10**6
)


def test_more_nodes_take_less_time_and_more_starts():
    one, three = needs(TODO, MACHINE, Nodes(1, 2)), needs(TODO, MACHINE, Nodes(3, 2))
    assert three.seconds < one.seconds
    assert three.starting > one.starting
    assert three.working == one.working == 68.0
    assert one.other == 0
    assert three.first == one.first
    assert 0 < three.other < three.first


def test_no_more_processes_attack_than_there_are_jobs_and_none_waits_for_less_than_the_longest():
    few = replace(TODO, jobs=1, attacking=10.0)
    wide, wider = needs(few, MACHINE, Nodes(1, 64)), needs(replace(few, cells=0), MACHINE, Nodes(1, 64))
    assert wider.starting < wide.starting
    assert needs(replace(few, longest=500.0), MACHINE, Nodes(1, 64)).seconds > 500


def test_memory_is_that_of_a_wave_however_many_clients_there_are():
    sizes = [needs(replace(TODO, messages=count), MACHINE, Nodes(1, 2)).first for count in (10, WAVE, 100 * WAVE)]
    assert sizes[0] < sizes[1] == sizes[2]


def test_what_is_done_needs_nothing():
    found = needs(Todo(), MACHINE, Nodes(1, 2))
    assert (found.starting, found.working, found.seconds) == (0, 0, 0)


def test_a_process_is_measured():
    found = calibration.measured()
    assert 0.1 < found.start < 300
    assert 20e6 < found.own < 5e9


@pytest.fixture
def tried(monkeypatch):
    """Everything that is measured takes a second."""
    monkeypatch.setattr(calibration, "measured", lambda: MACHINE)
    for name in ("attack", "client", "pretraining", "unattacked"):
        monkeypatch.setattr(probes, name, lambda *_: 1.0)


def test_the_parts_of_a_scenario_are_counted(tried, tmp_path, monkeypatch):
    counted = []
    monkeypatch.setattr(estimate, "needs", lambda todo, *rest: counted.append(todo) or needs(todo, *rest))
    words = ["--set", "federation.rounds=3", "--set", "engine.chunk=1", "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(app, ["plan", "smoke", "--nodes", "3", "--processors", "2", *words])
    assert done.exit_code == 0, done.output
    [todo] = counted
    assert (todo.cells, todo.simulations, todo.clients, todo.messages) == (2, 1, 2, 12)
    assert (todo.jobs, todo.attacking, todo.longest, todo.training) == (16, 16.0, 1.0, 12.0)
    assert todo.weight == 4 * (784 * 64 + 64 + 64 * 10 + 10)
    assert "3 x 2 processors" in done.output
    assert "on each other" in done.output
    assert not (tmp_path / "run").exists()


def test_cells_that_share_their_training_have_attacks_of_their_own(tried, tmp_path):
    more = "{attacks: [{name: inverting_gradients, iterations: 9}, first_linear]}"
    settings = f"settings=[{{attacks: [first_linear]}}, {more}]"
    todo, _ = estimate.counted(scenarios.load("smoke", [settings]), tmp_path / "run")
    one, _ = estimate.counted(scenarios.load("smoke", [settings.replace("{attacks: [first_linear]}, ", "")]), tmp_path)
    assert todo == replace(one, working=todo.working)  # nothing of the first setting is only its own


def test_what_is_attacked_already_is_left_out(tried, tmp_path):
    scenario, directory = scenarios.load("smoke"), RunDirectory(tmp_path / "run")
    for cell in every_cell(scenario):
        record = directory.cell(cell_key(cell)) / "observations" / "round_1_client_0.json"
        write_json(record, {"observation": {"round": 1, "client": 0}})
    before, _ = estimate.counted(scenario, directory.path)
    done, *_ = jobs_of(directory, every_cell(scenario)[0])
    write_json(directory.job(done.key) / "job.json", {})
    after, _ = estimate.counted(scenario, directory.path)
    assert (before.cells, after.cells) == (0, 0)
    assert after.jobs == before.jobs - 1 > 0


def test_a_dry_run_is_the_plan_of_this_machine(tried, tmp_path, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 5)
    out = ["--out", str(tmp_path / "run")]
    planned = CliRunner().invoke(app, ["plan", "smoke", *out])
    assert planned.output == CliRunner().invoke(app, ["run", "smoke", "--dry-run", *out]).output
    assert "on 5 processors" in planned.output


@pytest.mark.parametrize("words", [["--nodes", "0"], ["--processors", "-1"], ["--nodes", "many"]])
def test_nodes_that_are_none_are_refused(words):
    assert CliRunner().invoke(app, ["plan", "smoke", *words]).exit_code == 2
