"""How exactly one linear system rebuilds a vision transformer's image, and what takes that away: four tables.

    python benchmarks/patch_embedding.py [--tables rate precision noise spoiled] [--victims 8] [--json]

rate        the client's gradient, over the dropout rate: `vit` on photos of 32 pixels, `vit_b16` on the same photos
            enlarged to 224 pixels and rounded to 8 bits, as image files are. Seconds an image are the attack's alone,
            on the threads in use.
precision   weights returned after one step of SGD, over the learning rate and the type they are rounded to, on `vit`.
noise       Gaussian noise on the gradient, its norm relative to the gradient's, with a ridge of its own choice (-),
            without one (0) and with given ones, on `vit`.
spoiled     What else happens to an update on its way, on `vit`: `patch_embedding`, and `cascade` with `--iterations`,
            which keeps the better of its image and an optimised one. `mean` is the median of the mean image, and
            `gain` the least that an answer is better than that.

PSNR is in [0, 1] pixel space, clamped, capped at 160 dB; a victim whom the attack declines counts as the mean image,
and `declined` says how many they are. `certain` counts the images that the attack is sure of, `eight_bit` those that
it could round to 8 bits, and `expected` is the PSNR of least squares alone, before that rounding, as foretold without
the truth (median). Every update is computed here in train mode with its own dropout masks.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import attacks
from attacks import LocalTraining, NotApplicable, ThreatModel
from fedsim import data, models
from fedsim.data import Dataset
from fedsim.local import Local, observed
from fedsim.random import rng_for, seed_for

RATES = (0.0, 0.25, 0.5, 0.75)
PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
NOISE = (0.001, 0.01, 0.1)
Update = dict[str, Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", nargs="+", default=["rate", "precision", "noise"], help="also: spoiled")
    parser.add_argument("--victims", type=int, default=8)
    parser.add_argument("--victims-224", type=int, default=3, help="images for vit_b16; 0 leaves it out")
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES))
    parser.add_argument("--ridge", type=float, nargs="+", default=[0.01, 0.03, 0.1])
    parser.add_argument("--iterations", type=int, default=300, help="of the cascade, in the table spoiled")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print a JSON list of rows")
    arguments = parser.parse_args()
    tables = {"rate": by_rate, "precision": by_precision, "noise": by_noise, "spoiled": by_spoiled}
    rows = []
    if unknown := set(arguments.tables) - set(tables):
        parser.error(f"no table {', '.join(sorted(unknown))}; there are {', '.join(tables)}")
    for name in arguments.tables:
        found = list(tables[name](arguments))
        rows += [{"table": name, **row} for row in found]
        if not arguments.json:
            print(f"\n{name}, {torch.get_num_threads()} threads")
            show(found)
    if arguments.json:
        print(json.dumps(rows, indent=1))


def by_rate(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    sizes = {"vit": (32, arguments.victims), "vit_b16": (224, arguments.victims_224)}
    for name, (side, count) in sizes.items():
        for rate in arguments.rates if count else ():
            victims = clients(name, side, count, rate, arguments.seed)
            yield {"model": name, "side": side, "p": rate, **exactness(measure(victims, as_gradient))}


def by_precision(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for rate in arguments.rates:
        victims = clients("vit", 32, arguments.victims, rate, arguments.seed)
        for precision, dtype in PRECISIONS.items():
            for learning_rate in (1.0, 0.1, 0.01, 0.001):
                send = as_delta(learning_rate, precision, dtype)
                yield {"p": rate, "precision": precision, "lr": learning_rate, **exactness(measure(victims, send))}


def by_noise(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for rate in arguments.rates:
        victims = clients("vit", 32, arguments.victims, rate, arguments.seed)
        for level in NOISE:
            for ridge in (None, 0.0, *arguments.ridge):
                found = exactness(measure(victims, as_noisy(level), ridge=ridge))
                yield {"p": rate, "noise": level, "ridge": ridge, **found}


def by_spoiled(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    spoils: dict[str, Send] = {
        "nothing": as_gradient,
        "noise, 1 %": as_noisy(0.01),
        "noise, std 1e-3": as_noisy(1e-3, relative=False),
        "delta in bfloat16": as_rounded_delta(0.1, "bfloat16"),
        "weights in float16": as_delta(0.1, "float16", torch.float16),
        "weights in bfloat16": as_delta(0.1, "bfloat16", torch.bfloat16),
    }
    for rate in arguments.rates:
        victims = clients("vit", 32, arguments.victims, rate, arguments.seed)
        for spoil, send in spoils.items():
            for name, keys in (("patch_embedding", {}), ("cascade", {"iterations": arguments.iterations})):
                row = measure(victims, send, attack=name, **keys)
                columns = ("min_psnr", "median_psnr", "mean", "gain", "certain", "declined", "stages", "seconds")
                yield {"p": rate, "spoiled by": spoil, "attack": name, **{column: row[column] for column in columns}}


class Clients:
    """Honest clients of one image each, and the data set and model they share."""

    def __init__(self, dataset: Dataset, model: nn.Module, images: Tensor, labels: Tensor, seed: int) -> None:
        self.dataset, self.model, self.images, self.labels, self.seed = dataset, model, images, labels, seed
        self.state = {name: value.clone() for name, value in model.state_dict().items()}

    def gradient(self, client: int) -> Update:
        """The client's gradient, in train mode with masks of its own."""
        self.model.zero_grad()
        with torch.random.fork_rng():
            torch.manual_seed(seed_for(self.seed, "masks", client=client))
            F.cross_entropy(self.model(self.images[client, None]), self.labels[client, None]).backward()
        return {name: p.grad.clone() for name, p in self.model.named_parameters() if p.grad is not None}


