"""Cut: at batch size 1 the vector that a linear layer sees can be read off its update, dropout included; only what lies
before it is left to be matched.

The gradient of a linear layer on one vector is one outer product: its input h and the delta of all that lies behind it
are exact (`attacks.head`; that an input can be read off a linear layer with bias is Phong et al., IEEE TIFS 2018), and
so is the mask of the dropout before it (`attacks.closed_form.masks`). With delta held at what was observed, the loss
may be replaced by the linear function `<delta, output>`: the same gradient everywhere before it, and nothing random, no
softmax, no label and no term of a defense is left. So a variational bottleneck, which hides what lies behind its draw,
hides nothing that lies before its encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from attacks.base import NotApplicable, register
from attacks.engine import Composition
from attacks.head import Cut as Place
from attacks.head import end_at, find_cut, read_head
from attacks.matching.mask_readout import MaskReadout
from attacks.observation import Observation
from attacks.twin import known_defense
from attacks.unknowns import Setting
from attacks.updates import lacks
from defenses.base import Defense
from defenses.client.kept import Kept
from defenses.client.round import ClientRound


class UpstreamAndFeatures:
    """`1 - cos` of the gradients before a layer, plus half the squared relative distance of the features at it.

    With the delta held fixed the gradient of the layer's weight is `delta h^T`, so that the features' distance is that
    of this one parameter. Near the optimum `1 - cos` is half the squared distance of the normalised gradients: both
    terms are measured alike, and have no weight to choose.

    Args:
        upstream: the places of the matched parameters before the layer, in the model's order.
        layer: the place of the layer's weight.
    """

    needs: Literal["products", "entries"] = "products"
    exact = False

    def __init__(self, upstream: list[int], layer: int) -> None:
        self.upstream, self.layer = upstream, layer

    def __call__(self, inner: Tensor, simulated: Tensor, observed: Tensor) -> Tensor:
        distance = simulated[:, self.layer] - 2 * inner[:, self.layer] + observed[:, self.layer]
        features = distance / (2 * observed[:, self.layer])
        if not self.upstream:
            return features
        product, ours, theirs = (self._before(scalars) for scalars in (inner, simulated, observed))
        return 1 - product / (ours * theirs).sqrt() + features

    def _before(self, scalars: Tensor) -> Tensor:
        """The sum over the parameters before the layer. A list as an index would be sent to the device at each step."""
        return torch.stack([scalars[:, place] for place in self.upstream], 1).sum(1)


@dataclass(frozen=True, kw_only=True)
class _Before(Setting):
    """What lies before a cut: its model ends there."""

    cut: Place

    @property
    def solved(self) -> bool:
        """Whether the features are the image: there is nothing to be searched for, nor to be believed."""
        return self.cut.untouched and not self.noise_inputs


class _Selecting(Defense):
    """What a known defense leaves of an update to say anything, and nothing else of it: what it adds or mixes is behind
    the cut, or leaves no single vector to be read there."""

    def __init__(self, known: Defense) -> None:
        self.known = known

    @property
    def selects(self) -> bool:
        return self.known.selects

    def selection(self, observed: Mapping[str, Tensor]) -> Mapping[str, Kept] | None:
        return self.known.selection(observed)


@register("cut")
@dataclass(kw_only=True, eq=False)
class Cut(MaskReadout):
    """Match the features that a linear layer saw and the gradients before it, with its delta as observed:

        min_x  1 - cos(g(x), g*) + |h(x) - h*|^2 / (2 |h*|^2) + total_variation * TV(x)

    with g the gradient of `<delta*, W h(x)>` in the parameters before the layer. For one image and one local step. The
    layer is the earliest with a bias that sees one vector and that all passes through on its way to the loss; without
    any, the head of a model that ends in a linear layer on one vector, as convolutional ones do. Where it sees the
    image itself there is nothing left to be found.

    Masks before the layer are read or optimised, as in the base; what is drawn behind it does not matter. Without masks
    to search for it settles early, so that it waits less for an improvement.
    """

    paper: ClassVar[str] = "Phong et al., IEEE TIFS 2018, for what a linear layer gives away"
    exploits: ClassVar[str] = "one image and one step; a linear layer that sees one vector, the head at the latest"
    under_dropout: ClassVar[str] = "the same for what is drawn behind the cut; masks before it are read or looked for"

    adapts: ClassVar = {**MaskReadout.adapts, "precode": None}

    plateau: int = 200
    patience: int = 1_000

    def sought(self, twin: nn.Module, observation: Observation) -> Collection[str] | None:
        term = known_defense(observation).loss_term
        return self.place(twin, observation.input_shape, observation.update.keys(), term).sites

    def place(
        self,
        model: nn.Module,
        input_shape: tuple[int, int, int],
        trained: Collection[str],
        term: Callable[[nn.Module], Any],
    ) -> Place:
        """Where a model is cut (`attacks.head.find_cut`).

        Raises:
            NotApplicable: nowhere, or nothing came back of what lies before.
        """
        cut = find_cut(model, input_shape, trained, term)
        if cut.before and not {*cut.before} & {*trained} - {cut.head.weight}:
            raise NotApplicable(lacks(f"all that lies before {'the head' if cut.head.last else cut.head.weight}"))
        if not cut.before and not cut.untouched:
            raise NotApplicable(f"no layer with parameters lies before {cut.head.weight}, which sees no image")
        return cut

    def narrowed(self, setting: Setting) -> Setting:
        """The model up to where it is cut, and a loss that is linear there."""
        if setting.round.share != "gradient":
            raise NotApplicable("the update does not reveal the gradient of its only step")
        model, term = setting.model, setting.round.defense.loss_term
        cut = self.place(model, setting.input_shape, setting.matched, term)
        left = {*cut.before, cut.head.weight}
        end_at(model, cut.head)
        narrow = replace(
            setting,
            matched=tuple(name for name in setting.matched if name in left),
            noise_inputs={path: shape for path, shape in setting.noise_inputs.items() if path in cut.sites},
            round=ClientRound(
                model=model, batch_size=setting.round.batch_size, defense=_Selecting(setting.round.defense)
            ),
        )
        return _Before(**{each.name: getattr(narrow, each.name) for each in fields(narrow)}, cut=cut)

    def compose(self, setting: Setting) -> Composition:
        assert isinstance(setting, _Before)
        layer = setting.matched.index(setting.cut.head.weight)
        upstream = [place for place in range(len(setting.matched)) if place != layer]
        composition = replace(super().compose(setting), objective=UpstreamAndFeatures(upstream, layer))
        return replace(composition, priors=()) if setting.solved else composition

    def known(self, observation: Observation, labels: Tensor | None, setting: Setting) -> dict[str, Tensor]:
        assert isinstance(setting, _Before)
        assert labels is not None, "this attack requires labels"
        delta = read_head(setting.cut.head, observation, int(labels)).delta
        y = torch.cat([-delta, delta.sum()[None]])[None].to(next(setting.model.parameters()))  # see `end_at`
        return {**super().known(observation, labels, setting), "labels": y}

    def learnt(self, observation: Observation, labels: Tensor | None, setting: Setting) -> dict[str, Tensor]:
        assert isinstance(setting, _Before)
        assert labels is not None
        if not setting.solved:
            return {}
        return {"images": read_head(setting.cut.head, observation, int(labels)).features.view(1, *setting.input_shape)}
