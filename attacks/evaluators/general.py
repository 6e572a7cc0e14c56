"""Any model, any local training: `vmap` over problems of the gradient of the matching loss, itself made of gradients.

`vmap` is the outermost transformation. The other way round, autograd through `vmap(grad(...))`, is silently wrong for
normalisation layers: `vmap` takes their backward apart into operations that hold the mean and the deviation constant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import grad_and_value, vmap

from attacks.evaluators.base import Evaluator
from attacks.objectives import Objective
from attacks.observation import LocalTraining
from attacks.unknowns import Guess, noise_of
from attacks.updates import simulate

Tensors = Mapping[str, Tensor]


class General(Evaluator):
    """Forms every problem's simulated update.

    Args:
        model: the attacker's copy; its state is what the clients received.
        objective: how updates are compared.
        observed: the observed updates by parameter name, (N, *shape); parameters that are not in it are not matched.
        local, kind: how the clients computed them, as in `simulate`.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        observed: Tensors,
        *,
        local: LocalTraining | None = None,
        kind: Literal["gradient", "delta"] = "gradient",
    ) -> None:
        self._model, self._objective, self._local, self._kind = model, objective, local, kind
        trained = {name: value.detach() for name, value in model.named_parameters() if name in observed}
        self._state = {**trained, **dict(model.named_buffers())}
        self.data = {name: observed[name] for name in trained}

    def compare(self, data: Tensors, guess: Guess, unknowns: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        unknown = {name: guess[name] for name in unknowns}
        known = {name: value for name, value in guess.items() if name not in unknown}
        gradients, losses = vmap(grad_and_value(self._loss))(unknown, known, dict(data))
        return losses, gradients

    def _loss(self, unknown: Tensors, known: Tensors, observed: Tensors) -> Tensor:
        """Of one problem: no leading N."""
        guess = {**known, **unknown}
        simulated = simulate(
            self._model,
            self._state,
            guess["images"],
            guess["labels"],
            noise_of(guess),
            local=self._local,
            kind=self._kind,
        )
        inner, ours, theirs = (
            torch.stack([_product(first[name], second[name]) for name in observed])[None]
            for first, second in ((simulated, observed), (simulated, simulated), (observed, observed))
        )
        return self._objective(inner, ours, theirs)[0]


def _product(first: Tensor, second: Tensor) -> Tensor:
    """The inner product, exact for float32 tensors: `1 - cos` of gradients that point alike is lost in its rounding."""
    return (first.double() * second.double()).sum()
