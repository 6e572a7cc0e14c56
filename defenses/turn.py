"""A defense's turn in a client's round: where its noise comes from, what it remembers, what it may look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from defenses.client.own import Own
from defenses.client.site import Site

Tensors = dict[str, Tensor]

Memory = dict[str, Tensor]


@dataclass(frozen=True)
class Turn:
    """A defense's turn in a round: where its noise comes from, and what it remembers of the client's last round.

    Args:
        source: of the noise, by the full name of a site.
        memory: tensors by name, to read and to write.
        part: which part of a composition it is; its sites and its memory are named `part:name`.
        classes: how many the model tells apart, if the round says so.
        own: what the client can tell of itself, once its update is about to leave.
    """

    source: Callable[[str, Site, Tensor], Tensor | None]
    memory: Memory = field(default_factory=dict)
    part: str = ""
    classes: int | None = None
    own: Own | None = None

    @property
    def client(self) -> Own:
        """The client itself: its weights, its examples, its loss at other weights."""
        if self.own is None:
            raise ValueError(f"{self.part}: it can act only on the update of a client's round")
        return self.own

    def of(self, part: str) -> Turn:
        return replace(self, part=part)

    def draw(self, name: str, site: Site, x: Tensor) -> Tensor:
        """The noise of a site, for what it acts on; what the site has at rest where it is not known."""
        noise = self.source(f"{self.part}:{name}", site, x)
        assert noise is not None, "a defense's site has something at rest"
        return noise

    def one_hot(self, labels: Tensor, dtype: torch.dtype) -> Tensor:
        """Labels as probabilities (B, K), of class indices (B,) or of themselves."""
        if labels.is_floating_point():
            return labels
        if self.classes is None:
            raise ValueError(f"{self.part}: the client's round does not say how many classes there are")
        return (labels[:, None] == torch.arange(self.classes, device=labels.device)).to(dtype)

    def remembered(self, name: str, otherwise: Tensor) -> Tensor:
        """What was remembered in the client's last round."""
        return self.memory.get(f"{self.part}:{name}", otherwise)

    def remember(self, name: str, value: Tensor) -> None:
        self.memory[f"{self.part}:{name}"] = value
