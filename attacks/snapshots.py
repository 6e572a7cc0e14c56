"""What an iterative attack was at while it ran: snapshots of its images and of the noise it assumed.

Recording looks and changes nothing: an attack gives the same answer with and without it. It holds a bounded amount of
memory whatever is attacked: few victims, at most so many snapshots, pixels in 8 bits and noise in 16.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from attacks.base import Snapshots
from attacks.unknowns import Guess, noise_of

VICTIMS = 4
"""The first so many victims of a run are recorded."""
MOST = 200
"""Snapshots of a victim."""
BYTES = 64 * 2**20
"""All snapshots together, every restart counted."""
NOISE_ENTRIES = 2**16
"""Noise of an image in one snapshot: the first stochastic layers that have together no more; always the first one."""


class SnapshotKeeper:
    """Watches an optimisation and keeps some problems' guesses every so many iterations.

    Args:
        every: iterations between two snapshots; a multiple of it where the bounds above ask for fewer.
        iterations: of the optimisation, at most.
        problems: the numbers of those to keep.
        mean, std: per channel, of the normalised images.
    """

    def __init__(
        self, *, every: int, iterations: int, problems: Sequence[int], mean: Sequence[float], std: Sequence[float]
    ) -> None:
        self._every, self._iterations = every, iterations
        self._kept: dict[int, list[tuple[int, Tensor, dict[str, Tensor]]]] = {problem: [] for problem in problems}
        self._mean, self._std = (torch.tensor(value).view(-1, 1, 1) for value in (mean, std))
        self._step = 0

    def __call__(self, iteration: int, numbers: Tensor, guess: Guess) -> None:
        """Called before every step with the problem numbers (M,) and their guess (M, ...)."""
        if not self._kept:
            return
        noise = _first_layers(noise_of(guess))
        if iteration == 0:
            self._step = self._stretched(guess["images"][0], noise)
        if iteration % self._step:
            return
        for row, number in enumerate(numbers.tolist()):
            if number in self._kept:
                own = {path: value[row].to("cpu", torch.float16, copy=True) for path, value in noise.items()}
                self._kept[number].append((iteration, self._pixels(guess["images"][row]), own))

    def snapshots(self, problem: int, *, iterations: int, curve: Sequence[tuple[int, float]]) -> Snapshots | None:
        """Those of one problem that ran for `iterations`, with its noted losses; None if it was not recorded."""
        # a problem that has stopped stays where it is until it is removed: that is no news
        taken = [one for one in self._kept.get(problem, []) if one[0] < iterations]
        if not taken or not curve:
            return None
        noted = [at for at, _ in curve]
        losses = [curve[max(0, bisect.bisect_right(noted, at) - 1)][1] for at, _, _ in taken]
        return Snapshots(
            iterations=torch.tensor([at for at, _, _ in taken]),
            losses=torch.tensor(losses),
            images=torch.stack([images for _, images, _ in taken]),
            noise={path: torch.stack([noise[path] for _, _, noise in taken]) for path in taken[0][2]},
        )

    def _stretched(self, images: Tensor, noise: Mapping[str, Tensor]) -> int:
        """The multiple of `every` that keeps to the bounds."""
        size = len(self._kept) * (images.numel() + 2 * sum(value[0].numel() for value in noise.values()))
        most = max(1, min(MOST, BYTES // size))
        wanted = -(-self._iterations // self._every)
        return self._every * -(-wanted // most)

    def _pixels(self, images: Tensor) -> Tensor:
        shown = images.detach().cpu().float() * self._std + self._mean
        return (shown.nan_to_num().clamp(0, 1) * 255).round().to(torch.uint8)


def both(
    first: Callable[[int, Tensor, Guess], None] | None, second: Callable[[int, Tensor, Guess], None]
) -> Callable[[int, Tensor, Guess], None]:
    """One watcher of two."""

    def watch(iteration: int, numbers: Tensor, guess: Guess) -> None:
        if first is not None:
            first(iteration, numbers, guess)
        second(iteration, numbers, guess)

    return watch


def _first_layers(noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
    kept: dict[str, Tensor] = {}
    entries = 0
    for path, value in noise.items():
        entries += value[0, 0].numel()
        if kept and entries > NOISE_ENTRIES:
            break
        kept[path] = value
    return kept
