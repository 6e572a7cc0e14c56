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

from attacks.evaluators.base import Beliefs, Evaluator
from attacks.evaluators.forms import Form, Part, prepare, rows_of
from attacks.evaluators.rules import Apart, Unfit, rule_for
from attacks.facts import FACT
from attacks.objectives import Objective
from attacks.unknowns import ALONG, Guess, noise_of
from defenses.client.compute import Inputs, watching
from defenses.client.kept import Kept, remains
from defenses.client.kernels import by_formula
from defenses.client.round import ClientRound
from defenses.stochastic import StochasticLayer, stochastic_layers

Calls = dict[str, list[tuple[Tensor, Tensor]]]

NORMS = "norms"


class Ghost(Evaluator):
    """Never forms a large parameter gradient. For gradients of one step, where every parametric layer has a rule.

    Args:
        round: as far as it is known; its model's weights are what the clients received.
        observed: the observed gradients by parameter name, (N, *shape); parameters that are not in it are not matched.
        example: any guess of the N problems; it shows how many rows each layer sees.
        kept: what of each parameter is compared, (N, ...); None: all.
        beliefs: the priors that ask for what enters layers.

    Raises:
        Unfit: what is sent is no gradient, or one at weights of its own; a parameter whose layer has no rule, a layer
            called twice or never.
    """

    def __init__(
        self,
        round: ClientRound,
        objective: Objective,
        observed: Mapping[str, Tensor],
        example: Guess,
        *,
        kept: Mapping[str, Kept] | None = None,
        beliefs: Beliefs | None = None,
    ) -> None:
        _refuse(round)
        if ALONG in example:
            raise Unfit("each problem has weights of its own")
        self._beliefs = beliefs or Beliefs()
        model = round.model
        self._model, self._objective, self._smoothing = model, objective, round.local.label_smoothing
        self._term = round.defense.loss_term
        self._noisy: dict[str, StochasticLayer] = stochastic_layers(model)
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
            parts, _ = self._gradients(example)
        self._forms: dict[str, Form] = {}
        seen = observed if kept is None else {n: remains(kept[n], observed[n].double()) for n in self._names}
        self.data = {NORMS: torch.stack([rows_of(seen[n]).double().square().sum(1) for n in self._names], dim=1)}
        for name in self._names:
            self._forms[name], held = prepare(parts[name], observed[name], None if kept is None else kept[name])
            self.data |= {f"{name}:{key}": value for key, value in held.items()}
        self.data |= self._beliefs.data()

    def compare(
        self, data: Mapping[str, Tensor], guess: Guess, unknowns: Sequence[str]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        unknown = {name: guess[name].detach().requires_grad_() for name in unknowns}
        with torch.enable_grad():
            parts, _ = self._gradients({**guess, **unknown})
            loss = self._mismatch(parts, data)
            gradients = torch.autograd.grad(loss.sum(), list(unknown.values()), materialize_grads=True)
        return loss.detach(), dict(zip(unknown, gradients))

    def judge(
        self, data: Mapping[str, Tensor], guess: Guess, unknowns: Sequence[str], weight: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        if not self._beliefs.priors:
            return super().judge(data, guess, unknowns, weight)
        unknown = {name: guess[name].detach().requires_grad_() for name in unknowns}
        whole = {**guess, **unknown}
        with torch.enable_grad():
            parts, entered = self._gradients(whole)
            loss = self._mismatch(parts, data)
            penalty = self._beliefs.penalty(whole, data, [entered]).to(loss)
            together = (loss + weight * penalty).sum()
            gradients = torch.autograd.grad(together, list(unknown.values()), materialize_grads=True)
        return loss.detach(), penalty.detach(), dict(zip(unknown, gradients))

    def _mismatch(self, parts: Mapping[str, Part], data: Mapping[str, Tensor]) -> Tensor:
        """The objective (N,) of the simulated gradients."""
        held: dict[str, dict[str, Tensor]] = {name: {} for name in self._names}
        for key, value in data.items():
            if key != NORMS and not key.startswith(FACT):
                name, _, form_key = key.rpartition(":")
                held[name][form_key] = value
        pairs = [self._forms[name](parts[name], **held[name]) for name in self._names]
        inner, simulated = (torch.stack(scalars, dim=1).double() for scalars in zip(*pairs))
        return self._objective(inner, simulated, data[NORMS])

    def _gradients(self, guess: Guess) -> tuple[dict[str, Part], Inputs]:
        """Every observed parameter's simulated gradient per problem, large ones as factors; and what entered the layers
        that are asked for, (N, B, ...) each."""
        images, labels = guess["images"], guess["labels"]
        problems, batch = images.shape[:2]
        bare_taps = {
            name: value.new_zeros(problems * batch, *value.shape[1:]).requires_grad_()
            for name, value in self._bare.items()
        }
        substituted = {name: self._bare[name] + tap for name, tap in bare_taps.items()}
        substituted |= {f"{path}.noise": self._spread_noise(path, v, batch) for path, v in noise_of(guess).items()}
        buffers = {name: value.clone() for name, value in self._model.named_buffers()}  # it may count in them
        substituted = {**buffers, **substituted}
        asks = self._beliefs.asks
        with self._taps(problems, batch) as calls, by_formula(self._model), watching(self._model, asks) as entered:
            logits = functional_call(self._model, substituted, (images.flatten(0, 1),), tie_weights=False)
            targets = labels.flatten(0, 1)
            loss = F.cross_entropy(logits, targets, reduction="sum", label_smoothing=self._smoothing) / batch
            loss = loss + problems * self._term(self._model)  # a mean over examples; `choose` sees any other
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
        apart = {path: [call.unflatten(0, (problems, batch)) for call in inputs] for path, inputs in entered.items()}
        return parts, apart

    def _spread_noise(self, path: str, noise: Tensor, batch: int) -> Tensor:
        """The noise (N, ...) of a layer as (N * B, ...): one draw a mini-batch is the same for its examples."""
        layer = self._noisy[path]
        if layer.on_weights:
            raise Unfit(f"the noise of {path} acts on its weights: each problem has its own")
        if "example" in layer.axes:
            return noise.flatten(0, 1)
        return noise.squeeze(1).repeat_interleave(batch, dim=0)

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


def _refuse(round: ClientRound) -> None:
    """Raise Unfit unless what is sent is the gradient of one step of cross-entropy and of a term beside it, or a
    multiple of that."""
    if round.share != "gradient" or round.local.clip_value is not None:
        raise Unfit("what is sent is no gradient")
    defense = round.defense
    if defense.replaces_gradient or defense.changes_batch or not (defense.keeps_direction or defense.selects_only):
        raise Unfit("the defense changes more of the gradient than its length")


def _apart(layer: nn.Module) -> Apart | None:
    rule = rule_for(layer)
    return None if rule is None else rule.apart


def _spread(indices: Tensor, output: Tensor, examples: int) -> tuple[Tensor, Tensor]:
    """Indices (...) or (1, ...) and what they look up, without examples, for each of the examples."""
    if indices.shape[:1] == (1,):
        return indices.expand(examples, *indices.shape[1:]), output.expand(examples, *output.shape[1:])
    return indices.expand(examples, *indices.shape), output.expand(examples, *output.shape)
