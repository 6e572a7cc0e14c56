"""Clients that die, hang, raise and send nonsense, all in one real run: their rows say so, and the rest completes."""

from __future__ import annotations

import polars as pl
import pytest

import fedsim
from fedsim import scenario as scenarios

MODULE = """
import os, signal, sys, time
from torch import nn


def client():
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "train_client":
            return str(frame.f_locals["client"])
        frame = frame.f_back


def stubborn():
    while True:
        try:
            time.sleep(1)
        except BaseException:
            pass


def boom():
    raise ValueError("boom")


DOES = {
    "leaves": lambda: os._exit(3),
    "is killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exits": lambda: sys.exit(4),
    "raises": boom,
    "sleeps": lambda: time.sleep(1000),
    "hangs": stubborn,
}


class Net(nn.Module):
    def __init__(self, input_shape, classes, does):
        super().__init__()
        self.head, self.does = nn.Linear(784, classes), does

    def forward(self, x):
        number = client()
        does = None if number is None or os.path.exists("healed") else self.does.get(number)
        if does in DOES:
            DOES[does]()
        return self.head(x.flatten(1)) * (float("nan") if does == "sends NaN" else 1.0)


def build(input_shape, classes, does):
    return Net(input_shape, classes, does)
"""

DOES = {
    "1": ("leaves", "the client's process died"),
    "2": ("is killed", "the client's process died"),
    "3": ("exits", "its code called sys.exit(4)"),
    "4": ("raises", "the client raised ValueError: boom"),
    "5": ("sleeps", "longer than federation.deadline"),
    "6": ("hangs", "the client's process died"),
    "7": ("sends NaN", "holds NaN or infinity"),
}

SCENARIO = {
    "name": "faulty",
    "model": {"factory": "misbehaving_net:build", "does": {client: does for client, (does, _) in DOES.items()}},
    "federation": {"clients": 8, "deadline": 1},
    "settings": [{"model.does": {client: does for client, (does, _) in DOES.items()}}, {"model.does": {}}],
    "attacks": ["null_mean"],
    "metrics": ["mse"],
}


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_each_has_rows_that_say_so_and_the_rest_completes_and_who_was_lost_is_tried_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "misbehaving_net.py").write_text(MODULE)
    scenario = scenarios.parse(SCENARIO)
    results = fedsim.run(scenario, out=tmp_path / "run").results
    named = pl.col("model_params").str.contains("leaves")
    faulty, healthy = results.filter(named), results.filter(~named)
    assert set(healthy["status"]) == {"ok"}
    assert set(healthy["client"]) == set(range(8))
    for client in range(8):
        rows = faulty.filter(client=client)
        assert rows.height == 2  # null_mean and null_random
        _, said = DOES.get(str(client), ("", ""))
        assert set(rows["status"]) == {"failed" if said else "ok"}
        assert all(said in reason for reason in rows["reason"] if reason is not None)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").glob("jobs/*/job.json")}

    (tmp_path / "healed").touch()  # the same command tries again
    again = fedsim.run(scenario, out=tmp_path / "run").results
    assert set(again["status"]) == {"ok"}
    assert again.height == results.height
    assert {path: path.stat().st_mtime_ns for path in before} == before
