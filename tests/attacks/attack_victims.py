"""Clients made by hand: small models, one honest local training in plain PyTorch, and what a server sees of it."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import fedsim
from attacks import LocalTraining, Observation
from defenses.stochastic import Dropout, record

MNIST_MEAN, MNIST_STD = 0.13066373765468597, 0.30810782313346863


def paper_mlp(
    *, dropout: float, inputs: int = 784, width: int = 512, classes: int = 10, bias: bool = False
) -> nn.Module:
    """The MLP of the dropout-inversion paper: three hidden layers, GELU, dropout after each activation."""
    layers: list[nn.Module] = [nn.Flatten()]
    for size in (inputs, width, width):
        layers += [nn.Linear(size, width, bias=bias), nn.GELU(), Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(width, classes, bias=bias))


def observe(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    seed: int = 0,
    mean: tuple[float, ...] = (0.0,),
    std: tuple[float, ...] = (1.0,),
    classes: int = 10,
    local: LocalTraining | None = None,
    train: bool = True,
    **fields: object,
) -> Observation:
    """What the server sees of a client who trains `model` on these images (steps * B, C, H, W) in plain PyTorch.

    Without `local` the client sends its gradient, with it the change of its weights.
    """
    client = copy.deepcopy(model).train(train)
    before = {name: value.clone() for name, value in client.state_dict().items()}
    steps = local.steps if local else 1
    optimiser = torch.optim.SGD(
        client.parameters(),
        lr=local.learning_rate if local else 0.1,
        momentum=local.optimizer.momentum if local else 0.0,
        weight_decay=local.optimizer.weight_decay if local else 0.0,
        nesterov=local.optimizer.nesterov if local else False,
    )
    with torch.random.fork_rng(), record(client) as drawn:
        torch.manual_seed(seed)
        for x, y in zip(images.chunk(steps), labels.chunk(steps)):
            optimiser.zero_grad()
            nn.functional.cross_entropy(client(x), y).backward()
            if local:
                optimiser.step()
    if local:
        update = {name: (p - before[name]).detach() for name, p in client.named_parameters()}
    else:
        update = {name: p.grad.detach().clone() for name, p in client.named_parameters() if p.grad is not None}
    return Observation(
        state=before,
        update=update,
        kind="delta" if local else "gradient",
        input_shape=tuple(images.shape[1:]),
        classes=classes,
        mean=mean,
        std=std,
        batch_size=len(images) // steps,
        local=local or LocalTraining(),
        labels=labels,
        noise={path: torch.cat(values) for path, values in drawn.items() if values},
        buffers={name: value.clone() for name, value in client.named_buffers()},
        **{"client": seed, **fields},
    )


def mnist(count: int) -> tuple[Tensor, Tensor]:
    """Real digits (count, 1, 28, 28) in normalised units, of all classes, and their labels."""
    with np.load(Path(fedsim.__file__).parent / "assets" / "mnist_5k.npz") as file:
        order = np.random.default_rng(0).permutation(len(file["x"]))[:count]
        pixels, labels = file["x"][order], file["y"][order]
    images = (torch.from_numpy(pixels).float()[:, None] / 255 - MNIST_MEAN) / MNIST_STD
    return images, torch.from_numpy(labels.astype(np.int64))


def psnr(guess: Tensor, truth: Tensor, std: float) -> float:
    """In dB, in [0, 1] pixel space."""
    return -10 * float(torch.log10((std * (guess - truth)).square().mean()))
