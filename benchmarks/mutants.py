"""How much the tests notice: small wrong changes of the code, one at a time, and whether any quick test fails of them.

    python benchmarks/mutants.py --mutants 400 --table docs/mutants.md

A mutant (`mutation.py`) is drawn by seed and name, so that a sample stays the same where code is added elsewhere. It is
tried in a process of its own, in whose imports its file is exchanged; no file is written. Of the tests that call the
function it stands in, up to `--seconds` are run, until one fails: of each test file the quickest ones.
Tests that start a federation are not among them. The first call measures which test calls what; `build/mutants` keeps
that, for as long as the sources stay as they are. `--again` runs those alone that survived the last time, after tests
were added.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.machinery
import json
import os
import re
import resource
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, NoReturn

import hypothesis
import pytest
from mutation import Mutant, mutants, mutated

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "build" / "mutants"
CODE = ["attacks", "defenses", "fedsim/scoring"]
DEFAULTS = "tests/cli/test_documents.py::test_the_reference_is_what_the_command_writes"
"""Reads the defaults of arguments, which no test calls: it is run for all that importing executes."""
TESTS = ["tests/attacks", "tests/defenses", "tests/scoring", "tests/models", DEFAULTS]
THEIRS = ["torch", "numpy", "polars", "pydantic", "safetensors.torch", "scipy.optimize", "scipy.stats", "skimage"]

Calls = dict[str, tuple[float, list[list[str | int]]]]
"""For each test its seconds, and the functions that it calls: file and first line."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--code", nargs="+", default=CODE, help="folders, or files")
    parser.add_argument("--mutants", type=int, default=400, help="how many are drawn from all of them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60, help="of tests, for each mutant")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--again", action="store_true", help="only those that survived the last time")
    parser.add_argument("--table", type=Path, help="write the table here")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    _import_what_is_not_ours()
    drawn = draw([one for file in sources(arguments.code) for one in mutants(str(file), file.read_text())], arguments)
    known = calls(sources(["attacks", "defenses", "fedsim"]), arguments.processes)
    last: dict[str, dict[str, Any]] = _read(KEPT / "outcomes.json") if arguments.again else {}
    tasks = {one.key: Task(one, tests_of(one, known, arguments.seconds)) for one in drawn}
    done = {key: Outcome(**last[key]) for key in tasks if key in last and last[key]["killed"]}
    started = time.perf_counter()
    for key, answer in _in_children({k: task.run for k, task in tasks.items() if k not in done}, arguments.processes):
        done[key] = Outcome(bool(answer), answer or "", len(tasks[key].tests))
        print(f"{len(done)}/{len(tasks)} {'killed  ' if answer else 'SURVIVED'} {key} {answer}", flush=True)
        _write(KEPT / "outcomes.json", {k: asdict(outcome) for k, outcome in done.items()})
    killed = sum(outcome.killed for outcome in done.values())
    print(f"{killed} of {len(done)} killed ({killed / len(done):.1%}), {(time.perf_counter() - started) / 60:.0f} min")
    if arguments.table:
        arguments.table.write_text(table(drawn, done, arguments))


def sources(names: list[str]) -> list[Path]:
    """The Python files among these files and folders, relative to the root."""
    return sorted({path for name in names for path in [*Path(name).rglob("*.py"), Path(name)] if path.is_file()})


def draw(found: list[Mutant], arguments: argparse.Namespace) -> list[Mutant]:
    """So many of them, by a hash of the seed and their names."""
    ranked = sorted(found, key=lambda one: hashlib.sha256(f"{arguments.seed}|{one.key}".encode()).digest())
    return ranked[: arguments.mutants]


@dataclass(frozen=True)
class Outcome:
    """Args:
    by: the test that failed, or what else happened.
    tests: how many were there to be run.
    """

    killed: bool
    by: str
    tests: int


