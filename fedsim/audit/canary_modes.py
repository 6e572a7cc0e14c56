"""A client's training, seen from outside its code.

Torch offers hooks for all modules and all optimizers of a process, and a mode that is asked before each of its
functions. Through them the child process learns what is called when, and draws the dropout masks itself, explicitly,
where the client asks torch for them. Nothing of the client is changed.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules import module as modules
from torch.nn.utils import clip_grad
from torch.optim import optimizer as optimizers
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from defenses.stochastic.attended import DROPOUT, MULTI_HEAD, attended, inside, rate_of
from defenses.stochastic.convert import draws
from defenses.stochastic.functional import called
from fedsim.audit.canary_seen import Clipped
from fedsim.audit.canary_watch import Watch


@contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """While open, the watch is told of all that torch does in this process."""
    with ExitStack() as opened:
        for handle in (
            modules.register_module_forward_pre_hook(watch.enter),
            modules.register_module_forward_hook(watch.leave, with_kwargs=True, always_call=True),
            optimizers.register_optimizer_step_pre_hook(watch.before_step),
            optimizers.register_optimizer_step_post_hook(watch.after_step),
        ):
            opened.callback(handle.remove)
        _watch_clipping(watch, opened)
        opened.enter_context(_Hidden(watch))
        opened.enter_context(_Functions(watch))
        yield


def _watch_clipping(watch: Watch, opened: ExitStack) -> None:
    for name, bound in (("clip_grad_norm_", "max_norm"), ("clip_grad_value_", "clip_value")):
        original = getattr(clip_grad, name)

        def clipping(*given: Any, of: tuple[str, str, Any] = (name, bound, original), **keys: Any) -> Any:
            name, bound, original = of
            arguments = inspect.signature(original).bind(*given, **keys).arguments
            if not isinstance(arguments["parameters"], Tensor):
                arguments["parameters"] = list(arguments["parameters"])  # it may be a generator
            count = 1 if isinstance(arguments["parameters"], Tensor) else len(arguments["parameters"])
            seen = Clipped(name, float(arguments[bound]), float(arguments.get("norm_type", 2.0)), count)
            watch.clipped(seen)
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
        if function is MULTI_HEAD:
            return inside(self._dropped, arguments, keywords)
        if rate_of(function, arguments, keywords) or called(function, arguments, keywords) is not None:
            return self._dropped(function, arguments, keywords)
        if function is Tensor.backward:
            loss, *more = arguments
            self._watch.started(loss)
            places = dict(zip(("gradient", "retain_graph", "create_graph", "inputs"), more)) | keywords
            with self:  # checkpointed modules run once more within
                torch.autograd.backward(
                    loss,
                    places.get("gradient"),
                    places.get("retain_graph"),
                    places.get("create_graph", False),
                    inputs=places.get("inputs"),
                )
            self._watch.ended()
            return None
        if torch.is_grad_enabled() and getattr(function, "__name__", "") in LOSSES:
            self._loss(function.__name__, arguments, keywords)
        return function(*arguments, **keywords)

    def _dropped(self, function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
        """A function that drops something, or does not."""
        if rate := rate_of(function, arguments, keywords):
            return attended(lambda weights: self._watch.masked(DROPOUT, weights, rate), arguments, keywords)
        call = called(function, arguments, keywords)
        if call is None:
            return function(*arguments, **keywords)
        x, rate, in_place = call
        dropped = self._watch.masked(function, x, rate)
        return x.copy_(dropped) if in_place else dropped

    def _loss(self, name: str, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
        weighted = isinstance(keywords.get("weight"), Tensor) or any(isinstance(one, Tensor) for one in arguments[2:])
        target = arguments[1] if len(arguments) > 1 else keywords.get("target")
        smoothing = float(keywords.get("label_smoothing", 0.0))
        self._watch.loss(name, str(keywords.get("reduction", "mean")), smoothing, weighted, target)


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
