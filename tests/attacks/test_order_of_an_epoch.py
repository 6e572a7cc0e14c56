"""Of one epoch, or of epochs of one batch, the order says nothing that an attack would need."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import attacks
from attacks import LocalTraining, NotApplicable, Observation, ThreatModel
from attacks.twin import attacker_copy, client_round
from attacks.updates import order_of
from defenses.client.round import ORDER, ClientRound, play, replay


def net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 24), nn.Sigmoid(), nn.Linear(24, 3)).double()


Seen = tuple[Observation, Tensor, Tensor, Tensor]


def observed(*, images: int, batch: int, epochs: int, labels: bool = False) -> Seen:
    """What is seen, and the images, labels and order that it is of."""
    torch.manual_seed(0)
    model = net()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    x, y = torch.rand(images, 1, 4, 4, dtype=torch.float64), torch.arange(images) % 3
    local = LocalTraining(epochs=epochs, learning_rate=0.05)
    round = ClientRound(model=model, local=local, share="delta", batch_size=batch)
    played = play(round, state, x, y, lambda site, step: torch.Generator().manual_seed(7 + step))
    seen = Observation(
        state=state, update=played.update, kind="delta", input_shape=(1, 4, 4), classes=3, mean=(0.0,), std=(1.0,),
        batch_size=batch, examples=images, local=local, labels=y if labels else None,
    )  # fmt: skip
    return seen, x, y, played.drawn[ORDER]


@pytest.mark.parametrize(("images", "batch", "epochs"), [(4, 2, 1), (5, 2, 1), (3, 4, 3), (1, 1, 3)])
def test_the_clients_images_explain_its_update_without_an_order(images, batch, epochs):
    seen, x, y, order = observed(images=images, batch=batch, epochs=epochs)
    assert order_of(seen) == {}
    first = order[:images]
    twin = attacker_copy(net(), seen.state)
    again = replay(client_round(seen, twin), seen.state, x[first], y[first])
    for name, value in seen.update.items():
        torch.testing.assert_close(again.update[name], value, rtol=0, atol=1e-12)


def test_an_attack_that_optimises_takes_it():
    seen, *_ = observed(images=4, batch=2, epochs=1)
    attack = attacks.create("inverting_gradients", iterations=3)
    assert attack(seen, ThreatModel(labels="unknown"), net()).images.shape == (4, 1, 4, 4)


def test_where_it_says_something_it_must_be_granted():
    for case in ({"images": 4, "batch": 2, "epochs": 2}, {"images": 4, "batch": 2, "epochs": 1, "labels": True}):
        with pytest.raises(NotApplicable, match="order in which the client's epochs"):
            order_of(observed(**case)[0])
