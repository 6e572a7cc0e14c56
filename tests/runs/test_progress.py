"""What is said of a run while it goes on, and how a terminal shows it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from fedsim.runs import progress
from fedsim.runs.progress import Facts, Label, Score, Signal, Tracker, View, Views, clock
from fedsim.runs.terminal import EVERY, SCORED, UNDER_WAY, Lines, TerminalView, screen
from fedsim.runs.worker import Board

LONG = Label("inverting_gradients", "my_package.my_models:build", "dropout(p=0.25) + gaussian_noise(std=0.001)")


class Kept(View):
    def __init__(self) -> None:
        self.facts: list[Facts] = []
        self.closed = False

    def show(self, facts: Facts) -> None:
        self.facts.append(facts)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def now(monkeypatch):
    """The time in seconds, in a list that a test may change."""
    time = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: time[0])
    return time


def test_the_facts_follow_what_happens(now):
    kept = Kept()
    tracker = Tracker(kept, "demo", cells=3, jobs=30)
    tracker.known(cells=1, jobs=(2, 30))
    tracker.train(2)
    now[0] += 10
    tracker.trained(1)
    assert (kept.facts[-1].stage, kept.facts[-1].cells, kept.facts[-1].left) == ("training", (2, 3), 10)
    tracker.trained(2)
    tracker.known(cells=3, jobs=(2, 5))
    labels = {key: Label(key, "mlp", "none") for key in "abc"}
    tracker.attack(labels, {"a": 100, "b": 100, "c": 200})
    assert kept.facts[-1].left is None
    now[0] += 20
    tracker.under_way({"b": Signal(0.5, 0.1), "a": Signal(0.5, None)})
    assert kept.facts[-1].left == 60  # a quarter of the work in 20 seconds
    assert kept.facts[-1].under_way == ((labels["b"], Signal(0.5, 0.1)), (labels["a"], Signal(0.5, None)))
    tracker.done("a", Score(30.0, "ok"))
    tracker.done("b", Score(None, "failed"))
    last = kept.facts[-1]
    assert (last.jobs, last.failed, last.under_way, last.seconds) == ((4, 5), 1, (), 30)
    assert last.scored == ((labels["b"], Score(None, "failed")), (labels["a"], Score(30.0, "ok")))
    tracker.end("finished")
    assert (kept.facts[-1].stage, kept.closed) == ("finished", True)


def test_several_views_see_the_same(now):
    one, other = Kept(), Kept()
    tracker = Tracker(Views(one, other), "demo", cells=1, jobs=1)
    tracker.train(1)
    tracker.end("stopped")
    assert one.facts == other.facts
    assert one.closed
    assert other.closed


def _facts(jobs: int, **changes) -> Facts:
    values = {
        "scenario": "demo",
        "stage": "attacking",
        "cells": (12, 12),
        "jobs": (123, 480),
        "seconds": 3700.0,
        "left": 7384.0,
        "under_way": tuple((LONG, Signal(0.5, 1.23456e-05)) for _ in range(jobs)),
        "scored": tuple((LONG, Score(psnr, "ok" if psnr else "not_applicable")) for psnr in (31.26, None, 8.9, 7.0)),
    }
    return Facts(**{**values, **changes})


def _lines(facts: Facts, width: int = 80) -> list[str]:
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True)
    console.print(screen(facts))
    return console.export_text().splitlines()


@pytest.mark.parametrize("jobs", [0, 1, 5, 64])
def test_the_terminal_shows_the_facts_in_eighty_columns(jobs):
    lines = _lines(_facts(jobs))
    assert max(map(len, lines)) <= 80
    assert len(lines) == 2 + min(jobs, UNDER_WAY) + SCORED
    assert "12/12 cells" in lines[0]
    assert "123/480 jobs" in lines[1]
    assert "1:01:40, about 2:03:04 left" in lines[1]
    shown = [line for line in lines if "loss" in line]
    assert all("inverting" in line and "50 %" in line and "loss 1.23e-05" in line for line in shown)
    assert len(shown) == min(jobs, UNDER_WAY if jobs <= UNDER_WAY else UNDER_WAY - 1)
    assert any("and 60 more" in line for line in lines) == (jobs == 64)
    assert "31.3 dB" in lines[-3]
    assert "not applicable" in lines[-2]


def test_in_a_wide_terminal_no_name_is_cut():
    assert any(all(name in line for name in vars(LONG).values()) for line in _lines(_facts(1), width=160))


def test_a_name_is_text_and_not_markup():
    facts = _facts(0, scored=((Label("[red]x[/red]", "[/]", "[link=y]"), Score(1.0, "ok")),))
    assert "[red]x[/red] [/] [link=y]" in " ".join(_lines(facts, width=160)[-1].split())


def test_without_a_terminal_there_is_one_line_for_each_stage(now):
    written = io.StringIO()
    tracker = Tracker(TerminalView(Console(file=written, width=80)), "demo", cells=2, jobs=4)
    tracker.train(2)
    tracker.trained(1)
    tracker.trained(2)
    tracker.known(cells=2, jobs=(1, 4))
    tracker.attack({"a": LONG}, {"a": 1.0})
    for fraction in (0.1, 0.2, 0.3):
        tracker.under_way({"a": Signal(fraction, 1.0)})
    tracker.end("finished")
    assert written.getvalue().splitlines() == ["training 2 cells", "attacking 3 jobs"]


def test_without_a_terminal_it_is_said_now_and_then_how_far_it_is(now):
    written = io.StringIO()
    tracker = Tracker(TerminalView(Console(file=written, width=80)), "demo", cells=3, jobs=1000)
    tracker.train(3)
    for count in (0, 1, 1, 1, 2):
        now[0] += EVERY / 2
        tracker.trained(count)
    tracker.known(cells=3, jobs=(0, 1000))
    tracker.attack({str(key): LONG for key in range(1000)}, {str(key): 1.0 for key in range(1000)})
    for key in range(1000):
        now[0] += EVERY / 240
        tracker.done(str(key), Score(None, "failed" if key < 2 else "ok"))
    tracker.end("finished")
    lines = written.getvalue().splitlines()
    assert lines[:3] == [
        "training 3 cells",
        "trained 1 of 3 cells, about 1:00 left",
        "trained 1 of 3 cells, about 2:00 left",
    ]
    assert lines[3:5] == ["attacking 1000 jobs", "attacked 240 of 1000 jobs, 2 failed, about 1:35 left"]
    assert len(lines) == 8


def test_a_line_that_says_nothing_new_is_not_said_again(now):
    said: list[str] = []
    lines = Lines(said.append)
    for text in ("a", "a", "b", "b"):
        lines.go_on(text)
        now[0] += EVERY
    assert said == ["a", "b"]


def test_on_a_terminal_the_last_picture_stays(now):
    written = io.StringIO()
    tracker = Tracker(TerminalView(Console(file=written, width=80, force_terminal=True)), "demo", cells=1, jobs=1)
    tracker.train(1)
    tracker.trained(1)
    tracker.attack({"a": LONG}, {"a": 1.0})
    tracker.done("a", Score(31.26, "ok"))
    tracker.end("finished")
    assert "1/1 jobs" in written.getvalue()
    assert "31.3 dB" in written.getvalue()


def test_the_board_keeps_the_last_that_a_job_under_way_said():
    board = Board()
    board.say("a", Signal(0.0, None))
    board.say("b", Signal(0.5, 0.1))
    board.say("a", Signal(0.25, 0.5))
    board.forget("b")
    board.forget("unheard of")
    assert board.said() == {"a": Signal(0.25, 0.5)}


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00"), (90061, "25:01:01")]
)
def test_clock(seconds, text):
    assert clock(seconds) == text
