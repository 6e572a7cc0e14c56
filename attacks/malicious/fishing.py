"""Fishing: a head that lets few images alone into the gradient of all that lies before it: those of one class, or of a
client that has one class only those with much of one feature.

Wen, Geiping, Fowl, Goldblum, Goldstein, *Fishing for User Data in Large-Batch Federated Learning via Gradient
Magnification*, ICML 2022. With weights of zero for every class but the target c, what comes back to the
features h of an image of label y is

    dL/dh = (softmax_c - [y = c]) W_c

and with a bias of c so low that softmax_c is next to nothing, that is zero for every image but those of class c. They
are one batch of their own, however large the client's was; its size stands in the head's bias, `dL/db_c = -count / B`.
Of a single one the head's own gradient follows, too: its features are `dL/dW_c / dL/db_c`, and its softmax is known.

Where all of a client's images are of class c that keeps none out (feature fishing). With W_c = -s e_j, bias s t and
large s, softmax_c is next to 1 where the feature h_j is below the threshold t, and next to nothing above: then only
images with more of the feature than t have a gradient, one or two if t is a high quantile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from attacks import base
from attacks.base import NotApplicable, Reconstruction, register
from attacks.head import Head, find_head
from attacks.malicious.base import MaliciousAttack, Outset
from attacks.observation import Observation, ThreatModel
from attacks.twin import attacker_copy
from attacks.updates import lacks, observed_gradient, trained_part
from defenses.registry import parameters

WHOLE = 0.05
"""How far the count of the target's images may be from a whole number."""

FAR = 100.0
"""So many deviations of a feature no image is from another."""


@register("fishing")
@dataclass(kw_only=True, eq=False)
class Fishing(MaliciousAttack):
    """Let the images of one class alone into the gradient, and attack them as a batch of their own (Wen et al., ICML
    2022, class fishing).

    Images of other classes have no answer, and none has where the client holds none of the class. Batch norm in train
    mode mixes the others in again.

    Args:
        target: the class.
        margin: how far below the others its logit is put; where the others come in with nothing at all, what dropout
            took from the one image is read as it would be without them.
        then: the attack on what came in.
        iterations: of that attack, where it has any.
    """

    paper: ClassVar[str] = "Wen et al., ICML 2022"
    exploits: ClassVar[str] = "a head with a bias"
    under_dropout: ClassVar[str] = "that of the attack that it hands the images of one class to"
    requires: ClassVar[Mapping[str, Sequence[str]]] = {
        "server": ("malicious",),
        "aggregation": ("individual",),
        "batch_size": ("known",),
    }
    adapts: ClassVar[Mapping[str, str | None]] = {"clip": None}
    ignores: ClassVar[tuple[str, ...]] = ("labels",)

    target: int = 0
    margin: float = 200.0
    then: str = "cascade"
    iterations: int = 1000

    def __post_init__(self) -> None:
        self._weights("target", "margin")
        self._whole("iterations")
        known = _followers()
        if self.then not in known:
            accepted = ", ".join(known)
            raise ValueError(f"{self.name}: then = {self.then!r} is no attack that can follow (accepted: {accepted})")

    def change(self, model: nn.Module, outset: Outset, *, seed: int) -> None:
        head, bias = self._head(model, outset)
        with torch.no_grad():
            others = torch.arange(outset.classes) != self.target
            model.get_parameter(head.weight)[others] = 0
            bias.zero_()
            bias[self.target] = -self.margin

    def _head(self, model: nn.Module, outset: Outset) -> tuple[Head, nn.Parameter]:
        """The model's head and its bias. Raises ValueError where they do not admit this."""
        if self.target >= outset.classes:
            raise ValueError(f"{self.name}: target = {self.target} is no class; accepted: 0 to {outset.classes - 1}")
        try:
            head = find_head(model.eval(), outset.input_shape)
        except NotApplicable as reason:
            raise ValueError(f"{self.name}: {reason}") from None
        finally:
            model.train()
        if head.bias is None:
            raise ValueError(
                f"{self.name}: {head.weight} has no bias, by which the target's logit is put below the others"
            )
        return head, model.get_parameter(head.bias)

    def _check_counts(self, counts: Tensor) -> None:
        """Raise NotApplicable where images that were to be kept out came in, or may have.

        Args:
            counts: (classes,) images of each class less the softmaxes of all, as the head's bias says them.
        """

    def _let_in(self, state: Mapping[str, Tensor], head: Head) -> Mapping[str, Tensor]:
        """A state that gives whoever came in the gradient that the client's had, and keeps no image out."""
        return state

    def reconstruct(
        self, observation: Observation, threat_model: ThreatModel, model: nn.Module, *, seed: int
    ) -> Reconstruction:
        observation = trained_part(observation, model)
        gradient = observed_gradient(observation)
        if gradient is None:
            raise NotApplicable("the update reveals no gradient of a single step")
        copy = attacker_copy(model, observation.state, client_mode=threat_model.client_mode)
        head = find_head(copy, observation.input_shape)
        if head.bias is None or head.bias not in gradient:
            raise NotApplicable(lacks(f"the head's bias, {head.bias}"))
        assert observation.batch_size is not None
        share = -gradient[head.bias].double()
        self._check_counts(observation.batch_size * share)
        counted = observation.batch_size * float(share[self.target])
        count = round(counted)
        if count < 1 or abs(counted - count) > WHOLE * count:
            raise NotApplicable(f"no image of class {self.target} in the batch, or noise on its count: {counted:.2f}")
        scale = observation.batch_size / count
        alone = {n: scale * g for n, g in gradient.items() if n not in (head.weight, head.bias)}
        if count == 1:
            features = gradient[head.weight][self.target] / gradient[head.bias][self.target]
            delta = (observation.state[head.weight] @ features + observation.state[head.bias]).softmax(0)
            delta[self.target] -= 1
            alone |= {head.weight: torch.outer(delta, features), head.bias: delta}
        caught = replace(
            observation,
            state=self._let_in(observation.state, head),
            update={name: alone[name] for name in gradient if name in alone},
            kind="gradient",
            local=None,
            batch_size=count,
            examples=count,
            labels=torch.full((count,), self.target),
        )
        has = "iterations" in parameters(base.get(self.then))
        attack = base.create(self.then, **({"iterations": self.iterations} if has else {}))
        attack.compile = self.compile
        answer = attack(caught, replace(threat_model, labels="known"), model, seed=seed)
        return replace(answer, details={**answer.details, "caught": count})


