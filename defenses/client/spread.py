"""What noise an update carries, entry by entry, as far as the defense and the update itself say it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Spread:
    """An entry of what was sent is, to one factor that all entries share, what it was plus noise of mean 0; or, where
    a defense replaces entries and nobody knows which, noise alone.

    Args:
        added: the noise's standard deviation, by parameter, in the shape of it or of a single number; infinite where
            an entry says nothing, as where it was pruned.
        alone: likewise, of what stands in the place of an entry that was replaced; None: none was. Noise that is added
            later lies on top of it.
        steps: where entries were rounded to multiples of a step at random, and nothing else was added, that step by
            parameter. Then `added` is only what it did on average: of an entry of u steps that is a share u - k above
            the level below it, the variance is `(u - k) (1 - (u - k))` squared steps, and none where u is 0.
    """

    added: Mapping[str, Tensor]
    alone: Mapping[str, Tensor] | None = None
    steps: Mapping[str, Tensor] | None = None

    @classmethod
    def alike(cls, std: float, observed: Mapping[str, Tensor]) -> Spread | None:
        """The same noise on each entry; None where there is none."""
        return cls({name: torch.tensor(std, dtype=torch.float64) for name in observed}) if std else None

    @classmethod
    def left(cls, kept: Mapping[str, Tensor]) -> Spread:
        """Nothing is added, but only the entries that were kept (bool, by parameter) say anything."""
        return cls({name: torch.where(one, 0.0, torch.inf).double() for name, one in kept.items()})

    @classmethod
    def joined(cls, of: Mapping[str, Spread]) -> Spread:
        """Of each parameter what another spread says of it."""
        alone = {name: own.alone[name] for name, own in of.items() if own.alone is not None}
        steps = {name: own.steps[name] for name, own in of.items() if own.steps is not None}
        return cls({name: own.added[name] for name, own in of.items()}, alone or None, steps or None)

    def then(self, later: Spread) -> Spread:
        """Of this noise, and of another that came on top of it."""
        replaced = [self.alone, later.alone]
        alone = [one for one in replaced if one is not None]
        return Spread(
            {name: _together(value, later.added[name]) for name, value in self.added.items()},
            {name: _together(*(one[name] for one in alone)) for name in alone[0]} if alone else None,
        )

    def times(self, factor: float) -> Spread:
        """Of an update that was multiplied by a factor."""

        def scaled(values: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
            return {name: value * abs(factor) for name, value in values.items()}

        return Spread(
            scaled(self.added),
            None if self.alone is None else scaled(self.alone),
            None if self.steps is None else scaled(self.steps),
        )

    @property
    def misses(self) -> bool:
        """Whether some entries say nothing."""
        return any(bool(value.isinf().any()) for value in self.added.values())

    def noisy(self, name: str) -> bool:
        """Whether some entries of a parameter are not what they were, and say something."""
        added = self.added[name]
        return self.alone is not None or bool((added.isfinite() & (added > 0)).any())


def _together(*deviations: Tensor) -> Tensor:
    """The deviation of a sum of independent numbers."""
    total = sum((value.square() for value in deviations), start=torch.zeros((), dtype=torch.float64))
    return total.sqrt()
