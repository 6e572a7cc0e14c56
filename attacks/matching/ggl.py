"""Generative Gradient Leakage (GGL): Li, Zhang, Liu, Liu, *Auditing Privacy Defenses in Federated Learning via
Generative Gradient Leakage*, CVPR 2022 (arXiv 2203.15696)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from attacks.base import register
from attacks.generated import Decoder, Generated, LatentNorm, check_decoder
from attacks.matching.generative import Generative
from attacks.priors import Prior
from attacks.unknowns import Setting


@register("ggl")
@dataclass(kw_only=True, eq=False)
class GGL(Generative):
    """Match the direction of the update with images that a trained decoder G can make:

        min_{z, m}  1 - cos(g(G(z), m), g*) + latent * (|z|^2 / k - 1)^2 + total_variation * TV(G(z))
                    + drop_rate * sum_l |(1 - mean(m_l)) - p_l|

    Whatever a defense has left out of the update or has added to it, an image of the decoder's is what comes out; so is
    one that the client never had, where the update says too little. z is k numbers an image; whatever the model draws
    is a further unknown m. The paper searches for z without derivatives and prefers that; here it is Adam from several
    starts, and the label is not told to the decoder.

    Args:
        decoder: a module (`attacks.generated.Decoder`) that was trained on images like the client's. In a scenario a
            name or a factory, with a `checkpoint`.
        latent: weight of the latents' prior.
    """

    paper: ClassVar[str] = "Li et al., CVPR 2022 (arXiv 2203.15696)"
    exploits: ClassVar[str] = "any model that can be replayed; a decoder that was trained on images like the client's"
    under_dropout: ClassVar[str] = "looks for the masks with the images"
    requires: ClassVar = {**Generative.requires, "auxiliary_data": ("public",)}
    ignores: ClassVar = ("noise",)

    decoder: Decoder
    restarts: int = 4
    total_variation: float = 0.0
    latent: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        self._weights("latent")
        if not isinstance(self.decoder, Mapping):  # what is described is to be built by whoever runs it
            check_decoder(self.decoder)

    def generated(self, setting: Setting) -> Generated:
        return Generated(setting, self.decoder)

    def believed(self) -> list[Prior]:
        return [LatentNorm(self.latent)]
