"""Cut: at batch size 1 the head of a model can be read off its update, dropout included; only what lies before it is
left to be matched.

The gradient of a linear head is one outer product: its input h and the delta of the loss are exact (`attacks.head`;
that an input can be read off a linear layer with bias is Phong et al., IEEE TIFS 2018), and so is the mask of the
dropout before it (`attacks.closed_form.masks`). With delta held at what was observed, the loss may be replaced by the
linear function `<delta, logits>`: the same gradient everywhere, and nothing random, no softmax and no label is left
behind the features.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from attacks.base import NotApplicable, register
from attacks.engine import Composition
from attacks.head import find_head, read_head
from attacks.matching.mask_readout import MaskReadout
from attacks.observation import Observation
from attacks.unknowns import Setting
from attacks.updates import lacks


class UpstreamAndFeatures:
    """`1 - cos` of the gradients before the head, plus half the squared relative distance of the features at the head.

    With the delta held fixed the gradient of the head's weight is `delta h^T`, so that the features' distance is that
    of this one parameter. Near the optimum `1 - cos` is half the squared distance of the normalised gradients: both
    terms are measured alike, and have no weight to choose.

    Args:
        upstream: the places of the matched parameters before the head, in the model's order.
        head: the place of the head's weight.
    """

    needs: Literal["products", "entries"] = "products"
    exact = False

    def __init__(self, upstream: list[int], head: int) -> None:
        self.upstream, self.head = upstream, head

    def __call__(self, inner: Tensor, simulated: Tensor, observed: Tensor) -> Tensor:
        before = (scalars[:, self.upstream].sum(1) for scalars in (inner, simulated, observed))
        product, ours, theirs = before
        distance = simulated[:, self.head] - 2 * inner[:, self.head] + observed[:, self.head]
        return 1 - product / (ours * theirs).sqrt() + distance / (2 * observed[:, self.head])


@register("cut")
@dataclass(kw_only=True, eq=False)
class Cut(MaskReadout):
    """Match the features that the head saw and the gradients before it, with the head's delta and mask as observed:

        min_x  1 - cos(g(x), g*) + |h(x) - h*|^2 / (2 |h*|^2) + total_variation * TV(x)

    with g the gradient of `<delta*, logits>` in the parameters before the head. For one image and one local step, and a
    model that ends in a linear layer on one vector, as convolutional ones do. Masks elsewhere in the model are read or
    optimised, as in the base. Without masks to search for it settles early, so that it waits less for an improvement.
    """

    plateau: int = 200
    patience: int = 1_000

    def compose(self, setting: Setting) -> Composition:
        head = find_head(setting)
        names = setting.matched
        if head.weight not in names:
            raise NotApplicable(lacks(f"the head's weight, {head.weight}"))
        upstream = [place for place, name in enumerate(names) if name not in (head.weight, head.bias)]
        if not any(name not in (head.weight, head.bias) for name, _ in setting.model.named_parameters()):
            raise NotApplicable("no layer with parameters lies before the head")
        if not upstream:
            raise NotApplicable(lacks("all that lies before the head"))
        return replace(super().compose(setting), objective=UpstreamAndFeatures(upstream, names.index(head.weight)))

    def known(self, observation: Observation, labels: Tensor | None, setting: Setting) -> dict[str, Tensor]:
        assert labels is not None, "this attack requires labels"
        delta = read_head(find_head(setting), observation, int(labels)).delta
        # Cross-entropy with "probabilities" y that add up to zero is -<y, logits>, exactly: the softmax cancels.
        y = (delta.mean() - delta)[None].to(next(setting.model.parameters()))
        return {**super().known(observation, labels, setting), "labels": y}
