"""Which of two answers to the same update is better, told without the truth: a closed form's that is not certain, or an
optimised one.

The matching loss alone cannot tell. Where dropout masks are optimised, these fit nearly any image to the update, and
noise is matched best by an image that fits the noise. So there are two contests:

- *No mask was guessed* (none drawn, or all read off the update): both images are put into the matching loss, which has
  nothing else to adapt to them. An image fitted to mere noise gains by that, but only as much as that many numbers
  gain by chance: the usual F test says whether it gained more. By that the optimised image must be better.
- *Masks were guessed*, or the images are several, of which a closed form does not know the labels: both are put into
  the closed form's own equations, into which no mask and no label enters (`ClosedForm.unexplained`). The optimised
  image must leave no more of them than the other, or than the true image may, by their noise. Below that nothing tells
  the two apart there; the optimised image, which was matched with the rest of the update as well, is preferred.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from attacks.base import Reconstruction
from attacks.closed_form.base import ClosedForm, Puzzle
from attacks.observation import Observation
from attacks.twin import client_round
from attacks.updates import observed_gradient
from defenses.client.round import replay

WORTH = 2.0
"""The F value of an image that is worth more than its noise: chance gives 1."""

AS_WELL = 1.25
"""An image that leaves this factor more of the equations explains them as well: the closed form's is fitted to their
noise too, and the true one is not."""


def kept_images(
    partial: Reconstruction, optimised: Reconstruction, closed_form: ClosedForm, puzzle: Puzzle
) -> dict[int, int]:
    """Which images of a closed form's answer are kept, by the place of the optimised image that each displaces.

    Those that are certain always are; others that the update determines, if the optimised image there is worse.
    """
    certain, determined = partial.details["certain"], partial.details["determined"]
    sure = [index for index, yes in enumerate(certain) if yes]
    rivals = [index for index, yes in enumerate(determined) if yes and not certain[index]]
    places = list(range(len(optimised.images)))
    kept = _nearest(partial.images, sure, optimised.images, places)
    contests = _nearest(partial.images, rivals, optimised.images, [place for place in places if place not in kept])
    if not contests:
        return kept
    if len(places) == 1 and not _guessed(optimised):
        return {} if _matches_better(optimised, partial, puzzle) else {0: rivals[0]}
    ours = closed_form.unexplained(puzzle, partial.images).clamp_min(partial.details["tolerated"]).tolist()
    theirs = closed_form.unexplained(puzzle, optimised.images).tolist()
    return kept | {place: index for place, index in contests.items() if not theirs[place] <= AS_WELL * ours[index]}


def _nearest(images: Tensor, wanted: list[int], others: Tensor, places: list[int]) -> dict[int, int]:
    """Pairs of the wanted images (A, ...) and these places of others (B, ...), the nearest first: place to index."""
    distances = torch.cdist(others.double().flatten(1), images.to(others.device).double().flatten(1))
    pairs: dict[int, int] = {}
    wanted, places = list(wanted), list(places)
    while wanted and places:
        among = distances[places][:, wanted]
        row, column = divmod(int(among.argmin()), len(wanted))
        pairs[places.pop(row)] = wanted.pop(column)
    return pairs


def _guessed(optimised: Reconstruction) -> bool:
    """Whether any noise of the answer was optimised, not read."""
    return not set(optimised.noise or {}) <= set(optimised.details.get("masks_read", ()))


def _matches_better(optimised: Reconstruction, partial: Reconstruction, puzzle: Puzzle) -> bool:
    """Whether the optimised image, alone, matches the update better than by chance, with the masks that were read."""
    entries = sum(value.numel() for value in puzzle.observation.update.values())
    pixels = partial.images.numel()
    own = puzzle.observation, puzzle.model
    theirs, ours = (mismatch(*own, images, optimised) for images in (optimised.images, partial.images))
    if not math.isfinite(theirs) or entries <= pixels:
        return False
    return not math.isfinite(ours) or (ours - theirs) * (entries - pixels) > WORTH * pixels * theirs


def mismatch(observation: Observation, model: nn.Module, images: Tensor, answer: Reconstruction) -> float:
    """The share of an update's energy that no multiple of the update of these images is: `1 - cos^2`.

    Args:
        observation: its `update` holds what was trained.
        model: the attacker's copy.
        answer: whose labels and noise are taken with the images.
    """
    observed = observed_gradient(observation)
    kind: Literal["gradient", "delta"] = "delta" if observed is None else "gradient"
    target = observation.update if observed is None else observed
    like = next(model.parameters())
    noise = {path: value.to(like) for path, value in (answer.noise or {}).items()}
    assert answer.labels is not None  # the attacks that optimise here know or infer them
    labels = answer.labels.to(like.device)
    made = replay(client_round(observation, model, kind), observation.state, images.to(like), labels, noise).update
    mine, seen = (torch.cat([one[name].double().flatten().cpu() for name in target]) for one in (made, target))
    return 1 - float(torch.cosine_similarity(mine, seen, dim=0)) ** 2
