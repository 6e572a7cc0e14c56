"""How many images attacks on a linear first layer rebuild from nothing but the sum of several clients' updates.

    python benchmarks/secure_sum.py [--clients 16 32 64 96] [--rates 0.5] [--batch-size 1] [--pretrain 0] [--json]
    python benchmarks/secure_sum.py --clients 1 --batch-size 32 --rates 0 0.5 --attacks sparse_dictionary cocktail_party

Under secure aggregation a server sees the mean of K clients' updates and none by itself. For a closed form that is the
update of one batch of K times B images: each client's dropout masks are its own, as each image's are in a batch; one
client is a batch of its own, and no sum. The victims are an MLP with biases, in train mode, one local step, equal
weights. An update is the clients' float32 gradient (`gradient`), or the change of their float32 weights at
`--learning-rate` (`delta`), averaged in float32. Several seeds are other images, weights and masks: their counts are
added up, and `median` is over all their images (0 dB where an image has no answer). Over several `--rounds` the clients
train on the same images with other masks, and the server moves the weights by what it was sent, times the learning rate
if that is a gradient; attacks are on the last round, and `multi_round` has the earlier ones too.

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
from statistics import median
from typing import Any

import numpy as np
import torch
from patch_embedding import show
from PIL import Image
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F

import attacks
from attacks import Attack, LocalTraining, NotApplicable, Observation, ThreatModel
from fedsim import data, models
from fedsim.data import Dataset
from fedsim.federation.start import train_centrally
from fedsim.local import Local, observed
from fedsim.random import rng_for, seed_for
from fedsim.scoring.matching import match

ACROSS = 16  # images in a line of the picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, nargs="+", default=[16, 32, 64, 96])
    parser.add_argument("--rates", type=float, nargs="+", default=[0.5])
    parser.add_argument("--kinds", nargs="+", default=["gradient"], choices=["gradient", "delta"])
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument(
        "--attacks", nargs="+", default=["sparse_dictionary"], help="with options as in cocktail_party:signal=pixels"
    )
    parser.add_argument("--data", default="mnist", help="mnist or photos")
    parser.add_argument("--rounds", type=int, default=1, help="in which the clients train on the same images")
    parser.add_argument("--activation", default="gelu", choices=["gelu", "relu"])
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--pretrain", type=int, default=0, help="steps of SGD before the attack, batch 32, rate 0.1")
    parser.add_argument("--learning-rate", type=float, default=0.1, help="of the local step of a delta")
    parser.add_argument("--aim", type=float, default=40.0, help="dB")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--json", action="store_true", help="print a JSON list of rows")
    parser.add_argument("--picture", help="a PNG of the first row's first seed: the images above what was rebuilt")
    arguments = parser.parse_args()
    dataset = data.load({"name": arguments.data})
    rows = [
        row(dataset, rate, kind, clients, name, arguments)
        for rate, kind, clients, name in product(
            arguments.rates, arguments.kinds, arguments.clients, arguments.attacks
        )
    ]
    if arguments.json:
        print(json.dumps(rows, indent=1))
    else:
        show(rows)
    if arguments.picture:
        draw(dataset, arguments)


def row(
    dataset: Dataset, rate: float, kind: str, clients: int, attack: str, arguments: argparse.Namespace
) -> dict[str, Any]:
    """One sum for each seed, attacked."""
    found = {"images": 0, "rebuilt": 0, "certain": 0, "wrong": 0, "rank": 0}
    scores: list[float] = []
    declined: list[str] = []
    seconds = 0.0
    for seed in arguments.seeds:
        images, observation, model = summed(dataset, rate, kind, clients, seed, arguments)
        begin = time.perf_counter()
        threat_model = ThreatModel(aggregation=f"sum_of_{clients}" if clients > 1 else "individual")
        [result] = created(attack).run([observation], threat_model, model, seed=seed)
        seconds = max(seconds, time.perf_counter() - begin)
        found["images"] += len(images)
        if isinstance(result, NotApplicable):
            declined.append(str(result))
            scores += [0.0] * len(images)
            continue
        reached = matched(result.images, images, torch.tensor(dataset.std).view(-1, 1, 1))
        certain = torch.tensor(result.details["certain"])
        found["rebuilt"] += int((reached >= arguments.aim).sum())
        found["certain"] += int(certain.sum())
        found["wrong"] += int((certain & (reached < arguments.aim)).sum())
        found["rank"] += result.details.get("rank", 0)
        scores += reached.clamp_min(0).tolist() + [0.0] * (len(images) - len(reached))
    setting = {"attack": attack, "p": rate, "kind": kind, "pretrain": arguments.pretrain, "clients": clients}
    reason = {"declined": f"{len(declined)}: {declined[0]}" if declined else None}
    return {**setting, **found, "median": median(scores), "seconds": seconds, **reason}


def created(attack: str) -> Attack:
    """By its name, with options as in `cocktail_party:signal=pixels`."""
    name, *options = attack.split(":")
    return attacks.create(name, **dict(option.split("=") for option in options))


def summed(
    dataset: Dataset, rate: float, kind: str, clients: int, seed: int, arguments: argparse.Namespace
) -> tuple[Tensor, Observation, nn.Module]:
    """The images of all clients, what the server sees of them, and their model."""
    spec = {"name": "mlp", "bias": True, "dropout": rate, "width": arguments.width, "activation": arguments.activation}
    classes = len(dataset.classes)
    model = models.build(spec, input_shape=dataset.input_shape, classes=classes, seed=seed)
    if arguments.pretrain:
        train_centrally(model, dataset, steps=arguments.pretrain, batch_size=32, learning_rate=0.1, seed=seed)
    model.train()
    size = arguments.batch_size
    order = rng_for(seed, "victims").permutation(len(dataset.test_images))[: clients * size]
    chosen = torch.from_numpy(order.copy())
    images, labels = dataset.normalise(dataset.test_images[chosen]), dataset.test_labels[chosen]
    local = LocalTraining(learning_rate=arguments.learning_rate)
    client = Local(training=local, batch_size=len(images), share="weights" if kind == "delta" else "gradient")
    seen: tuple[Observation, ...] = ()
    for number in range(1, arguments.rounds + 1):
        state = {name: value.clone() for name, value in model.state_dict().items()}
        update = mean_update(model, images.split(size), labels.split(size), kind, local, seed, number)
        one = replace(observed(dataset, client, state=state, update=update), labels=labels, round=number)
        seen = (replace(one, earlier=seen), *seen)
        with torch.no_grad():  # as the server goes on
            for name, parameter in model.named_parameters():
                parameter += update[name] * (1.0 if kind == "delta" else -local.learning_rate)
    return images, seen[0], model


def draw(dataset: Dataset, arguments: argparse.Namespace) -> None:
    """Write the picture; an image without an answer stands above black."""
    clients, seed = arguments.clients[0], arguments.seeds[0]
    images, observation, model = summed(dataset, arguments.rates[0], arguments.kinds[0], clients, seed, arguments)
    threat_model = ThreatModel(aggregation=f"sum_of_{clients}" if clients > 1 else "individual")
    answer = created(arguments.attacks[0])(observation, threat_model, model, seed=seed)
    mean, std = (torch.tensor(value).view(-1, 1, 1) for value in (dataset.mean, dataset.std))
    order = match(std * images, std * answer.images)
    found = [torch.zeros_like(images[0]) if at is None else std * answer.images[at] + mean for at in order]
    lines = [
        torch.cat(list(part), 2)
        for truth, guess in zip((std * images + mean).split(ACROSS), torch.stack(found).split(ACROSS))
        for part in (truth, guess)
    ]
    widest = max(line.shape[2] for line in lines)
    pixels = torch.cat([F.pad(line, (0, widest - line.shape[2])) for line in lines], 1).clamp(0, 1)
    shown = (255 * pixels).round().to(torch.uint8).permute(1, 2, 0).expand(-1, -1, 3).numpy()
    picture = Image.fromarray(np.ascontiguousarray(shown))
    picture.resize((2 * picture.width, 2 * picture.height), Image.Resampling.NEAREST).save(arguments.picture)


def mean_update(
    model: nn.Module,
    images: tuple[Tensor, ...],
    labels: tuple[Tensor, ...],
    kind: str,
    local: LocalTraining,
    seed: int,
    number: int,
) -> dict[str, Tensor]:
    """The mean over the clients of what each would have sent in a round, by parameter name."""
    total: dict[str, Tensor] = {}
    for client, (x, y) in enumerate(zip(images, labels)):
        model.zero_grad()
        with torch.random.fork_rng():
            drawn = {"client": client} if number == 1 else {"client": client, "round": number}
            torch.manual_seed(seed_for(seed, "masks", **drawn))
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
