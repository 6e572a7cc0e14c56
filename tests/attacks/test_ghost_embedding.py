"""Ghost matching with nn.Embedding: tables that examples look up, and learned positions that all examples share."""

import pytest
import torch
from evaluator_problems import assert_ghost_equals_general, assert_problems_do_not_meet, problem
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from attacks.evaluators import choose
from attacks.evaluators.general import General
from attacks.evaluators.ghost import Ghost
from attacks.evaluators.rules import Unfit, embedding, rule
from attacks.objectives import Cosine
from defenses.client.round import ClientRound


class Positions(nn.Module):
    """Tokens of four pixels, with positions looked up in a table: `shape` is that of the indices."""

    def __init__(self, width: int, shape: tuple[int, ...] = (8,), **options: object) -> None:
        super().__init__()
        self.shape = shape
        self.embed = nn.Linear(4, width)
        self.positions = nn.Embedding(9, width, **options)  # type: ignore[arg-type]
        self.mix = nn.Linear(width, width)
        self.head = nn.Linear(width, 3)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(images.reshape(len(images), 8, 4))
        tokens = tokens + self.positions(torch.arange(8).reshape(self.shape))
        return self.head(self.mix(tokens.tanh()).sin().mean(1))


class Lookup(nn.Module):
    """Each example looks up its own rows, some of them more than once: the signs of its pixels, read in threes."""

    def __init__(self, width: int, **options: object) -> None:
        super().__init__()
        self.table = nn.Embedding(8, width, **options)  # type: ignore[arg-type]
        self.embed = nn.Linear(32, width)
        self.head = nn.Linear(width, 3)

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        bits = (flat[:, :30] > 0).reshape(-1, 10, 3)
        indices = (bits * torch.tensor([1, 2, 4])).sum(2)
        return self.head((self.table(indices).sin().sum(1) * self.embed(flat)).tanh())


@settings(max_examples=25, deadline=None)
@given(
    make=st.sampled_from([Positions, Lookup]),
    width=st.integers(2, 9),
    problems=st.integers(1, 3),
    batch=st.integers(1, 2),
    padding=st.sampled_from([None, 3]),
    seed=st.integers(0, 1000),
)
def test_ghost_equals_general(make, width, problems, batch, padding, seed) -> None:
    torch.manual_seed(seed)
    assert_ghost_equals_general(problem(make(width, padding_idx=padding).double(), problems, batch, seed), Cosine())


@pytest.mark.parametrize("shape", [(8,), (1, 8)])
def test_positions_with_and_without_a_leading_one(shape) -> None:
    torch.manual_seed(0)
    made = problem(Positions(4, shape).double(), 3, 2, 0)
    assert_ghost_equals_general(made, Cosine())
    assert_problems_do_not_meet(made)


@pytest.mark.parametrize("make", [Positions, Lookup])
def test_ghost_matching_is_used(make) -> None:
    torch.manual_seed(0)
    model, observed, guess = problem(make(4).double(), 3, 2, 0)
    assert isinstance(choose(ClientRound(model=model), Cosine(), observed, guess, ["images"]), Ghost)


def test_the_padding_row_gets_no_gradient() -> None:
    layer = nn.Embedding(5, 2, padding_idx=3)
    indices = torch.tensor([[3, 1], [1, 1], [0, 3], [4, 4]])
    gradient = embedding(layer, indices, torch.ones(4, 2, 2), 2)["weight"]
    assert isinstance(gradient, Tensor)
    assert gradient[..., 0].tolist() == [[0, 3, 0, 0, 0], [1, 0, 0, 0, 2]]


def test_as_many_examples_as_positions_are_told_apart_or_left_to_the_general_evaluator() -> None:
    """Eight indices and eight examples cannot be told apart at first."""
    torch.manual_seed(0)
    model, observed, guess = problem(Positions(4).double(), 4, 2, 0)
    assert isinstance(choose(ClientRound(model=model), Cosine(), observed, guess, ["images"]), General)


def test_as_many_examples_as_positions_are_left_at_the_end() -> None:
    """Twelve examples at first; when two problems have finished, eight are left, like the positions."""
    torch.manual_seed(0)
    model, observed, guess = problem(Positions(4).double(), 6, 2, 0)
    ghost = Ghost(ClientRound(model=model), Cosine(), observed, guess)
    loss, gradients = ghost(guess, ["images"])
    data, some = ({name: value[:4] for name, value in each.items()} for each in (ghost.data, guess))
    kept, kept_gradients = ghost.compare(data, some, ["images"])
    torch.testing.assert_close(kept, loss[:4], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(kept_gradients["images"], gradients["images"][:4], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("option", [{"max_norm": 1.0}, {"scale_grad_by_freq": True}, {"sparse": True}])
def test_what_has_no_rule_is_said(option) -> None:
    model, observed, guess = problem(Positions(4, **option).double(), 2, 1, 0)
    with pytest.raises(Unfit, match="an embedding with max_norm, scale_grad_by_freq or sparse gradients has no rule"):
        Ghost(ClientRound(model=model), Cosine(), observed, guess)


def test_a_second_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="Embedding already has a rule"):
        rule(nn.Embedding)(lambda layer, inputs, delta, problems: {})
