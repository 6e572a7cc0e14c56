"""A cell that lost clients is not final: the same command trains it again, and attacks what is then seen otherwise."""

from __future__ import annotations

import copy

import pytest
import recorded_cell

from fedsim import observations
from fedsim.federation.order import Ordered
from fedsim.federation.plan import Plan
from fedsim.files import read_json, write_json
from fedsim.runs import simulation
from fedsim.runs.directory import RunDirectory
from fedsim.runs.jobs import cell_key, jobs_of
from fedsim.scenario import every_cell, parse

SCENARIO = {
    "name": "mine",
    "model": {"name": "mlp", "width": 8},
    "federation": {"clients": 2},
    "attacks": ["null_mean"],
    "engine": {"chunk": 1},
}
WHOLE = {"faults": [], "accuracy": [], "accounting_note": ""}
LOST = {**WHOLE, "lost": [{"round": 1, "client": 1, "reason": "the client's process died"}]}


@pytest.fixture
def cell(tmp_path):
    """A scenario's cell, and the directory in which two of its clients were observed."""
    [cell] = every_cell(parse(SCENARIO))
    directory = RunDirectory(tmp_path)
    recorded_cell.record(directory.cell(cell_key(cell)), Plan(recorded_cell.work()))
    write_json(directory.cell(cell_key(cell)) / "cell.json", WHOLE)
    return cell, directory


def _jobs(cell, directory):
    return {(job.attack["name"], job.clients): job.key for job in jobs_of(directory, cell)}


def test_what_was_seen_is_part_of_a_job_while_it_may_be_seen_otherwise(cell):
    cell, directory = cell
    folder = directory.cell(cell_key(cell))
    final = _jobs(cell, directory)
    write_json(folder / "cell.json", LOST)
    before = _jobs(cell, directory)
    assert not set(before.values()) & set(final.values())
    assert _jobs(cell, directory) == before  # trained again with the same result: no attack is repeated
    file = folder / "observations" / "round_1_client_1.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\1\1\1\1")
    after = _jobs(cell, directory)
    assert {who for who in before if before[who] != after[who]} == {who for who in before if who[1] == (1,)}
    write_json(folder / "cell.json", WHOLE)
    assert _jobs(cell, directory) == final


def test_a_digest_is_of_the_rounds_so_far_and_the_clients_that_are_named(cell):
    cell, directory = cell
    folder = directory.cell(cell_key(cell))
    digest = observations.digest(folder, 1, (0,))
    assert digest != observations.digest(folder, 1, (1,))
    (folder / "observations" / "round_2_client_0.json").write_text("{}")
    assert observations.digest(folder, 1, (0,)) == digest
    assert observations.digest(folder, 2, (0,)) != digest
    next((folder / "grants").glob("round_1_client_0.labels*")).unlink()
    assert observations.digest(folder, 1, (0,)) != digest


class Children:
    """Simulations that die: `script` says, for each that is started, which of its cells it trains before that."""

    def __init__(self, script) -> None:
        self.script, self.asked = list(script), []

    def __call__(self, directory, cells: list[Ordered], address, report) -> int:
        self.asked.append([cell.target.name for cell in cells])
        for name in self.script.pop(0):
            (directory.path / "cells" / name).mkdir(parents=True)
            report()
        return -9


@pytest.mark.parametrize(
    ("script", "asked", "failed"),
    [
        (["abc"], ["abc"], ""),
        (["a", "bc"], ["abc", "bc"], ""),  # killed once: it goes on where it was
        (["a", "", "c"], ["abc", "bc", "c"], "b"),  # a cell that takes the process with it, twice
        (["", "", "bc"], ["abc", "abc", "bc"], "a"),
        (["", "", "", ""], ["abc", "abc", "bc", "bc"], "abc"),  # nothing can be trained
    ],
)
def test_a_simulation_that_dies_is_started_again_for_what_it_left(tmp_path, monkeypatch, script, asked, failed):
    directory = RunDirectory(tmp_path)
    (tmp_path / "simulation.log").write_text("and then it fell over\n")
    children, done = Children(script), []
    monkeypatch.setattr(simulation, "_run", children)
    works = {name: recorded_cell.work() for name in "abc"}
    simulation.simulate(directory, works, address="", on_done=done.append)
    assert children.asked == [list(names) for names in asked]
    for name in "abc":
        assert directory.cell(name).exists() == (name not in failed)
        assert directory.cell_error(name).exists() == (name in failed)
    for name in failed:
        assert "exit code -9 (and then it fell over)" in read_json(directory.cell_error(name))["reason"]
    assert done[-1] == 3


def test_a_cell_that_is_there_is_done_once_it_is_another(tmp_path, monkeypatch):
    directory = RunDirectory(tmp_path)
    directory.cell("a").mkdir(parents=True)
    done = []

    def child(directory, cells, address, report):
        report()
        directory.cell("new").mkdir()
        directory.cell("a").rmdir()
        directory.cell("new").rename(directory.cell("a"))
        return 0

    monkeypatch.setattr(simulation, "_run", child)
    simulation.simulate(directory, {"a": recorded_cell.work()}, address="", on_done=done.append)
    assert done == [0, 1]


def test_a_deadline_changes_no_key():
    other = copy.deepcopy(SCENARIO)
    other["federation"]["deadline"] = 0.5
    [one], [two] = every_cell(parse(SCENARIO)), every_cell(parse(other))
    assert cell_key(one) == cell_key(two)
    assert one.setting(1) == two.setting(1)
    assert two.scenario.federation.deadline == 0.5
