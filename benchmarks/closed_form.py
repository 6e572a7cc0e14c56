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
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from statistics import median
from typing import Any

import dia
import patch_embedding
import phase_diagram
import torch
from patch_embedding import show

import attacks
from attacks import NotApplicable, ThreatModel
from fedsim import data

RATES = (0.25, 0.5, 0.75)
BATCHES = (("gelu", 512, 16), ("gelu", 1024, 32), ("gelu", 2048, 64), ("relu", 1024, 64))
TRAINED = 300


def main() -> None:
    tables = {
        "first_linear": first_linear,
        "patch_embedding": patches,
        "sparse_dictionary": sparse_dictionary,
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--attacks", nargs="+", default=list(tables), choices=list(tables))
    parser.add_argument("--victims", type=int, default=8)
    parser.add_argument("--json", action="store_true", help="print a JSON list of rows")
    arguments = parser.parse_args()
    rows = [{"attack": name, **row} for name in arguments.attacks for row in tables[name](arguments.victims)]
    if arguments.json:
        print(json.dumps(rows, indent=1))
    else:
        print(f"{torch.get_num_threads()} threads")
        show(rows)


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


def sparse_dictionary(victims: int) -> Iterator[dict[str, Any]]:
    dataset = data.load({"name": "photos"})
    for activation, width, batch in BATCHES:
        for steps in (0, TRAINED):
            state = phase_diagram.weights(dataset, activation, width, steps, 0)
            found = phase_diagram.cell(dataset, state, activation, width, batch, 0.5, "sparse_dictionary", 0)
            yield {
                "case": f"{activation} mlp 3x{width}, batch {batch}, {'trained' if steps else 'untrained'}",
                "p": 0.5,
                "aim": phase_diagram.SUCCESS,
                "min_psnr": None,
                "median_psnr": found["median_psnr"],
                "reached": found["found"],
                "certain": found["certain"],
                "wrong": found["wrong"],
                "before_rounding": None,
                "seconds": found["seconds"],
            }


def row(
    case: str, rate: float, aim: float, scores: list[float], certain: list[bool], seconds: float
) -> dict[str, Any]:
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
