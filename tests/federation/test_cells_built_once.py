"""The cells that this folder's tests look at are trained once, however many processes have a part of the tests."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import pytest
from built_once import WORKER, built_once


class Factory:
    """The temporary folders of one process."""

    def __init__(self, own: Path) -> None:
        self.own = own

    def getbasetemp(self) -> Path:
        return self.own

    def mktemp(self, name: str) -> Path:
        path = self.own / f"{name}0"
        path.mkdir()
        return path


def slowly(path: Path) -> None:
    with (path / "built").open("a") as file:
        file.write("x")
    time.sleep(0.5)
    (path / "whole").touch()


def one_process(session: Path, number: int, found) -> None:
    path = built_once(Factory(session / f"gw{number}"), "cells", slowly)
    found.put((str(path), (path / "whole").exists(), (path / "built").read_text()))


def test_processes_that_share_the_tests_share_what_is_built(tmp_path, monkeypatch):
    monkeypatch.setenv(WORKER, "gw0")
    spawn = multiprocessing.get_context("fork")
    found = spawn.Queue()
    processes = [spawn.Process(target=one_process, args=(tmp_path, number, found)) for number in range(3)]
    for process in processes:
        process.start()
    answers = [found.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert set(answers) == {(str(tmp_path / "cells"), True, "x")}


def test_a_process_alone_builds_its_own(tmp_path, monkeypatch):
    monkeypatch.delenv(WORKER, raising=False)
    assert (built_once(Factory(tmp_path), "cells", slowly) / "whole").exists()
    assert not list(tmp_path.glob("*.lock"))


def test_what_failed_is_begun_anew(tmp_path, monkeypatch):
    monkeypatch.setenv(WORKER, "gw0")

    def fails(path: Path) -> None:
        (path / "half").touch()
        raise OSError("no memory")

    with pytest.raises(OSError, match="no memory"):
        built_once(Factory(tmp_path / "gw0"), "cells", fails)
    path = built_once(Factory(tmp_path / "gw1"), "cells", slowly)
    assert sorted(inside.name for inside in path.iterdir()) == ["built", "whole"]
