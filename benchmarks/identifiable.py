"""How much of one image a client's update of one step says: the rank of the update as a function of the image.

    python benchmarks/identifiable.py --model my_app.task:Net --images images.npz --victims 3

Near the true image an update says as many numbers of it as its derivative has rank; of the rest only a prior says
something. `smooth` is the image with the least total variation among all that have the same update, to first order:
what an attack that matches the update perfectly, and believes in smoothness, comes to. Gradients are in float64,
without dropout; of the rows of a matrix's gradient the eight largest are looked at (of a layer that sees one vector all
say the same).

    python benchmarks/identifiable.py ... --attack "cut total_variation=0.3 plateau=1500 patience=5000" deep_image_prior

In place of that: what attacks come to on the exact gradient of one step, the label known, in at most `--iterations`
iterations each: PSNR in dB, and processor seconds.
"""

from __future__ import annotations

import argparse
import inspect
import time
from dataclasses import replace
from math import log10
from pathlib import Path

import numpy as np
import torch
from ruamel.yaml import YAML
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap

import attacks
from attacks import ThreatModel
from fedsim import models
from fedsim.data import Dataset
from fedsim.local import Local, observed

CHUNK, STEPS, ROWS, NUMERICAL = 96, 600, 8, 1e-7


def derivative(model: nn.Module, image: Tensor, label: Tensor) -> Tensor:
    """Of the update (M entries) by the pixels (N): (N, M), each parameter's gradient by its norm."""
    weights = {name: value.detach() for name, value in model.named_parameters()}

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return nn.functional.cross_entropy(functional_call(model, parameters, (x[None],)), label[None])

    seen = grad(loss)(weights, image)
    rows = {name: value.flatten(1).norm(dim=1).topk(min(ROWS, len(value))).indices for name, value in seen.items()
            if value.dim() == 2}  # fmt: skip
    sizes = {name: value.norm().clamp_min(1e-300) for name, value in seen.items()}

    def update(x: Tensor) -> Tensor:
        found = grad(loss)(weights, x)
        kept = {name: value[rows[name]] if name in rows else value for name, value in found.items()}
        return torch.cat([(value / sizes[name]).flatten() for name, value in kept.items()])

    directions = torch.eye(image.numel(), dtype=image.dtype).view(-1, *image.shape)
    parts = [vmap(lambda one: jvp(update, (image,), (one,))[1])(part) for part in directions.split(CHUNK)]
    return torch.cat(parts)


def smoothest(known: Tensor, free: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """`known` (C, H, W) plus what of `free` (N, K) makes its total variation least, in the valid range."""
    z = torch.zeros(free.shape[1], dtype=known.dtype, requires_grad=True)
    optimizer = torch.optim.Adam([z], 0.05)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [STEPS // 2, 3 * STEPS // 4], 0.2)
    for _ in range(STEPS):
        optimizer.zero_grad()
        x = known + (free @ z).view_as(known)
        rough = x.diff(dim=-1).abs().mean() + x.diff(dim=-2).abs().mean()
        (rough + 10 * ((x - high).clamp_min(0) + (low - x).clamp_min(0)).square().mean()).backward()
        optimizer.step()
        schedule.step()
    return (known + (free @ z).view_as(known)).detach().clamp(low, high)


def attacked(spec: str, model: nn.Module, image: Tensor, label: Tensor, iterations: int) -> tuple[float, float]:
    """What an attack, `name key=value ...`, makes of the gradient of one image (C, H, W): PSNR in dB and processor
    seconds."""
    name, *keys = spec.split()
    given = {key: YAML(typ="safe").load(value) for key, _, value in (one.partition("=") for one in keys)}
    if "iterations" in inspect.signature(attacks.get(name)).parameters:
        given = {"iterations": iterations, **given}
    weights = {key: value.detach() for key, value in model.named_parameters()}
    seen = torch.autograd.grad(nn.functional.cross_entropy(model(image[None]), label[None]), list(model.parameters()))
    none, half = torch.zeros(0, *image.shape, dtype=torch.uint8), (0.5,) * image.shape[0]
    labels = torch.zeros(0, dtype=torch.int64)
    classes = tuple(map(str, range(seen[-1].shape[0])))
    dataset = Dataset("images", none, labels, none, labels, classes, half, half)
    state = {key: value.float() for key, value in model.state_dict().items()}
    update = {key: value.float() for key, value in zip(weights, seen, strict=True)}
    observation = replace(observed(dataset, Local(mode="eval"), state=state, update=update), labels=label[None])
    began = time.process_time()
    answer = attacks.create(name, **given)(observation, ThreatModel(client_mode="eval"), model.float())
    error = (answer.images[0].double().clamp(-1, 1) - image).div(2).square().mean()
    return -10 * log10(max(float(error), 1e-16)), time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="module:Class")
    parser.add_argument("--images", type=Path, required=True, help="an archive with x_test or x, and y_test or y")
    parser.add_argument("--victims", type=int, default=3)
    parser.add_argument("--attack", nargs="+", default=[], metavar="SPEC", help="'NAME KEY=VALUE ...'")
    parser.add_argument("--iterations", type=int, default=5000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with np.load(options.images) as arrays:
        x, y = (arrays[f"{name}_test" if f"{name}_test" in arrays else name] for name in "xy")
    pixels = torch.from_numpy(x[: options.victims]).double() / 255
    pixels = pixels[..., None] if pixels.dim() == 3 else pixels
    pixels = (pixels if pixels.shape[1] in (1, 3) else pixels.permute(0, 3, 1, 2)).contiguous()
    labels = torch.from_numpy(y[: options.victims]).long()
    spec = {"factory": options.model, "foreign": {"output": "", "loss": ""}}
    shape = (pixels.shape[1], pixels.shape[2], pixels.shape[3])
    model = models.build(spec, input_shape=shape, classes=int(y.max()) + 1, seed=0).double().eval()
    low, high = torch.tensor(-1.0).double(), torch.tensor(1.0).double()
    if options.attack:
        print("| attack | image | dB | processor s |\n|---|---|---|---|")
        for number, (image, label) in enumerate(zip((pixels - 0.5) / 0.5, labels, strict=True)):
            for spec in options.attack:
                level, seconds = attacked(spec, model.double(), image, label, options.iterations)
                print(f"| {spec} | {number} | {level:.1f} | {seconds:.0f} |", flush=True)
        return
    print("| image | numbers | said by the update | smooth, dB |\n|---|---|---|---|")
    for number, (image, label) in enumerate(zip((pixels - 0.5) / 0.5, labels, strict=True)):
        found = derivative(model, image, label)
        values, vectors = torch.linalg.eigh(found @ found.T)
        sizes = values.clamp_min(0).sqrt()
        rank = int((sizes > NUMERICAL * sizes[-1]).sum())
        free = vectors[:, : image.numel() - rank]
        known = image - (free @ (free.T @ image.flatten())).view_as(image)
        error = (smoothest(known, free, low, high) - image).div(2).square().mean()
        level = -10 * log10(max(float(error), 1e-16))
        print(f"| {number} | {image.numel():,} | {rank:,} | {level:.1f} |", flush=True)


if __name__ == "__main__":
    main()
