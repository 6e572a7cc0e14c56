"""Hide an image's gradient among that of a sample that looks unlike it and has nearly the same gradient."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import grad

from defenses.base import Defense, Tensors, Turn, register
from defenses.client.own import Own
from defenses.client.site import Gaussian, Site


@register("dcs")
class DCS(Defense):
    """Send beside the client's gradient that of samples which look unlike its images and have nearly their gradient.

    With concealed samples x' of labels y' beside the client's examples x of labels y, and g the gradient, it sends

        (mix g(x', y') + (1 - mix) g(x', y) + g(x, y)) / 3        over 2 where `mix` is 0 or 1

    where x' starts from `mix n + (1 - mix) x` for standard normal n, y' is another class, and x' minimises

        1 - cos(g(x', y'), g(x, y)) + exp(-apart |x' - x|) + alike |z(x') - z(x)| / |z(x)|

    by Adam, z what enters the last linear layer. Where what is sent would point away from the client's own update u,
    `max(1/2, -<sent, u> / |u|^2) u` is added.

    Wu, Hayat, Zhou, Harandi, *Concealing Sensitive Samples against Gradient Leakage in Federated Learning*, AAAI 2024
    (arXiv 2209.05724), after its abstract and its published code, whose values these are (for MNIST), as the paper
    could not be read here. There a few examples of a batch are sensitive, x' may start from an image of other data, the
    search ends early where x' is far enough from x, and z are the model's outputs. Here all examples are sensitive, and
    it acts once, on what leaves the client: g(x', .) counts by what of the update lies along g(x, y).

    An attacker who knows the defense compares directions as one who does not: none here looks for x' beside x, so that
    none takes the defense into account (`beyond_replay`).

    Args:
        iterations: of the search, at least 1.
        learning_rate: of Adam, positive; a tenth after 3, 5 and 7 eighths of the iterations each.
        mix: in [0, 1].
        apart: weight of the distance, at least 0.
        alike: weight of the representation's difference, at least 0.
    """

    checks_model = True
    beyond_replay = True

    def __init__(
        self,
        *,
        iterations: int = 500,
        learning_rate: float = 0.1,
        mix: float = 0.7,
        apart: float = 0.01,
        alike: float = 0.01,
    ) -> None:
        if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 1:
            raise ValueError(f"dcs: iterations = {iterations} is not a whole number of at least 1")
        if not 0 < learning_rate < float("inf"):
            raise ValueError(f"dcs: learning_rate = {learning_rate} is not a positive number")
        if not 0 <= mix <= 1:
            raise ValueError(f"dcs: mix = {mix} is not in [0, 1]")
        for key, value in (("apart", apart), ("alike", alike)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"dcs: {key} = {value} is not a number of at least 0")
        self.iterations, self.learning_rate, self.mix, self.apart, self.alike = (
            iterations, learning_rate, mix, apart, alike
        )  # fmt: skip

    def on_model(self, model: nn.Module) -> nn.Module:
        """The same model; raises ValueError if it has no linear layer, whose input is the representation."""
        if not any(isinstance(layer, nn.Linear) for layer in model.modules()):
            raise ValueError(f"dcs: {type(model).__name__} has no linear layer, whose input it compares")
        return model

    def on_update(self, update: Tensors, *, turn: Turn) -> Tensors:
        client = turn.client
        labels = turn.one_hot(client.labels, client.images.dtype)
        steps = turn.draw("labels", OtherClass(labels.shape[1]), client.images)
        places = (torch.arange(labels.shape[1], device=labels.device) - steps[:, None]) % labels.shape[1]
        others = labels.gather(1, places)
        noise = turn.draw("start", Gaussian(), client.images)
        own = _gradient(client, client.images, labels)
        concealed = self._concealed(client, self.mix * noise + (1 - self.mix) * client.images, others, own)
        hidden = _gradient(client, concealed, self.mix * others + (1 - self.mix) * labels)
        scale = _inner(update, own) / _inner(own, own).clamp_min(torch.finfo(labels.dtype).tiny)
        parts = 2 if self.mix in (0, 1) else 3
        sent = {name: (scale * hidden[name] + value) / parts for name, value in update.items()}
        inner, squares = _inner(sent, update), _inner(update, update)
        back = (-inner / squares.clamp_min(torch.finfo(labels.dtype).tiny)).clamp_min(0.5) * (inner < 0)
        return {name: value + back * update[name] for name, value in sent.items()}

    def surrogate(self, update: Tensors, *, turn: Turn) -> Tensors:
        return update

    def _concealed(self, client: Own, start: Tensor, labels: Tensor, own: Tensors) -> Tensor:
        """The samples (N, C, H, W) of the last iteration."""
        represented = client.entering(None, client.images).flatten(1)

        def objective(samples: Tensor) -> Tensor:
            theirs = _gradient(client, samples, labels)
            cosine = _inner(theirs, own) / (_inner(theirs, theirs) * _inner(own, own)).sqrt()
            distance = (samples - client.images).flatten(1).norm(dim=1).mean()
            difference = (client.entering(None, samples).flatten(1) - represented).norm(dim=1)
            unlike = (difference / represented.norm(dim=1)).mean()
            return 1 - cosine + (-self.apart * distance).exp() + self.alike * unlike

        return _adam(grad(objective), start, self.learning_rate, self.iterations)


class OtherClass(Site):
    """How many classes after its own that of each concealed sample is, int64 (N,): any but its own."""

    structural = False

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        device = x.device if generator is None else generator.device
        return torch.randint(1, self.classes, (len(x),), generator=generator, device=device).to(x.device)

    def rest(self, x: Tensor) -> Tensor:
        return torch.ones(len(x), dtype=torch.int64, device=x.device)


def _gradient(client: Own, images: Tensor, labels: Tensor) -> Tensors:
    return dict(grad(client.loss_of)(dict(client.weights), images, labels))


def _inner(first: Tensors, second: Tensors) -> Tensor:
    return torch.stack([(value * second[name]).sum() for name, value in first.items()]).sum()


def _adam(slope: Callable[[Tensor], Tensor], point: Tensor, rate: float, iterations: int) -> Tensor:
    """Adam (Kingma and Ba, ICLR 2015) at its usual decays, as a function: the rate falls by 10 three times."""
    mean, square = torch.zeros_like(point), torch.zeros_like(point)
    for step in range(iterations):
        found = slope(point)
        mean, square = 0.9 * mean + 0.1 * found, 0.999 * square + 0.001 * found.square()
        fallen = sum(8 * step >= eighths * iterations for eighths in (3, 5, 7))
        upward = (square / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
        point = point - rate * 0.1**fallen * mean / (1 - 0.9 ** (step + 1)) / upward
    return point
