"""Attacks on FedAvg: several steps, several epochs in an order that nobody tells, with and without dropout.

    python benchmarks/fedavg.py --victims 4 --iterations 2000

One row per local training, dropout rate and attacker; PSNR in [0, 1] pixels, the mean over a client's images, each
matched to the one that it shows, and of the mean image where an attack declines; minimum, median and maximum over the
victims. Labels are known, but not in which step an epoch took which. `told` is granted the order of epochs as well,
which no real server has; without, today's attacks decline epochs.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from known_defenses import clients, psnr
from splits import add_split

import attacks
from attacks import LocalTraining, NotApplicable, ThreatModel
from fedsim import models

CELLS: dict[str, tuple[LocalTraining, dict[str, int]]] = {
    "1 step of 1": (LocalTraining(learning_rate=0.1), {"batch": 1}),
    "1 step of 5": (LocalTraining(learning_rate=0.1), {"batch": 5}),
    "5 steps of 1": (LocalTraining(steps=5, learning_rate=0.1), {"batch": 1}),
    "5 steps of 1, rate 0.01": (LocalTraining(steps=5, learning_rate=0.01), {"batch": 1}),
    "3 epochs of 4 by 2": (LocalTraining(epochs=3, learning_rate=0.1), {"batch": 2, "examples": 4}),
    "3 epochs of 4 by 2, rate 0.01": (LocalTraining(epochs=3, learning_rate=0.01), {"batch": 2, "examples": 4}),
}
"""Local trainings by name, with the size of a step and, of epochs, how many examples the client has."""

ATTACKERS: dict[str, tuple[str, bool]] = {
    "inverting_gradients": ("inverting_gradients", False),
    "dropout_inversion": ("dropout_inversion", False),
    "inverting_gradients, told": ("inverting_gradients", True),
    "dropout_inversion, told": ("dropout_inversion", True),
    "fedavg_inversion": ("fedavg_inversion", False),
    "surrogate_model": ("surrogate_model", False),
    "null_mean": ("null_mean", False),
}
"""Attacks, and whether they are told the order of epochs."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--victims", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=2_000)
    parser.add_argument("--model", default="lenet")
    parser.add_argument("--dropout", type=float, nargs="+", default=[0.0, 0.5])
    parser.add_argument("--cells", nargs="+", default=list(CELLS), help="names of local trainings")
    parser.add_argument("--attackers", nargs="+", default=list(ATTACKERS), help="names of attackers")
    parser.add_argument("--keys", type=json.loads, default={}, help="further keys of the attacks, as JSON")
    parser.add_argument("--seed", type=int, default=0)
    add_split(parser)
    parser.add_argument("--picture", help="where to draw the first client's images and what was made of them")
    parser.add_argument("--json", action="store_true", help="print a JSON list of rows")
    arguments = parser.parse_args()
    if not arguments.json:
        keys = f", {json.dumps(arguments.keys)}" if arguments.keys else ""
        print(f"{arguments.model}, mnist, {arguments.victims} victims, {arguments.iterations} iterations{keys}")
        columns = f"{'min':>6}{'median':>8}{'max':>6}{'loss':>9}{'seconds':>9}"
        print(f"{'local training':<30}{'dropout':>8} {'attack':<26}{columns}")
    rows = []
    for cell in arguments.cells:
        for dropout in arguments.dropout:
            rows += measure(cell, dropout, arguments)
    if arguments.json:
        print(json.dumps(rows, indent=1))


def measure(cell: str, dropout: float, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    local, numbers = CELLS[cell]
    spec = {"name": arguments.model, "dropout": dropout}
    truths, seen, dataset = clients(spec, [], argparse.Namespace(**{**vars(arguments), **numbers}), local=local)
    model = models.build(spec, input_shape=dataset.input_shape, classes=len(dataset.classes), seed=arguments.seed)
    rows, drawn = [], [("client", truths[0])]
    guesses = attacks.create("null_mean").run(seen, ThreatModel(), model, seed=arguments.seed)
    for name in arguments.attackers:
        algorithm, told = ATTACKERS[name]
        keys = {} if algorithm == "null_mean" else {"iterations": arguments.iterations, **arguments.keys}
        granted = seen if told else [replace(one, order=None) for one in seen]
        threat_model = ThreatModel(batch_order="known" if told else "unknown")
        began = time.perf_counter()
        answers = attacks.create(algorithm, **keys).run(granted, threat_model, model, seed=arguments.seed)
        seconds = time.perf_counter() - began
        declined = [str(answer) for answer in answers if isinstance(answer, NotApplicable)]
        found = [guess if isinstance(answer, NotApplicable) else answer for answer, guess in zip(answers, guesses)]
        scores = [psnr(truth, answer, dataset) for truth, answer in zip(truths, found)]
        mean, std = (torch.tensor(value).view(-1, 1, 1) for value in (dataset.mean, dataset.std))
        drawn.append((name, (found[0].images * std + mean).clamp(0, 1).double()))
        row = {
            "local": cell,
            "dropout": dropout,
            "attack": name,
            "min": min(scores),
            "median": median(scores),
            "max": max(scores),
            "loss": median(answer.loss for answer in found),
            "seconds": seconds,
            "declined": declined[:1],
        }
        rows.append(row)
        if not arguments.json:
            print(
                f"{cell:<30}{dropout:>8g} {name:<26}{row['min']:>6.1f}{row['median']:>8.1f}{row['max']:>6.1f}"
                f"{row['loss']:>9.1e}{seconds:>9.1f}  {'; '.join(declined[:1])}",
                flush=True,
            )
    if arguments.picture:
        _draw(drawn, f"{arguments.picture}-{cell}-{dropout:g}.png".replace(" ", "_"))
    return rows


def _draw(rows: list[tuple[str, torch.Tensor]], path: str) -> None:
    import matplotlib.pyplot as plt

    columns = max(len(images) for _, images in rows)
    figure, axes = plt.subplots(len(rows), columns, figsize=(1.2 * columns + 2, 1.2 * len(rows)), squeeze=False)
    for places, (name, images) in zip(axes, rows):
        for place, image in zip(places, images):
            place.imshow(image.permute(1, 2, 0).squeeze(), cmap="gray", vmin=0, vmax=1)
        places[0].set_title(name, fontsize=7, loc="left")
        for place in places:
            place.axis("off")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