def tests_of(mutant: Mutant, known: Calls, seconds: float) -> list[str]:
    """Tests that execute its function, or, for what importing executes, any function of its file.

    The files take turns, each with the quickest test that it has left, so that no file takes all the time; a file costs
    a second besides. Those that speak of it have half of the time to themselves. What was chosen of the file that is
    most about it is run first (most of its tests reach it, and they call little else).
    """

    def reaches(test: str) -> bool:
        if mutant.first_line:
            return [mutant.file, mutant.first_line] in known[test][1]
        return test == DEFAULTS or any(file == mutant.file for file, _ in known[test][1])

    of_file: dict[str, list[str]] = {}
    for test in known:
        of_file.setdefault(test.split("::")[0], []).append(test)
    reaching = {name: [test for test in tests if reaches(test)] for name, tests in of_file.items()}
    breadth = {name: len({tuple(one) for test in tests for one in known[test][1]}) for name, tests in of_file.items()}
    files = sorted(
        filter(reaching.get, of_file), key=lambda name: (-len(reaching[name]) / len(of_file[name]), breadth[name])
    )
    ordered = {name: sorted(reaching[name], key=lambda test: known[test][0]) for name in files}
    chosen: set[str] = set()
    opened: set[str] = set()
    left = seconds
    for group, kept in ((filter(partial(_names, mutant), files), seconds / 2), (iter(files), 0.0)):
        turns = [test for turn in zip_longest(*(ordered[name] for name in group)) for test in turn if test is not None]
        for test in turns:  # one that takes longer than what is left is passed over: shorter ones may follow
            file = test.split("::")[0]
            cost = known[test][0] + (file not in opened)
            if test not in chosen and cost <= left - kept:
                chosen.add(test)
                opened.add(file)
                left -= cost
    return [test for tests in ordered.values() for test in tests if test in chosen]


def _names(mutant: Mutant, test_file: str) -> bool:
    """Whether a test file speaks of the module of a mutant, or of the class or function that it stands in."""
    words = {mutant.file.removesuffix("/__init__.py").removesuffix(".py").replace("/", "."), *mutant.scope.split(".")}
    path = Path(test_file)
    text = path.read_text() if path.exists() else ""
    return any(re.search(rf"\b{re.escape(word)}\b", text) for word in words if word and not word.startswith("_"))


@dataclass(frozen=True)
class Task:
    mutant: Mutant
    tests: list[str]

    def run(self) -> str | None:
        """The first test that fails; None if none does."""
        if not self.tests:
            return None
        _exchange(ROOT / self.mutant.file, mutated((ROOT / self.mutant.file).read_text(), self.mutant.number))
        watch = _Failures({test: rank for rank, test in enumerate(self.tests)})
        status = _pytest(sorted({test.split("::")[0] for test in self.tests}), watch)
        return watch.failed or (None if status == pytest.ExitCode.OK else "importing it, or collecting")


@dataclass
class _Failures:
    """Runs these tests alone, in this order, until one fails."""

    rank: dict[str, int]
    failed: str = ""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((one for one in items if one.nodeid in self.rank), key=lambda one: self.rank[one.nodeid])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed = self.failed or report.nodeid


def calls(files: list[Path], processes: int) -> Calls:
    """Which test calls which functions of these files; measured once for each test file and state of these."""
    state = _digest(*(path.read_text() for path in files))
    folders = [str(path) for name in TESTS for path in sorted(Path(name).glob("test_*.py"))]
    wanted = [*folders, *(name for name in TESTS if "::" in name)]
    kept = {test: KEPT / f"{_digest(state, Path(test.split('::')[0]).read_text())}.json" for test in wanted}
    missing = {test: _Calls({str(file) for file in files}, test).run for test in wanted if not kept[test].exists()}
    for test, answer in _in_children(missing, processes, patience=900):
        if not isinstance(answer, dict):
            raise SystemExit(f"{test}: {answer}, without any mutant")
        _write(kept[test], answer)
        print(f"{test}: {len(answer)} tests", flush=True)
    return {test: found for path in kept.values() for test, found in _read(path).items()}


@dataclass
class _Calls:
    """Notes the functions of our files that each test calls."""

    files: set[str]
    test: str
    found: Calls = field(default_factory=dict)
    here: set[tuple[str, int]] = field(default_factory=set)

    def run(self) -> Calls:
        names = {str(ROOT / file): file for file in self.files}

        def note(frame: Any, event: str, argument: object) -> None:
            if file := names.get(frame.f_code.co_filename):
                self.here.add((file, frame.f_code.co_firstlineno))

        threading.settrace(note)
        sys.settrace(note)
        status = _pytest([self.test], self)
        if status != pytest.ExitCode.OK:
            raise RuntimeError(f"pytest ended with {status!r}")
        return self.found

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.here.clear()
        began = time.process_time()  # what else the machine does is no matter
        result = yield
        self.found[item.nodeid] = (time.process_time() - began, [list(one) for one in sorted(self.here)])
        return result


