"""Score one attack on one client: match its answer to the truth, and measure it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedsim.scoring.matching import match
from fedsim.scoring.metrics import METRICS
from fedsim.table import LEAKED_PSNR, LEAKED_SSIM


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The scores of one client's batch, and the pictures in the same order.

    Args:
        rows: for each original its score columns of the results table. An original for which the attack returned no
            image is not leaked, and its other scores are None.
        reconstructions: uint8 (B, C, H, W), matched to the originals; black where there is none.
        order: for each original the index of its reconstruction in the attack's answer, or None.
    """

    rows: list[dict[str, object]]
    reconstructions: Tensor
    order: list[int | None]


def score_victim(
    *,
    original: Tensor,
    reconstruction: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    true_labels: Tensor,
    labels: Tensor | None = None,
    true_noise: Mapping[str, Tensor] | None = None,
    noise: Mapping[str, Tensor] | None = None,
    metrics: Sequence[str] = tuple(METRICS),
) -> Scored:
    """Match an attack's answer to what the client trained on, and score it.

    Args:
        original: uint8 (B, C, H, W).
        reconstruction: (R, C, H, W) in the model's normalised units, in any order.
        mean, std: per channel, of that normalisation.
        true_labels: (B,); `labels`: (R,) in the order of `reconstruction`, if the attack gave any.
        true_noise: what each stochastic layer drew, (B, ...) by layer; `noise`: (R, ...), as the attack estimated it,
            in the order of `reconstruction`. Mask accuracy is the share of entries that are right once rounded; the
            layers that the attack has no estimate of do not count.
        metrics: which of `METRICS` to report. The flags are always there.

    Raises:
        ValueError: an entry of the reconstruction is not finite, or a shape or a name does not fit the truth.
    """
    unknown = [name for name in metrics if name not in METRICS]
    if unknown:
        raise ValueError(f"no such metric: {unknown[0]} (known: {', '.join(METRICS)})")
    if reconstruction.shape[1:] != original.shape[1:]:
        raise ValueError(f"reconstructed images are {_shape(reconstruction)}, the originals {_shape(original)}")
    broken = (~reconstruction.isfinite()).flatten(1).any(1).sum()
    if broken:
        raise ValueError(f"{broken} of {len(reconstruction)} reconstructed images hold NaN or infinite pixels")

    truth = original.cpu().double() / 255
    scale, shift = (torch.tensor(values).double().view(-1, 1, 1) for values in (std, mean))
    images = (reconstruction.detach().cpu().double() * scale + shift).clamp(0, 1)
    order = match(truth, images)
    found = [i for i, j in enumerate(order) if j is not None]
    answer = [j for j in order if j is not None]

    matched = torch.zeros_like(original, device="cpu")
    matched[found] = (images[answer] * 255).round().to(torch.uint8)
    wanted = {*metrics, "psnr", "ssim"}
    scores = {name: METRICS[name](truth[found], images[answer]) for name in METRICS if name in wanted}
    exact = (matched == original.cpu()).flatten(1).all(1)

    rows: list[dict[str, object]] = [_nothing() for _ in order]
    for position, (i, j) in enumerate(zip(found, answer)):
        row = rows[i]
        row |= {name: float(scores[name][position]) for name in metrics}
        row["leaked_ssim"] = bool(scores["ssim"][position] >= LEAKED_SSIM)
        row["leaked_psnr"] = bool(scores["psnr"][position] > LEAKED_PSNR)
        row["bit_exact"] = bool(exact[i])
        if labels is not None:
            row["label_correct"] = int(labels[j]) == int(true_labels[i])
        if noise and true_noise:
            row |= _mask_accuracy(true_noise, noise, i, j)
    return Scored(rows=rows, reconstructions=matched, order=order)


def _nothing() -> dict[str, object]:
    scores: dict[str, object] = dict.fromkeys(METRICS)
    flags: dict[str, object] = dict.fromkeys(("leaked_ssim", "leaked_psnr", "bit_exact"), False)
    return scores | flags | dict.fromkeys(("label_correct", "mask_accuracy", "mask_accuracy_layers"))


def _mask_accuracy(truth: Mapping[str, Tensor], guess: Mapping[str, Tensor], i: int, j: int) -> dict[str, object]:
    right, entries = {}, {}
    for layer, estimate in guess.items():
        if layer not in truth:
            raise ValueError(f"noise of {layer!r} was estimated, but the client drew none there")
        if estimate.shape[1:] != truth[layer].shape[1:]:
            raise ValueError(f"noise of {layer!r} is {_shape(estimate)}, the client drew {_shape(truth[layer])}")
        drawn = truth[layer][i].cpu().double()
        right[layer] = int((estimate[j].detach().cpu().double().round() == drawn).sum())
        entries[layer] = drawn.numel()
    layers = {layer: right[layer] / entries[layer] for layer in right}
    return {
        "mask_accuracy": sum(right.values()) / sum(entries.values()),
        "mask_accuracy_layers": json.dumps(layers),
    }


def _shape(images: Tensor) -> str:
    return " x ".join(str(side) for side in images.shape[1:])
