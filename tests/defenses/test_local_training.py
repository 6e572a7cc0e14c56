"""What a client plays is what plain PyTorch trains: optimizer, clipping, FedProx, labels, epochs, frozen parts."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from defenses.client.optimizers.adamw import AdamW
from defenses.client.optimizers.sgd import SGD
from defenses.client.round import ORDER, ClientRound, Played, play
from defenses.client.training import LocalTraining, freeze

PLAIN = LocalTraining(steps=3, learning_rate=0.2)
TRAININGS = {
    "plain": PLAIN,
    "one step": LocalTraining(learning_rate=0.3),
    "momentum": replace(PLAIN, optimizer=SGD(momentum=0.9, nesterov=True, weight_decay=0.1)),
    "adamw": replace(PLAIN, optimizer=AdamW(weight_decay=0.3)),
    "norm clipped": replace(PLAIN, clip_norm=0.2),
    "norm that is not reached": replace(PLAIN, clip_norm=50.0),
    "values clipped": replace(PLAIN, clip_value=0.02),
    "norm, then values": replace(PLAIN, clip_norm=0.5, clip_value=0.02),
    "proximal": replace(PLAIN, proximal=0.7),
    "proximal, clipped": replace(PLAIN, proximal=0.7, clip_norm=0.2),
    "smoothed": replace(PLAIN, label_smoothing=0.2),
    "epochs": LocalTraining(epochs=2, learning_rate=0.2),
    "weights alone": replace(PLAIN, trained=("*weight",)),
}
EXAMPLES, BATCH = 6, 2


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def batch() -> tuple[Tensor, Tensor]:
    images = torch.randn(EXAMPLES, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return images, torch.arange(EXAMPLES) % 3


def played(local: LocalTraining) -> Played:
    net, (images, labels) = freeze(model(), local.trained), batch()
    round = ClientRound(model=net, local=local, share="delta", batch_size=BATCH, classes=3)
    if local.epochs is None:
        images, labels = images[: local.steps * BATCH], labels[: local.steps * BATCH]
    state = {name: value.clone() for name, value in net.state_dict().items()}
    return play(round, state, images, labels, lambda site, step: torch.Generator().manual_seed(7))


def trained_by_torch(local: LocalTraining, batches: list[Tensor]) -> dict[str, Tensor]:
    """The change of the weights by torch's own optimizers and clipping."""
    net, (images, labels) = freeze(model(), local.trained), batch()
    start = copy.deepcopy(net)
    spec = local.optimizer.spec()
    name = spec.pop("name")
    if name == "adamw":
        spec = {"weight_decay": spec["weight_decay"], "eps": spec["epsilon"], "betas": (spec["beta1"], spec["beta2"])}
    parameters = [one for one in net.parameters() if one.requires_grad]
    kinds = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}
    optimizer = kinds[name](parameters, lr=local.learning_rate, **spec)
    for places in batches:
        optimizer.zero_grad()
        loss = F.cross_entropy(net(images[places]), labels[places], label_smoothing=local.label_smoothing)
        for now, before in zip(net.parameters(), start.parameters()):
            loss = loss + local.proximal / 2 * (now - before.detach()).square().sum()
        loss.backward()
        if local.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, local.clip_norm)
        if local.clip_value is not None:
            nn.utils.clip_grad_value_(parameters, local.clip_value)
        optimizer.step()
    before = dict(start.named_parameters())
    return {name: (value - before[name]).detach() for name, value in net.named_parameters() if value.requires_grad}


@pytest.mark.parametrize("name", TRAININGS)
def test_what_a_client_plays_is_what_torch_trains(name: str) -> None:
    local = TRAININGS[name]
    found = played(local)
    order = found.drawn[ORDER] if local.epochs is not None else torch.arange(local.steps * BATCH)
    expected = trained_by_torch(local, list(order.split(BATCH)))
    assert found.update.keys() == expected.keys()
    near = 1e-9 if local.clip_norm is None else 2e-5  # torch adds 1e-6 to a norm before it divides by it
    for key, value in expected.items():
        torch.testing.assert_close(found.update[key], value, rtol=near, atol=1e-12)


def test_each_of_these_trainings_is_another_one() -> None:
    """But for a bound that is not reached."""
    changes = {name: played(local).update["1.weight"] for name, local in TRAININGS.items()}
    torch.testing.assert_close(changes.pop("norm that is not reached"), changes["plain"])
    assert len({round(float(change.norm()), 6) for change in changes.values()}) == len(changes)
