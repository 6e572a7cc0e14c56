"""Gradient inversion in alternative spaces (GIAS): Jeon, Kim, Lee, Oh, Ok, *Gradient Inversion with Generative Image
Prior*, NeurIPS 2021 (arXiv 2110.14962)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from attacks.base import register
from attacks.engine import Solution
from attacks.generated import WEIGHTS, Generated
from attacks.matching.ggl import GGL
from attacks.search import Search
from attacks.unknowns import Setting


@register("gias")
@dataclass(kw_only=True, eq=False)
class GIAS(GGL):
    """Match the direction of the update with images that a trained decoder G can make; then with those that it could,
    were its weights w a little different for each image:

        first   min_{z, m}     1 - cos(g(G_w(z), m), g*) + latent * (|z|^2 / k - 1)^2 + total_variation * TV(G_w(z))
                               + drop_rate * sum_l |(1 - mean(m_l)) - p_l|
        then    min_{z, w, m}  the same

    So what no latent can say is learnt from the update itself. In the paper z stands still in the second part.

    Args:
        latent_share: of the iterations, in the first part.
        pace: how fast weights move, over the latents' learning rate.
    """

    paper: ClassVar[str] = "Jeon et al., NeurIPS 2021 (arXiv 2110.14962)"
    exploits: ClassVar[str] = "any model that can be replayed; a decoder that was trained on images like the client's"
    under_dropout: ClassVar[str] = "looks for the masks with the images"

    pace: float = 0.01
    latent_share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self._positive("pace")
        if self.iterations < 2:
            raise ValueError(f"{self.name}: iterations = {self.iterations!r} leaves none for one of the two parts")
        if not 0 < self.latent_share < 1:
            raise ValueError(f"{self.name}: latent_share = {self.latent_share!r} is not in (0, 1)")

    def generated(self, setting: Setting) -> Generated:
        return Generated(setting, self.decoder, weights=True, pace=self.pace)

    def _solved(self, search: Search) -> Solution:
        most, watch, progress, problems = search.iterations, search.watch, search.progress, search.problems
        latents = min(max(1, round(self.latent_share * most)), most - 1)
        unknowns = search.composition.unknowns
        still = [each.still() if isinstance(each, Generated) else each for each in unknowns]
        first = super()._solved(
            replace(
                search,
                composition=replace(search.composition, unknowns=still),
                problems=replace(problems, start=_still(problems.start), cold=_still(problems.cold)),
                iterations=latents,
                progress=progress and (lambda done, _, loss: progress(done, most, loss)),
            )
        )
        then = super()._solved(
            replace(
                search,
                problems=replace(problems, start={**problems.start, **first.free}),
                iterations=most - latents,
                watch=watch and (lambda at, numbers, guess: watch(latents + at, numbers, guess)),
                progress=progress and (lambda done, _, loss: progress(latents + done, most, loss)),
            )
        )
        return then.after(first)


def _still(start: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Where nothing looks for the decoder's weights."""
    return {name: value for name, value in start.items() if not name.startswith(WEIGHTS)}
