"""A repetition against what an entry records: when it agrees, when it does not, and what else differs."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from made_up_run import SCENARIO, board_rows, make_pictures, row, unscored
from rich.console import Console

from fedsim import table
from fedsim.errors import BadInput
from fedsim.reporting import entries, verification
from fedsim.runs.repeat import repetition
from fedsim.scenario import every_cell
from fedsim.version import __version__

HERE = {"torch": "2.9", "processor": "AMD EPYC", "vector": "AVX512", "threads": 1}
MARKER = {"name": SCENARIO["name"], "scenario": SCENARIO, "command": "fedsim run made-up"}


def computed_in(rows, **changed):
    return rows.with_columns(
        environment=pl.lit(json.dumps({**HERE, **changed}, sort_keys=True)), fedsim_version=pl.lit(__version__)
    )


def recorded(psnr):
    return table.frame([row(attack="cut", client=i, psnr=value) for i, value in enumerate(psnr)])


VALUES = [20.0, 30.0, 31.0, 32.0, 33.0, 34.0, 40.0, 50.0, 130.0]


@pytest.fixture(scope="module")
def entry():
    [(made, _)] = entries.entries_of(computed_in(recorded(VALUES)), make_pictures, MARKER)
    return made


def found(entry, repeated, *, together=9, formerly=9, **changed):
    rows = computed_in(recorded(repeated), **changed)
    return verification.compare(entry, rows, together=together, formerly=formerly)


def test_equal_numbers_agree_also_for_a_part_of_the_victims(entry):
    finding = found(entry, VALUES)
    assert (finding.outcome, finding.differences, len(finding.victims)) == ("agrees", (), 9)
    assert len(found(entry, VALUES[:3]).victims) == 3
    assert found(entry, [*VALUES[:-1], 105.0]).outcome == "agrees"  # both at the cap of a summary


@pytest.mark.parametrize(("shift", "outcome"), [(0.09, "agrees"), (-0.09, "agrees"), (0.2, "differs"), (-3, "differs")])
def test_in_equal_circumstances_a_tenth_of_a_decibel_is_allowed(entry, shift, outcome):
    assert found(entry, [VALUES[0] + shift, *VALUES[1:]]).outcome == outcome


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"torch": "2.8"}, ("torch", "2.9", "2.8")),
        ({"threads": 2}, ("threads", "1", "2")),
        ({"together": 3}, ("victims attacked at once", "9", "3")),
    ],
)
def test_in_other_circumstances_the_median_must_lie_in_the_interval(entry, changed, named):
    near = found(entry, [31.0, 31.5, 32.5, 33.0, 33.5, 35.0, 40.0, 41.0], **changed)
    assert (near.outcome, near.differences) == ("agrees", (named,))
    far = found(entry, [12.0] * 8, **changed)
    assert (far.outcome, far.differences) == ("other environment", (named,))


def test_victims_that_are_repeated_exactly_agree_wherever_their_median_lies(entry):
    assert VALUES[0] + 1 < entry.scores.psnr.low
    assert found(entry, VALUES[:1], torch="2.8").outcome == "agrees"
    assert found(entry, [VALUES[0] + 1], torch="2.8").outcome == "agrees"  # nearer to the interval than it was
    assert found(entry, [VALUES[0] - 1], torch="2.8").outcome == "other environment"


def test_another_version_and_another_device_are_named(entry):
    rows = computed_in(recorded([12.0] * 8)).with_columns(fedsim_version=pl.lit("x"), device=pl.lit("NVIDIA H200"))
    older = entry.model_copy(update={"source": entry.source.model_copy(update={"fedsim_version": "0.0.1"})})
    finding = verification.compare(older, rows, together=9, formerly=9)
    assert finding.outcome == "other environment"
    assert finding.differences == (("fedsim", "0.0.1", __version__), ("device", "cpu", "NVIDIA H200"))


def test_an_entry_that_does_not_say_what_it_was_computed_with_never_counts_as_the_same(entry):
    silent = entry.model_copy(update={"source": entry.source.model_copy(update={"environments": []})})
    finding = found(silent, [12.0] * 8)
    assert finding.outcome == "other environment"
    assert ("torch", "unknown", "2.9") in finding.differences


def test_the_number_of_cores_is_no_other_device(entry):
    few = entry.model_copy(update={"source": entry.source.model_copy(update={"hardware": ["AMD EPYC, 2 cores"]})})
    rows = computed_in(recorded(VALUES)).with_columns(device=pl.lit("AMD EPYC, 64 cores"))
    assert verification.compare(few, rows, together=9, formerly=9).differences == ()


def test_no_answer_where_there_was_one_differs_even_if_the_floor_scores_the_same(entry):
    rows = [row(attack="cut", client=i, psnr=value) for i, value in enumerate(VALUES[1:], start=1)]
    rows += [unscored(status="failed", reason="x", observed=True, attack="cut", client=0)]
    rows += [row(attack="null_mean", client=0, psnr=20.0)]
    finding = verification.compare(entry, computed_in(table.frame(rows)), together=9, formerly=9)
    assert finding.outcome == "differs"
    assert [victim.alike for victim in finding.victims] == [False] + [True] * 8


def test_other_victims_are_no_repetition(entry):
    rows = computed_in(recorded(VALUES)).with_columns(seed=pl.lit(5))
    with pytest.raises(BadInput, match="does not have the victims"):
        verification.compare(entry, rows, together=9, formerly=9)


def test_the_table_names_each_victim_and_what_differs(entry):
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(verification.terminal(found(entry, [12.0, *VALUES[1:]], torch="2.8")))
    lines = console.export_text().splitlines()
    assert all(word in lines[1] for word in ("client 0", "20.0", "12.0", "differs"))
    assert "differs" not in lines[2]
    assert any(line.startswith("agrees: 8 of 9 victims within 0.1 dB; their median") for line in lines)
    assert "torch: 2.9; here 2.8" in lines[-1]


def test_the_repositorys_entries_can_be_repeated_here():
    collection = entries.read(Path(__file__).parents[2] / "leaderboard" / "entries").entries
    first = {(entry.source.scenario, entry.setting.label): entry for entry in collection.values()}
    for entry in first.values():
        seed = entry.victims.values[0].seed
        again = repetition(verification.part_of(entry, seed=seed, clients=1))
        [cell] = every_cell(again.scenario)
        assert cell.seed == seed
        assert cell.setting(cell.scenario.victims.rounds[0]).get("start") == entry.setting.conditions.get("start")
        assert len(cell.defense) == len(entry.defense.parts)
        for part, said in zip(cell.defense, entry.defense.parts):
            assert part.items() >= said.items()  # a parameter that came later has its default


def test_a_verification_stays_with_an_entry_until_its_numbers_change(tmp_path):
    results = computed_in(board_rows(cut=30.0)).with_columns(job=pl.lit("a"), picture=pl.lit(0))
    images = np.arange(16 * 16, dtype=np.uint8).reshape(1, 16, 16, 1)

    def submit(rows):
        [path] = entries.submit(tmp_path, rows, lambda job: (images, images), MARKER)
        return entries.read_one(path)

    first = submit(results)
    assert first.verified == []
    verified = found_again = verification.compare(first, results, together=9, formerly=9).verification("2030-01-02")
    entries.write(tmp_path, first.model_copy(update={"verified": [verified]}))
    assert entries.read(tmp_path).problems == []
    assert submit(results.with_columns(pl.col("seconds") + 1)).verified == [found_again]
    assert (verified.outcome, verified.victims, verified.environment) == ("agrees", 8, HERE)
    assert submit(results.with_columns(pl.col("psnr") + 0.01)).verified == []
