"""What label inference is given, what it answers, and the registry of its methods. A method is one file with one class:

@register("most_negative")
class MostNegative(LabelInference):
    '''Every label is the class of the most negative entry.'''

    def infer(self, evidence):
        counts = evidence.images * nn.functional.one_hot(evidence.biased().argmin(), evidence.classes)
        return self.answer(counts, evidence.biased())
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor, nn

from attacks.base import NotApplicable
from attacks.labels.confidence import confidence
from defenses.client.compute import own_loss
from defenses.registry import Registry

PROBES = 64
"""How many dummy images the model is shown."""


@dataclass(frozen=True)
class Inferred:
    """Labels that were read off an update.

    Args:
        labels: class indices (images,), int64, in ascending order.
        confidence: in [0, 1], the share of them that is expected to be right.
        method: what inferred them.
        misfit: how far the counts that it expected are from whole numbers, root mean square; NaN where it only counts.
    """

    labels: Tensor
    confidence: float
    method: str = ""
    misfit: float = math.nan

    def counts(self, classes: int) -> Tensor:
        """How many there are of each class, (K,) int64."""
        return torch.bincount(self.labels, minlength=classes)


@dataclass(frozen=True, eq=False)
class Evidence:
    """What an update says of the labels of the images that made it, in float64 on the CPU.

    Args:
        model: the attacker's copy with the weights that were sent, in the client's mode.
        path: of its last linear layer with `classes` outputs.
        bias: (K,) the sum over the images of the gradient at the logits; None without a bias.
        weight: (K, d) that of the outer product with what enters the layer; None where it did not come back.
        images: how many, of all local steps.
        input_shape: (C, H, W) of one image; None where nobody told.
    """

    model: nn.Module
    path: str
    bias: Tensor | None
    weight: Tensor | None
    images: int
    classes: int
    input_shape: tuple[int, int, int] | None = None

    @classmethod
    def of(
        cls,
        model: nn.Module,
        gradient: Mapping[str, Tensor],
        *,
        images: int,
        classes: int,
        input_shape: tuple[int, int, int] | None = None,
    ) -> Evidence:
        """What a mean gradient (by parameter name) says.

        Raises:
            NotApplicable: another loss than the cross-entropy, no such layer, or one that did not come back.
        """
        if own_loss(model) is not None:
            raise NotApplicable("labels cannot be inferred: the loss is another than the cross-entropy")
        heads = [path for path, m in model.named_modules() if isinstance(m, nn.Linear) and m.out_features == classes]
        if not heads:
            raise NotApplicable(f"labels cannot be inferred: the model has no linear layer of {classes} outputs")
        prefix = f"{heads[-1]}." if heads[-1] else ""
        bias, weight = (gradient.get(f"{prefix}{name}") for name in ("bias", "weight"))
        if bias is None and weight is None:
            raise NotApplicable("labels cannot be inferred: the update lacks the last linear layer")
        return cls(
            model=model,
            path=heads[-1],
            bias=None if bias is None else bias.detach().double().cpu() * images,
            weight=None if weight is None else weight.detach().double().cpu() * images,
            images=images,
            classes=classes,
            input_shape=input_shape,
        )

    @property
    def layer(self) -> nn.Linear:
        found = self.model.get_submodule(self.path)
        assert isinstance(found, nn.Linear)
        return found

    def biased(self) -> Tensor:
        """The bias gradient. Raises NotApplicable without one."""
        if self.bias is None:
            raise NotApplicable("labels of a batch cannot be counted: the update has no bias of the last linear layer")
        return self.bias

    def weighed(self) -> Tensor:
        """The weight gradient. Raises NotApplicable without one."""
        if self.weight is None:
            raise NotApplicable("the update has no weight of the last linear layer")
        return self.weight

    @cached_property
    def probed(self) -> tuple[Tensor, Tensor]:
        """What enters the last layer (P, d) and the probabilities (P, K), of images of noise of mean 0 and variance 1.

        Those of a model that has seen data are not those of its data: it is sure of images that it knows.

        Raises:
            NotApplicable: nobody told the shape of an image.
        """
        if self.input_shape is None:
            raise NotApplicable("needs the shape of an image, to show the model some of noise")
        reference = next(self.model.parameters())
        generator = torch.Generator().manual_seed(0)  # of the method, not of the victim: every victim sees the same
        noise = torch.randn(PROBES, *self.input_shape, generator=generator).to(reference)
        entered: list[Tensor] = []
        handle = self.layer.register_forward_hook(lambda layer, inputs, output: entered.append(inputs[0].detach()))
        try:
            with torch.no_grad():
                logits = self.model(noise)
        finally:
            handle.remove()
        return entered[-1].double().cpu().reshape(PROBES, -1), logits.double().cpu().softmax(-1)


class LabelInference(ABC):
    """Base of the methods.

    Class attributes:
        name: what it is registered as.
        paper: where it was published.
    """

    name: ClassVar[str] = ""
    paper: ClassVar[str] = ""

    @abstractmethod
    def infer(self, evidence: Evidence) -> Inferred:
        """The labels. Raises `NotApplicable`, with the reason."""

    def solved(self, expected: Tensor, signal: Tensor, images: int) -> Inferred:
        """By the counts (K,) that a method expects, which need not be whole."""
        counts = rounded(expected, images)
        misfit = float((expected - counts).square().mean().sqrt())
        return replace(self.answer(counts, signal), misfit=misfit)

    def answer(self, counts: Tensor, signal: Tensor, *, sure: float | None = None) -> Inferred:
        """By how many there are of each class, (K,) int64.

        Args:
            signal: (K,) the gradient at the logits as the method estimates it, in units of one image's share: what the
                confidence is judged by.
            sure: the confidence, where the method knows it.
        """
        labels = torch.repeat_interleave(torch.arange(len(counts)), counts)
        return Inferred(labels, confidence(signal, counts) if sure is None else sure, self.name)


def fill(signal: Tensor, images: int, *, impact: float = 1.0) -> Tensor:
    """The counts (K,), int64, of as many labels as there are images, each that of the lowest entry, which it raises."""
    left, counts = signal.clone(), torch.zeros(len(signal), dtype=torch.int64)
    for _ in range(images):
        label = int(left.argmin())
        counts[label] += 1
        left[label] += impact
    return counts


def rounded(expected: Tensor, images: int) -> Tensor:
    """The counts (K,), int64, that are nearest to expected ones and sum to the number of images."""
    floor = expected.clamp_min(0).floor()
    while floor.sum() > images:  # more than there are: the least certain one is none
        positive = torch.where(floor > 0, expected - floor, torch.inf)
        floor[int(positive.argmin())] -= 1
    return (floor + fill(floor - expected, int(images - floor.sum()))).to(torch.int64)


_registry: Registry[LabelInference] = Registry("label inference", "attacks.labels")
register = _registry.register
names = _registry.names
create = _registry.create
