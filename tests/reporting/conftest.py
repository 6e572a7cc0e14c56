"""The made-up run as fixtures."""

import polars as pl
import pytest
from made_up_run import HOSTILE, SCENARIO, make_history, make_pictures, make_results


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
