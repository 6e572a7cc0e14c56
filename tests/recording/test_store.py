"""A store gives back what was put in, entry by entry; what is broken or foreign costs itself only, and is named."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import save_file

from fedsim.errors import BadInput
from fedsim.recording import Recorded, Store, fault_of


def state(value: float = 0.0) -> dict[str, torch.Tensor]:
    return {
        "z.weight": torch.full((2, 3), value),
        "a.bias": torch.full((2,), value, dtype=torch.float16),
        "steps": torch.tensor(7),
    }


def recorded(round: int = 1, node: str = "12", sent: float = 0.0, received: float = 1.0, **more) -> Recorded:
    return Recorded(round, node, state(sent), state(received), **more)


@pytest.fixture
def store(tmp_path):
    return Store.create(tmp_path / "observations")


def test_what_is_added_is_read_again_in_every_digit_and_order(store):
    metrics = {"num-examples": 32, "loss": math.nan, "per-epoch": [1.5, 2.0], "ok": True}
    config = {"lr": 0.1, "name": "NaN", "key": b"\x00\xff", "server-round": 3}
    store.add(recorded(3, "17", metrics=metrics, config=config))
    found = Store.open(store.path).read(3, "17")
    assert list(found.sent) == ["z.weight", "a.bias", "steps"]
    for name, value in state(1.0).items():
        assert torch.equal(found.received[name], value)
        assert found.received[name].dtype == value.dtype
        assert torch.equal(found.sent[name], state(0.0)[name])
    assert math.isnan(found.metrics.pop("loss"))
    del metrics["loss"]
    assert found.metrics == metrics
    assert found.metrics["ok"] is True
    assert found.config == config


def test_the_files_are_json_and_safetensors_that_other_programs_read(store):
    store.add(recorded(metrics={"loss": math.inf}))
    for file in store.path.rglob("*.json"):
        json.loads(file.read_text(), parse_constant=pytest.fail)  # NaN and Infinity, which JSON has not
    assert {file.suffix for file in store.path.rglob("*") if file.is_file()} == {".json", ".safetensors"}


def test_another_order_or_dtype_of_what_came_back_is_kept_as_it_came(store):
    received = {"steps": torch.tensor(8.0), "a.bias": torch.ones(2), "z.weight": torch.ones(2, 3)}
    store.add(Recorded(1, "1", state(), received))
    found = store.read(1, "1").received
    assert list(found) == list(received)
    assert found["steps"].dtype == torch.float32


def test_what_was_sent_is_stored_once_unless_it_differs(store):
    sent = state()
    for node in ("1", "2"):
        store.add(Recorded(1, node, sent, state(1.0)))
    store.add(recorded(1, "3"))  # equal numbers in other tensors
    store.add(recorded(1, "4", sent=0.5))
    assert len(list((store.path / "round_1").glob("sent_*"))) == 2
    assert torch.equal(store.read(1, "4").sent["z.weight"], torch.full((2, 3), 0.5))
    assert store.listed() == [(1, "1"), (1, "2"), (1, "3"), (1, "4")]


@pytest.mark.parametrize("node", ["../../etc/passwd", "client 7", "a/b", ".", "ünï", "CON", "x.fault"])
def test_any_name_of_a_node_stays_in_its_folder(store, node):
    store.add(recorded(node=node))
    assert store.listed() == [(1, node)]
    assert store.read(1, node).node == node
    assert {file.parent.name for file in store.path.rglob("node_*")} == {"round_1"}
    assert not store.faults()


@pytest.mark.parametrize("node", ["", "x" * 201])
def test_a_name_that_no_file_can_have_is_refused(store, node):
    with pytest.raises(BadInput, match="1 to 200 letters"):
        store.add(recorded(node=node))


@pytest.mark.parametrize(
    ("received", "reason"),
    [
        ({**state(), "a.bias": torch.tensor([1.0, math.nan])}, "a.bias holds NaN or infinity"),
        ({**state(), "a.bias": torch.zeros(3)}, r"a.bias has shape \(3,\), not \(2,\)"),
        ({"z.weight": torch.zeros(2, 3)}, "a.bias, steps missing"),
        ({**state(), "more": torch.zeros(1)}, "more never sent"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_and_leave_nothing(store, received, reason):
    with pytest.raises(BadInput, match=reason):
        store.add(Recorded(1, "1", state(), received))
    assert not list(store.path.glob("round_*"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_number_that_is_not_finite_is_found_among_many(dtype, bad):
    values = torch.randn(1000).to(dtype)
    sent = {"w": values, "none": torch.zeros(0), "mask": torch.tensor([True])}
    assert fault_of(sent, sent) is None
    values = values.clone()
    values[517] = bad
    assert fault_of(sent, {**sent, "w": values}) == "w holds NaN or infinity"


def test_a_value_that_no_record_holds_is_refused_by_name_and_leaves_nothing(store):
    with pytest.raises(BadInput, match="'model' is of type dict"):
        store.add(recorded(config={"model": {}}))
    assert not list(store.path.glob("round_*"))


def test_an_entry_is_never_replaced(store):
    store.add(recorded())
    with pytest.raises(BadInput, match="round 1, node 12 is there already"):
        store.add(recorded(received=5.0))
    assert torch.equal(store.read(1, "12").received["z.weight"], torch.ones(2, 3))


def _cut(file):
    file.write_bytes(file.read_bytes()[:-3])


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (lambda folder: _cut(folder / "node_2.safetensors"), "cannot be read"),
        (lambda folder: _cut(folder / "node_2.json"), "cannot be read"),
        (lambda folder: (folder / "node_2.json").unlink(), "half written"),
        (lambda folder: (folder / "node_2.safetensors").unlink(), "cannot be read"),
        (lambda folder: (folder / "node_2.json").write_text("[]"), "no JSON object"),
        (lambda folder: (folder / "node_2.json").write_text('{"round": 1, "node": "2"}'), '"sent" and "received"'),
        (lambda folder: save_file({"other": torch.ones(1)}, folder / "node_2.safetensors"), "holds other arrays"),
        (lambda folder: (folder / "node_2.json").write_text((folder / "node_1.json").read_text()), "place is another"),
        (
            lambda folder: (folder / "node_2.json").write_text(
                (folder / "node_2.json").read_text().replace("node_2.safetensors", "../secret.safetensors")
            ),
            "not the name of a file beside",
        ),
    ],
)
def test_a_broken_entry_costs_itself_only_and_is_named(store, break_it, reason):
    for node in ("1", "2", "3"):
        store.add(recorded(node=node, received=float(node)))
    break_it(store.path / "round_1")
    assert store.listed() == [(1, "1"), (1, "3")]
    [fault] = store.faults()
    assert (fault.round, fault.node) == (1, "2")
    assert reason in fault.reason
    assert "\n" not in fault.reason
    with pytest.raises(BadInput):
        store.read(1, "2")


def test_nan_in_a_foreign_entry_is_found_when_it_is_read(store):
    store.add(recorded())
    arrays = {**state(), "a.bias": torch.tensor([1.0, math.nan])}
    save_file(arrays, store.path / "round_1" / "node_12.safetensors")
    with pytest.raises(BadInput, match="holds NaN"):
        store.read(1, "12")


def test_an_entry_written_by_hand_is_read(tmp_path):
    """As docs/audit.md describes it, without what is optional."""
    folder = tmp_path / "round_1"
    folder.mkdir()
    (tmp_path / "store.json").write_text('{"format": "fedsim-observations", "version": 1}')
    save_file({"w": torch.zeros(2)}, folder / "global.safetensors")
    save_file({"w": torch.ones(2)}, folder / "hospital.safetensors")
    (folder / "node_hospital.json").write_text(
        '{"round": 1, "node": "hospital", "sent": {"file": "global.safetensors"}, '
        '"received": {"file": "hospital.safetensors"}}'
    )
    store = Store.open(tmp_path)
    assert store.listed() == [(1, "hospital")]
    found = store.read(1, "hospital")
    assert (found.metrics, found.config) == ({}, {})
    assert torch.equal(found.received["w"], torch.ones(2))


def test_faults_are_kept_beside_the_entries(store):
    store.add(recorded(2, "1"))
    store.fault(2, "9", "the client raised ValueError: boom")
    store.fault(1, "a/b", "no reply")
    assert [(fault.round, fault.node) for fault in Store.open(store.path).faults()] == [(1, "a/b"), (2, "9")]
    assert store.listed() == [(2, "1")]


def test_rounds_are_listed_as_numbers(store):
    for round in (10, 2):
        store.add(recorded(round))
    assert [round for round, _ in store.listed()] == [2, 10]


@pytest.mark.parametrize(
    ("marker", "reason"),
    [
        (None, "is no store of observations: it has no store.json"),
        ('{"format": "fedsim-observations", "version": 2}', "version 2; fedsim .* reads version 1"),
        ('{"format": "zip", "version": 1}', "format is 'zip'"),
        ("{", "cannot be read"),
        ("[]", "no JSON object"),
    ],
)
def test_a_store_of_another_kind_or_version_is_refused_in_one_line(tmp_path, marker, reason):
    if marker is not None:
        (tmp_path / "store.json").write_text(marker)
    with pytest.raises(BadInput, match=reason) as raised:
        Store.open(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_new_store_takes_no_folder_that_holds_something(tmp_path, store):
    assert Store.create(store.path).path == store.path  # it is still empty
    store.add(recorded())
    with pytest.raises(BadInput, match="records of an earlier run"):
        Store.create(store.path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(BadInput, match="something else"):
        Store.create(tmp_path / "mine")
    with pytest.raises(BadInput, match="something else"):
        Store.create(tmp_path / "mine" / "thesis.tex")


def test_its_size_counts_every_file(store):
    store.add(recorded())
    assert store.bytes() == sum(file.stat().st_size for file in store.path.rglob("*.*") if file.is_file())
    assert store.bytes() > 2 * 2 * 3 * 4
