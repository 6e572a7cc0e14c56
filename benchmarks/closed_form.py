"""What algebra alone rebuilds, beside what was aimed at: one table of all closed forms.

    python benchmarks/closed_form.py [--attacks first_linear patch_embedding sparse_dictionary] [--json]

first_linear        the MLP on MNIST, with and without biases, one image a client
patch_embedding     the ViTs on photos; their tables over learning rate, precision and noise: patch_embedding.py
sparse_dictionary   batches of photos through MLPs, untrained and trained; its phase diagram: phase_diagram.py

Float32 gradients, train mode. `aim` is the PSNR in dB that an image should reach, `reached` the share that does,
`certain` the share that the attack itself vouches for, `wrong` how many of those do not reach the aim.
`patch_embedding` rounds to 8 bits where the update shows that this is right; `before_rounding` is the median of least
squares alone, as foretold without the truth. Seconds are per client, on the threads in use. What `cut` needs beside an
iterative attack is in cut.py.

`sparse_dictionary` has columns of its own, counts of images over the clients (`--batches`). A well trained model's loss
on an image can be so small that its part of the gradient is lost in the rounding of float32. Which images these are is
defined without the attack: they are those that not even an oracle reads. It knows the client's true deltas D, their
scales included, so that of G = D^T X + rounding only X is unknown, and solves for it by least squares in float64. Each
row of G counts by the inverse of its length, because that is what the rounding is proportional to: with equal weights
the oracle would lose images that can be read. `under_floor` counts the images below the aim in its answer; `visible`
are the others, and `reached` is the share of these that the attack rebuilds, each compared with the answer matched to
it. `beyond` counts images that the attack rebuilds although the oracle does not; they are not in `reached`.
`plain_floor` is the floor of the oracle with equal weights, for comparison. Client 0 is that of phase_diagram.py.
`seconds` are those of the slowest client.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from statistics import median
from typing import Any

import dia
import patch_embedding
import phase_diagram
import torch
from patch_embedding import show
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

import attacks
from attacks import NotApplicable, ThreatModel
from fedsim import data
from fedsim.data import Dataset
from fedsim.local import Local, observed
from fedsim.random import rng_for, seed_for

RATES = (0.25, 0.5, 0.75)
BATCHES = (("gelu", 512, 16), ("gelu", 1024, 32), ("gelu", 2048, 64), ("relu", 1024, 64))
TRAINED = 300


def main() -> None:
    tables = {
        "first_linear": first_linear,
        "patch_embedding": patches,
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--attacks", nargs="+", default=[*tables, "sparse_dictionary"], choices=[*tables, "sparse_dictionary"]
    )
    parser.add_argument("--victims", type=int, default=8)
    parser.add_argument(
        "--batches", type=int, nargs="+", default=[0, 1, 2], help="sparse_dictionary: numbers of clients"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list of rows")
    arguments = parser.parse_args()
    rows = [
        {"attack": name, **row}
        for name in tables
        if name in arguments.attacks
        for row in tables[name](arguments.victims)
    ]
    batches = list(sparse_dictionary(arguments.batches)) if "sparse_dictionary" in arguments.attacks else []
    if arguments.json:
        print(json.dumps(rows + batches, indent=1))
        return
    print(f"{torch.get_num_threads()} threads")
    for table in (rows, batches):
        if table:
            show(table)


def first_linear(victims: int) -> Iterator[dict[str, Any]]:
    for bias in (True, False):
        for rate in RATES:
            images, observations, model, std = dia.clients(
                argparse.Namespace(
                    model="mlp", data="mnist", dropout=rate, victims=victims, batch_size=1, seed=0, keys={"bias": bias}
                )
            )
            begin = time.perf_counter()
            answers = attacks.create("first_linear").run(observations, ThreatModel(), model)
            seconds = (time.perf_counter() - begin) / victims
            scores, certain = [], []
            for answer, truth in zip(answers, images):
                declined = isinstance(answer, NotApplicable)
                scores.append(0.0 if declined else dia.psnr(answer.images, truth, std))
                certain.append(False if declined else answer.details["certain"][0])
            case = f"mlp 3x512, {'bias' if bias else 'no bias'}, mnist"
            yield row(case, rate, 100.0, scores, certain, seconds)


def patches(victims: int) -> Iterator[dict[str, Any]]:
    arguments = argparse.Namespace(victims=victims, victims_224=2, rates=[0.0, *RATES], seed=0)
    for found in patch_embedding.by_rate(arguments):
        yield {
            "case": f"{found['model']}, photos {found['side']} px",
            "p": found["p"],
            "aim": 100.0,
            "min_psnr": found["min_psnr"],
            "median_psnr": found["median_psnr"],
            "reached": None,
            "certain": found["certain"],
            "wrong": None,
            "before_rounding": found["expected"],
            "seconds": found["seconds"],
        }


def sparse_dictionary(clients: list[int]) -> Iterator[dict[str, Any]]:
    dataset = data.load({"name": "photos"})
    for activation, width, batch in BATCHES:
        for steps in (0, TRAINED):
            state = phase_diagram.weights(dataset, activation, width, steps, 0)
            counts = dict.fromkeys(
                ("images", "under_floor", "visible", "reached", "beyond", "certain", "wrong", "plain_floor"), 0
            )
            seconds = []
            for client in clients:
                found, duration = one_batch(dataset, state, activation, width, batch, client)
                counts = {name: count + found.get(name, 0) for name, count in counts.items()}
                seconds.append(duration)
            yield {
                "attack": "sparse_dictionary",
                "case": f"{activation} mlp 3x{width}, batch {batch}, {'trained' if steps else 'untrained'}",
                "p": 0.5,
                "aim": phase_diagram.SUCCESS,
                **counts,
                "reached": counts["reached"] / max(counts["visible"], 1),
                "seconds": max(seconds),
            }


def one_batch(
    dataset: Dataset, state: dict[str, Tensor], activation: str, width: int, batch: int, client: int
) -> tuple[dict[str, int], float]:
    """One client attacked: how many of its images are what, and the attack's seconds."""
    model = phase_diagram.build(dataset, activation, width, 0.5, client)
    model.load_state_dict(state)
    chosen = torch.from_numpy(rng_for(client, "images").permutation(len(dataset.train_images))[:batch].copy())
    images, labels = dataset.normalise(dataset.train_images[chosen]), dataset.train_labels[chosen]
    deltas: list[Tensor] = []
    first = model.hidden[0].linear  # type: ignore[union-attr, index]
    with torch.random.fork_rng():
        torch.manual_seed(seed_for(client, "masks", width=width, batch=batch))
        handle = first.register_forward_hook(lambda layer, inputs, output: phase_diagram.keep(output, deltas))
        nn.functional.cross_entropy(model(images), labels).backward()
        handle.remove()
    update = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    observation = replace(observed(dataset, Local(batch_size=batch), state=state, update=update), labels=labels)
    std = torch.tensor(dataset.std).view(-1, 1, 1)
    truth = (std * images).flatten(1).double()
    aim = 10 ** (-phase_diagram.SUCCESS / 10)  # as a mean squared error
    readable, plainly = (
        (std * oracle(deltas[0], first.weight.grad, even=even).view_as(images)).flatten(1).sub(truth).square().mean(1)
        <= aim
        for even in (True, False)
    )
    begin = time.perf_counter()
    try:
        result = attacks.create("sparse_dictionary")(observation, ThreatModel(), model)
    except NotApplicable:
        answers, sure = torch.zeros_like(truth), torch.zeros(batch, dtype=torch.bool)
    else:
        answers = (std * result.images).flatten(1).double()
        sure = torch.tensor(result.details["certain"])
    seconds = time.perf_counter() - begin
    errors = torch.cdist(truth, answers).square() / truth.shape[1]
    _, answer = linear_sum_assignment(errors.clamp_min(1e-16).log10().numpy())
    found, certain = errors[torch.arange(batch), answer] <= aim, sure[answer]
    counts = {
        "images": torch.ones_like(found),
        "under_floor": ~readable,
        "visible": readable,
        "reached": found & readable,
        "beyond": found & ~readable,
        "certain": certain,
        "wrong": certain & ~found,
        "plain_floor": ~plainly,
    }
    return {name: int(which.sum()) for name, which in counts.items()}, seconds


