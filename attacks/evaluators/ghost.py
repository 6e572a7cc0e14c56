"""Ghost matching: the matching loss from activations and deltas alone, victims as one ordinary minibatch.

All victims of a round received the same weights, so N problems of B examples are one minibatch of N * B. A zero-valued
tap on every parametric layer's output yields each example's back-propagated delta in one backward pass. With
`G = delta^T a`

    <G, G*> = sum(delta * (a G*^T))        |G|^2 = sum((delta delta^T) * (a a^T))

so that no parameter gradient is ever formed where it is larger than its factors (for the norm this is fast per-example
clipping: Goodfellow 2015; Bu et al., mixed ghost clipping, NeurIPS 2022). An observed update is itself a sum of outer
products, hence of low rank unless somebody added noise: then it too is used as its factors.

Clients do not meet, but in a minibatch they would wherever examples do: batch norm is therefore passed problem by
problem.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from attacks.evaluators.base import Evaluator
from attacks.evaluators.rules import Apart, Outer, Unfit, rule_for
from attacks.kernels import by_formula
from attacks.objectives import Objective
from attacks.unknowns import Guess, noise_of

Calls = dict[str, list[tuple[Tensor, Tensor]]]
Part = Tensor | Outer
Form = Callable[..., tuple[Tensor, Tensor]]
"""From a parameter's simulated gradient to its inner product with the observed one and its squared norm, (N,) each."""

NORMS = "norms"


