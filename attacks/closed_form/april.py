"""APRIL's closed form: Lu et al., Finding the Achilles' Heel on Privacy for Vision Transformers, CVPR 2022
(arXiv 2112.14087).

Where z = (tokens + positions) enters nothing but the first self-attention's linear layers, q = W_q z and so on, the
chain rule gives `dL/dz = W_q^T dL/dq + W_k^T dL/dk + W_v^T dL/dv`, and, times z on the right and summed over tokens,

    G^T Z = W_q^T dL/dW_q + W_k^T dL/dW_k + W_v^T dL/dW_v        G = dL/dz = dL/dpos (N, D)

a linear system for the attention's input Z (N, D). The patches follow by the pseudo-inverse of their embedding,
`z_i = W x_i + b + pos_i`. A norm, a shortcut or dropout between the positions and the attention breaks it, so common
vision transformers are declined; `patch_embedding` needs none of this and is the stronger attack.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attacks.base import NotApplicable, Reconstruction, register
from attacks.closed_form.base import ClosedForm, Puzzle
from attacks.closed_form.certify import outside
from attacks.closed_form.patches import PatchEmbedding, patch_embedding
from attacks.closed_form.tokens import Solution, solve
from attacks.replayable import replayed
from attacks.seeds import generator_for
from attacks.updates import lacks
from defenses.stochastic import set_stochastic

CERTAIN = 0.01
"""An image is certain up to this expected root mean square error, in [0, 1] pixels: 40 dB."""

UNEXPLAINED = 0.3
"""Above this share of noise the update does not fit the architecture, or is not that of one image."""


@register("april")
@dataclass(kw_only=True, eq=False)
class April(ClosedForm):
    """The one image of an update of a ViT whose positions are directly followed by self-attention."""

    paper: ClassVar[str] = "Lu et al., CVPR 2022 (arXiv 2112.14087)"
    exploits: ClassVar[str] = "one image; a ViT whose learned positions enter self-attention directly"
    under_dropout: ClassVar[str] = "the same where nothing is dropped before the attention; else it declines"

    adapts: ClassVar[Mapping[str, str | None]] = {**ClosedForm.adapts, "dropout": None, "attention_drop": None}
    reads_first: ClassVar[bool] = False  # but also the layers of the attention
    strength: ClassVar[int] = 10

    def solve(self, puzzle: Puzzle, *, seed: int) -> Reconstruction:
        if puzzle.images != 1:
            size = "unknown size" if puzzle.images is None else f"{puzzle.images} images"
            raise NotApplicable(f"a batch of {size}, or several steps: it takes one image in one step")
        embedding, solution = self._solution(puzzle)
        if solution.noise > UNEXPLAINED:
            raise NotApplicable(
                "the update does not fit an attention right after the positions"
                + (f": {solution.noise:.0%} of it is not explained" if solution.noise < float("inf") else " for sure")
            )
        return self._answer(puzzle, embedding, solution)

    def unexplained(self, puzzle: Puzzle, images: Tensor) -> Tensor:
        embedding, solution = self._solution(puzzle)
        weight, bias = puzzle.weight(embedding.weight).flatten(1), _bias_of(puzzle, embedding)
        positions = embedding.of_patches(puzzle.weight(embedding.positions))
        shares = []
        for image in images:
            rows = solution.rows.clone()  # a class token is not of the image
            rows[embedding.rows] = embedding.patches(image.to(weight)) @ weight.T + bias + positions
            shares.append(solution.unexplained(rows))
        return torch.tensor(shares)

    def _solution(self, puzzle: Puzzle) -> tuple[PatchEmbedding, Solution]:
        """The embedding, and the system for the attention's input (M, D)."""
        embedding = patch_embedding(puzzle)
        tokens = embedding.of_all(puzzle.gradient(embedding.positions))
        if not tokens.any():
            raise NotApplicable(f"the gradient of {embedding.positions} is zero")
        layers = attention_inputs(puzzle, embedding)
        right = sum((puzzle.weight(name).T @ puzzle.gradient(name) for name in layers), tokens.new_zeros(()))
        if not right.any():
            raise NotApplicable("the gradients of the self-attention's linear layers are zero")
        if (tokens == 0).all(1).any():
            raise NotApplicable("a token has no gradient: the attention's input is not determined")
        epsilon = torch.finfo(puzzle.observation.update[embedding.positions].dtype).eps
        return embedding, solve(tokens, right, epsilon=epsilon)

    def _answer(self, puzzle: Puzzle, embedding: PatchEmbedding, solution: Solution) -> Reconstruction:
        """The image from the attention's input."""
        observation = puzzle.observation
        weight = puzzle.weight(embedding.weight).flatten(1)
        s = torch.linalg.svdvals(weight)
        epsilon = torch.finfo(observation.state[embedding.weight].dtype).eps
        if weight.shape[0] < weight.shape[1] or s[-1] <= epsilon * len(weight) * s[0]:
            raise NotApplicable(
                f"the patch embedding of {weight.shape[1]} pixels in {weight.shape[0]} dimensions cannot be undone"
            )
        inverse = torch.linalg.pinv(weight)
        embedded = solution.rows[embedding.rows] - embedding.of_patches(puzzle.weight(embedding.positions))
        embedded = embedded - _bias_of(puzzle, embedding)
        image = embedding.image(embedded @ inverse.T, observation.input_shape)
        spread = float(inverse.norm()) / weight.shape[1] ** 0.5 * max(observation.std)
        expected = float(solution.errors[embedding.rows].square().mean().sqrt()) * spread
        if expected >= max(observation.std):
            raise NotApplicable("the update is too noisy: the image is not expected to be better than the mean image")
        beyond = float(outside(image, observation))
        certain = expected <= CERTAIN and beyond <= 6 * CERTAIN
        facts: dict[str, Any] = {
            "certain": [certain],
            "determined": [True],
            "tolerated": solution.tolerated,
            "expected_error": expected,
            "outside": beyond,
        }
        return Reconstruction(images=image, loss=solution.residual, details=facts)