def oracle(deltas: Tensor, gradient: Tensor, *, even: bool) -> Tensor:
    """The images (B, inputs) by least squares from a layer's float32 gradient (m, inputs) and its true deltas (B, m).

    Args:
        even: divide each equation by the length of its row of the gradient, so that all are rounded alike.
    """
    deltas, gradient = deltas.double(), gradient.double()
    lengths = deltas.norm(dim=1)
    left = (deltas / lengths.clamp_min(1e-300)[:, None]).T
    if even:
        rows = gradient.norm(dim=1, keepdim=True)
        alive = rows[:, 0] > 0
        left, gradient = left[alive] / rows[alive], gradient[alive] / rows[alive]
    images = torch.linalg.lstsq(left, gradient, driver="gelsd").solution
    return images / lengths.clamp_min(1e-300)[:, None]


def row(case: str, rate: float, aim: float, scores: list[float], certain: list[bool], seconds: float) -> dict[str, Any]:
    return {
        "case": case,
        "p": rate,
        "aim": aim,
        "min_psnr": min(scores),
        "median_psnr": median(scores),
        "reached": sum(score >= aim for score in scores) / len(scores),
        "certain": sum(certain) / len(scores),
        "wrong": sum(sure and score < aim for sure, score in zip(certain, scores)),
        "before_rounding": None,
        "seconds": seconds,
    }


if __name__ == "__main__":
    main()
