"""What a client's training does: which forward passes went into which optimizer step, and what was drawn in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.optim import Optimizer

from defenses.stochastic.convert import drops_paths
from defenses.stochastic.functional import FUNCTIONS, child
from fedsim.audit.canary_seen import Call, Clipped, Grouped, Step, autocast, plain, tensors


@dataclass
class Watch:
    """Sees a client train: `fedsim.audit.canary_modes.watching` tells it what happens.

    Args:
        sent: what the server sent; the module with these arrays is the client's model.

    Attributes:
        steps: those that the model took, and `taken` how many any optimizer took.
        losses: functions that losses were computed with: name, reduction, label smoothing, whether weighted.
        values: of the losses that backward passes started from.
        first: the gradient that the first step was given, `last` the model's state after the last one.
    """

    sent: Mapping[str, Tensor]
    steps: list[Step] = field(default_factory=list)
    losses: list[tuple[str, str, float, bool]] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    first: dict[str, Tensor] = field(default_factory=dict)
    last: dict[str, Tensor] = field(default_factory=dict)
    dtype: str = "float32"
    taken: int = 0
    _masking: bool = False
    _paths_dropping: int = 0
    _stack: list[tuple[str | None, nn.Module]] = field(default_factory=list)
    _open: list[Call] = field(default_factory=list)
    _calls: list[Call] = field(default_factory=list)
    _counts: list[int] = field(default_factory=list)
    _paths: dict[int, str] = field(default_factory=dict)
    _clipped: list[Clipped] = field(default_factory=list)
    _backwards: int = 0
    _altered: str | None = None
    _left: dict[str, Tensor] = field(default_factory=dict)

    def fits(self, module: nn.Module) -> bool:
        """Whether a module has the arrays that were sent: by name, or by order where they have numbers for names."""
        own = module.state_dict()
        if own.keys() == self.sent.keys():
            return True
        numbered = all(name.isdigit() for name in self.sent)
        shapes = [tuple(value.shape) for value in self.sent.values()]
        return numbered and [tuple(value.shape) for value in own.values()] == shapes

    def model(self) -> nn.Module | None:
        """The model that took the first step."""
        return next((call.model for step in self.steps for call in step.calls), None)

    def names(self, model: nn.Module) -> dict[str, str]:
        """From a model's own names of its arrays to those that were sent."""
        own = model.state_dict()
        return dict(zip(own, own if own.keys() == self.sent.keys() else self.sent, strict=True))

    def enter(self, module: nn.Module, inputs: Any) -> None:
        """A module is called: the client's model, one within it, or any other."""
        path = None
        if not self._open and (root := next((one for one in module.modules() if self.fits(one)), None)) is not None:
            self._paths = {id(one): name for name, one in root.named_modules()}
        if not self._open and self._paths.get(id(module)) == "":
            resting = tuple(name for name, one in module.named_modules() if not one.training)
            self._open.append(Call(module, resting, autocast=autocast()))
        if self._open:
            path = self._paths.get(id(module))
        self._stack.append((path, module))
        self._counts.append(0)
        if module.training and drops_paths(module):
            self._paths_dropping += 1  # whose draw is no hidden one
            if self._open and inputs:
                self._drops_path(path or "", module, inputs[0])

    def leave(self, module: nn.Module, inputs: Any, named: Any, output: Any) -> None:
        """It returned, or raised."""
        if not self._stack or self._stack[-1][1] is not module:
            return
        path, _ = self._stack.pop()
        self._counts.pop()
        self._paths_dropping -= module.training and drops_paths(module)
        if path != "" or not self._open:
            return
        call = self._open.pop()
        outputs = [one for one in tensors(output) if one.requires_grad]
        if outputs and torch.is_grad_enabled():
            call.inputs = [one.detach().clone() for one in tensors((inputs, named))]
            self._calls.append(call)
            for one in outputs:
                one.register_hook(lambda gradient, call=call: setattr(call, "backward", True))

    def _drops_path(self, path: str, module: nn.Module, x: Tensor) -> None:
        """Note which branches stochastic depth is about to drop: what it makes of ones, at the same random state.

        What it makes of the branch does not say it: one that is zero, as behind weights that start at zero, is zero
        whether it is dropped or not, and learns only where it is not.
        """
        with torch.no_grad(), torch.random.fork_rng([]):
            kept = type(module).forward(module, torch.ones_like(x)).flatten(1).any(1).to(x.dtype)
        call = self._open[-1]
        call.masks.setdefault(path, []).append(kept[:1] if getattr(module, "mode", "row") == "batch" else kept)
        call.rates[path] = float(getattr(module, "drop_prob", getattr(module, "p", 0.0)))

    def masked(self, function: Any, x: Tensor, rate: float) -> Tensor:
        """What dropout makes of x, with a mask that is noted."""
        layer = FUNCTIONS[function](rate) if rate < 1 else None
        if layer is None:
            return x * 0
        self._masking = True
        mask = layer.sample(x.detach())
        self._masking = False
        if self._open and self._stack:
            path, module = self._stack[-1]
            site = "" if path is None else path
            if not isinstance(module, _DropoutNd):
                site = f"{site}.{child(self._counts[-1])}".lstrip(".")
                self._counts[-1] += 1
            call = self._open[-1]
            call.masks.setdefault(site, []).append(mask)
            call.rates[site] = rate
        return layer.inject(x, mask)

    def clipped(self, seen: Clipped) -> None:
        """Gradients are clipped."""
        self._clipped.append(seen)

    def loss(self, name: str, reduction: str, smoothing: float, weighted: bool, target: Any) -> None:
        """A loss is computed by a function of torch."""
        if (seen := (name, reduction, smoothing, weighted)) not in self.losses:
            self.losses.append(seen)
        if name in ("cross_entropy", "nll_loss") and self._calls and isinstance(target, Tensor):
            self._calls[-1].target = target.detach().clone()

    def drew(self, operation: Any) -> None:
        """An operation that draws random numbers, other than masks, within a forward pass."""
        if self._open and not self._masking and not self._paths_dropping:
            path, module = self._stack[-1]
            self._open[-1].hidden.append(f"module {path or 'itself'!r} ({type(module).__name__}): {operation}")

    def started(self, loss: Tensor) -> None:
        """A backward pass from a loss."""
        self._backwards += 1
        if loss.numel() == 1:
            self.values.append(float(loss.detach()))

    def ended(self) -> None:
        """The backward pass is over: what gradients it left."""
        if self._calls:
            self._left = {
                name: value.grad.detach().clone()
                for name, value in self._calls[-1].model.named_parameters()
                if value.grad is not None
            }

    def before_step(self, optimizer: Optimizer, inputs: Any, named: Any) -> None:
        """An optimizer is about to step: has anything else changed the weights?"""
        call = next((call for call in self._calls if call.backward), None)
        model = call.model if call else self.model()
        if model is None:
            return
        before = self.last or {name: self.sent[sent] for name, sent in self.names(model).items()}
        now = {name: value.detach() for name, value in model.named_parameters()}
        altered = (name for name, value in now.items() if not torch.equal(value, before[name].to(value)))
        self._altered = next(altered, None)

    def after_step(self, optimizer: Optimizer, inputs: Any, named: Any) -> None:
        """It stepped: what went into that."""
        self.taken += 1
        calls = [call for call in self._calls if call.backward]
        if not calls:
            return  # such as of another network that the client trains besides
        names = {id(value): name for name, value in calls[0].model.named_parameters()}
        given = [value for group in optimizer.param_groups for value in group["params"]]
        found = {names[id(value)]: value.grad for value in given if id(value) in names and value.grad is not None}
        if not found:
            return
        if not self.steps:
            self.first = {name: value.detach().clone() for name, value in found.items()}
            self.dtype = str(next(iter(found.values())).dtype).removeprefix("torch.")
        groups = (
            Grouped(
                tuple(names[id(value)] for value in group["params"] if id(value) in names),
                {name: plain(value) for name, value in group.items() if name not in ("params", "param_names")},
            )
            for group in optimizer.param_groups
        )
        self.steps.append(
            Step(
                optimizer=optimizer,
                calls=calls,
                groups=tuple(group for group in groups if group.names),
                gradients=frozenset(found),
                clipped=self._clipped,
                backwards=self._backwards,
                altered=self._altered,
                changed=self._changed(found),
            )
        )
        self._left = {}
        self.last = {name: value.detach().clone() for name, value in calls[0].model.state_dict().items()}
        self._calls, self._clipped, self._backwards = [], [], 0

    def _changed(self, found: Mapping[str, Tensor]) -> str | None:
        """A parameter whose gradient is another than the backward pass left, and not by what is known to clip."""
        if self._clipped or not self._left:
            return None
        changed = (name for name, value in found.items() if not torch.equal(value, self._left.get(name, value)))
        return next(changed, None)
