"""How long an image of known direction is: a search in one dimension for the observed update.

With the direction v, the label and all masks known, the client's gradient g can be simulated at s v for any signed
length s, and the right one points where the observed g* does (its norm may have been clipped):

    min_s  | g(s v) / |g(s v)| - g* / |g*| |

A wide logarithmic grid over both signs finds the valleys, golden sections narrow the deepest ones, and Gauss-Newton
steps in log s end at the precision of the update.

Where each entry is known with a precision of its own it is weighed by that, but not at first: at a wrong length the
few that are known best would decide, and leave a valley too narrow to be seen.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from attacks.base import NotApplicable
from attacks.closed_form.base import Puzzle
from attacks.closed_form.incomplete import pruned
from attacks.closed_form.masks import Masks
from attacks.labels import infer_labels
from attacks.precision import COMPUTED
from attacks.replayable import replayed
from attacks.twin import simulate
from defenses.client.optimizers import Estimate

_GRID = 24  # lengths of a sign, over three decades below the length of the longest image
_VALLEYS = 3
_SECTIONS = 10
_STEPS = 6
_HOPELESS = 0.5
_BLURS = (0.3, 0.01, 0.0)  # errors to add to those known, as shares of a typical entry, from the search to the end
_SINGLE = torch.finfo(torch.float32).eps
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Length:
    """What was found.

    Args:
        mismatch: the distance of the two unit vectors.
        error: what the mismatch allows the length to be off, relatively.
        labels: (1,)
    """

    length: float
    mismatch: float
    error: float
    labels: Tensor


def find_length(puzzle: Puzzle, direction: Tensor, masks: Masks) -> Length:
    """The signed length by which to multiply an image (1, C, H, W).

    Raises:
        NotApplicable: a mask or the label is not to be had, or no length explains the update.
    """
    for reason in masks.unread.values():
        raise NotApplicable(f"without a bias it needs every mask: {reason}")
    labels = _labels(puzzle)
    coarse, *finer = (
        _Match(puzzle, direction.double(), labels, masks, blur=blur)
        for blur in (_BLURS if puzzle.estimates is not None else _BLURS[-1:])
    )
    step = 3 * math.log(10) / (_GRID - 1)
    longest = math.log(_longest(puzzle) / float(direction.norm()))
    logs = [longest - step * index for index in range(_GRID)]
    valleys: list[tuple[float, float, float]] = []  # depth, sign, log length
    for sign in (1.0, -1.0):
        depths = [2.0, *(coarse.distance(sign * math.exp(log)) for log in logs), 2.0]
        valleys += [
            (depths[i], sign, log) for i, log in enumerate(logs, 1) if depths[i] <= min(depths[i - 1], depths[i + 1])
        ]
    narrowed: list[tuple[float, float, float]] = []
    for _, sign, log in sorted(valleys)[:_VALLEYS]:
        at = partial(lambda sign, log: coarse.distance(sign * math.exp(log)), sign)
        narrowed.append((*_golden(at, log - step, log + step), sign))
    depth, log, sign = min(narrowed)
    if depth > _HOPELESS:
        raise NotApplicable(f"no length of the image explains the update: the best is off by {depth:.2g}")
    length = sign * math.exp(log)
    for match in (coarse, *finer):
        length, slope = _descended(match, length, step)
    depth = float(match.difference(length).norm())
    return Length(length, depth, depth / slope / match.independent, labels)


def _descended(match: _Match, length: float, step: float) -> tuple[float, float]:
    """The length at the bottom of the valley, by Gauss-Newton steps, and how steep it is there."""
    slope = 0.0
    for _ in range(_STEPS):
        here, up, down = (match.difference(length * factor) for factor in (1.0, math.exp(1e-5), math.exp(-1e-5)))
        change = (up - down) / 2e-5
        slope = float(change.norm())
        if slope == 0:
            raise NotApplicable("the update does not depend on the length of the image")
        move = max(-step, min(step, -float(here @ change) / slope**2))
        length *= math.exp(move)
        if abs(move) < 1e-10:
            break
    return length, slope


def mismatch(puzzle: Puzzle, image: Tensor, masks: Masks) -> float | None:
    """The distance of the simulated update of an image (1, C, H, W) from the observed one, both as unit vectors.

    None where it cannot be known: a mask was not read, the label is not to be had, or the model cannot be replayed.
    """
    if masks.unread:
        return None
    try:
        return float(_Match(puzzle, image.double(), _labels(puzzle), masks).difference(1.0).norm())
    except NotApplicable:
        return None


def _longest(puzzle: Puzzle) -> float:
    """No image in the range of pixels has a larger norm."""
    observation = puzzle.observation
    largest = [max(mean, 1 - mean) / std for mean, std in zip(observation.mean, observation.std)]
    _, height, width = observation.input_shape
    return math.sqrt(height * width * sum(value**2 for value in largest))


def _labels(puzzle: Puzzle) -> Tensor:
    """The label (1,): as granted, or, since it stands in the update of one image, inferred."""
    observation = puzzle.observation
    if observation.labels is None:
        update = {name: puzzle.gradient(name) for name in puzzle.names}
        return infer_labels(puzzle.model, update, batch_size=1, classes=observation.classes).labels
    if len(observation.labels) != 1:
        raise NotApplicable(f"the observation holds {len(observation.labels)} labels for one image")
    return observation.labels


class _Match:
    """The simulated update at a length beside the observed one, both as unit vectors, in float64."""

    def __init__(self, puzzle: Puzzle, direction: Tensor, labels: Tensor, masks: Masks, *, blur: float = 0.0) -> None:
        self.model = copy.deepcopy(puzzle.model).double()
        self.parameters = {name: value for name, value in self.model.named_parameters() if name in puzzle.names}
        self.direction, self.labels = direction, labels.to(direction.device)
        self.noise = {path: mask.double() for path, mask in masks.read.items()}
        observed = {name: puzzle.gradient(name) for name in self.parameters}
        # entries that a client is known to have taken away say nothing: only what it sent is compared
        added = puzzle.spread.added if pruned(puzzle) and puzzle.spread is not None else {}
        self.left = {name: added[name].isfinite() for name in observed if name in added}
        self.precision = {name: _precision(known, blur) for name, known in (puzzle.estimates or {}).items()}
        # rounding errs in no way that is known, and all of it may go into the length; errors of known precision do not
        entries = sum(int(value.count_nonzero()) for value in self.precision.values())
        self.independent = math.sqrt(entries) if entries else 1.0
        observed = self._weighed(observed)
        norm = _norm(observed)
        self.observed = {name: value / norm for name, value in observed.items()}

    def distance(self, length: float) -> float:
        """In [0, 2], to about 1e-8; 2 where the simulated update is not finite."""
        simulated = self._simulate(length)
        cosine = sum(float(torch.vdot(simulated[name].flatten(), o.flatten())) for name, o in self.observed.items())
        return math.sqrt(max(0.0, 2 - 2 * cosine)) if math.isfinite(cosine) else 2.0

    def difference(self, length: float) -> Tensor:
        """Simulated minus observed, one vector."""
        simulated = self._simulate(length)
        return torch.cat([(simulated[name] - value).flatten() for name, value in self.observed.items()])

    def _simulate(self, length: float) -> dict[str, Tensor]:
        with replayed("replayed"):
            found = simulate(self.model, self.parameters, length * self.direction, self.labels, self.noise)
        found = self._weighed(found)
        norm = _norm(found) or 1.0
        return {name: value.div_(norm) for name, value in found.items()}

    def _weighed(self, gradient: dict[str, Tensor]) -> dict[str, Tensor]:
        return {n: v * self.precision.get(n, 1.0) * self.left.get(n, 1.0) for n, v in gradient.items()}


def _precision(known: Estimate, blur: float) -> Tensor:
    """One over the error of each entry; those of the client's own arithmetic, and the blur, are of the whole tensor."""
    certain = known.error.isfinite()
    typical = known.value[certain].square().mean().sqrt() if bool(certain.any()) else known.value.new_zeros(())
    variance = known.error.square() + (max(blur, COMPUTED * _SINGLE) * typical) ** 2
    return torch.where(certain, variance.rsqrt(), 0)


def _norm(tensors: Mapping[str, Tensor]) -> float:
    return math.sqrt(sum(float(value.norm()) ** 2 for value in tensors.values()))


def _golden(value: Callable[[float], float], low: float, high: float) -> tuple[float, float]:
    """The least value and where it is, by golden sections between two points around a valley."""
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = value(left), value(right)
    for _ in range(_SECTIONS):
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = value(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = value(right)
    return min((at_left, left), (at_right, right))
