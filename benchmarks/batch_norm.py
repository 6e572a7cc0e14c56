"""What batch-norm statistics are worth to an attacker: GradInversion with running ones and the batch's own, and IG.

    python benchmarks/batch_norm.py --victims 4 --batch-sizes 1 4 --iterations 150

One row per client mode, batch size and attacker, on a ResNet18 with batch norm. The clients play one round and send
their gradient and their buffers; the model is pretrained for some steps, since running statistics of a new one are of
no batch. In eval mode a client normalises by the running statistics and moves none: there are no others to know. PSNR
in [0, 1] pixels, each image matched to the one that it shows.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from statistics import median
from typing import Any, Literal

import torch
from known_defenses import psnr
from splits import add_split, victims
from torch import Tensor

import attacks
from attacks import NotApplicable, Observation, ThreatModel
from defenses.client.round import ClientRound, play
from fedsim import data, models
from fedsim.federation.start import train_centrally
from fedsim.local import Local, generators, observed

Mode = Literal["train", "eval"]
ATTACKERS: dict[str, tuple[str, Literal["none", "running", "batch"]]] = {
    "floor": ("null_mean", "none"),
    "IG": ("inverting_gradients", "none"),
    "GradInversion, running": ("gradinversion", "running"),
    "GradInversion, batch": ("gradinversion", "batch"),
    "by rule": ("multiscale_inversion", "running"),
    "by rule, batch": ("multiscale_inversion", "batch"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--victims", type=int, default=4)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--modes", nargs="+", default=["train", "eval"], choices=["train", "eval"])
    parser.add_argument("--iterations", type=int, default=150)
    parser.add_argument("--pretrain", type=int, default=100, help="steps of pretraining, of 32 images each")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--data", type=json.loads, default={"name": "photos"}, help="as a scenario's `data` block")
    parser.add_argument("--keys", type=json.loads, default={}, help='keys of all attacks: {"total_variation": 0.1}')
    parser.add_argument("--gradinversion", type=json.loads, default={}, help='keys of GradInversion: {"restarts": 1}')
    parser.add_argument("--only", nargs="+", default=[""], help="parts of the names of attackers")
    parser.add_argument("--compile", choices=["always", "never", "auto"], default="auto")
    parser.add_argument("--seed", type=int, default=0)
    add_split(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON list of rows")
    arguments = parser.parse_args()
    rows = [
        row
        for mode in arguments.modes
        for size in arguments.batch_sizes
        for row in measure(mode, size, arguments, show=not arguments.json)
    ]
    if arguments.json:
        print(json.dumps(rows, indent=1))


def clients(
    mode: Mode, size: int, arguments: argparse.Namespace
) -> tuple[list[Tensor], list[Observation], torch.nn.Module, data.Dataset]:
    """The clients' images in [0, 1], what the server sees of them, the model that it sent and the data set."""
    dataset = data.load(arguments.data)
    shape, classes = dataset.input_shape, len(dataset.classes)
    spec = {"name": "resnet18", "width": arguments.width, "dropout": 0.0}
    model = models.build(spec, input_shape=shape, classes=classes, seed=arguments.seed)
    train_centrally(model, dataset, steps=arguments.pretrain, batch_size=32, learning_rate=0.05, seed=arguments.seed)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    order = victims(len(dataset.train_images), arguments.split, seed=arguments.seed)
    truths, seen = [], []
    for victim in range(arguments.victims):
        chosen = order[victim * size : (victim + 1) * size]
        images, labels = dataset.normalise(dataset.train_images[chosen]), dataset.train_labels[chosen]
        round = ClientRound(model=model.train(mode == "train"), batch_size=size, classes=classes)
        played = play(round, state, images, labels, generators(arguments.seed, client=victim, round=1))
        truths.append(dataset.train_images[chosen].double() / 255)
        sent = observed(dataset, Local(batch_size=size), state=state, update=played.update)
        seen.append(replace(sent, buffers=played.buffers, labels=labels, client=victim))
    return truths, seen, model, dataset


def measure(mode: Mode, size: int, arguments: argparse.Namespace, *, show: bool) -> list[dict[str, Any]]:
    """One table: every attacker on the same clients."""
    truths, seen, model, dataset = clients(mode, size, arguments)
    rows = []
    for attacker, (name, statistics) in ATTACKERS.items():
        if (mode == "eval" and statistics == "batch") or not any(part in attacker for part in arguments.only):
            continue
        own = arguments.gradinversion if name == "gradinversion" else {}
        keys = {} if name == "null_mean" else {"iterations": arguments.iterations, **arguments.keys, **own}
        attack = attacks.create(name, **keys)
        attack.compile = arguments.compile
        began = time.perf_counter()
        answers = attack.run(seen, ThreatModel(client_mode=mode, batch_norm=statistics), model, seed=arguments.seed)
        seconds = time.perf_counter() - began
        if declined := [answer for answer in answers if isinstance(answer, NotApplicable)]:
            raise SystemExit(f"{attacker}: {declined[0]}")
        scores = [psnr(truth, answer, dataset) for truth, answer in zip(truths, answers)]  # type: ignore[arg-type]
        rows.append(
            {
                "mode": mode,
                "batch": size,
                "attacker": attacker,
                "min_psnr": min(scores),
                "median_psnr": median(scores),
                "max_psnr": max(scores),
                "seconds": seconds,
            }
        )
        if show:
            if len(rows) == 1:
                print(f"{mode} mode, batch {size}, {arguments.victims} victims, {arguments.iterations} iterations")
                print(f"{'attacker':<24}{'min':>8}{'median':>8}{'max':>8}{'seconds':>9}")
            row = rows[-1]
            print(
                f"{attacker:<24}{row['min_psnr']:>8.1f}{row['median_psnr']:>8.1f}{row['max_psnr']:>8.1f}"
                f"{seconds:>9.1f}",
                flush=True,
            )
    return rows


if __name__ == "__main__":
    main()
