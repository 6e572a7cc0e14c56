"""How one step's gradient is computed: by the module's own backward pass, or as a function that can be differentiated.

This is the only part of a client's round that exists twice (and once more where an attack needs no gradient, only its
products with another). The client's takes any model that trains; the other any that `torch.func` can replay.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional as F

from defenses.client.kernels import by_formula
from defenses.client.site import Fixed, Source
from defenses.stochastic.layer import StochasticLayer, at_rest, drawing, stochastic_layers
from defenses.stochastic.places import head

Tensors = Mapping[str, Tensor]
Term = Callable[[nn.Module], Tensor | float]
"""What is added to the loss, given a model that has just seen a batch."""

Inputs = dict[str, list[Tensor]]
"""What entered layers in a forward pass, by module path: one tensor (B, ...) for each of a layer's calls."""


@contextmanager
def watching(model: nn.Module, paths: Collection[str]) -> Iterator[Inputs]:
    """While open, what enters these layers is noted."""
    entered: Inputs = {path: [] for path in paths}

    def note(path: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda layer, inputs: entered[path].append(inputs[0])

    handles = [model.get_submodule(path).register_forward_pre_hook(note(path)) for path in paths]
    try:
        yield entered
    finally:
        for handle in handles:
            handle.remove()


def no_term(model: nn.Module) -> float:
    return 0.0


Loss = Callable[[Tensor, Tensor], Tensor]
"""The mean over a batch, of outputs (B, K) and class indices (B,)."""


def own_loss(model: nn.Module) -> Loss | None:
    """What a model is trained with in place of the cross-entropy; None: that."""
    found: Loss | None = getattr(model, "own_loss", None)
    return found


def _expected(loss: Loss, logits: Tensor, labels: Tensor) -> Tensor:
    """A loss of class indices at probabilities (B, K), too: what is expected of it."""
    if not labels.is_floating_point():
        return loss(logits, labels)
    places = torch.arange(labels.shape[1], device=labels.device)

    def of_one(row: Tensor, chances: Tensor) -> Tensor:
        return torch.stack([chance * loss(row[None], place[None]) for chance, place in zip(chances, places)]).sum()

    return vmap(of_one)(logits, labels).mean()


_apart: ContextVar[int] = ContextVar("the most examples that are taken one by one", default=0)


@contextmanager
def one_by_one(most: int) -> Iterator[None]:
    """While open, the client's gradients of up to so many examples are taken one after the other: the same up to
    rounding. `torch.func` is not made ready for them, which takes a process a second and a half, once."""
    before = _apart.set(most)
    try:
        yield
    finally:
        _apart.reset(before)


class Computation(ABC):
    """The gradient of the mean loss over one batch, plus a defense's own term. The loss is the cross-entropy, unless
    the model has one of its own (`own_loss`).

    Args:
        model: gives the computation.
        source: of the noise of the model's layers.
        label_smoothing: of the cross-entropy.
        term: of the defense.
    """

    def __init__(self, model: nn.Module, source: Source, *, label_smoothing: float = 0.0, term: Term = no_term) -> None:
        self.model, self.source = model, source
        self.label_smoothing, self.term = label_smoothing, term

    def noise(self, images: Tensor) -> dict[str, Tensor]:
        """What is drawn of layers' noise ahead of a step's forward pass: none where the module draws it on its way."""
        return {}

    @abstractmethod
    def gradient(
        self, weights: Tensors, images: Tensor, labels: Tensor, noise: Tensors
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The gradient by parameter name, and the loss; images (B, C, H, W), labels (B,) or (B, K) probabilities."""

    @abstractmethod
    def per_example(self, weights: Tensors, images: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The same of each example by itself, (B, ...) and (B,)."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        own = own_loss(self.model)
        if own is None:
            return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing) + self.term(self.model)
        return _expected(own, logits, labels) + self.term(self.model)


class Backward(Computation):
    """The client's: the module itself, in the mode that it is in. Its parameters and buffers change."""

    def gradient(
        self, weights: Tensors, images: Tensor, labels: Tensor, noise: Tensors
    ) -> tuple[dict[str, Tensor], Tensor]:
        with drawing(self.model, self.source.draw):
            return self._backward(weights, images, labels)

    def _backward(self, weights: Tensors, images: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        parameters = self._put(weights)
        for parameter in parameters.values():
            parameter.grad = None  # what an earlier training left there is none of this batch
        loss = self.loss(self.model(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        found = {
            name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.detach()
            for name, parameter in parameters.items()
        }
        for parameter in parameters.values():
            parameter.grad = None
        return found, loss.detach()

    def per_example(self, weights: Tensors, images: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """With the noise that one ordinary forward pass of the batch draws: all at once by `torch.func`; one after the
        other, by the module itself, where it cannot replay the model (as with gradient checkpointing)."""
        self._put(weights)
        fixed = Fixed()
        with drawing(self.model, fixed.noted(self.source)), torch.no_grad():
            self.model(images)
        function = Functional(self.model, fixed, label_smoothing=self.label_smoothing, term=self.term)
        if len(images) <= _apart.get():
            return self._one_by_one(weights, images, labels, fixed)
        try:
            found, losses = function.per_example(weights, images, labels)
        except RuntimeError:
            return self._one_by_one(weights, images, labels, fixed)
        return {name: value.detach() for name, value in found.items()}, losses.detach()

    def _one_by_one(
        self, weights: Tensors, images: Tensor, labels: Tensor, noise: Source
    ) -> tuple[dict[str, Tensor], Tensor]:
        found, losses = list[dict[str, Tensor]](), list[Tensor]()
        for number in range(len(images)):

            def own(path: str, layer: StochasticLayer, x: Tensor, number: int = number) -> Tensor | None:
                drawn = noise.draw(path, layer, x)
                return drawn if drawn is None or "example" not in layer.axes else drawn[number : number + 1]

            one = slice(number, number + 1)
            with drawing(self.model, own):
                gradient, loss = self._backward(weights, images[one], labels[one])
            found.append(gradient)
            losses.append(loss)
        return {name: torch.stack([each[name] for each in found]) for name in weights}, torch.stack(losses)

    def _put(self, weights: Tensors) -> dict[str, nn.Parameter]:
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, value in weights.items():
                parameters[name].copy_(value)
        return {name: parameters[name] for name in weights}


class Functional(Computation):
    """A pure function of tensors: `torch.func` differentiates it, and `vmap` runs it for many clients at once.

    The model's stochastic layers are at rest unless the source gives their noise.

    Args:
        watched: the layers whose inputs are kept, by module path.

    Attributes:
        entered: those inputs, of each `gradient` that was asked for.
    """

    def __init__(
        self,
        model: nn.Module,
        source: Source,
        *,
        label_smoothing: float = 0.0,
        term: Term = no_term,
        buffers: Tensors | None = None,
        watched: Collection[str] = (),
    ) -> None:
        super().__init__(model, source, label_smoothing=label_smoothing, term=term)
        self.watched, self.entered = watched, list[Inputs]()
        self._buffers = {**dict(model.named_buffers()), **(buffers or {})}
        self._layers = stochastic_layers(model)

    def gradient(
        self, weights: Tensors, images: Tensor, labels: Tensor, noise: Tensors
    ) -> tuple[dict[str, Tensor], Tensor]:
        def loss(weights: Tensors) -> tuple[Tensor, Inputs]:
            with watching(self.model, self.watched) as entered:
                return self._loss(weights, noise, images, labels), entered

        found, (value, entered) = grad_and_value(loss, has_aux=True)(dict(weights))
        self.entered.append(entered)
        return dict(found), value

    def per_example(self, weights: Tensors, images: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        noise = self.noise(images)
        own = {path: value for path, value in noise.items() if "example" in self._layers[path].axes}
        shared = {path: value for path, value in noise.items() if path not in own}

        def loss(weights: Tensors, image: Tensor, label: Tensor, own: Tensors) -> Tensor:
            alone = {path: value[None] for path, value in own.items()}
            return self._loss(weights, {**shared, **alone}, image[None], label[None])

        each = vmap(grad_and_value(loss), in_dims=(None, 0, 0, 0))
        found, values = each(dict(weights), images, labels, own)
        return dict(found), values

    def loss_at(self, weights: Tensors, images: Tensor, labels: Tensor) -> Tensor:
        """The mean loss with all stochastic layers at rest."""
        return self._loss(weights, {}, images, labels)

    def entering(self, weights: Tensors, path: str | None, images: Tensor) -> Tensor:
        """What a layer, or the last linear one, is given last, with all stochastic layers at rest."""
        given: list[Tensor] = []
        layer = head(self.model) if path is None else self.model.get_submodule(path)
        assert layer is not None, "whoever asks for the last linear layer has seen that there is one"
        handle = layer.register_forward_pre_hook(lambda layer, inputs: given.append(inputs[0]))
        try:
            self._logits(weights, {}, images)
        finally:
            handle.remove()
        return given[-1]

    def _loss(self, weights: Tensors, noise: Tensors, images: Tensor, labels: Tensor) -> Tensor:
        return self.loss(self._logits(weights, noise, images), labels)

    def _logits(self, weights: Tensors, noise: Tensors, images: Tensor) -> Tensor:
        own = {name: value.clone() for name, value in self._buffers.items()}  # a forward pass may count in them
        substituted = {f"{path}.noise": value for path, value in noise.items()}
        with by_formula(self.model), drawing(self.model, at_rest):
            return cast(Tensor, functional_call(self.model, {**own, **weights, **substituted}, (images,)))

    def noise(self, images: Tensor) -> dict[str, Tensor]:
        """What the source gives of each layer in this step; those at rest are left out."""
        found = {path: self.source.draw(path, layer, images) for path, layer in self._layers.items()}
        return {path: value for path, value in found.items() if value is not None}
