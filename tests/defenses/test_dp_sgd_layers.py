"""DP-SGD of models that are not plain: frozen parameters, unused ones, bare ones, gradient checkpointing."""

from __future__ import annotations

import zlib

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import defenses
from defenses.client.compute import Functional, one_by_one
from defenses.client.round import ClientRound, play
from defenses.stochastic import Dropout, set_stochastic

IMAGES, LABELS = torch.rand(4, 6, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 1])


class Net(nn.Module):
    def __init__(self, *, checkpointed: bool = False, unused: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.out, self.spare = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 3), nn.Linear(5, 2)
        self.checkpointed, self.unused = checkpointed, unused

    def body(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.b(torch.sigmoid(self.a(x))))

    def forward(self, x: Tensor) -> Tensor:
        hidden = checkpoint(self.body, x, use_reentrant=False) if self.checkpointed else self.body(x)
        if self.unused:
            self.spare(hidden)
        return self.out(hidden)


def gradient(model: nn.Module, *, noise: float = 0.0) -> dict[str, Tensor]:
    defense = defenses.create("dp_sgd", noise_multiplier=noise, max_grad_norm=1e9)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    draw = lambda site, step: torch.Generator().manual_seed(zlib.crc32(site.encode()))  # noqa: E731
    return play(ClientRound(model=model, defense=defense), state, IMAGES, LABELS, draw).update


def plain(model: nn.Module) -> dict[str, Tensor]:
    named = {name: value for name, value in model.named_parameters() if value.requires_grad}
    loss = nn.functional.cross_entropy(model(IMAGES), LABELS)
    return dict(zip(named, torch.autograd.grad(loss, list(named.values()), materialize_grads=True)))


@pytest.mark.parametrize("frozen", [(), ("a.weight", "a.bias"), ("b.weight",), ("out.weight", "out.bias")])
@pytest.mark.parametrize("unused", [False, True])
def test_without_noise_it_is_the_plain_gradient_of_what_is_trained(frozen: tuple[str, ...], unused: bool) -> None:
    model = Net(unused=unused)
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    torch.testing.assert_close(gradient(model), plain(model))


@pytest.mark.parametrize("unused", [False, True])
def test_a_few_examples_one_by_one_come_to_the_same(unused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = gradient(Net(unused=unused), noise=1.0)
    monkeypatch.setattr(Functional, "per_example", lambda *_: pytest.fail("all at once"))
    with one_by_one(len(IMAGES)):
        torch.testing.assert_close(gradient(Net(unused=unused), noise=1.0), at_once)
    with one_by_one(len(IMAGES) - 1), pytest.raises(pytest.fail.Exception):
        gradient(Net())


def test_a_parameter_that_nothing_uses_is_noised_like_the_others() -> None:
    noised = gradient(Net(), noise=1e-9)
    assert noised["spare.weight"].std() == pytest.approx(float(noised["a.weight"].std()), rel=1.0)
    assert noised["spare.weight"].any()


def test_a_model_that_cannot_be_replayed_trains_all_the_same() -> None:
    """One example after the other."""
    model = Net(checkpointed=True)
    torch.testing.assert_close(gradient(model), plain(model))


class Bare(nn.Module):
    """Parameters of its own beside a layer that draws."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.ones(6))
        self.inner = nn.Sequential(nn.Linear(6, 4), Dropout(0.5), nn.Linear(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x * self.token)


def test_a_bare_parameter_is_one_like_others() -> None:
    model = Bare()
    set_stochastic(model, False)
    torch.testing.assert_close(gradient(model), plain(model))
