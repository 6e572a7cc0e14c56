"""Models that a user may bring: what can be replayed is attacked, what cannot is declined in one line that says why."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from attack_victims import observe
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import attacks
from attacks import NotApplicable, ThreatModel
from attacks.evaluators.general import General
from attacks.objectives import Euclidean
from attacks.sites import noise_inputs
from attacks.twin import attacker_copy, simulate
from defenses.client.round import ClientRound

SHAPE = (1, 6, 6)


class Tokens(nn.Module):
    """Rows of the image as tokens through something, then a linear head on their mean."""

    def __init__(self, between: nn.Module, width: int = 8) -> None:
        super().__init__()
        self.embed, self.between, self.head = nn.Linear(6, 8), between, nn.Linear(width, 4)

    def forward(self, images: Tensor) -> Tensor:
        seen = self.between(self.embed(images.flatten(1, 2)))
        return self.head((seen[0] if isinstance(seen, tuple) else seen).mean(1))


class Fused(nn.Module):
    """The attention of timm's and Hugging Face's vision transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in self.qkv(tokens).chunk(3, -1))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class OwnHeads(nn.MultiheadAttention):
    def forward(self, tokens: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(tokens, tokens, tokens, need_weights=False)[0]


class Cells(nn.Module):
    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, tokens: Tensor) -> Tensor:
        state = None
        for token in tokens.unbind(1):
            state = self.cell(token, state)
        return (state[0] if isinstance(state, tuple) else state)[:, None]


class Through(nn.Module):
    """An MLP with a user's own computation in the middle."""

    def __init__(self, middle: Callable[[Through, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.middle = nn.Linear(36, 12), nn.Linear(12, 4), middle
        self.drop = nn.Dropout(0.5)
        self.register_buffer("count", torch.tensor(1.0))

    def forward(self, images: Tensor) -> Tensor:
        return self.b(self.middle(self, torch.sigmoid(self.a(images.flatten(1)))))


def counted(model: Through, hidden: Tensor) -> Tensor:
    model.count += 1
    return hidden * model.count  # a counter that matters: it must stand where it stood when the client began


ATTACKED = {
    "fused attention": lambda: Tokens(Fused()),
    "nn.MultiheadAttention": lambda: Tokens(OwnHeads(8, 2, batch_first=True)),
    "nn.TransformerEncoderLayer": lambda: Tokens(nn.TransformerEncoderLayer(8, 2, 8, dropout=0.0, batch_first=True)),
    "nn.LSTM": lambda: Tokens(nn.LSTM(8, 8, batch_first=True)),
    "nn.LSTM, projected, two ways": lambda: Tokens(
        nn.LSTM(8, 8, num_layers=2, bidirectional=True, proj_size=3, batch_first=True), width=6
    ),
    "nn.GRU": lambda: Tokens(nn.GRU(8, 8)),
    "nn.LSTMCell": lambda: Tokens(Cells(nn.LSTMCell(8, 8))),
    "nn.GRUCell": lambda: Tokens(Cells(nn.GRUCell(8, 8))),
    "a counter": lambda: Through(counted),
    "a subclass of dropout": lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 12), Renamed(0.5), nn.Linear(12, 4)),
    "dropout of rate 0, twice": lambda: Through(lambda model, hidden: idle(idle(hidden))),
}

idle = nn.Dropout(0.0)


class Renamed(nn.Dropout):
    """A dropout of another name and the same meaning."""


def built(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make().double()


def batch() -> tuple[Tensor, Tensor]:
    images = torch.rand(2, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return images, torch.tensor([1, 2])


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("name", ATTACKED)
def test_the_update_is_replayed_and_differentiated_twice(name: str, mode: str) -> None:
    model, (images, labels) = built(ATTACKED[name]), batch()
    observation = observe(model, images, labels, classes=4, train=mode == "train")
    twin = attacker_copy(model, observation.state, client_mode=mode, example=images)  # type: ignore[arg-type]
    noise = {}
    if name == "a subclass of dropout" and mode == "train":
        noise = {"2": torch.ones(2, 12, dtype=torch.float64)}
        observation = replace(observation, update=simulate(twin, observation.state, images, labels, noise))
    for parameter, value in simulate(twin, observation.state, images, labels, noise).items():
        torch.testing.assert_close(value, observation.update[parameter], rtol=1e-9, atol=1e-12)

    stacked = {parameter: torch.stack([value, value]) for parameter, value in observation.update.items()}
    masks = {f"noise.{path}": torch.stack([value, value]) for path, value in noise.items()}
    known = {"labels": torch.stack([labels, labels]), **masks}
    general = General(ClientRound(model=twin), Euclidean(), stacked)
    guesses = torch.stack([images + 0.1, images * 0.9])

    def loss(guess: Tensor) -> tuple[Tensor, Tensor]:
        losses, slopes = general({**known, "images": guess}, ["images"])
        return losses, slopes["images"]

    _, slopes = loss(guesses)
    step = torch.randn(guesses.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    up, down = loss(guesses + 1e-5 * step)[0], loss(guesses - 1e-5 * step)[0]
    torch.testing.assert_close((slopes * step).flatten(1).sum(1), (up - down) / 2e-5, rtol=1e-5, atol=1e-9)


class Overriding(nn.Dropout):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, True)


DECLINED = {
    "hidden dropout": (lambda: Through(lambda m, h: F.dropout(h, 0.5, m.training)), r"Through\) draws random numbers"),
    "an overridden forward": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 4), Overriding(0.5)),
        r"module '2' \(Overriding\) overrides the forward of nn\.Dropout",
    ),
    "drawn twice": (lambda: Through(lambda m, h: m.drop(m.drop(h))), "drop is called 2 times"),
    "a branch on data": (lambda: Through(lambda m, h: 2 * h if h.mean() > 0 else h), "looks at values"),
    "checkpointing": (lambda: Through(lambda m, h: checkpoint(torch.sigmoid, h, use_reentrant=False)), "checkpointing"),
    "reentrant checkpointing": (
        lambda: Through(lambda m, h: checkpoint(torch.sigmoid, h, use_reentrant=True)),
        "reentrant checkpointing",
    ),
    "another size": (lambda: Through(lambda m, h: h if len(h) == 1 else h[:, :3]), "cannot be attacked: mat1 and mat2"),
}


