"""Any model, any local training: `vmap` over problems of the client's computation, differentiated twice by autograd."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import vmap

from attacks.evaluators.base import Evaluator
from attacks.observation import LocalTraining
from attacks.unknowns import Guess, noise_of
from attacks.updates import simulate


class General(Evaluator):
    """Forms every problem's simulated update.

    Args:
        model: the attacker's copy; its state is what the clients received.
        observed: the observed updates by parameter name, (N, *shape); parameters that are not in it are not matched.
        local, kind: how the clients computed them, as in `simulate`.
    """

    def __init__(
        self,
        model: nn.Module,
        observed: Mapping[str, Tensor],
        *,
        local: LocalTraining | None = None,
        kind: Literal["gradient", "delta"] = "gradient",
    ) -> None:
        self._model, self._local, self._kind = model, local, kind
        trained = {name: value.detach() for name, value in model.named_parameters() if name in observed}
        self._state = {**trained, **dict(model.named_buffers())}
        self._updates = {name: observed[name] for name in trained}
        self.observed = _scalars({name: value.square() for name, value in self._updates.items()})

    def __call__(self, guess: Guess) -> tuple[Tensor, Tensor]:
        simulated = vmap(self._simulate)(guess["images"], guess["labels"], noise_of(guess))
        inner = _scalars({name: simulated[name] * update for name, update in self._updates.items()})
        return inner, _scalars({name: simulated[name].square() for name in self._updates})

    def keep(self, problems: Tensor) -> None:
        self._updates = {name: value[problems] for name, value in self._updates.items()}
        self.observed = self.observed[problems]

    def _simulate(self, images: Tensor, labels: Tensor, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return simulate(self._model, self._state, images, labels, noise, local=self._local, kind=self._kind)


def _scalars(products: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([value.flatten(1).sum(1).double() for value in products.values()], dim=1)
