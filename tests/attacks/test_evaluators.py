"""Ghost matching gives what autograd gives, and is used only where it does."""

import pytest
import torch
from evaluator_problems import assert_ghost_equals_general, assert_same, problem, unknowns
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import vmap

from attacks.evaluators import choose, general
from attacks.evaluators.forms import low_rank
from attacks.evaluators.general import General
from attacks.evaluators.ghost import Ghost
from attacks.evaluators.rules import Unfit, rule
from attacks.objectives import Cosine, Euclidean
from attacks.sites import noise_inputs
from defenses.client.kept import Kept, Spaces, stacked
from defenses.client.round import ClientRound
from defenses.stochastic import Dropout, stochastic_layers


class Tokens(nn.Module):
    """A transformer in miniature: patches, a class token, positions, attention, layer norm, dropout."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(2, width, 2, stride=2)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, 5, width))
        self.drop = Dropout(0.5)
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Linear(width, 3 * width)
        self.head = nn.Linear(width, 3)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], dim=1) + self.positions
        q, k, v = self.mix(self.norm(self.drop(tokens))).chunk(3, dim=-1)
        return self.head(((q @ k.transpose(1, 2)).softmax(-1) @ v).mean(1))


class Scale(nn.Module):
    """A user's own layer, of which no rule knows."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.randn(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor.tanh()


def mlp(width: int) -> nn.Module:
    hidden = nn.Linear(width, width, bias=False)
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(32, width),
        nn.GELU(),
        Dropout(0.5),
        hidden,
        Scale(width),
        nn.GELU(),
        nn.Linear(width, 3),
    )


def convolutional(width: int) -> nn.Module:
    first = [nn.Conv2d(2, 2 * width, 3, padding=1, stride=2), nn.GroupNorm(2, 2 * width), nn.Sigmoid(), Dropout(0.3)]
    second = [nn.Conv2d(2 * width, width, 2, bias=False), nn.ReLU(inplace=True)]
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(width, 3))


def tokens_linear(width: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(2), nn.Linear(16, width), nn.GELU(), nn.Flatten(), nn.Linear(2 * width, 3))


def rank_one(observed: dict) -> dict:
    """The same, but each matrix of rank one, as batch 1 leaves it."""

    def flat(value: Tensor) -> Tensor:
        return value if value.dim() < 3 else value[:, :, :1] * value[:, :1, :]

    return {name: flat(value) for name, value in observed.items()}


@settings(max_examples=40, deadline=None)
@given(
    make=st.sampled_from([mlp, convolutional, tokens_linear, Tokens]),
    width=st.integers(3, 24),
    problems=st.integers(1, 4),
    batch=st.integers(1, 3),
    objective=st.sampled_from([Cosine(), Euclidean()]),
    low=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_ghost_equals_general(make, width, problems, batch, objective, low, seed) -> None:
    torch.manual_seed(seed)
    model, observed, guess = problem(make(width).double(), problems, batch, seed)
    observed = rank_one(observed) if low else observed
    assert_ghost_equals_general((model, observed, guess), objective)


@pytest.mark.parametrize("make", [mlp, convolutional, tokens_linear, Tokens])
def test_the_gradient_is_the_slope_of_the_loss(make) -> None:
    torch.manual_seed(0)
    model, observed, guess = problem(make(6).double(), 2, 2, 0)
    names = unknowns(guess)
    along = {name: torch.randn_like(guess[name]) for name in names}
    for evaluator in (
        Ghost(ClientRound(model=model), Cosine(), observed, guess),
        General(ClientRound(model=model), Cosine(), observed),
    ):
        _, gradients = evaluator(guess, names)
        slope = sum(float((gradients[name] * along[name]).sum()) for name in names)
        ahead, behind = (
            evaluator({**guess, **{name: guess[name] + h * along[name] for name in names}}, names)[0].sum().item()
            for h in (1e-5, -1e-5)
        )
        assert (ahead - behind) / 2e-5 == pytest.approx(slope, rel=1e-5, abs=1e-8)


def test_the_low_rank_factors_are_exact_or_refused() -> None:
    matrix = torch.randn(3, 20, 2) @ torch.randn(3, 2, 30)
    factors = low_rank(matrix, 4)
    assert factors is not None
    assert factors[0].shape == (3, 20, 2)
    torch.testing.assert_close((factors[0] @ factors[1].transpose(1, 2)).float(), matrix, rtol=1e-5, atol=1e-5)
    assert low_rank(matrix + 1e-3 * torch.randn(3, 20, 30), 4) is None


class OwnBatchNorm(nn.BatchNorm2d):
    """A subclass has no rule of its own: in it, the problems of a minibatch meet."""


def with_own_batch_norm(width: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, width, 3), OwnBatchNorm(width), nn.Flatten(), nn.Linear(4 * width, 3))