@register("feature_fishing")
@dataclass(kw_only=True, eq=False)
class FeatureFishing(Fishing):
    """Let those images of a client of one class alone into the gradient that have most of a feature, and attack them as
    a batch of their own (Wen et al., ICML 2022, feature fishing).

    It declines a client that holds other classes as well: their images come in just where the target's do not. The
    feature is the one that public images differ most in, its threshold a quantile of theirs. The paper narrows the
    threshold down over several rounds; here it is one.

    Args:
        share: of public images that have more of the feature; 1 over the batch is one image in the mean.
        margin: how far from 0 the target's logit is at one deviation of the feature from its threshold.
    """

    paper: ClassVar[str] = "Wen et al., ICML 2022"
    exploits: ClassVar[str] = "a head with a bias; a client whose images are all of one class"
    under_dropout: ClassVar[str] = "images whose feature was dropped stay out, others come in that are scaled up"
    requires: ClassVar[Mapping[str, Sequence[str]]] = {**Fishing.requires, "auxiliary_data": ("public",)}

    share: float = 0.05
    margin: float = 1000.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share < 1:
            raise ValueError(f"{self.name}: share = {self.share} is not in (0, 1)")

    def change(self, model: nn.Module, outset: Outset, *, seed: int) -> None:
        head, bias = self._head(model, outset)
        seen: list[Tensor] = []
        handle = model.get_submodule(head.weight.rpartition(".")[0]).register_forward_pre_hook(
            lambda layer, inputs: seen.append(inputs[0])
        )
        with torch.no_grad():
            model.eval()(outset.public.to(bias))
            handle.remove()
            [features] = seen
            deviations = features.double().std(0)
            place = int(deviations.argmax())
            if not deviations[place] > 0:
                raise ValueError(f"{self.name}: public images do not differ in any feature at {head.weight}")
            steep = self.margin / float(deviations[place])
            threshold = float(features[:, place].double().quantile(1 - self.share))
            model.train().get_parameter(head.weight).zero_()[self.target, place] = -steep
            bias.zero_()
            bias[self.target] = steep * threshold

    def _let_in(self, state: Mapping[str, Tensor], head: Head) -> Mapping[str, Tensor]:
        """The target's softmax is next to nothing for whoever came in. With it so for every image, a search can start
        from images that the client's state would have kept out, where nothing has a slope."""
        assert head.bias is not None
        bias = state[head.bias].clone()
        bias[self.target] -= FAR * self.margin
        return {**state, head.bias: bias}

    def _check_counts(self, counts: Tensor) -> None:
        others = torch.arange(len(counts), device=counts.device) != self.target
        if bool((counts[others] > WHOLE).any()):
            raise NotApplicable("the batch holds images of other classes than the target's")


def _followers() -> list[str]:
    """The attacks that look at an update, and neither change a model nor are told what was drawn, nor need anything."""
    found = [(name, base.get(name)) for name in base.names()]
    fit = [(n, one) for n, one in found if not (one.floor or one.oracle or issubclass(one, MaliciousAttack))]
    return [n for n, one in fit if all(p.default is not p.empty for p in parameters(one).values())]
