"""Anybody's state dicts become entries of a store, whatever framework they come from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import fedsim
from fedsim.errors import BadInput
from fedsim.recording import Store


def test_state_dicts_of_torch_and_numpy_are_recorded(tmp_path):
    model = nn.Linear(3, 2)
    sent = model.state_dict()
    received = {name: value.numpy() + 0.5 for name, value in sent.items()}
    path = tmp_path / "o"
    told = {"metrics": {"num-examples": 8}, "config": {"lr": 0.1}}
    fedsim.observe(sent, received, store=path, round=3, node="hospital 7", **told)
    fedsim.observe(dict(model.named_parameters()), received, store=str(path), round=3, node=8)
    store = Store.open(path)
    assert store.listed() == [(3, "8"), (3, "hospital 7")]
    found = store.read(3, "hospital 7")
    assert torch.equal(found.received["weight"], model.weight.detach() + 0.5)
    assert (found.metrics, found.config) == ({"num-examples": 8}, {"lr": 0.1})
    assert len(list(path.rglob("sent_*"))) == 1


def test_an_opened_store_is_taken_as_well(tmp_path):
    store = Store.create(tmp_path / "o")
    fedsim.observe({"step": 1, "w": [1.0, 2.0]}, {"step": 2, "w": np.float32([1, 2])}, store=store)
    assert store.read(1, "0").received["step"].item() == 2


@pytest.mark.parametrize(
    ("received", "reason"),
    [
        ({"w": {"inner": torch.zeros(2)}}, "received w is dict, not a tensor"),
        ({"w": "text"}, "received w is str"),
        ({"w": [[1.0], [2.0, 3.0]]}, "received w is list"),
        ({"w": torch.tensor([1.0, float("inf")])}, "w holds NaN or infinity"),
        ({"w": torch.zeros(3)}, "w has shape"),
        ({}, "w missing"),
    ],
)
def test_what_cannot_be_recorded_is_one_line_and_leaves_no_entry(tmp_path, received, reason):
    with pytest.raises(BadInput, match=reason) as raised:
        fedsim.observe({"w": torch.zeros(2)}, received, store=tmp_path / "o")
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.rglob("round_*"))


def test_the_caller_may_go_on_with_its_tensors(tmp_path):
    weight = torch.zeros(2)
    fedsim.observe({"w": weight}, {"w": weight + 1}, store=tmp_path / "o", node="a")
    weight += 5
    fedsim.observe({"w": weight}, {"w": weight + 1}, store=tmp_path / "o", node="b")
    store = Store.open(tmp_path / "o")
    assert store.read(1, "a").sent["w"].tolist() == [0, 0]
    assert store.read(1, "b").sent["w"].tolist() == [5, 5]