class Tied(nn.Module):
    """One weight, used by its layer and once more behind its back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(32, 32)
        self.last = nn.Linear(32, 3)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.first(images.flatten(1)).tanh()
        return self.last((hidden @ self.first.weight).tanh())


class Twice(Tied):
    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.first(self.first(images.flatten(1)).tanh()))


class Norm(nn.LayerNorm):
    """A subclass has no rule of its own, and `vmap` under autograd differentiates layer norm wrongly."""


def with_own_norm(width: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(32, 8), Norm(8), nn.Tanh(), nn.Linear(8, 3))


@pytest.mark.parametrize("make", [with_own_batch_norm, with_own_norm, Tied, Twice])
def test_where_ghost_matching_is_wrong_the_general_evaluator_is_used(make) -> None:
    model, observed, guess = problem(make(4).double(), 3, 2, 0)
    assert isinstance(choose(ClientRound(model=model), Cosine(), observed, guess, ["images"]), General)


@pytest.mark.parametrize("make", [mlp, convolutional, tokens_linear, Tokens])
def test_where_ghost_matching_is_right_it_is_used(make) -> None:
    model, observed, guess = problem(make(4).double(), 3, 2, 0)
    assert isinstance(choose(ClientRound(model=model), Cosine(), observed, guess, ["images"]), Ghost)


def test_a_layer_called_twice_is_named() -> None:
    model, observed, guess = problem(Twice(4).double(), 2, 1, 0)
    with pytest.raises(Unfit, match="first is called 2 times"):
        Ghost(ClientRound(model=model), Cosine(), observed, guess)


def test_a_second_rule_for_a_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear already has a rule"):
        rule(nn.Linear)(lambda layer, inputs, delta, problems: {})


def test_keeping_some_problems_keeps_their_scalars() -> None:
    model, observed, guess = problem(mlp(8).double(), 4, 1, 0)
    left = torch.tensor([1, 3])
    for evaluator in (
        Ghost(ClientRound(model=model), Cosine(), observed, guess),
        General(ClientRound(model=model), Cosine(), observed),
    ):
        loss, gradients = evaluator(guess, ["images"])
        data, some = ({name: value[left] for name, value in each.items()} for each in (evaluator.data, guess))
        kept, kept_gradients = evaluator.compare(data, some, ["images"])
        torch.testing.assert_close(kept, loss[left], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(kept_gradients["images"], gradients["images"][left], rtol=1e-9, atol=1e-9)


def noting(sizes: list):
    """`vmap` that notes how many it takes at a time."""

    def noted(function, *, chunk_size):
        sizes.append(chunk_size)
        return vmap(function, chunk_size=chunk_size)

    return noted


def test_wide_problems_are_computed_a_few_at_a_time(monkeypatch) -> None:
    """Unless somebody writes the operations down: a compiled iteration is not to grow with the problems."""
    model, observed, guess = problem(mlp(8).double(), 5, 1, 0)

    def found(at_once: int) -> tuple[General, Tensor, Tensor, list[int]]:
        monkeypatch.setattr(general, "AT_ONCE", at_once)
        monkeypatch.setattr(general, "vmap", vmap)
        evaluator, sizes = General(ClientRound(model=model), Cosine(), observed), []
        monkeypatch.setattr(general, "vmap", noting(sizes))
        loss, gradients = evaluator(guess, ["images"])
        return evaluator, loss, gradients["images"], sizes

    largest = 8 * 32
    many, few = found(100 * largest), found(2 * largest + 1)
    assert (many[3], few[3]) == ([100], [2])
    torch.testing.assert_close(few[1], many[1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(few[2], many[2], rtol=1e-12, atol=1e-12)
    with few[0].in_one_piece():
        few[0](guess, ["images"])
    assert few[3] == [2, None]
    few[0](guess, ["images"])
    assert few[3] == [2, None, 2]


def test_noise_shapes_are_those_of_the_layers_that_draw() -> None:
    model = nn.Sequential(nn.Flatten(), Dropout(0.0), nn.Linear(32, 4), Dropout(0.5), nn.Linear(4, 3))
    assert noise_inputs(model.double(), 2, (2, 4, 4)) == {"3": torch.Size([2, 4])}
    assert not any(layer.training for layer in stochastic_layers(model).values())


@pytest.mark.parametrize("make", [mlp, convolutional, tokens_linear])
@pytest.mark.parametrize("batch", [1, 3])
def test_spaces_of_a_matrix_are_compared_alike(make, batch) -> None:
    """Problems have spaces of their own, of other sizes; one is compared whole, and of one nothing of the head is."""
    torch.manual_seed(4)
    model, observed, guess = problem(make(6).double(), 4, batch, 2)

    def kept(name: str, number: int) -> Kept:
        value = observed[name][number]
        if value.dim() < 2 or number == 2:
            return torch.ones_like(value, dtype=torch.bool)
        if number == 3 and len(value) == 3:
            return torch.zeros_like(value, dtype=torch.bool)
        left, sizes, right = torch.linalg.svd(value.flatten(1), full_matrices=False)
        few = 1 + number
        return Spaces.of(((left[:, :few] * sizes[:few]) @ right[:few]).view_as(value))

    all_kept = {name: stacked([kept(name, number) for number in range(4)]) for name in observed}
    assert any(isinstance(one, Spaces) for one in all_kept.values())
    ghost, general = (
        evaluator(ClientRound(model=model), Cosine(), observed, *more, kept=all_kept)
        for evaluator, more in ((Ghost, [guess]), (General, []))
    )
    assert_same(ghost(guess, unknowns(guess)), general(guess, unknowns(guess)))
