"""DP-SGD: per-sample clipping and Gaussian noise, by Opacus, with the privacy that it buys."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from defenses.base import Accounting, Defense, Tensors, register
from defenses.stochastic import stochastic_layers


@register("dp_sgd")
class DPSGD(Defense):
    """Clip each sample's gradient to `max_grad_norm`, sum, add N(0, (noise_multiplier * max_grad_norm)^2), and divide
    by the batch size (Abadi et al., "Deep Learning with Differential Privacy", CCS 2016).

    The per-sample gradients, the clipping and the noise are Opacus' (`GradSampleModule`, `DPOptimizer`), the
    accounting is its Renyi accountant. The batches of a simulated client are of fixed size, while the accountant's
    theorem is about Poisson sampling: epsilon is what the same training would spend if its batches were so sampled.

    Args:
        noise_multiplier: noise over clipping bound, at least 0; 0 gives no privacy (epsilon is infinite).
        max_grad_norm: bound of a sample's gradient in L2 norm, above 0.
        delta: the probability with which the guarantee may fail, in (0, 1).
    """

    def __init__(self, *, noise_multiplier: float = 1.0, max_grad_norm: float = 1.0, delta: float = 1e-5) -> None:
        if not 0 <= noise_multiplier < math.inf:
            raise ValueError(f"dp_sgd: noise_multiplier = {noise_multiplier} is not a number of at least 0")
        if not 0 < max_grad_norm < math.inf:
            raise ValueError(f"dp_sgd: max_grad_norm = {max_grad_norm} is not a positive number")
        if not 0 < delta < 1:
            raise ValueError(f"dp_sgd: delta = {delta} is not in (0, 1)")
        self.noise_multiplier = noise_multiplier
        self.max_grad_norm = max_grad_norm
        self.delta = delta

    def on_model(self, model: nn.Module) -> nn.Module:
        """The same model, if Opacus takes it; raises ValueError naming the first module that it does not take."""
        from opacus.grad_sample import GradSampleModule
        from opacus.validators import ModuleValidator

        for path, module in model.named_modules():
            validate = ModuleValidator.VALIDATORS.get(type(module))
            errors = validate(module) if validate else []
            if errors:
                raise ValueError(f"dp_sgd: Opacus refuses {_named(path, module)}: {_first_sentence(errors[0])}")
            if not _owns_parameters(module) or type(module) in GradSampleModule.GRAD_SAMPLERS:
                continue
            # Opacus runs such a module a second time, sample by sample: buffers and fresh draws would go wrong there.
            if next(module.buffers(), None) is not None:
                raise ValueError(f"dp_sgd: Opacus refuses {_named(path, module)}: it has parameters and buffers")
            if stochastic_layers(module):
                raise ValueError(
                    f"dp_sgd: Opacus refuses {_named(path, module)}: it has parameters of its own beside dropout "
                    "layers; move them into a module of their own"
                )
        return model

    def gradient(self, model: nn.Module, images: Tensor, labels: Tensor, *, generator: torch.Generator) -> Tensors:
        """The privatised gradient of the mean cross-entropy over images (B, C, H, W) and labels (B,).

        Of every parameter that is trained; one that the loss does not depend on gets noise like the others.

        Raises:
            ValueError: Opacus cannot follow the forward pass; the message names the layer.
        """
        from opacus.grad_sample import GradSampleModule
        from opacus.optimizers import DPOptimizer

        named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        kept = {name: parameter.grad for name, parameter in named.items()}
        with _parameters_training(model):
            per_sample = GradSampleModule(model, loss_reduction="mean")
            try:
                optimizer = DPOptimizer(
                    torch.optim.SGD(named.values(), lr=0.0),
                    noise_multiplier=self.noise_multiplier,
                    max_grad_norm=self.max_grad_norm,
                    expected_batch_size=len(images),
                    generator=_on(images.device, generator),
                )
                with warnings.catch_warnings():  # of no gradient for the images, which nobody wants
                    warnings.filterwarnings("ignore", message="Full backward hook")
                    F.cross_entropy(per_sample(images), labels).backward()
                _complete(model, len(images))
                optimizer.pre_step()
                return {name: cast(Tensor, parameter.grad).detach() for name, parameter in named.items()}
            finally:
                per_sample.to_standard_module()
                _remove_traces(model)
                for name, parameter in named.items():
                    parameter.grad = kept[name]

    def accounting(self, *, steps: int, batch_size: int, examples: int) -> Accounting:
        note = "as if Poisson-sampled"
        if self.noise_multiplier == 0:
            return Accounting(epsilon=math.inf, delta=self.delta, note=note)
        from opacus.accountants import RDPAccountant

        accountant = RDPAccountant()
        accountant.history = [(self.noise_multiplier, min(1.0, batch_size / examples), steps)]
        return Accounting(epsilon=accountant.get_epsilon(delta=self.delta), delta=self.delta, note=note)


def _owns_parameters(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters(recurse=False))


def _named(path: str, module: nn.Module) -> str:
    return f"layer {path!r} ({type(module).__name__})" if path else f"the model ({type(module).__name__})"


def _complete(model: nn.Module, examples: int) -> None:
    """Give parameters that the loss does not depend on the zeros that Opacus does not give them.

    Raises ValueError where Opacus has seen a layer more often than its gradient came back: it cannot tell which input
    belongs to which gradient.
    """
    for path, module in model.named_modules():
        own = [parameter for parameter in module.parameters(recurse=False) if parameter.requires_grad]
        for parameter in own:
            if "_current_grad_sample" in parameter.__dict__:
                raise ValueError(
                    f"dp_sgd: Opacus refuses {_named(path, module)}: it is called more often than its gradient comes "
                    "back, as with gradient checkpointing (use_reentrant=False) or a result that is not used"
                )
            if getattr(parameter, "grad_sample", None) is None:
                parameter.grad_sample = parameter.new_zeros(examples, *parameter.shape)  # type: ignore[attr-defined]


def _first_sentence(error: Exception) -> str:
    return str(error).split(". ")[0]


def _remove_traces(model: nn.Module) -> None:
    """Take off what Opacus leaves behind when it takes its hooks off."""
    for module in model.modules():
        module.__dict__.pop("activations", None)
        module.__dict__.pop("max_batch_len", None)
    for parameter in model.parameters():
        parameter.__dict__.pop("summed_grad", None)
        parameter.__dict__.pop("_current_grad_sample", None)


@contextmanager
def _parameters_training(model: nn.Module) -> Iterator[None]:
    """Opacus records nothing of a module in evaluation mode; the stochastic layers keep the mode that they are in."""
    modes = {module: module.training for module in model.modules() if _owns_parameters(module)}
    for module in modes:
        module.training = True
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _on(device: torch.device, generator: torch.Generator) -> torch.Generator:
    """The generator, or one seeded by it where it lives on another device."""
    if generator.device == device:
        return generator
    seed = torch.randint(2**62, (), generator=generator, device=generator.device)
    return torch.Generator(device).manual_seed(int(seed))
