"""Add Gaussian noise to some of the update's parameters."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from defenses.base import Defense, Tensors, Turn, register
from defenses.client.site import Gaussian
from defenses.client.spread import Spread


@register("partial_perturbation")
class PartialPerturbation(Defense):
    """Add independent N(0, std^2) to the entries of the parameters that a pattern fits, and to no others.

    Scheliga, Mäder, Seeland, arXiv 2208.04767 (its first version), who protect by it what PRECODE leaves open: the
    layers before the bottleneck. An attacker who knows the defense leaves out what was perturbed once the noise hides
    even its direction; below that it matches it with the rest. Which layers and how much noise the paper takes could
    not be read; the defaults are ours.

    Args:
        std: standard deviation in units of the update, at least 0.
        parameters: a pattern of names of parameters, such as `hidden.*`; None: those of the first layer.
    """

    keeps_direction = True
    checks_model = True

    def __init__(self, *, std: float = 1e-3, parameters: str | None = None) -> None:
        if not 0 <= std < math.inf:
            raise ValueError(f"partial_perturbation: std = {std} is not a number of at least 0")
        self.std, self.parameters = std, parameters

    def on_model(self, model: nn.Module) -> nn.Module:
        """The same model; raises ValueError if the pattern fits none of its parameters."""
        names = [name for name, _ in model.named_parameters()]
        if not self._chosen(names):
            listed = ", ".join([*names[:8], *(["..."] if len(names) > 8 else [])])
            raise ValueError(
                f"partial_perturbation: parameters = {self.parameters!r} is not a pattern that fits a parameter of the "
                f"model; it has {listed}"
            )
        return model

    def on_update(self, update: Tensors, *, turn: Turn) -> Tensors:
        noise, chosen = Gaussian(), self._chosen(update)
        return {
            name: value + self.std * turn.draw(name, noise, value) if name in chosen else value
            for name, value in update.items()
        }

    def selection(self, observed: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """All but the perturbed parameters, where noise hides them.

        The inner product of a gradient g with the noise on it is about std |g|, to be compared with |g|^2. How long a
        perturbed gradient is cannot be seen; it is taken to be as long as the others are.
        """
        chosen = self._chosen(observed)
        others = [value.double().square().sum() for name, value in observed.items() if name not in chosen]
        if not others or 3 * self.std <= math.sqrt(float(torch.stack(others).mean())):
            return None
        return {n: torch.full_like(v, n not in chosen, dtype=torch.bool) for n, v in observed.items()}

    def spread(self, observed: Mapping[str, Tensor], *, examples: int, rate: float) -> Spread | None:
        if not self.std:
            return None
        chosen = self._chosen(observed)
        return Spread({name: value.new_tensor(self.std * (name in chosen)) for name, value in observed.items()})

    def _chosen(self, names: Collection[str]) -> set[str]:
        if self.parameters is not None:
            return {name for name in names if fnmatchcase(name, self.parameters)}
        first = next((name.rpartition(".")[0] for name in names), "")
        return {name for name in names if name.rpartition(".")[0] == first}
