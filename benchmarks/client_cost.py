"""What a defended client's round costs over an undefended one's: processor seconds, and bytes that are sent.

    python benchmarks/client_cost.py --batch 32 --steps 5
    python benchmarks/client_cost.py --batch 1 --steps 1

One row per defense, at its own defaults, on bundled MNIST images. The two clients play in turns in one process, on one
thread, from the same weights with the same images; a measurement repeats their rounds for at least `--least` seconds of
processor time, which other programs on the machine do not lengthen, and the ratio is the median over `--repeats`
turns. Building the model and sending the update are not counted. `-` stands where the model has no place for the
defense. One step shares the gradient, several the change of the weights; the bytes are of that update, by the code
that the results' column `bytes` counts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

import defenses
from defenses.client.training import LocalTraining
from fedsim import data, models
from fedsim.local import Local, LocalResult, train

MODELS: dict[str, dict[str, Any]] = {
    "mlp": {"name": "mlp"},
    "lenet": {"name": "lenet"},
    "resnet18": {"name": "resnet18", "width": 16, "norm": "group"},
    "vit": {"name": "vit", "depth": 2, "width": 64, "heads": 4, "mlp": 64},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=["mlp", "lenet", "resnet18"])
    parser.add_argument("--only", nargs="+", default=[""], help="parts of names of defenses")
    parser.add_argument("--dropout", type=float, default=0.0, help="the model's own rate")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--least", type=float, default=0.02)
    parser.add_argument("--most", type=float, default=1.5, help="ratios above it are marked by a star")
    parser.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    names = [name for name in defenses.names() if any(part in name for part in arguments.only) and name != "none"]
    plain = {model: client(model, None, arguments) for model in arguments.models}
    took = [f"{1000 * seconds(round, arguments.least):.1f} ms on {model}" for model, round in plain.items()]
    print(f"{arguments.steps} steps of {arguments.batch} images take an undefended client {', '.join(took)}")
    between, end = (" | ", " |") if arguments.markdown else ("  ", "")
    heads = [f"{model} {what}" for model in arguments.models for what in ("seconds", "bytes")]
    print(between.join([f"{'defense':<22}", *(f"{head:>16}" for head in heads)]) + end)
    if arguments.markdown:
        print("|".join(["---", *["--:"] * len(heads)]) + "|")
    for name in names:
        cells = []
        for model, undefended in plain.items():
            try:
                defended = client(model, name, arguments)
            except ValueError:  # no place for it
                cells += ["-", "-"]
                continue
            ratio = in_turns(undefended, defended, arguments)
            parts = [defenses.compose([]), defenses.compose([{"name": name}])]
            before, after = (one.bits(round().played.update) for one, round in zip(parts, (undefended, defended)))
            cells += [f"{ratio:.2f}{'*' if ratio > arguments.most else ' '}", f"{after / before:.3g}"]
        print(between.join([f"{name:<22}", *(f"{cell:>16}" for cell in cells)]) + end, flush=True)


def client(model: str, defense: str | None, arguments: argparse.Namespace) -> Callable[[], LocalResult]:
    """A function that plays one round, from the same weights each time; raises ValueError where there is no place."""
    dataset = data.load({"name": "mnist"})
    count, classes = arguments.batch * arguments.steps, len(dataset.classes)
    defended = defenses.compose([{"name": defense}] if defense else [])
    described = {**MODELS[model], "dropout": arguments.dropout, **defended.model_overrides()}
    if defended.changes_model:
        described["defenses"] = [{"name": defense}]
    built = models.build(described, input_shape=dataset.input_shape, classes=classes, seed=0)
    state = {name: value.clone() for name, value in built.state_dict().items()}
    images, labels = dataset.normalise(dataset.train_images[:count]), dataset.train_labels[:count]
    local = Local(
        training=LocalTraining(steps=arguments.steps),
        batch_size=arguments.batch,
        share="gradient" if arguments.steps == 1 else "weights",
    )

    def round() -> LocalResult:
        built.load_state_dict(state)
        return train(
            built, images, labels, local=local, defense=defended, seed=0, client=0, round=1, classes=classes
        )

    round()
    return round


def in_turns(undefended: Callable[[], Any], defended: Callable[[], Any], arguments: argparse.Namespace) -> float:
    """The median over turns of the one's seconds over the other's."""
    turns = []
    for _ in range(arguments.repeats):
        before, after = (seconds(round, arguments.least) for round in (undefended, defended))
        turns.append(after / before)
    return median(turns)


def seconds(round: Callable[[], Any], least: float) -> float:
    """Processor seconds of a round, the mean over as many as fill the least time."""
    rounds, spent, began = 0, 0.0, time.process_time()
    while spent < least:
        round()
        rounds, spent = rounds + 1, time.process_time() - began
    return spent / rounds


if __name__ == "__main__":
    main()
