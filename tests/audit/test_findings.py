"""What cannot be is found, and what can be is left alone."""

from __future__ import annotations

import dataclasses

import audit_apps as apps
import pytest
import torch

from attacks import LocalTraining
from defenses.client import optimizers
from fedsim.audit.consistency import Finding, findings, from_message
from fedsim.audit.observing import Reply, completed
from fedsim.audit.told import Told
from fedsim.recording import Recorded


def told(model: str = "Perceptron", *, batch: int = 1, optimizer: str = "sgd", **changes) -> Told:
    keys = {name: changes.pop(name) for name in ("momentum", "weight_decay") if name in changes}
    training = {name: changes.pop(name) for name in ("steps", "epochs", "learning_rate") if name in changes}
    local = LocalTraining(**{"learning_rate": 0.1, **training}, optimizer=optimizers.create(optimizer, **keys))
    fields = {"shape": (1, 28, 28), "classes": 10, "mean": (0.5,), "std": (0.5,), "batch_size": batch, "local": local}
    return Told(model=f"audit_apps:{model}", **{**fields, **changes})


def said(recorded: Recorded, account: Told) -> list[Finding]:
    model = account.build()
    return findings(Reply.of(recorded, account, model), account, model)


def wrong(recorded: Recorded, account: Told) -> str:
    return " | ".join(f"{one.about}: {one.says}" for one in said(recorded, account) if one.wrong)


HONEST = {
    "one step": ({}, {}),
    "a batch": ({"images": 8, "batch": 8}, {"batch": 8}),
    "momentum": ({"images": 8, "batch": 4, "momentum": 0.9}, {"batch": 4, "steps": 2, "momentum": 0.9}),
    "an epoch": ({"images": 10, "batch": 4, "momentum": 0.9}, {"batch": 4, "epochs": 1, "momentum": 0.9}),
    "three epochs": ({"images": 6, "batch": 4, "epochs": 3}, {"batch": 4, "epochs": 3}),
    "weight decay": ({"weight_decay": 0.01}, {"weight_decay": 0.01}),
    "adam": ({"optimizer": torch.optim.Adam, "lr": 0.001}, {"optimizer": "adam", "learning_rate": 0.001}),
    "adam, an epoch": (
        {"optimizer": torch.optim.Adam, "lr": 0.001, "images": 12, "batch": 4},
        {"optimizer": "adam", "learning_rate": 0.001, "epochs": 1, "batch": 4},
    ),
    "adamw": (
        {"optimizer": torch.optim.AdamW, "lr": 0.001, "weight_decay": 0.01},
        {"optimizer": "adamw", "learning_rate": 0.001, "weight_decay": 0.01},
    ),
}


@pytest.mark.parametrize("model", ["Perceptron", "Convolutional", "Normalised", "Tied"])
@pytest.mark.parametrize("case", HONEST)
def test_a_true_account_is_not_contradicted(case, model):
    torch.manual_seed(0)
    played, account = HONEST[case]
    assert wrong(apps.reply(getattr(apps, model)(), **played), told(model, **account)) == ""


FALSE = {
    "another optimizer": ({"optimizer": torch.optim.Adam, "lr": 0.001}, {}, "one step of Adam"),
    "no adam": ({}, {"optimizer": "adam"}, "where the first step of adam moves all alike"),
    "a rate of adam": (
        {"optimizer": torch.optim.Adam, "lr": 0.001},
        {"optimizer": "adam", "learning_rate": 0.01},
        "most entries moved by 0.001",
    ),
    "a larger rate": ({"lr": 0.5}, {}, "the rate, the steps or the momentum is larger"),
    "a sum": ({"images": 8, "batch": 8, "reduction": "sum"}, {"batch": 8}, "the loss is summed over the batch"),
    "momentum": (
        {"images": 40, "batch": 1, "momentum": 0.95},
        {"steps": 1, "batch": 40},
        "the head's bias moved by",
    ),
    "no decay": ({}, {"weight_decay": 0.1}, "large weights did not move at all"),
    "decay": ({"weight_decay": 0.05}, {}, "a weight decay of about 0.05"),
    "more images": ({"images": 6, "batch": 6}, {"batch": 2}, "it is of at least 6 images, where what was said makes 2"),
    "fewer images": ({"images": 2, "batch": 2}, {"batch": 4}, "says that it has 2 images, and trained on 1 × 4"),
}


@pytest.mark.parametrize("case", FALSE)
def test_a_false_account_is_contradicted(case):
    torch.manual_seed(0)
    played, account, expected = FALSE[case]
    assert expected in wrong(apps.reply(apps.Perceptron(), **played), told(**account))


@pytest.mark.parametrize(
    ("played", "account", "expected"),
    [
        ({"images": 12, "batch": 4, "mode": "train"}, {"batch": 12}, "counters say 3 steps in train mode"),
        ({"images": 4, "batch": 4, "mode": "eval"}, {"batch": 4}, "no batch-norm counter moved"),
        ({"images": 4, "batch": 4, "mode": "train"}, {"batch": 4, "mode": "eval"}, "the client trained in train mode"),
    ],
)
def test_batch_norm_tells_mode_and_steps(played, account, expected):
    torch.manual_seed(0)
    assert expected in wrong(apps.reply(apps.Normalised(), **played), told("Normalised", **account))


def test_a_frozen_layer_that_moved_is_found():
    torch.manual_seed(0)
    recorded = apps.reply(apps.Normalised(), images=4, batch=4)
    recorded.received["fixed.weight"] = recorded.sent["fixed.weight"] + 1
    assert "fixed.weight changed" in wrong(recorded, told("Normalised", batch=4))


def test_what_did_not_move_is_named():
    torch.manual_seed(0)
    recorded = apps.reply(apps.Perceptron())
    recorded.received["first.bias"] = recorded.sent["first.bias"].clone()
    assert any("first.bias did not change" in one.says for one in said(recorded, told()))


def test_a_quantised_update_is_found():
    torch.manual_seed(0)
    recorded = apps.reply(apps.Perceptron(), images=8, batch=8)
    for name, value in recorded.received.items():
        change = value - recorded.sent[name]
        recorded.received[name] = recorded.sent[name] + (change * 500).round() / 500
    assert "sizes: rounded, or signs" in wrong(recorded, told(batch=8))


def test_what_the_message_says_is_held_against_the_user_and_fills_in_what_he_leaves_open():
    config = {"lr": 0.01, "local-epochs": 2, "batch-size": 32}
    heard = " | ".join(one.says for one in from_message(config, told(batch=16)))
    assert "told the client 0.01, and you say 0.1" in heard
    assert "told the client 32, and you say 16" in heard
    open_ = dataclasses.replace(told(), local=None, unrated=LocalTraining(), batch_size=None, length_said=False)
    recorded = dataclasses.replace(apps.reply(apps.Perceptron()), config=config)
    filled = completed(open_, recorded)
    assert (filled.local.learning_rate, filled.local.epochs, filled.batch_size) == (0.01, 2, 32)
