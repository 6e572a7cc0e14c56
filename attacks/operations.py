"""What an iteration of gradient matching costs, counted: the same number on every machine."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from attacks.observation import Observation, ThreatModel
from attacks.replayable import replayed
from attacks.twin import attacker_copy
from attacks.updates import local_steps

KINKED = ("relu", "leaky_relu", "hardtanh", "max_pool2d", "threshold", "clamp")
"""Operations without a second derivative of use, by the beginnings of their names."""


class _Counted(TorchDispatchMode):
    """Notes the names of the operations that are dispatched while it is on, and counts the floating-point ones."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        made = function(*args, **(kwargs or {}))
        self.names.add(function.__name__)
        count = flop_registry.get(function._overloadpacket)
        if count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=made)
        return made


def of_an_iteration(observation: Observation, threat_model: ThreatModel, model: nn.Module) -> int:
    """The floating-point operations of matching one image of one client once: a forward pass, the gradient of its
    parameters, and the gradient of a function of that, as torch counts them (`torch.utils.flop_counter`: of matrix
    products and convolutions). Of several local steps all are counted.

    Raises:
        NotApplicable: the model cannot be replayed.
    """
    twin = attacker_copy(model, observation.state, client_mode=threat_model.client_mode)
    batch = observation.batch_size or 1
    with replayed("counted"), torch.enable_grad(), _Counted() as counted:
        _match(twin, batch, observation)
    steps = local_steps(observation) if observation.kind == "delta" else 1
    return max(1, steps * counted.total // batch)


def smooth(observation: Observation, threat_model: ThreatModel, model: nn.Module) -> bool:
    """Whether a model's forward pass has no operation with kinks.

    Raises:
        NotApplicable: the model cannot be replayed.
    """
    twin = attacker_copy(model, observation.state, client_mode=threat_model.client_mode)
    with replayed("looked at"), torch.no_grad(), _Counted() as counted:
        twin(_images(twin, 2, observation))
    return not any(name.startswith(KINKED) for name in counted.names)


def _images(twin: nn.Module, batch: int, observation: Observation) -> Tensor:
    like = next(twin.parameters())
    return torch.zeros(batch, *observation.input_shape).to(like)


def _match(twin: nn.Module, batch: int, observation: Observation) -> None:
    images = _images(twin, batch, observation).requires_grad_()
    weights = {name: value.detach().clone().requires_grad_() for name, value in twin.named_parameters()}
    labels = torch.zeros(batch, dtype=torch.int64, device=images.device)
    buffers = {name: value.clone() for name, value in twin.named_buffers()}
    loss = F.cross_entropy(functional_call(twin, {**buffers, **weights}, (images,)), labels)
    theirs = torch.autograd.grad(loss, list(weights.values()), create_graph=True, allow_unused=True)
    match = torch.stack([gradient.square().sum() for gradient in theirs if gradient is not None]).sum()
    torch.autograd.grad(match, [images], allow_unused=True)
