"""How a vision transformer turns an image into tokens, found by watching a probe pass through the model.

The probe's pixels are their own indices, so what enters the patch embedding says which pixel went where. Further on,
the gradient of a random function of the tokens is taken with respect to the patch embedding's output and to every
parameter that could be the positions: where tokens and positions meet in a plain sum `e_i = W x_i + b + pos_i`, the
two gradients are the same numbers, row by row, and the rows tell which position belongs to which patch. A class token
has a position too, which no patch answers to. The forward pass ends there: the rest of the model is not run.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from attacks.base import NotApplicable
from attacks.closed_form.base import Puzzle
from attacks.replayable import replayed
from attacks.seeds import generator_for
from attacks.updates import lacks
from defenses.stochastic import StochasticLayer


@dataclass(frozen=True)
class PatchEmbedding:
    """A patch embedding `e_i = W x_i + b + pos_i` of N patches of P pixels into D dimensions.

    Args:
        layer: the module path of the patch embedding, a Linear or a Conv2d.
        weight, bias, positions: parameter names; bias is None where it has none, or where the update lacks it.
        pixels: (N, P) int64: the index in the flattened image of each pixel of each patch.
        rows: (N,) int64: the row of the positions that each patch gets.
        axis: the axis of the positions' parameter that holds the D dimensions.
        following: the module that is given the tokens, as `e_i`, possibly after a dropout; "" if none is.
    """

    layer: str
    weight: str
    bias: str | None
    positions: str
    pixels: Tensor
    rows: Tensor
    axis: int
    following: str

    def of_patches(self, positions: Tensor) -> Tensor:
        """The positions, or their gradient, of the patches alone: (N, D)."""
        return _as_rows(positions, self.axis)[self.rows]

    def of_all(self, positions: Tensor) -> Tensor:
        """The positions, or their gradient, of all tokens: (M, D)."""
        return _as_rows(positions, self.axis)

    def patches(self, image: Tensor) -> Tensor:
        """The patches (N, P) of one image (1, C, H, W)."""
        return image.flatten()[self.pixels]

    def image(self, patches: Tensor, input_shape: tuple[int, int, int]) -> Tensor:
        """Patches (N, P) put back in place: (1, C, H, W)."""
        flat = patches.new_zeros(patches.numel())
        flat[self.pixels.flatten()] = patches.flatten()
        return flat.view(1, *input_shape)


def patch_embedding(puzzle: Puzzle) -> PatchEmbedding:
    """How the model embeds patches.

    Only the model's structure matters here, so the given model is watched as it is, with whatever weights it has.

    Raises:
        NotApplicable: the first layer is no patch embedding, or no learned positions are plainly added to it, or the
            update lacks what is needed.
    """
    watch = _Watch(puzzle.given_model, puzzle.observation.input_shape)
    with replayed("watched"):
        watch.run()
    names, pixels = puzzle.names, watch.pixels()
    positions, axis, rows = watch.positions()
    if watch.between and puzzle.threat_model.client_mode == "train":
        raise NotApplicable(f"{watch.between} is random, between the patch embedding and its positions")
    prefix = f"{watch.first}." if watch.first else ""
    weight, bias = f"{prefix}weight", f"{prefix}bias"
    for what, name in (("patch embedding", weight), ("positions", positions)):
        if name not in names:
            raise NotApplicable(lacks(f"the {what}, {name}"))
    return PatchEmbedding(
        watch.first, weight, bias if bias in names else None, positions, pixels, rows, axis, watch.reached
    )


class _Reached(Exception):
    """The probe has come far enough."""


class _Watch:
    """One probe through a model, up to the first module that is given both patch embedding and positions."""

    def __init__(self, model: nn.Module, input_shape: tuple[int, int, int]) -> None:
        self.model = model
        like = next(model.parameters())
        size = input_shape[0] * input_shape[1] * input_shape[2]
        self.probe = torch.arange(size, device=like.device).to(like.dtype).view(1, *input_shape)
        # aliases, not copies: leaves of a graph of their own, whatever the model's own flags are
        self.leaves = {name: p.detach().requires_grad_() for name, p in model.named_parameters()}
        self.first: str = ""
        self.layer: nn.Module | None = None
        self.entered: Tensor | None = None
        self.embedded: Tensor | None = None
        self.gradients: dict[str, Tensor] = {}
        self.embedded_gradient: Tensor | None = None
        self.reached: str = ""
        self.between: str = ""

    def run(self) -> None:
        """Pass the probe, in evaluation mode, and leave the model as it was."""
        modes = {module: module.training for module in self.model.modules()}
        handles = []
        for path, module in self.model.named_modules():
            handles.append(module.register_forward_pre_hook(self._before(path), with_kwargs=True))
            if next(module.parameters(recurse=False), None) is not None:
                handles.append(module.register_forward_hook(self._after(path)))
        self.model.eval()
        try:
            with torch.enable_grad(), contextlib.suppress(_Reached):
                self._look("", functional_call(self.model, self.leaves, (self.probe,)))
        finally:
            for handle in handles:
                handle.remove()
            for module, mode in modes.items():
                module.training = mode

    def pixels(self) -> Tensor:
        """Which pixels each patch holds, (N, P); NotApplicable unless the patches tile the image."""
        path, layer, entered = self.first or "the model itself", self.layer, self.entered
        if layer is None or entered is None:
            raise NotApplicable("the model has no layer with parameters")
        if isinstance(layer, nn.Conv2d):
            if layer.kernel_size != layer.stride or layer.groups != 1 or tuple(layer.dilation) != (1, 1):
                raise NotApplicable(f"the first layer, {path}, is a convolution whose patches overlap")
            if layer.padding not in ((0, 0), "valid"):
                raise NotApplicable(f"the first layer, {path}, pads the image")
            seen = F.unfold(entered, layer.kernel_size, stride=layer.stride)[0].T
        elif isinstance(layer, nn.Linear):
            seen = entered.flatten(0, -2)
        else:
            raise NotApplicable(f"the first layer with parameters is {path}, {type(layer).__name__}")
        if len(seen) == 1:
            raise NotApplicable(f"the first layer, {path}, sees the whole image as one vector, not patches")
        if not torch.equal(seen.flatten().sort().values, self.probe.flatten()):
            raise NotApplicable(f"{path} is not given the image's pixels in patches that tile it")
        return seen.long().cpu()

    def positions(self) -> tuple[str, int, Tensor]:
        """The name of the positions, their axis of dimensions, and the row of each patch (N,)."""
        if self.embedded is not None and self.embedded_gradient is not None:
            axis = 1 if isinstance(self.layer, nn.Conv2d) else -1
            wanted = _as_rows(self.embedded_gradient, axis)
            for name, gradient in self.gradients.items():
                for axis in (a for a, size in enumerate(gradient.shape) if size == wanted.shape[1]):
                    rows = _rows_of(wanted, _as_rows(gradient, axis))
                    if rows is not None:
                        return name, axis, rows
        raise NotApplicable(
            "no learned position embedding is plainly added to the patch embedding: the positions are fixed, or "
            "something else stands between"
        )

    def _after(self, path: str) -> Any:
        def hook(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
            if self.layer is not None:
                return None
            self.first, self.layer = path, layer
            if not isinstance(layer, nn.Linear | nn.Conv2d):
                raise _Reached
            self.entered = inputs[0].detach() if inputs else None
            self.embedded = output.detach().requires_grad_()
            return self.embedded

        return hook

    def _before(self, path: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            for value in (*inputs, *named.values()):
                self._look(path, value)
                if _draws(module) and isinstance(value, Tensor) and value.requires_grad and self.embedded is not None:
                    self.between = path

        return hook

    def _look(self, path: str, tokens: Any) -> None:
        """Stop if both the patch embedding and a parameter that may be the positions have gone into these tokens."""
        if self.embedded is None or not isinstance(tokens, Tensor) or not tokens.requires_grad:
            return
        size, dims = self.embedded.numel(), self.embedded.shape[1 if isinstance(self.layer, nn.Conv2d) else -1]
        own = f"{self.first}." if self.first else ""
        able = {
            name: leaf
            for name, leaf in self.leaves.items()
            if dims in leaf.shape and leaf.numel() >= size and name not in (f"{own}weight", f"{own}bias")
        }
        random = torch.randn(tokens.shape, generator=generator_for(0, "probe of positions")).to(tokens)
        mine, *theirs = torch.autograd.grad(
            tokens, [self.embedded, *able.values()], random, retain_graph=True, allow_unused=True
        )
        found = {name: g for name, g in zip(able, theirs, strict=True) if g is not None}
        if mine is not None and found:
            self.embedded_gradient, self.gradients, self.reached = mine, found, path
            raise _Reached


def _draws(module: nn.Module) -> bool:
    """Whether a layer is random in training; a dropout layer whose rate is not granted has the rate 0 here."""
    return isinstance(module, StochasticLayer | nn.modules.dropout._DropoutNd) and getattr(module, "p", 1.0) > 0


def _as_rows(value: Tensor, axis: int) -> Tensor:
    return value.movedim(axis, -1).flatten(0, -2) if value.dim() > 1 else value[None]


def _rows_of(wanted: Tensor, having: Tensor) -> Tensor | None:
    """For each row of `wanted` (N, D) the row of `having` (M, D) that holds the same numbers; None if one lacks."""
    rows = torch.cdist(wanted.double(), having.double()).argmin(1)
    same = torch.allclose(wanted, having[rows], rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))
    return rows.cpu() if same and wanted.any() and len(rows.unique()) == len(rows) else None
