"""How many clients' images `sparse_dictionary` rebuilds from nothing but the sum of their updates.

    python benchmarks/secure_sum.py [--clients 16 32 64 96] [--rates 0.5] [--batch-size 1] [--pretrain 0] [--json]

Under secure aggregation a server sees the mean of K clients' updates and none by itself. For a closed form that is the
update of one batch of K times B images: each client's dropout masks are its own, as each image's are in a batch. The
victims are an MLP with biases on MNIST, in train mode, one local step, equal weights. An update is the clients' float32
gradient (`gradient`), or the change of their float32 weights at `--learning-rate` (`delta`), averaged in float32.

`rebuilt` counts the images with at least `--aim` dB in the answer matched to them (one each), `certain` those that the
attack vouches for, `wrong` those among them that do not reach the aim. `rank` is how many of the images the sum shows
above its rounding. PSNR is in [0, 1] pixel space.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from itertools import product
from typing import Any

import torch
from patch_embedding import show
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F

import attacks
from attacks import LocalTraining, NotApplicable, ThreatModel
from fedsim import data, models
from fedsim.data import Dataset
from fedsim.federation.start import train_centrally
from fedsim.local import Local, observed
from fedsim.random import rng_for, seed_for


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, nargs="+", default=[16, 32, 64, 96])
    parser.add_argument("--rates", type=float, nargs="+", default=[0.5])
    parser.add_argument("--kinds", nargs="+", default=["gradient"], choices=["gradient", "delta"])
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--pretrain", type=int, default=0, help="steps of SGD before the attack, batch 32, rate 0.1")
    parser.add_argument("--learning-rate", type=float, default=0.1, help="of the local step of a delta")
    parser.add_argument("--aim", type=float, default=40.0, help="dB")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print a JSON list of rows")
    arguments = parser.parse_args()
    dataset = data.load({"name": "mnist"})
    rows = [
        row(dataset, rate, kind, clients, arguments)
        for rate, kind, clients in product(arguments.rates, arguments.kinds, arguments.clients)
    ]
    if arguments.json:
        print(json.dumps(rows, indent=1))
    else:
        show(rows)


def row(dataset: Dataset, rate: float, kind: str, clients: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One sum, attacked."""
    spec = {"name": "mlp", "bias": True, "dropout": rate, "width": arguments.width}
    classes = len(dataset.classes)
    model = models.build(spec, input_shape=dataset.input_shape, classes=classes, seed=arguments.seed)
    if arguments.pretrain:
        train_centrally(model, dataset, steps=arguments.pretrain, batch_size=32, learning_rate=0.1, seed=arguments.seed)
    model.train()
    size = arguments.batch_size
    order = rng_for(arguments.seed, "victims").permutation(len(dataset.test_images))[: clients * size]
    chosen = torch.from_numpy(order.copy())
    images, labels = dataset.normalise(dataset.test_images[chosen]), dataset.test_labels[chosen]
    local = LocalTraining(learning_rate=arguments.learning_rate)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    update = mean_update(model, images.split(size), labels.split(size), kind, local, arguments.seed)
    client = Local(training=local, batch_size=len(images), share="weights" if kind == "delta" else "gradient")
    observation = replace(observed(dataset, client, state=state, update=update), labels=labels)
    begin = time.perf_counter()
    threat_model = ThreatModel(aggregation=f"sum_of_{clients}")
    [result] = attacks.create("sparse_dictionary").run([observation], threat_model, model, seed=arguments.seed)
    found: dict[str, Any] = {"rebuilt": 0, "certain": 0, "wrong": 0, "rank": None, "declined": None}
    if isinstance(result, NotApplicable):
        found["declined"] = str(result)
    else:
        scores = matched(result.images, images, torch.tensor(dataset.std).view(-1, 1, 1))
        certain = torch.tensor(result.details["certain"])
        found["rebuilt"] = int((scores >= arguments.aim).sum())
        found["certain"] = int(certain.sum())
        found["wrong"] = int((certain & (scores < arguments.aim)).sum())
        found["rank"] = result.details["rank"]
    setting = {"p": rate, "kind": kind, "pretrain": arguments.pretrain, "clients": clients, "images": len(images)}
    return {**setting, **found, "seconds": time.perf_counter() - begin}


def mean_update(
    model: nn.Module,
    images: tuple[Tensor, ...],
    labels: tuple[Tensor, ...],
    kind: str,
    local: LocalTraining,
    seed: int,
) -> dict[str, Tensor]:
    """The mean over the clients of what each would have sent, by parameter name."""
    total: dict[str, Tensor] = {}
    for client, (x, y) in enumerate(zip(images, labels)):
        model.zero_grad()
        with torch.random.fork_rng():
            torch.manual_seed(seed_for(seed, "masks", client=client))
            F.cross_entropy(model(x), y).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            sent = parameter.detach()
            value = parameter.grad.clone()
            if kind == "delta":
                value = (sent - local.learning_rate * value) - sent
            total[name] = total[name] + value if name in total else value
    return {name: value / len(images) for name, value in total.items()}


def matched(answers: Tensor, truth: Tensor, std: Tensor) -> Tensor:
    """PSNR (dB) of each answer (B, C, H, W) against the true image that is matched to it: (B,)."""
    errors = torch.cdist((std * answers).double().flatten(1), (std * truth).double().flatten(1)).square()
    errors = errors / truth[0].numel()
    left, right = linear_sum_assignment(errors.clamp_min(1e-16).log10().numpy())
    scores = torch.full((len(answers),), -torch.inf, dtype=torch.float64)
    scores[left] = -10 * errors[left, right].clamp_min(1e-16).log10()
    return scores


if __name__ == "__main__":
    main()
