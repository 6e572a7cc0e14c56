"""A client's reply holds the full state, and the observation only what was trained: frozen and tied parameters."""

from __future__ import annotations

import pytest
import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity
from torch import Tensor, nn

import defenses
from attacks import LocalTraining, ThreatModel
from fedsim import observations
from fedsim.federation.applied import Applied
from fedsim.federation.listener import Capture
from fedsim.federation.plan import Plan
from fedsim.federation.served import Served
from fedsim.federation.server import CaptureWriter
from fedsim.local import Local, LocalResult, train
from fedsim.models import entries
from fedsim.scenario.work import Federation, Victims, Work
from fedsim.truth import Truth

IMAGES, LABELS = torch.rand(2, 1, 28, 28), torch.tensor([3, 7])


class Net(nn.Module):
    """A frozen first layer, tied middle layers, a layer that nothing uses, a buffer that is no statistic."""

    def __init__(self, input_shape: tuple[int, int, int] = (1, 28, 28), classes: int = 10) -> None:
        super().__init__()
        self.inp, self.a, self.b, self.out = nn.Linear(784, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, classes)
        self.b.weight = self.a.weight
        self.spare = nn.Linear(3, 3)
        self.register_buffer("scale", torch.tensor(1.0))
        self.inp.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.sigmoid(self.b(torch.sigmoid(self.a(torch.sigmoid(self.inp(x.flatten(1))))))))


def client(share: str, *parts: dict, steps: int = 1) -> tuple[dict[str, Tensor], LocalResult]:
    torch.manual_seed(0)
    model = Net()
    sent = {name: value.clone() for name, value in model.state_dict().items()}
    local = Local(batch_size=2 // steps, training=LocalTraining(steps=steps), share=share)
    result = train(model, IMAGES, LABELS, local=local, defense=defenses.compose(parts), seed=0, client=0, round=1)
    return sent, result


NOISE = {"name": "gaussian_noise", "std": 0.1}
PRIVATE = {"name": "dp_sgd", "noise_multiplier": 1.0}


@pytest.mark.parametrize("share", ["gradient", "weights"])
@pytest.mark.parametrize("parts", [(), (NOISE,), (PRIVATE,)], ids=["none", "noise", "dp_sgd"])
def test_the_reply_is_the_full_state(share: str, parts: tuple[dict, ...]) -> None:
    sent, result = client(share, *parts)
    assert result.arrays.keys() == sent.keys()
    for name in ("inp.weight", "inp.bias", "scale"):
        torch.testing.assert_close(result.arrays[name], sent[name], rtol=0, atol=0)
    # one parameter, one value: the second name would else let out what the defense has hidden under the first
    torch.testing.assert_close(result.arrays["b.weight"], result.arrays["a.weight"], rtol=0, atol=0)
    assert not torch.equal(result.arrays["out.weight"], sent["out.weight"])


def test_roles_of_entries() -> None:
    model = Net()
    assert entries.trained(model)["b.weight"] == "a.weight"
    assert entries.frozen(model) == {"inp.weight", "inp.bias"}
    assert entries.buffers(model) == {"scale"}


@pytest.mark.parametrize("share", ["gradient", "weights"])
def test_the_observation_holds_what_was_trained(tmp_path, monkeypatch, share: str) -> None:
    monkeypatch.setattr(Plan, "model", lambda plan: Net())
    work = Work(
        data={"name": "mnist", "partition": {"kind": "iid"}},
        model={"factory": "nowhere:net"},
        federation=Federation(clients=1, clients_per_round=1, rounds=1, local=Local(batch_size=2, share=share)),
        defense=(),
        seed=0,
        victims=Victims(rounds=(1,), clients=1),
    )
    sent, result = client(share)
    writer = CaptureWriter(Plan(work), tmp_path)
    truth = Truth(torch.zeros(2, 1, 28, 28, dtype=torch.uint8), LABELS, {}, 1.0)
    writer.capture(Capture(1, 0, sent, result.arrays, 2), truth)
    seen = observations.load(tmp_path, 1, 0, ThreatModel())
    names = {"a.weight", "a.bias", "b.bias", "out.weight", "out.bias", "spare.weight", "spare.bias"}
    assert seen.observation.update.keys() == names
    assert seen.observation.buffers.keys() == {"scale"}
    assert seen.derived["batch_norm"] == "none"


def test_an_aggregate_keeps_frozen_entries_to_the_last_bit(monkeypatch) -> None:
    """Three clients' equal values, averaged in float32, are not that value."""
    for part in ("_task_id", "_run_id", "_node_id"):  # only a task that knows who it is may make messages
        monkeypatch.setattr(TaskIdentity, part, 1)
    frozen = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    state = {"head": frozen, "body": torch.zeros(2), "tied": torch.zeros(2)}
    served = Served(
        FedAvg(),
        partition_of={10: 0, 20: 1, 30: 2},
        applied=Applied(
            share="gradient",
            learning_rate=0.5,
            trained={"body": "body", "tied": "body"},
            frozen=frozenset({"head"}),
        ),
        seed=0,
        examples=lambda round, node: 1,
    )
    served._sent = state
    replies = []
    for node in (10, 20, 30):
        request = Message(RecordDict(), dst_node_id=node, message_type="train")
        arrays = ArrayRecord({"head": frozen, "body": torch.ones(2), "tied": torch.ones(2)})
        records = {"arrays": arrays, "metrics": MetricRecord({"num-examples": 1})}
        replies.append(Message(RecordDict(records), reply_to=request))
    aggregate, _ = served.aggregate_train(1, replies)
    assert aggregate is not None
    after = aggregate.to_torch_state_dict()
    assert torch.equal(after["head"], frozen)
    assert after["body"].tolist() == after["tied"].tolist() == [-0.5, -0.5]
