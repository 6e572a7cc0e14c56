"""What it is worth to know how a client trains: attacks on weight deltas, told of the local training and not.

    python benchmarks/local_training.py --victims 16 --iterations 3000

One row per local training and attacker: `told` is granted all of it, `plain` assumes that as many steps of plain SGD at
the same learning rate were taken, `algebra` is the closed form `first_linear`, granted all of it, `floor` guesses the
mean image. PSNR in [0, 1] pixels, of the images that training took, and of the mean image where an attack declines.
Each step sees an image of its own. Nothing is drawn unless there is `--dropout`. With `--labels unknown` the attack
looks for the labels too, and the column `labels` is the share that it has right.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from statistics import mean, median

import torch
from known_defenses import clients, psnr

import attacks
from attacks import LocalTraining, NotApplicable, ThreatModel
from defenses.client.optimizers.adam import Adam
from defenses.client.optimizers.adamw import AdamW
from defenses.client.optimizers.sgd import SGD
from fedsim import models

TRAININGS = {
    "1 step, SGD": LocalTraining(learning_rate=0.1),
    "3 steps, SGD": LocalTraining(steps=3, learning_rate=0.05),
    "3 steps, momentum 0.9, decay 1e-4": LocalTraining(
        steps=3, learning_rate=0.05, optimizer=SGD(momentum=0.9, weight_decay=1e-4)
    ),
    "3 steps, clipped to norm 0.5": LocalTraining(steps=3, learning_rate=0.05, clip_norm=0.5),
    "3 steps, FedProx 1": LocalTraining(steps=3, learning_rate=0.05, proximal=1.0),
    "1 step, labels smoothed by 0.1": LocalTraining(learning_rate=0.1, label_smoothing=0.1),
    "1 step, AdamW": LocalTraining(learning_rate=0.001, optimizer=AdamW()),
    "3 steps, AdamW": LocalTraining(steps=3, learning_rate=0.001, optimizer=AdamW()),
    "3 steps, Adam": LocalTraining(steps=3, learning_rate=0.001, optimizer=Adam()),
    "2 epochs of 3 examples, batch 2": LocalTraining(epochs=2, learning_rate=0.05),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--victims", type=int, default=16)
    parser.add_argument("--iterations", type=int, default=3_000)
    parser.add_argument("--attack", default="inverting_gradients")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--bias", action="store_true")
    parser.add_argument("--labels", choices=["known", "inferred", "unknown"], default="known")
    parser.add_argument("--only", nargs="+", default=list(TRAININGS), help="names of local trainings, or parts of them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print a JSON list of rows")
    arguments = parser.parse_args()
    if not arguments.json:
        budget = f"{arguments.victims} victims, {arguments.iterations} iterations"
        victim = f"mlp {'with' if arguments.bias else 'without'} bias, dropout {arguments.dropout:g}, mnist"
        print(f"{arguments.attack} on {victim}, {budget}, labels {arguments.labels}")
        print(f"{'local training':<36}{'knows':>8}{'min':>8}{'median':>8}{'labels':>8}{'stopped':>11}{'seconds':>9}")
    rows = []
    for name, local in TRAININGS.items():
        if any(part in name for part in arguments.only):
            for row in measure(name, local, arguments):
                rows.append(row)
                if not arguments.json:
                    print(_line(row), flush=True)
    if arguments.json:
        print(json.dumps(rows, indent=1))


def _line(row: dict[str, object]) -> str:
    return (
        f"{row['local']:<36}{row['knows']:>8}{row['min_psnr']:>8.1f}{row['median_psnr']:>8.1f}"
        f"{_share(row['labels_right']):>8}{row['stopped']:>11}{row['seconds']:>9.1f}"
    )


def measure(name: str, local: LocalTraining, arguments: argparse.Namespace) -> Iterator[dict[str, object]]:
    spec = {"name": "mlp", "bias": arguments.bias, "dropout": arguments.dropout}
    truths, seen, dataset = clients(spec, [], arguments, local=local)
    shape, classes = dataset.input_shape, len(dataset.classes)
    model = models.build(spec, input_shape=shape, classes=classes, seed=arguments.seed)
    assumed = replace(local, optimizer=SGD(), clip_norm=None, proximal=0, label_smoothing=0)
    true = [one.labels for one in seen]
    if arguments.labels != "known":
        seen = [replace(one, labels=None) for one in seen]
    plain = [replace(one, local=assumed) for one in seen]
    guesses = attacks.create("null_mean").run(seen, ThreatModel(), model, seed=arguments.seed)
    for knows, observations, attack in (
        ("told", seen, attacks.create(arguments.attack, iterations=arguments.iterations)),
        ("plain", plain, attacks.create(arguments.attack, iterations=arguments.iterations)),
        ("algebra", seen, attacks.create("first_linear")),
        ("floor", seen, attacks.create("null_mean")),
    ):
        began = time.perf_counter()
        answers = attack.run(observations, ThreatModel(labels=arguments.labels), model, seed=arguments.seed)
        scores, why, right = [], set[str](), []
        for truth, answer, guess, labels in zip(truths, answers, guesses, true):
            declined = isinstance(answer, NotApplicable)
            scores.append(psnr(truth, guess if declined else answer, dataset))
            why.add("declined" if declined else answer.stopped or "")
            if not declined and answer.labels is not None and labels is not None:  # in any order
                counts = (torch.bincount(each, minlength=classes) for each in (answer.labels, labels))
                right.append(float(torch.minimum(*counts).sum()) / len(labels))
        yield {
            "local": name,
            "knows": knows,
            "min_psnr": min(scores),
            "median_psnr": median(scores),
            "labels_right": mean(right) if right else None,
            "stopped": "/".join(sorted(why))[:10],
            "seconds": time.perf_counter() - began,
        }


def _share(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else "-"


if __name__ == "__main__":
    main()