def _bias_of(puzzle: Puzzle, embedding: PatchEmbedding) -> Tensor:
    """The patch embedding's bias, or 0."""
    bias = f"{embedding.weight.removesuffix('weight')}bias"
    present = bias in puzzle.observation.state
    return puzzle.weight(bias) if present else puzzle.weight(embedding.weight).new_zeros(())


def attention_inputs(puzzle: Puzzle, embedding: PatchEmbedding) -> list[str]:
    """The weights of the linear layers that are given z, once the identity above holds for a probe.

    Raises:
        NotApplicable: there are none, or z goes elsewhere too, or is changed on the way, or the update lacks them.
    """
    z, positions, weights = _probe(puzzle, embedding)
    left = None if positions is None or z is None else embedding.of_all(positions)
    if z is None or left is None or z.dim() != 3 or left.shape != z.shape[1:] or not _holds(z[0], left, weights):
        raise NotApplicable(
            "the tokens do not enter the first self-attention alone and unchanged: a norm, a shortcut or dropout is in "
            "the way"
        )
    for name in weights:
        if name not in puzzle.names:
            raise NotApplicable(lacks(f"{name} of the self-attention"))
    return list(weights)


def _holds(z: Tensor, tokens: Tensor, weights: dict[str, tuple[Tensor, Tensor]]) -> bool:
    """Whether `G^T Z = sum W^T dL/dW`: z and tokens (M, D), the layers as their weights and gradients."""
    left = tokens.T @ z
    right = sum((weight.T @ gradient for weight, gradient in weights.values()), torch.zeros_like(left))
    return bool(left.any()) and torch.allclose(left, right, rtol=1e-3, atol=1e-3 * float(left.abs().max()))


def _probe(
    puzzle: Puzzle, embedding: PatchEmbedding
) -> tuple[Tensor | None, Tensor | None, dict[str, tuple[Tensor, Tensor]]]:
    """Of a random image and loss: what the first linear layer after the embedding is given (1, M, D), the gradient of
    the positions, and of all linear layers that are given the same the weights and their gradients by name."""
    model, shape = puzzle.model, puzzle.observation.input_shape
    calls: list[tuple[str, Tensor]] = []

    def watch(name: str) -> Callable[..., None]:
        return lambda layer, inputs, output: calls.append((name, inputs[0].detach()))

    linear = [(p, layer) for p, layer in model.named_modules() if isinstance(layer, nn.Linear) and p != embedding.layer]
    handles = [layer.register_forward_hook(watch(f"{path}.weight")) for path, layer in linear]
    generator = generator_for(0, "probe of attention")
    image = torch.rand(1, *shape, generator=generator).to(next(model.parameters()))
    set_stochastic(model, puzzle.threat_model.client_mode == "train")  # dropout on the tokens must show
    model.requires_grad_(True)
    try:
        with torch.enable_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            logits = model(image)
    finally:
        for handle in handles:
            handle.remove()
        set_stochastic(model, False)
    random = torch.randn(logits.shape, generator=generator).to(logits)
    z = calls[0][1] if calls else None
    names = [name for name, entered in calls if z is not None and torch.equal(entered, z)]
    parameters = dict(model.named_parameters())
    leaves = [parameters[name] for name in (embedding.positions, *names)]
    with replayed("watched"):
        positions, *gradients = torch.autograd.grad(logits, leaves, random, allow_unused=True)
    model.requires_grad_(False)
    used: dict[str, tuple[Tensor, Tensor]] = {
        name: (parameters[name], g) for name, g in zip(names, gradients, strict=True) if g is not None
    }
    return z, positions, used
