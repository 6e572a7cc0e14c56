"""What is built in one place, so that what it says cannot differ from one user of it to the next."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def calls(name):
    """The files of the simulator and of the benchmarks that call this, relative to the root."""
    files = [path for folder in ("fedsim", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    for path in sorted(files):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == name:
                yield path.relative_to(ROOT).as_posix()


def test_what_a_server_sees_of_a_clients_round_is_put_together_once():
    # the others are given one: as it lies on disk, and as somebody else's Flower app sent it
    assert {*calls("Observation")} == {"fedsim/local.py", "fedsim/observations.py", "fedsim/audit/observing.py"}
