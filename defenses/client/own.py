"""What a client can tell of itself when its update is about to leave, for defenses that look before they send."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Own:
    """A client at the end of its round. All is computed with whatever the model draws at rest.

    Args:
        weights: that the server sent, of the trained parameters.
        images: (N, C, H, W), that it trained on, of all steps, as they are: no defense has mixed them.
        rate: what a gradient that is sent is multiplied by before it is taken off the weights; None: the change of the
            weights itself is sent.
        labels: of these images, (N,) or (N, K).
        loss: the mean loss of all its examples at some weights.
        loss_of: the same of other examples: weights, images (B, C, H, W) and labels, (B,) or (B, K).
        entering: what the layer of a path, or without one the last linear layer, is given at the weights that the
            server sent, for images (B, C, H, W).
    """

    weights: Tensors
    images: Tensor
    rate: float | None
    labels: Tensor
    loss: Callable[[Tensors], Tensor]
    loss_of: Callable[[Tensors, Tensor, Tensor], Tensor]
    entering: Callable[[str | None, Tensor], Tensor]

    def after(self, update: Tensors) -> dict[str, Tensor]:
        """The weights once the server has followed this update."""
        if self.rate is None:
            return {name: value + update[name] for name, value in self.weights.items()}
        return {name: value - self.rate * update[name] for name, value in self.weights.items()}