class Ghost(Evaluator):
    """Never forms a large parameter gradient. For gradients of one step, where every parametric layer has a rule.

    Args:
        model: the attacker's copy; its weights are what the clients received.
        observed: the observed gradients by parameter name, (N, *shape); parameters that are not in it are not matched.
        example: any guess of the N problems; it shows how many rows each layer sees.

    Raises:
        Unfit: a parameter whose layer has no rule, a layer called twice or never.
    """

    def __init__(self, model: nn.Module, objective: Objective, observed: Mapping[str, Tensor], example: Guess) -> None:
        self._model, self._objective = model, objective
        parameters = dict(model.named_parameters())
        self._names = [name for name in parameters if name in observed]
        self._bare: dict[str, Tensor] = {}
        self._layers: dict[str, nn.Module] = {}
        self._meeting = {path: layer for path, layer in model.named_modules() if _apart(layer) is not None}
        self._lacks_examples: dict[str, bool] = {}
        for name in self._names:
            path, _, _ = name.rpartition(".")
            layer = model.get_submodule(path)
            if rule_for(layer) is not None:
                self._layers[path] = layer
            elif parameters[name].dim() > 1 and len(parameters[name]) == 1:  # stands for every example alike
                self._bare[name] = parameters[name]
            else:
                raise Unfit(f"no rule for {name} of {type(layer).__name__}")
        with torch.enable_grad():
            parts = self._gradients(example)
        self._forms: dict[str, Form] = {}
        self.data = {NORMS: torch.stack([observed[n].flatten(1).double().square().sum(1) for n in self._names], dim=1)}
        for name in self._names:
            self._forms[name], held = _prepare(parts[name], observed[name])
            self.data |= {f"{name}:{key}": value for key, value in held.items()}

    def compare(
        self, data: Mapping[str, Tensor], guess: Guess, unknowns: Sequence[str]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        unknown = {name: guess[name].detach().requires_grad_() for name in unknowns}
        with torch.enable_grad():
            parts = self._gradients({**guess, **unknown})
            held: dict[str, dict[str, Tensor]] = {name: {} for name in self._names}
            for key, value in data.items():
                if key != NORMS:
                    name, _, form_key = key.rpartition(":")
                    held[name][form_key] = value
            pairs = [self._forms[name](parts[name], **held[name]) for name in self._names]
            inner, simulated = (torch.stack(scalars, dim=1).double() for scalars in zip(*pairs))
            loss = self._objective(inner, simulated, data[NORMS])
            gradients = torch.autograd.grad(loss.sum(), list(unknown.values()), materialize_grads=True)
        return loss.detach(), dict(zip(unknown, gradients))

    def _gradients(self, guess: Guess) -> dict[str, Part]:
        """Every observed parameter's simulated gradient per problem, large ones as factors."""
        images, labels = guess["images"], guess["labels"]
        problems, batch = images.shape[:2]
        bare_taps = {
            name: value.new_zeros(problems * batch, *value.shape[1:]).requires_grad_()
            for name, value in self._bare.items()
        }
        substituted = {name: self._bare[name] + tap for name, tap in bare_taps.items()}
        substituted |= {f"{path}.noise": noise.flatten(0, 1) for path, noise in noise_of(guess).items()}
        buffers = {name: value.clone() for name, value in self._model.named_buffers()}  # it may count in them
        substituted = {**buffers, **substituted}
        with self._taps(problems, batch) as calls, by_formula(self._model):
            logits = functional_call(self._model, substituted, (images.flatten(0, 1),), tie_weights=False)
            loss = F.cross_entropy(logits, labels.flatten(0, 1), reduction="sum") / batch
            for path, layer_calls in calls.items():
                if len(layer_calls) != 1:
                    raise Unfit(f"{path} is called {len(layer_calls)} times in one forward pass")
            taps = [tap for [(_, tap)] in calls.values()] + list(bare_taps.values())
            deltas = torch.autograd.grad(loss, taps, create_graph=True, materialize_grads=True)
        parts: dict[str, Part] = {}
        for (path, [(inputs, _)]), delta in zip(calls.items(), deltas):
            layer = self._layers[path]
            rule = rule_for(layer)
            assert rule is not None
            prefix = f"{path}." if path else ""
            parts |= {prefix + own: part for own, part in rule.gradients(layer, inputs, delta, problems).items()}
        for name, delta in zip(bare_taps, deltas[len(calls) :]):
            parts[name] = delta.unflatten(0, (problems, batch)).sum(1, keepdim=self._bare[name].dim() == delta.dim())
        return parts

    @contextmanager
    def _taps(self, problems: int, batch: int) -> Iterator[Calls]:
        """While open, each parametric layer's call records its input and adds a zero-valued tap to its output.

        Layers in which examples meet pass each problem alone.
        """
        calls: Calls = {path: [] for path in self._layers}

        def hook(path: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
            def add_tap(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
                if len(inputs) != 1:
                    raise Unfit(f"{path} is called with {len(inputs)} positional inputs")
                if not isinstance(output, Tensor):
                    raise Unfit(f"{path} returns a {type(output).__name__}")
                entering = inputs[0]
                if self._is_shared(path, entering, problems * batch):
                    entering, output = _spread(entering, output, problems * batch)
                apart = _apart(layer)
                if apart is not None:
                    entering, output = apart(layer, entering, problems)
                if path not in calls:
                    return output
                tap = torch.zeros_like(output, requires_grad=True)
                calls[path].append((entering, tap))
                return output + tap

            return add_tap

        handles = [layer.register_forward_hook(hook(path)) for path, layer in (self._layers | self._meeting).items()]
        try:
            yield calls
        finally:
            for handle in handles:
                handle.remove()

    def _is_shared(self, path: str, entering: Tensor, examples: int) -> bool:
        """Whether a layer looks up the same indices for all examples, as learned positions do.

        Decided at the first guess: when some problems have finished, the examples left may happen to be as many as the
        positions. Where they are at first, it is wrong here, and `choose` sees it.
        """
        if entering.is_floating_point():
            return False
        return self._lacks_examples.setdefault(path, entering.shape[:1] != (examples,))


def _apart(layer: nn.Module) -> Apart | None:
    rule = rule_for(layer)
    return None if rule is None else rule.apart


def _spread(indices: Tensor, output: Tensor, examples: int) -> tuple[Tensor, Tensor]:
    """Indices (...) or (1, ...) and what they look up, without examples, for each of the examples."""
    if indices.shape[:1] == (1,):
        return indices.expand(examples, *indices.shape[1:]), output.expand(examples, *output.shape[1:])
    return indices.expand(examples, *indices.shape), output.expand(examples, *output.shape)


def _formed(part: Part, *, observed: Tensor) -> tuple[Tensor, Tensor]:
    """A small parameter: its simulated gradient is formed. observed: (N, size)."""
    formed = (part.formed() if isinstance(part, Outer) else part).flatten(1).double()
    return (formed * observed).sum(1), formed.square().sum(1)


def _dense(part: Part, *, observed: Tensor) -> tuple[Tensor, Tensor]:
    """A large weight whose observed gradient has full rank. observed: (N, out, in)."""
    assert isinstance(part, Outer)
    inner = (part.left * (part.right @ observed.transpose(1, 2))).double().sum((1, 2))
    return inner, _gram_norm(part.left.double(), part.right.double())


def _factored(part: Part, *, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """A large weight whose observed gradient is `left right^T`. left: (N, out, r); right: (N, in, r)."""
    assert isinstance(part, Outer)
    ours, theirs = part.left.double(), part.right.double()
    inner = ((ours @ left) * (theirs @ right)).sum((1, 2))
    return inner, _gram_norm(ours, theirs)


def _gram_norm(left: Tensor, right: Tensor) -> Tensor:
    if left.shape[1] == 1:
        return left.square().sum((1, 2)) * right.square().sum((1, 2))
    return ((left @ left.transpose(1, 2)) * (right @ right.transpose(1, 2))).sum((1, 2))


def _prepare(part: Part, observed: Tensor) -> tuple[Form, dict[str, Tensor]]:
    """The cheapest way to compare this parameter's gradient, formed or by its factors, and what it needs to hold."""
    if not isinstance(part, Outer):
        return _formed, {"observed": observed.flatten(1).double()}
    problems, rows, out = part.left.shape
    width = part.right.shape[2]
    if rows * (out + width) >= out * width:
        return _formed, {"observed": observed.flatten(1).double()}
    matrix = observed.reshape(problems, out, width)
    factors = low_rank(matrix, rows)
    if factors is None or factors[0].shape[2] * (out + width) >= out * width:
        return _dense, {"observed": matrix}
    return _factored, {"left": factors[0], "right": factors[1]}


def low_rank(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor] | None:
    """Factors left (N, out, r) and right (N, in, r), r <= rank, with `left right^T = matrix`; None if it has more rank.

    A randomised range finder (Halko, Martinsson and Tropp, SIAM Review 2011), accepted only if what it leaves out is
    rounding error.
    """
    _, out, width = matrix.shape
    exact = matrix.double()
    columns = min(rank + 8, out, width)
    probe = torch.randn(width, columns, generator=torch.Generator().manual_seed(0)).to(exact)
    basis, _ = torch.linalg.qr(exact @ probe)
    small = basis.transpose(1, 2) @ exact
    left, values, right = torch.linalg.svd(small, full_matrices=False)
    rounding = torch.finfo(matrix.dtype).eps
    kept = int((values > rounding * values[:, :1]).sum(1).max().clamp(max=rank, min=1))
    left, right = basis @ left[..., :kept] * values[:, None, :kept], right[:, :kept].transpose(1, 2)
    residual = (exact - left @ right.transpose(1, 2)).flatten(1).norm(dim=1)
    if (residual > 32 * rounding * exact.flatten(1).norm(dim=1)).any():
        return None
    return left, right.contiguous()
