"""Which record of a message or a reply holds the model: found by what is in it, or one line that asks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from client_apps import CLIENT, MEAN, STD, a_message, model_of, photographs, written
from client_variants import changed
from torch import Tensor, nn

from fedsim.audit.canary import play
from fedsim.audit.choosing import Chosen, chosen
from fedsim.audit.matching import Unusable
from fedsim.audit.replaying import replayed
from fedsim.recording import Recorded, Store
from fedsim.recording.records import joined


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


STATE = {name: value.clone() for name, value in model().state_dict().items()}
BODY = {name: value for name, value in STATE.items() if not name.startswith("2.")}
HEAD = {name: value for name, value in STATE.items() if name.startswith("2.")}
BUFFERLESS = {name: value for name, value in STATE.items() if "running" not in name and "tracked" not in name}


def moved(arrays: dict[str, Tensor], by: float = 1.0) -> dict[str, Tensor]:
    return {name: value + by if value.is_floating_point() else value for name, value in arrays.items()}


def seen(sent: dict[str, dict[str, Tensor]], received: dict[str, dict[str, Tensor]]) -> Recorded:
    records = tuple(dict.fromkeys([*sent, *received]))
    return Recorded(1, "0", joined(sent), joined(received), records=records)


def pick(sent, received, wanted: str = "") -> Chosen:
    return chosen(seen(sent, received), model(), wanted)


def test_of_one_record_there_is_nothing_to_choose() -> None:
    recorded = Recorded(1, "0", STATE, moved(STATE), record="weights")
    found = chosen(recorded, model())
    assert found.recorded is recorded
    assert found.message == {"weights": STATE}
    assert chosen(recorded, model(), "weights").recorded is recorded
    with pytest.raises(Unusable, match="no record 'arrays' of arrays: the only one is 'weights'"):
        chosen(recorded, model(), "arrays")


@pytest.mark.parametrize(
    ("received", "wanted", "holds"),
    [
        ({"model": moved(STATE), "extra": {"count": torch.ones(1)}}, "", ("model",)),
        ({"extra": {"0.weight": torch.ones(1)}, "model": moved(BUFFERLESS)}, "", ("model",)),
        ({"arrays": moved(STATE), "control": moved(STATE, 7.0)}, "", ("arrays",)),  # by the name that was sent
        ({"arrays": moved(STATE, 7.0), "control": moved(STATE)}, "control", ("control",)),
        ({"body": moved(BODY), "head": moved(HEAD)}, "", ("body", "head")),
        ({"head": moved(HEAD), "body": moved(BODY), "more": {"x": torch.ones(1)}}, "", ("head", "body")),
        ({"head": moved(HEAD), "more": {"x": torch.ones(1)}}, "", ("head",)),  # what was trained alone
        ({"numbers": {str(n): v for n, v in enumerate(moved(STATE).values())}, "x": {"y": torch.ones(1)}}, "",
         ("numbers",)),
    ],
)
def test_what_holds_the_model_is_found(received, wanted, holds) -> None:
    found = pick({"arrays": STATE, "lookup": {"table": torch.ones(3)}}, received, wanted)
    assert (found.sent_in, found.received_in) == (("arrays",), holds)
    assert found.recorded.sent.keys() == STATE.keys()
    assert list(found.message) == ["arrays", "lookup"]
    assert found.recorded.records == ()
    values = list(found.recorded.received.values())
    assert torch.equal(values[-1], HEAD["2.bias"] + 1) or torch.equal(values[-1], BODY["1.num_batches_tracked"])


@pytest.mark.parametrize(
    ("sent", "received", "wanted", "says"),
    [
        (
            {"arrays": STATE},
            {"one": STATE, "two": STATE},
            "",
            "the records 'one' and 'two' both have the model's arrays: --arrays NAME says which is the model",
        ),
        (
            {"model": STATE, "control": STATE},
            {"model": STATE, "control": STATE},
            "",
            "the records 'model' and 'control' both have",
        ),
        ({"a": STATE, "b": STATE}, {"c": STATE, "d": {}}, "", "the message's records 'a' and 'b' both have"),
        ({"arrays": STATE}, {"one": STATE, "two": STATE}, "three", "no record 'three' of arrays; it has one, two"),
        ({"arrays": STATE}, {"one": {"x": torch.ones(1)}, "two": {"y": torch.ones(1)}}, "", "the reply: record 'one' "),
        ({"arrays": STATE}, {"body": BODY, "again": BODY}, "", "the reply: record 'body' lacks 2.weight"),
    ],
)
def test_what_is_ambiguous_or_not_there_is_asked_in_a_line(sent, received, wanted, says) -> None:
    with pytest.raises(Unusable, match=says) as refusal:
        pick(sent, received, wanted)
    assert "\n" not in str(refusal.value)


def test_a_store_keeps_all_records(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    store.add(seen({"arrays": STATE}, {"arrays": moved(STATE), "control": {"c": torch.tensor([float("nan")])}}))
    again = store.read(1, "0")
    assert again.records == ("arrays", "control")
    assert again.received["control/c"].isnan().all()
    assert chosen(again, model()).received_in == ("arrays",)


SCAFFOLD = changed(
    CLIENT,
    (
        'msg.content["arrays"]',
        'msg.content["model"]',
    ),
    (
        'RecordDict({"arrays": ArrayRecord(net.state_dict())',
        'RecordDict({"control": ArrayRecord(msg.content["control"].to_torch_state_dict()), '
        '"model": ArrayRecord(net.state_dict())',
    ),
)
"""A client that is sent a control variate beside the model, and returns both."""


def test_a_canary_is_sent_all_records_and_read_where_the_model_is(tmp_path: Path) -> None:
    app = written(tmp_path / "app", client=SCAFFOLD)
    net = model_of(app)
    state = a_message(net).sent
    zeros = {name: torch.zeros_like(value) for name, value in state.items()}
    sent = {"model": state, "control": zeros}
    recorded = Recorded(1, "0", joined(sent), joined(sent), config={"lr": 0.05}, records=("model", "control"))
    with pytest.raises(Unusable, match="--arrays NAME"):
        chosen(recorded, net)
    found = chosen(recorded, net, "model")
    canary = play(
        app,
        found.recorded,
        *photographs(4),
        mean=MEAN,
        std=STD,
        message=found.message,
        received_in=found.received_in,
    )
    assert canary.recorded.received.keys() == state.keys()
    assert replayed(canary, net).why is None
