"""The zeros of a batch's deltas as a problem of dictionary learning (`dictionary`, and `zeros` for what follows).

That a layer's gradient is of low rank and that ReLU's zeros single out the images in it is due to SPEAR (Dimitrov,
Baader, Müller, Vechev, *SPEAR: Exact gradient inversion of batches in federated learning*, NeurIPS 2024), and that it
is a problem of dictionary learning to SPEAR++ (2025). Here the zeros may also be those of dropout, so that a smooth
activation is no protection. The search itself is after Zhai et al., JMLR 2020.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from attacks.base import register
from attacks.closed_form.dictionary import sparse_directions
from attacks.closed_form.low_rank import LowRank
from attacks.closed_form.sparsity import Directions
from attacks.closed_form.zeros import ByZeros


@register("sparse_dictionary")
@dataclass(kw_only=True, eq=False)
class SparseDictionary(ByZeros):
    """Batches through a linear first layer, by the zeros that dropout or ReLU leaves in the deltas.

    Args:
        starts: random starts of the search; later ones look only for what the earlier ones did not find.
    """

    paper: ClassVar[str] = "after SPEAR (Dimitrov et al., NeurIPS 2024) and Zhai et al., JMLR 2020"
    exploits: ClassVar[str] = "a linear first layer, wider than the batch, with dropout or ReLU behind it"
    under_dropout: ClassVar[str] = "better: dropout makes the zeros that it goes by"

    strength: ClassVar[int] = 20

    starts: int = 8

    def __post_init__(self) -> None:
        self._whole("starts")

    def directions(self, space: LowRank, generator: torch.Generator) -> Directions:
        return sparse_directions(space, starts=self.starts, generator=generator)
