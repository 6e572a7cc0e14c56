"""Score one attack on one client: match its answer to the truth, and measure it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from defenses.client.site import EXAMPLE, Axis
from fedsim.scoring.identify import Candidates
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
    axes: Mapping[str, tuple[Axis, ...]] | None = None,
    trained: Tensor | None = None,
    views: Tensor | None = None,
    candidates: Candidates | None = None,
    metrics: Sequence[str] = tuple(METRICS),
) -> Scored:
    """Match an attack's answer to what the client trained on, and score it.

    Args:
        original: uint8 (B, C, H, W).
        reconstruction: (R, C, H, W) in the model's normalised units, in any order.
        mean, std: per channel, of that normalisation.
        true_labels: (B,); `labels`: (R,) in the order of `reconstruction`, if the attack gave any.
        true_noise: what was drawn at each random site, of a dropout layer (B, ...); `noise`: as the attack estimated
            it, in the order of `reconstruction`. Mask accuracy is the share of entries that are right once rounded; the
            sites that the attack has no estimate of do not count.
        axes: what has a draw of its own at each site (see `defenses.client.site`), by default each example: the draw of
            an example, of the step that it is in, or of the whole round is what its row is about.
        trained: (B, V, C, H, W) in normalised units, the images as a defense had them trained on, if it changed them:
            how near the nearest is to a reconstruction, by an assignment of its own, stands in columns of its own.
        views: likewise, as far as they still show the image (turned, shifted). A reconstruction of one of them is one
            of the image: the assignment and all scores are to the nearest of the original and its views, and how near
            the original itself is stands in columns of its own.
        candidates: other images, among which a reconstruction may identify the original; in features where LPIPS is
            among the metrics. Without any the columns of that are None.
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

    def pixels(values: Tensor) -> Tensor:
        return (values.detach().cpu().double() * scale + shift).clamp(0, 1)

    images = pixels(reconstruction)
    shown = truth[:, None] if views is None else torch.cat([truth[:, None], pixels(views)], dim=1)
    order = match(shown, images)
    found = [i for i, j in enumerate(order) if j is not None]
    answer = [j for j in order if j is not None]
    nearest = _nearest(shown[found], images[answer])

    matched = torch.zeros_like(original, device="cpu")
    matched[found] = (images[answer] * 255).round().to(torch.uint8)
    wanted = {*metrics, "psnr", "ssim"}
    scores = {name: METRICS[name](nearest, images[answer]) for name in METRICS if name in wanted}
    exact = torch.zeros(len(original), dtype=torch.bool)
    exact[found] = (matched[found] == (nearest * 255).round().to(torch.uint8)).flatten(1).all(1)

    identified: dict[str, list[bool | None]] = {}
    if candidates is not None:
        compared = (original.cpu()[found], nearest, images[answer])
        identified["identified"] = candidates.identified(*compared)
        if "lpips" in metrics:
            identified["identified_features"] = candidates.identified_features(*compared)

    rows: list[dict[str, object]] = [_nothing() for _ in order]
    for position, (i, j) in enumerate(zip(found, answer)):
        row = rows[i]
        row |= {name: float(scores[name][position]) for name in metrics}
        row["leaked_ssim"] = bool(scores["ssim"][position] >= LEAKED_SSIM)
        row["leaked_psnr"] = bool(scores["psnr"][position] > LEAKED_PSNR)
        row["bit_exact"] = bool(exact[i])
        row |= {name: each[position] for name, each in identified.items()}
        if labels is not None:
            row["label_correct"] = int(labels[j]) == int(true_labels[i])
        if noise and true_noise:
            row |= _mask_accuracy(true_noise, noise, axes or {}, (i, j), (len(original), len(reconstruction)))
    if views is not None:
        _beside(rows, "original", truth[:, None], images, order)
    if trained is not None:
        made = pixels(trained)
        _beside(rows, "trained", made, images, match(made, images))  # a mixture may be nearer to the other image
    return Scored(rows=rows, reconstructions=matched, order=order)


def _beside(
    rows: list[dict[str, object]], what: str, several: Tensor, images: Tensor, order: Sequence[int | None]
) -> None:
    """Write how near the nearest of several pictures of each original, (B, V, C, H, W), is to its reconstruction."""
    found = [i for i, j in enumerate(order) if j is not None]
    answer = images[[j for j in order if j is not None]]
    nearest = _nearest(several[found], answer)
    for name in ("psnr", "ssim"):
        for i, value in zip(found, METRICS[name](nearest, answer)):
            rows[i][f"{name}_{what}"] = float(value)


def _nearest(several: Tensor, images: Tensor) -> Tensor:
    """Of each of several pictures (N, V, C, H, W) the one that is nearest to an image of (N, C, H, W)."""
    errors = (several - images[:, None]).square().flatten(2).mean(2)
    return several[torch.arange(len(several)), errors.argmin(1)] if len(several) else several[:, 0]


def _nothing() -> dict[str, object]:
    scores: dict[str, object] = dict.fromkeys(METRICS)
    flags: dict[str, object] = dict.fromkeys(("leaked_ssim", "leaked_psnr", "bit_exact"), False)
    scores |= dict.fromkeys(("identified", "identified_features"))
    scores |= dict.fromkeys(("psnr_original", "ssim_original", "psnr_trained", "ssim_trained"))
    return scores | flags | dict.fromkeys(("label_correct", "mask_accuracy", "mask_accuracy_layers"))


def _mask_accuracy(
    truth: Mapping[str, Tensor],
    guess: Mapping[str, Tensor],
    axes: Mapping[str, tuple[Axis, ...]],
    pair: tuple[int, int],
    counts: tuple[int, int],
) -> dict[str, object]:
    """Of one original and its reconstruction, and how many there are of each."""
    right, entries = {}, {}
    for site, estimate in guess.items():
        if site not in truth:
            continue  # it was looked for by an attacker who did not know that nothing is drawn there
        own = axes.get(site, EXAMPLE)
        drawn, found = truth[site], estimate.detach()
        apart = 1 if "step" in own else 0
        if found.shape[apart:] != drawn.shape[apart:]:
            raise ValueError(f"noise of {site!r} is {_shape(found)}, the client drew {_shape(drawn)}")
        if not drawn.is_floating_point() or not ((drawn == 0) | (drawn == 1)).all():
            continue  # no mask: a permutation, a weight
        if "example" in own and len(drawn) != counts[0]:
            continue  # epochs drew for each example several times
        if apart:
            drawn, found = (
                value[place * len(value) // count] for value, place, count in zip((drawn, found), pair, counts)
            )
        right[site] = int((found.cpu().double().round() == drawn.cpu().double()).sum())
        entries[site] = drawn.numel()
    if not entries:
        return {}
    return {
        "mask_accuracy": sum(right.values()) / sum(entries.values()),
        "mask_accuracy_layers": json.dumps({site: right[site] / entries[site] for site in right}),
    }


def _shape(images: Tensor) -> str:
    return " x ".join(str(side) for side in images.shape[1:])
