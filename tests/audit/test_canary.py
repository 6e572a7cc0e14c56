"""A user's client app on known images: what it sent is what a replay of what was seen gives, to float32."""

from __future__ import annotations

from pathlib import Path

from client_apps import MEAN, STD, a_message, model_of, photographs, written

from fedsim.audit.canary import play
from fedsim.audit.replaying import replayed


def test_a_client_is_replayed(tmp_path: Path) -> None:
    app = written(tmp_path / "app")
    model = model_of(app)
    pixels, labels = photographs(10)
    canary = play(app, a_message(model), pixels, labels, mean=MEAN, std=STD, timeout=120)
    assert [len(step) for step in canary.order] == [4, 4, 2]
    assert sorted(index for step in canary.order for index in step) == list(range(10))
    facts = canary.facts
    assert (facts.optimizer, facts.lr, facts.momentum, facts.steps) == ("torch.optim.SGD", 0.05, 0.9, 3)
    assert (facts.mode, facts.frozen, facts.dtype) == ("train", (), "float32")
    assert facts.dropout == {"drop": 0.25, "functional_dropout_0": 0.5}
    assert canary.recorded.metrics["num-examples"] == 10
    assert not facts.unexplained
    found = replayed(canary, model)
    assert found.why is None
    assert found.error <= found.tolerance < 1e-4
    assert canary.noise["drop"].shape == (10, 6, 6, 6)
