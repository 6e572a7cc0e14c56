"""The image of a single example, read off the first linear layer, whatever dropout follows it.

One vector x through `z = W x + b` at batch 1 gives `dL/dW = delta x^T` and `dL/db = delta`. With the bias, delta is
known and x is one division (Phong et al., *Privacy-preserving deep learning: revisited and enhanced*, ATIS 2017); here
the least-squares one over all units, `x = delta^T dL/dW / |delta|^2`. All randomness downstream is inside delta and
does not matter, nor does the scale of the update.

Without the bias the leading right singular vector v of dL/dW is the direction of x, and one number is missing: the
signed length s. `attacks.closed_form.length` finds it, once the masks of all layers are read.

Of a pruned update, and of the only step of Adam, the same matrix is known in part: `attacks.closed_form.incomplete`
completes it, where the attack is told of the pruning, or of the optimizer. Of a noisy update it is known up to noise:
`attacks.closed_form.noisy` takes it off, where the attack is told of the noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from attacks.base import NotApplicable, Reconstruction, register
from attacks.closed_form.base import ClosedForm, Puzzle
from attacks.closed_form.certify import ends, in_range, outside
from attacks.closed_form.first_layer import FirstLinear, first_linear, random_input
from attacks.closed_form.incomplete import complete, entries, pruned, unexplained
from attacks.closed_form.length import find_length, mismatch
from attacks.closed_form.masks import Masks, read_masks
from attacks.closed_form.noisy import denoise, noisy
from attacks.closed_form.saturated import scaled
from defenses.stochastic import Dropout, stochastic_layers

_EXACT = 1e-3  # the largest relative error of an image that is called certain
_LENGTH = 0.01  # and of one whose contrast the update is taken to say
_SCALED = 1e-5  # the relative error of an image's contrast below which the range of pixels need not be asked for it
_SAYS = 0.7  # the largest relative error of an image that the update says at all
_MOST = 0.5  # the share of the pixels that a pruned update must say for the image to be taken from it
_RANGE = 0.01  # and how far, in [0, 1] pixel units, it may leave the range of pixels


@register("first_linear")
@dataclass(kw_only=True, eq=False)
class FirstLinearInversion(ClosedForm):
    """One image through a first linear layer: exact with its bias; without it by a search for the image's length.

    It is certain if the layer's gradient has rank one, if the simulated update determines the length (without a bias)
    or agrees with it (with one, and where all masks are read), all to a relative error of 1e-3, if the pixels are in
    range, and if nothing random happened before that layer. With a bias and masks that are not read, its weight and its
    bias are taken to be scaled alike. Dropout of the pixels themselves stays in the image: what it took is grey.

    Of an update that is known to be pruned, the image is certain only if every pixel is in what is left of it; pixels
    that are not stay at the public mean.

    Of noise that is known, entry by entry (`Defense.spread`), the likeliest image under it is the answer. It is certain
    only if the noise that is left on the image is known to be as small.
    """

    paper: ClassVar[str] = "Phong et al., IEEE TIFS 2018, for a layer with a bias"
    exploits: ClassVar[str] = "one image; a linear first layer"
    under_dropout: ClassVar[str] = "the same; without a bias every mask must be readable"

    weighs_noise = True
    ignores: ClassVar[tuple[str, ...]] = ("noise", "auxiliary_data")  # labels tell an image's length
    strength = 30
    weighs = True

    def solve(self, puzzle: Puzzle, *, seed: int) -> Reconstruction:
        layer = first_linear(puzzle)
        if puzzle.images == 1 and noisy(puzzle, layer):
            return _denoised(puzzle, layer)
        if puzzle.images == 1 and _in_part(puzzle):
            return _completed(puzzle, layer)
        single = puzzle.images in (None, 1)
        weight = puzzle.gradient(layer.weight)
        if not (unit := weight.abs().max()):
            raise NotApplicable(f"the gradient of {layer.weight} is zero")
        weight = weight / unit
        direction, rank_residual = _leading(weight)
        if puzzle.images != 1 and rank_residual > _EXACT:
            raise NotApplicable(f"takes one image, not a batch: the gradient of {layer.weight} has rank above one")
        masks = read_masks(puzzle.model, puzzle.observation) if single else Masks({}, {}, {}, frozenset())
        kept = _kept_at_the_input(puzzle, layer, masks)
        bias = puzzle.gradient(layer.bias) / unit if layer.bias is not None else None

        def as_image(pixels: Tensor) -> Tensor:
            return layer.image(kept * pixels[None], puzzle.observation.input_shape)

        if bias is not None and bias.any():
            route, labels = "bias", puzzle.observation.labels
            pixels = bias @ weight / bias.square().sum()
            image, loss = as_image(pixels), _unexplained(weight, bias, pixels, layer)
            # weight and bias may have been clipped each by itself: only a simulation shows that
            simulated = mismatch(puzzle, image, masks) if single else None
            error = max(loss, simulated or 0.0)
        elif single:
            found = find_length(puzzle, as_image(direction), masks)
            route, labels, loss, error = "length", found.labels, found.mismatch, found.error
            image = found.length * as_image(direction)
        else:
            raise NotApplicable(f"takes one image, not a batch of {puzzle.images}: {layer.weight} has no bias")

        input_dropped = random_input(puzzle, layer)
        in_range = float(outside(image, puzzle.observation)) <= _RANGE
        certain = max(rank_residual, loss, error) <= _EXACT and in_range and not input_dropped
        count = puzzle.images or 1
        details: dict[str, Any] = {
            "route": route,
            "rank_residual": rank_residual,
            "relative_error": error,
            "input_dropped": input_dropped,
            # dropped pixels are not in the update, nor is the contrast, where a simulation contradicts it
            "determined": [not input_dropped and error <= max(_LENGTH, 10 * rank_residual)] + [False] * (count - 1),
            "tolerated": rank_residual,
            # rank one of several images: they are all this one, or the others left no trace
            "certain": [certain] + [False] * (count - 1),
        }
        return Reconstruction(
            images=image.repeat(count, 1, 1, 1),
            loss=loss,
            labels=labels if labels is not None and len(labels) == count else None,
            noise=masks.read or None,
            details=details,
        )

    def unexplained(self, puzzle: Puzzle, images: Tensor) -> Tensor:
        """Of `dL/dW = delta x^T` for any delta: the length of x does not enter it."""
        layer = first_linear(puzzle)
        if noisy(puzzle, layer):
            found = denoise(puzzle, layer, bias=False)
            return unexplained(puzzle.gradient(layer.weight), found.weights, images.flatten(1))
        if _in_part(puzzle):
            return unexplained(*entries(puzzle, layer.weight, None), images.flatten(1))
        return _share_left(puzzle.gradient(layer.weight), images.flatten(1))


def _in_part(puzzle: Puzzle) -> bool:
    """Whether some entries of the gradient are missing, or known better than others."""
    return pruned(puzzle) or puzzle.estimates is not None


def _denoised(puzzle: Puzzle, layer: FirstLinear) -> Reconstruction:
    """The likeliest image under noise that is known. No mask is read, and none is needed: noise has covered them."""
    found, observation = denoise(puzzle, layer), puzzle.observation
    vector, deviation, anchor = found.vector, found.deviation, None
    if layer.bias is not None and bool(deviation[-1].isfinite()):
        anchor = (float(vector[-1]), float(deviation[-1]))
    if layer.bias is not None:
        vector, deviation = vector[:-1], deviation[:-1]
    said = deviation.isfinite()
    if not bool(said.any()):
        raise NotApplicable(f"no entry that is left of {layer.weight} says anything")
    error = math.sqrt(float(deviation[said].square().sum())) / float(vector[said].norm())
    if error > 1:
        raise NotApplicable(f"nothing in the gradient of {layer.weight} stands above the noise that is known of")
    low, high = (value.flatten() for value in ends(observation))
    if anchor is not None and abs(anchor[1]) <= _SCALED * abs(anchor[0]):
        image = in_range(layer.image((vector / anchor[0])[None], observation.input_shape), observation)
    else:
        pixels, _ = scaled(vector, deviation, low, high, anchor=anchor)
        image = layer.image(pixels[None], observation.input_shape)
    input_dropped = random_input(puzzle, layer)
    one = found.sure if found.agreeing is not None else found.residual <= _EXACT
    sure = one and anchor is not None and abs(anchor[1]) <= _SCALED * abs(anchor[0]) and error <= _EXACT
    labels = observation.labels
    return Reconstruction(
        images=image,
        loss=found.residual,
        labels=labels if labels is not None and len(labels) == 1 else None,
        details={
            "route": "noise",
            "rank_residual": found.residual,
            "relative_error": error,
            "input_dropped": input_dropped,
            **({} if found.agreeing is None else {"entries_agreeing": found.agreeing}),
            "pixels_determined": float(said.double().mean()),
            "determined": [error <= _SAYS and not input_dropped],
            "tolerated": found.residual,
            "certain": [sure and bool(said.all()) and not input_dropped],
        },
    )


def _completed(puzzle: Puzzle, layer: FirstLinear) -> Reconstruction:
    """The image of an update that says some entries only. With a bias no mask is read: zeros may be pruned."""
    found = complete(puzzle)
    image, observation = found.image, puzzle.observation
    labels = observation.labels if observation.labels is not None and len(observation.labels) == 1 else None
    share = float(found.determined.double().mean())
    if share == 0:
        raise NotApplicable(f"no entry of {layer.bias} that is left shares a unit with one of {layer.weight}")
    error = found.error
    if not found.anchored:
        length = find_length(puzzle, image, read_masks(puzzle.model, observation))
        image, labels = length.length * image, length.labels
        error = max(error, length.error)
    input_dropped = random_input(puzzle, layer)
    in_range = float(outside(image, observation)) <= _RANGE
    sure = error <= _EXACT and in_range and not input_dropped
    return Reconstruction(
        images=image,
        loss=found.residual,
        labels=labels,
        details={
            "route": "completion",
            "rank_residual": found.residual,
            "relative_error": error,
            "input_dropped": input_dropped,
            "entries_left": found.entries,
            "pixels_determined": share,
            "determined": [share >= _MOST and error <= _LENGTH and not input_dropped],
            "tolerated": found.residual,
            "certain": [sure and share == 1],
        },
    )


def _share_left(weight: Tensor, vectors: Tensor) -> Tensor:
    """How much of a matrix (units, inputs) each vector (B, inputs) leaves if it is of rank one along it: (B,)."""
    unit = torch.nn.functional.normalize(vectors.to(weight), dim=1)
    return torch.stack([(weight - torch.outer(weight @ v, v)).norm() for v in unit]) / weight.norm()


def _leading(weight: Tensor) -> tuple[Tensor, float]:
    """The leading right singular vector (inputs,) and how much of the matrix other ones hold, in [0, 1].

    By power iteration: of a matrix of rank one, the first step is exact.
    """
    vector = weight[weight.norm(dim=1).argmax()]
    for _ in range(30):
        vector = weight.T @ (weight @ vector)
        vector = vector / vector.norm()
    rest = weight - torch.outer(weight @ vector, vector)
    return vector, float(rest.norm() / weight.norm())


def _unexplained(weight: Tensor, bias: Tensor, pixels: Tensor, layer: FirstLinear) -> float:
    """The relative residual of `dL/dW = delta x^T`. Noise alone would explain 1/units of the whole by chance."""
    residual = float((weight - torch.outer(bias, pixels)).norm() / weight.norm())
    if 1 - residual**2 < min(4 / len(weight), 0.5):
        raise NotApplicable(f"the gradients of {layer.weight} and {layer.bias} do not belong together")
    return residual


def _kept_at_the_input(puzzle: Puzzle, layer: FirstLinear, masks: Masks) -> float:
    """The share of the pixels that dropout before the layer keeps: inverted dropout divided the others by it."""
    for path, dropout in stochastic_layers(puzzle.model).items():
        if masks.readers.get(path) == layer.weight and isinstance(dropout, Dropout):
            return 1 - dropout.p
    return 1.0
