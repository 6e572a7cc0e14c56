"""The made-up run as fixtures, and the command line."""

import sys

import polars as pl
import pytest
from made_up_run import HOSTILE, SCENARIO, make_history, make_pictures, make_results

from fedsim import cli


@pytest.fixture(scope="session")
def results() -> pl.DataFrame:
    return make_results()


@pytest.fixture(scope="session")
def pictures():
    return make_pictures


@pytest.fixture
def report_inputs():
    return {
        "scenario": SCENARIO,
        "history": make_history(),
        "command": f"fedsim run made-up --set 'name={HOSTILE}'",
        "versions": {"fedsim": "0.1.0", "torch": "2.13.0"},
    }


@pytest.fixture
def fedsim(monkeypatch, capfd):
    """Run a command line in this process; its exit code, its output and its error output."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["fedsim", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "120")
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, *capfd.readouterr()

    return run
