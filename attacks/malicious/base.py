"""What an attack is whose server does not send what it should.

It has two parts: what the server makes of the model before the clients see it, and what it makes of their updates. The
clients do all else as they would: the same data, local training and defenses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from attacks.base import Attack


@dataclass(frozen=True, kw_only=True)
class Outset:
    """What a server knows before any client has answered.

    Args:
        input_shape: (C, H, W).
        mean, std: of each channel, with which clients normalise pixels in [0, 1].
        public: (N, C, H, W) images that are no client's, in normalised units.
    """

    input_shape: tuple[int, int, int]
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    public: Tensor


class MaliciousAttack(Attack):
    """An attack on what a client made of a changed model. In a scenario it has federations of its own, beside those of
    an honest server, in which the clients of the attacked rounds are sent the changed model."""

    requires: ClassVar[Mapping[str, Sequence[str]]] = {"server": ("malicious",)}

    def on_model(self, model: nn.Module, *, input_shape: tuple[int, int, int]) -> nn.Module:
        """The model with what the attack adds to its architecture, which changes nothing of what the model computes
        before `change`; parameters that it had keep their names. By default nothing is added.

        Raises:
            ValueError: this model has no place for it.
        """
        return model

    def change(self, model: nn.Module, outset: Outset, *, seed: int) -> None:
        """Change the weights of a model, in place, to what is sent instead.

        Args:
            model: of `on_model`, with the weights that an honest server would send.

        Raises:
            ValueError: the model lacks what the attack exploits.
        """
        raise NotImplementedError