@pytest.mark.parametrize("name", DECLINED)
def test_what_cannot_be_replayed_is_declined_in_one_line(name: str) -> None:
    make, reason = DECLINED[name]
    model, (images, labels) = built(make).float(), batch()
    images = images.float()
    update = {name: torch.rand(value.shape) for name, value in model.named_parameters()}
    observation = observe(built(lambda: Through(lambda m, h: h)).float(), images, labels, classes=4)
    observation = replace(observation, state=model.state_dict(), update=update)
    with pytest.raises(NotApplicable, match=reason) as declined:
        attacks.create("inverting_gradients", iterations=1)(observation, ThreatModel(), model)
    assert "\n" not in str(declined.value)
    assert len(str(declined.value)) < 250


def test_algebra_needs_no_second_derivative() -> None:
    model, (images, labels) = built(DECLINED["checkpointing"][0]), batch()
    observation = observe(model, images[:1], labels[:1], classes=4)
    answer = attacks.create("cascade", iterations=1)(observation, ThreatModel(), model)
    assert answer.details["stage"] == "first_linear"
    torch.testing.assert_close(answer.images, images[:1])


@pytest.mark.parametrize("name", ["mask_readout", "cut"])
def test_no_mask_is_spoken_of_where_none_was_drawn(name: str) -> None:
    model, (images, labels) = built(lambda: Through(lambda m, h: h)), batch()
    with pytest.raises(NotApplicable, match="not a batch") as declined:
        attacks.create(name, iterations=1)(observe(model, images, labels, classes=4), ThreatModel(), model)
    assert "mask" not in str(declined.value)


@pytest.mark.parametrize("name", ["fused attention", "nn.LSTM"])
def test_single_precision_is_attacked_and_torch_left_as_it_was(name: str) -> None:
    """oneDNN computes in single precision only, and problem by problem, of which `vmap` warns."""
    before = torch.backends.cuda.flash_sdp_enabled(), torch._C._get_mkldnn_enabled()
    model, (images, labels) = built(ATTACKED[name]).float(), batch()
    observation = observe(model, images.float(), labels, classes=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        answer = attacks.create("inverting_gradients", iterations=30)(observation, ThreatModel(), model)
    assert answer.loss < answer.losses[0][1]
    assert before == (torch.backends.cuda.flash_sdp_enabled(), torch._C._get_mkldnn_enabled())


def test_looking_for_noise_counts_nothing() -> None:
    model = built(ATTACKED["a counter"])
    twin = attacker_copy(model, model.state_dict(), example=batch()[0])
    noise_inputs(twin, 2, SHAPE)
    assert twin.count == 1