def clients(name: str, side: int, count: int, rate: float, seed: int) -> Clients:
    """The same photos for every rate; they are enlarged where the model's images are larger."""
    dataset = data.load({"name": "photos"})
    channels, height, _ = dataset.input_shape
    chosen = torch.from_numpy(rng_for(seed, "victims").permutation(len(dataset.train_images))[:count].copy())
    photos = dataset.train_images[chosen].float()
    if side != height:
        photos = F.interpolate(photos, (side, side), mode="bilinear").round()
    images = dataset.normalise(photos)
    classes = len(dataset.classes)
    model = models.build(
        {"name": name, "dropout": rate}, input_shape=(channels, side, side), classes=classes, seed=seed
    )
    return Clients(dataset, model, images, dataset.train_labels[chosen], seed)


Send = Callable[[Clients, int, Update], dict[str, Any]]
"""What a client makes of its gradient: fields of the observation."""


def as_gradient(victims: Clients, client: int, gradient: Update) -> dict[str, Any]:
    return {"update": gradient}


def as_delta(learning_rate: float, precision: str, dtype: torch.dtype) -> Send:
    """One step of SGD in float32; the returned weights are rounded to `dtype`."""

    def send(victims: Clients, client: int, gradient: Update) -> dict[str, Any]:
        sent = victims.state
        back = {name: (sent[name] - learning_rate * g).to(dtype).float() for name, g in gradient.items()}
        delta = {name: value - sent[name] for name, value in back.items()}
        local = LocalTraining(learning_rate=learning_rate)
        return {"update": delta, "kind": "delta", "precision": precision, "local": local}

    return send


def as_rounded_delta(learning_rate: float, precision: str) -> Send:
    """One step of SGD; the change itself is sent, rounded."""

    def send(victims: Clients, client: int, gradient: Update) -> dict[str, Any]:
        delta = {name: (-learning_rate * g).to(PRECISIONS[precision]).float() for name, g in gradient.items()}
        local = LocalTraining(learning_rate=learning_rate)
        return {"update": delta, "kind": "delta", "precision": precision, "local": local}

    return send


def as_noisy(level: float, *, relative: bool = True) -> Send:
    """Noise of this norm, relative to the gradient's; or of this standard deviation."""

    def send(victims: Clients, client: int, gradient: Update) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(seed_for(victims.seed, "noise", client=client))
        total = math.sqrt(sum(float(g.square().sum()) for g in gradient.values()))
        spread = level * total / math.sqrt(sum(g.numel() for g in gradient.values())) if relative else level
        return {"update": {n: g + spread * torch.randn(g.shape, generator=generator) for n, g in gradient.items()}}

    return send


def measure(victims: Clients, send: Send, *, attack: str = "patch_embedding", **keys: Any) -> dict[str, Any]:
    """The attack on all clients: a row of a table."""
    dataset, scores, floors, expected = victims.dataset, [], [], []
    certain = eight_bit = declined = 0
    stages: Counter[str] = Counter()
    std, mean = (torch.tensor(values).view(-1, 1, 1) for values in (dataset.std, dataset.mean))
    observations = [
        replace(
            observed(dataset, Local(), state=victims.state, update={}),
            input_shape=tuple(image.shape),  # the data set's, enlarged
            labels=victims.labels[client, None],
            client=client,
            **send(victims, client, victims.gradient(client)),
        )
        for client, image in enumerate(victims.images)
    ]
    begin = time.perf_counter()
    results = attacks.create(attack, **keys).run(observations, ThreatModel(), victims.model)
    seconds = (time.perf_counter() - begin) / len(results)

    def psnr(guess: Tensor, image: Tensor) -> float:
        wrong = (guess * std + mean).clamp(0, 1) - (image * std + mean)
        return -10 * math.log10(max(float(wrong.double().square().mean()), 1e-16))

    for result, image in zip(results, victims.images):
        guess = torch.zeros_like(image)
        if isinstance(result, NotApplicable):
            declined += 1
        else:
            guess = result.images[0]
            stages[result.details["stage"]] += 1
            certain += all(result.details.get("certain", [False]))
            eight_bit += result.details.get("eight_bit", False)
            if "expected_error" in result.details:
                expected.append(-20 * math.log10(result.details["expected_error"]))
        scores.append(psnr(guess, image))
        floors.append(psnr(torch.zeros_like(image), image))
    return {
        "min_psnr": min(scores),
        "median_psnr": median(scores),
        "expected": median(expected) if expected else None,
        "certain": certain / len(scores),
        "eight_bit": eight_bit / len(scores),
        "declined": declined / len(scores),
        "seconds": seconds,
        "mean": median(floors),
        "gain": min(score - floor for score, floor in zip(scores, floors)),
        "stages": ", ".join(f"{stage} {count}" for stage, count in stages.most_common()) or None,
    }


def exactness(row: dict[str, Any]) -> dict[str, Any]:
    """The columns of the first three tables."""
    columns = ("min_psnr", "median_psnr", "expected", "certain", "eight_bit", "declined", "seconds")
    return {column: row[column] for column in columns}


def show(rows: list[dict[str, Any]]) -> None:
    widths = {column: max(len(column), *(len(_short(row[column])) for row in rows)) for column in rows[0]}
    print("  ".join(f"{column:>{width}}" for column, width in widths.items()))
    for row in rows:
        print("  ".join(f"{_short(row[column]):>{width}}" for column, width in widths.items()))


def _short(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
