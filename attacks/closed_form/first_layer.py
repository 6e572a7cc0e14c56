"""Which linear layer sees the pixels themselves, found by watching a probe pass through the model."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attacks.base import NotApplicable
from attacks.closed_form.base import Puzzle
from attacks.closed_form.low_rank import LowRank, low_rank
from attacks.closed_form.masks import watch
from attacks.updates import lacks


@dataclass(frozen=True)
class FirstLinear:
    """A linear layer whose input is the flattened image, one vector an image.

    Args:
        weight, bias: its parameter names; bias is None where it has none, or where the update lacks it.
    """

    layer: nn.Linear
    weight: str
    bias: str | None

    def image(self, rows: Tensor, input_shape: tuple[int, int, int]) -> Tensor:
        """Inputs of the layer (B, C * H * W) as images (B, C, H, W)."""
        return rows.unflatten(1, input_shape)

    def space(self, puzzle: Puzzle, generator: torch.Generator) -> LowRank:
        """The low-rank part of [dL/dW, dL/db], which is a sum of one outer product an image."""
        columns = [puzzle.gradient(self.weight)]
        if self.bias is not None:
            columns.append(puzzle.gradient(self.bias)[:, None])
        return low_rank(torch.cat(columns, 1), expected=puzzle.images, generator=generator)


def first_linear(puzzle: Puzzle) -> FirstLinear:
    """The layer that sees the image.

    Raises:
        NotApplicable: the first layer with parameters is another, or is given something else than the image.
    """
    return first_linear_of(puzzle.model, puzzle.observation.input_shape, puzzle.names)


def first_linear_of(model: nn.Module, shape: tuple[int, int, int], names: Collection[str]) -> FirstLinear:
    """The layer of a model that sees images of this shape (C, H, W), of whose parameters these are in the update."""
    calls: list[tuple[str, nn.Module, Tensor]] = []

    def note(path: str) -> Any:
        return lambda layer, inputs, output: calls.append((path, layer, inputs[0])) if inputs else None

    parametric = [(p, m) for p, m in model.named_modules() if next(m.parameters(recurse=False), None) is not None]
    handles = [layer.register_forward_hook(note(path)) for path, layer in parametric]
    like = next(model.parameters())
    probe = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)).to(like)
    try:
        with torch.no_grad():
            model(probe)
    finally:
        for handle in handles:
            handle.remove()
    if not calls:
        raise NotApplicable("the model has no layer with parameters")
    path, layer, seen = calls[0]
    if not isinstance(layer, nn.Linear):
        raise NotApplicable(f"the first layer with parameters is {path or 'the model itself'}, {type(layer).__name__}")
    if not torch.equal(seen, probe.flatten(1)):
        raise NotApplicable(f"{path} is not given the flattened image")
    if sum(called is layer for _, called, _ in calls) > 1:
        raise NotApplicable(f"{path} is called more than once in one forward pass")
    prefix = f"{path}." if path else ""
    if f"{prefix}weight" not in names:
        raise NotApplicable(lacks(f"{prefix}weight"))
    bias = f"{prefix}bias"
    return FirstLinear(layer, f"{prefix}weight", bias if bias in names else None)


def random_input(puzzle: Puzzle, layer: FirstLinear) -> bool:
    """Whether what a client draws changes what enters the layer."""
    if not puzzle.model.training:
        return False
    shape, own = puzzle.observation.input_shape, {"": layer.layer}
    quiet, drawn = (watch(puzzle.model, own, shape, draw=draw)[""][0][0] for draw in (False, True))
    return not torch.equal(quiet, drawn)
