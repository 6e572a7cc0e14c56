"""Other accounts of a client's training: what the reply contradicts is out, and what is true explains it best."""

from __future__ import annotations

import audit_apps as apps
import torch

from attacks import LocalTraining
from fedsim.audit.adversaries import Budget
from fedsim.audit.auditing import audit_store
from fedsim.audit.told import Told


def guessed(tmp_path, recorded, model: str, **account):
    path = apps.store(tmp_path / "store", recorded)
    fields = {"shape": (1, 28, 28), "classes": 10, "mean": (0.5,), "std": (0.5,), "batch_size": 1}
    told = Told(model=f"audit_apps:{model}", **{**fields, "local": LocalTraining(learning_rate=0.01), **account})
    return audit_store(path, told, tmp_path / "audit", guess=True, budget=Budget(iterations=1))


def test_adam_is_told_from_sgd(tmp_path):
    torch.manual_seed(0)
    recorded = apps.reply(apps.Perceptron(), optimizer=torch.optim.Adam, lr=0.001)
    done = guessed(tmp_path, recorded, "Perceptron")
    first = done.verdict.guesses[0]
    assert first.account.startswith("adam")
    assert not first.against
    own = next(one for one in done.verdict.guesses if one.said)
    assert any("one step of Adam" in says for says in own.against)
    assert "Accounts of its training" in (done.path / "audit.html").read_text()


def test_batch_norm_decides_between_one_step_and_an_epoch(tmp_path):
    torch.manual_seed(0)
    recorded = apps.reply(apps.Normalised(), images=32, batch=16, lr=0.01)
    done = guessed(tmp_path, recorded, "Normalised", batch_size=32)
    first = done.verdict.guesses[0]
    assert "1 epoch in batches of 16, train mode" in first.account
    assert first.explained is not None
    assert 0 < first.explained <= 1
