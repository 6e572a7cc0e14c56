"""What a client's training does, seen from outside its code: forward passes, masks, backward passes, optimizer steps.

Torch offers hooks for all modules and all optimizers of a process, and a mode that is asked before each of its
functions. Through them the child process learns which forward passes went into which step, what they were given, and
draws the dropout masks itself, explicitly, where the client asked torch for them. Nothing of the client is changed.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as modules
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.utils import clip_grad
from torch.optim import Optimizer
from torch.optim import optimizer as optimizers
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from defenses.stochastic.convert import draws
from defenses.stochastic.functional import FUNCTIONS, called, child
from fedsim.audit.canary_seen import Call, Clipped, Option, Step, autocast, plain, tensors


@dataclass
class Watch:
    """Sees a client train. `with watch.open():` around all that it does.

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
    _stack: list[tuple[str | None, nn.Module]] = field(default_factory=list)
    _open: list[Call] = field(default_factory=list)
    _calls: list[Call] = field(default_factory=list)
    _counts: list[int] = field(default_factory=list)
    _paths: dict[int, str] = field(default_factory=dict)
    _clipped: list[Clipped] = field(default_factory=list)
    _backwards: int = 0
    _altered: str | None = None

    @contextmanager
    def open(self) -> Iterator[None]:
        with ExitStack() as opened:
            for handle in (
                modules.register_module_forward_pre_hook(self._enter),
                modules.register_module_forward_hook(self._leave, with_kwargs=True, always_call=True),
                optimizers.register_optimizer_step_pre_hook(self._before_step),
                optimizers.register_optimizer_step_post_hook(self._after_step),
            ):
                opened.callback(handle.remove)
            self._watch_clipping(opened)
            opened.enter_context(_Hidden(self))
            opened.enter_context(_Functions(self))
            yield

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

    def _enter(self, module: nn.Module, inputs: Any) -> None:
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

    def _leave(self, module: nn.Module, inputs: Any, named: Any, output: Any) -> None:
        if not self._stack or self._stack[-1][1] is not module:
            return
        path, _ = self._stack.pop()
        self._counts.pop()
        if path != "" or not self._open:
            return
        call = self._open.pop()
        outputs = [one for one in tensors(output) if one.requires_grad]
        if outputs and torch.is_grad_enabled():
            call.inputs = [one.detach().clone() for one in tensors((inputs, named))]
            self._calls.append(call)
            for one in outputs:
                one.register_hook(lambda gradient, call=call: setattr(call, "backward", True))

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

    def drew(self, operation: Any) -> None:
        """An operation that draws random numbers, other than masks, within a forward pass."""
        if self._open and not self._masking:
            path, module = self._stack[-1]
            self._open[-1].hidden.append(f"module {path or 'itself'!r} ({type(module).__name__}): {operation}")

    def started(self, loss: Tensor) -> None:
        """A backward pass from a loss."""
        self._backwards += 1
        if loss.numel() == 1:
            self.values.append(float(loss.detach()))

    def compared(self, target: Any) -> None:
        """What the output of the last forward pass was compared with."""
        if self._calls and isinstance(target, Tensor):
            self._calls[-1].target = target.detach().clone()

    def _before_step(self, optimizer: Optimizer, inputs: Any, named: Any) -> None:
        call = next((call for call in self._calls if call.backward), None)
        model = call.model if call else self.model()
        if model is None:
            return
        before = self.last or {name: self.sent[sent] for name, sent in self.names(model).items()}
        now = {name: value.detach() for name, value in model.named_parameters()}
        altered = (name for name, value in now.items() if not torch.equal(value, before[name].to(value)))
        self._altered = next(altered, None)

    def _after_step(self, optimizer: Optimizer, inputs: Any, named: Any) -> None:
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
        options: list[dict[str, Option]] = []
        for group in optimizer.param_groups:
            own = {name: plain(value) for name, value in group.items() if name not in ("params", "param_names")}
            if any(id(value) in names for value in group["params"]) and own not in options:
                options.append(own)
        self.steps.append(
            Step(optimizer, calls, options, frozenset(found), self._clipped, self._backwards, self._altered)
        )
        self.last = {name: value.detach().clone() for name, value in calls[0].model.state_dict().items()}
        self._calls, self._clipped, self._backwards = [], [], 0

    def _watch_clipping(self, opened: ExitStack) -> None:
        for name, bound in (("clip_grad_norm_", "max_norm"), ("clip_grad_value_", "clip_value")):
            original = getattr(clip_grad, name)

            def clipping(*given: Any, of: tuple[str, str, Any] = (name, bound, original), **keys: Any) -> Any:
                name, bound, original = of
                arguments = inspect.signature(original).bind(*given, **keys).arguments
                if not isinstance(arguments["parameters"], Tensor):
                    arguments["parameters"] = list(arguments["parameters"])  # it may be a generator
                count = 1 if isinstance(arguments["parameters"], Tensor) else len(arguments["parameters"])
                seen = Clipped(name, float(arguments[bound]), float(arguments.get("norm_type", 2.0)), count)
                self._clipped.append(seen)
                return original(**arguments)

            for place in (clip_grad, torch.nn.utils):
                opened.callback(setattr, place, name, original)
                setattr(place, name, clipping)


class _Functions(TorchFunctionMode):
    """Is asked before each function of torch that the client calls."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        keywords = keywords or {}
        if (call := called(function, arguments, keywords)) is not None:
            x, rate, in_place = call
            dropped = self._watch.masked(function, x, rate)
            return x.copy_(dropped) if in_place else dropped
        if function is Tensor.backward:
            loss, *more = arguments
            self._watch.started(loss)
            places = dict(zip(("gradient", "retain_graph", "create_graph", "inputs"), more)) | keywords
            with self:  # checkpointed modules run once more within
                return torch.autograd.backward(
                    loss,
                    places.get("gradient"),
                    places.get("retain_graph"),
                    places.get("create_graph", False),
                    inputs=places.get("inputs"),
                )
        if torch.is_grad_enabled() and getattr(function, "__name__", "") in LOSSES:
            self._loss(function.__name__, arguments, keywords)
        return function(*arguments, **keywords)

    def _loss(self, name: str, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
        weighted = isinstance(keywords.get("weight"), Tensor) or any(isinstance(one, Tensor) for one in arguments[2:])
        smoothing = float(keywords.get("label_smoothing", 0.0))
        seen = (name, str(keywords.get("reduction", "mean")), smoothing, weighted)
        if seen not in self._watch.losses:
            self._watch.losses.append(seen)
        if name in ("cross_entropy", "nll_loss"):
            self._watch.compared(arguments[1] if len(arguments) > 1 else keywords.get("target"))


LOSSES = (
    "cross_entropy",
    "nll_loss",
    "mse_loss",
    "l1_loss",
    "smooth_l1_loss",
    "huber_loss",
    "kl_div",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "multi_margin_loss",
    "soft_margin_loss",
    "poisson_nll_loss",
    "gaussian_nll_loss",
    "triplet_margin_loss",
    "cosine_embedding_loss",
    "ctc_loss",
)
"""Functions of `torch.nn.functional` that losses are computed with."""


class _Hidden(TorchDispatchMode):
    """Sees every operation: those that draw random numbers and are no mask of dropout are noted."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        if draws(operation, arguments, keywords or {}):
            self._watch.drew(operation)
        return operation(*arguments, **(keywords or {}))
