"""What a client can tell of itself when its update is about to leave, for defenses that look before they send."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from defenses.client.compute import Functional

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Own:
    """A client at the end of its round. All is computed with whatever the model draws at rest.

    Args:
        computation: of its model.
        weights: that the server sent, of the trained parameters.
        images, labels: that it trained on, of all steps, as they are: no defense has mixed them.
        rate: what a gradient that is sent is multiplied by before it is taken off the weights; None: the change of the
            weights itself is sent.
    """

    computation: Functional
    weights: Tensors
    images: Tensor
    labels: Tensor
    rate: float | None

    def after(self, update: Tensors) -> dict[str, Tensor]:
        """The weights once the server has followed this update."""
        if self.rate is None:
            return {name: value + update[name] for name, value in self.weights.items()}
        return {name: value - self.rate * update[name] for name, value in self.weights.items()}

    def loss(self, weights: Tensors) -> Tensor:
        """The mean loss of all its examples at some weights."""
        return self.computation.loss_at(weights, self.images, self.labels)

    def entering(self, path: str, images: Tensor) -> Tensor:
        """What a layer is given for images (B, C, H, W), at the weights that the server sent."""
        return self.computation.entering(path, self.weights, images)