def _pytest(paths: list[str], plugin: object) -> int:
    # what Hypothesis tries is the same for every mutant, and a failure is as good before it is made small
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    hypothesis.settings.register_profile("mutants", database=None, derandomize=True, phases=phases)
    hypothesis.settings.load_profile("mutants")
    return pytest.main(["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", *_plain(), *paths], plugins=[plugin])


def _plain() -> list[str]:
    """The project's own options are those of its gate; here they leave out what needs xdist."""
    return ["-o", "addopts=", "-m", "not slow and not study"]


def _exchange(path: Path, tree: Any) -> None:
    """From now on importing this file gives that tree."""
    usual = importlib.machinery.SourceFileLoader.get_code

    def get_code(loader: importlib.machinery.SourceFileLoader, name: str) -> Any:
        if Path(loader.path) == path:
            return compile(tree, str(path), "exec")
        return usual(loader, name)

    importlib.machinery.SourceFileLoader.get_code = get_code  # type: ignore[method-assign]


def _import_what_is_not_ours() -> None:
    """Once for all children, which are forks: only our own files are imported anew for every mutant."""
    for name in THEIRS:
        importlib.import_module(name)
    importlib.import_module("torch").set_num_threads(1)


def _in_children(
    work: dict[str, Callable[[], Any]], processes: int, patience: int = 300
) -> Iterator[tuple[str, Any]]:
    """The answers of functions, each from a fork; one that takes more than so many seconds of a processor, whatever
    else the machine does, or twenty times as many of the clock, is ended."""
    waiting, running = list(work), {}
    with tempfile.TemporaryDirectory() as folder:
        while waiting or running:
            while waiting and len(running) < processes:
                key = waiting.pop(0)
                answer = Path(folder) / str(len(waiting))
                child = os.fork()
                if not child:
                    _child(work[key], answer, patience)
                running[child] = (key, answer, time.monotonic() + 20 * patience)
            time.sleep(0.05)
            for child, (key, answer, until) in list(running.items()):
                late = time.monotonic() > until
                if late:
                    os.killpg(child, signal.SIGKILL)
                if os.waitpid(child, 0 if late else os.WNOHANG)[0]:
                    del running[child]
                    yield key, _read(answer) or None if answer.exists() else "the process died, or did not end"


def _child(function: Callable[[], Any], to: Path, patience: int) -> NoReturn:
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CPU, (patience, patience))
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))  # a wrong shape may ask for any memory
    silent = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silent, stream)
    try:
        answer = function()
    except BaseException as error:
        answer = f"{type(error).__name__}: {error}"
    _write(to, answer)
    os._exit(0)


def table(drawn: list[Mutant], done: dict[str, Outcome], arguments: argparse.Namespace) -> str:
    """The document: counts for each file, then the survivors."""
    killed = sum(done[one.key].killed for one in drawn)
    chosen = "" if arguments.code == CODE else f"--code {' '.join(arguments.code)} "
    asked = f"{chosen}--mutants {arguments.mutants} --seed {arguments.seed} --seconds {arguments.seconds:g}"
    lines = [
        "# What the tests notice",
        "",
        "Small wrong changes of the code, one at a time: of a comparison, a sign, a condition, a number. A mutant is",
        f"*killed* if a test that calls it fails: {arguments.seconds:g} seconds of these are run, first those that",
        "speak of it. A survivor is a hole in the tests, or computes the same, or nearly (another tolerance, another",
        "first guess), or falls to a test that there was no time for. Tests that start a federation are not run.",
        "Written by",
        "",
        f"    python benchmarks/mutants.py {asked} --table docs/mutants.md",
        "",
        f"**{killed} of {len(drawn)} killed ({killed / len(drawn):.1%})**, drawn from all by seed and name.",
        "",
        "| file | mutants | killed | survived |",
        "|---|---|---|---|",
    ]
    for file in sorted({one.file for one in drawn}):
        here = [done[one.key].killed for one in drawn if one.file == file]
        lines.append(f"| `{file}` | {len(here)} | {sum(here)} | {len(here) - sum(here)} |")
    lines += ["", "## Survivors", ""]
    for file in sorted({one.file for one in drawn if not done[one.key].killed}):
        lines.append(f"`{file}`")
        lines.append("")
        for one in sorted(drawn, key=lambda one: one.number):
            if one.file == file and not done[one.key].killed:
                untried = "" if done[one.key].tests else " (no quick test calls it)"
                lines.append(f"- {one.scope or 'at import'}: `{one.line}`: `{one.change}`{untried}")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def _read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else {}


def _write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


if __name__ == "__main__":
    main()
