"""Which label inference works where: the share of labels that each method gets right, model by model.

    python benchmarks/labels.py --victims 16 --table docs/labels.md

Clients with digits of MNIST send what they trained. `untrained`: a new model, as in round 1; `trained`: after
`--pretrain` steps of 32 images. Batches are drawn at random, so that those of 8 have repeats; `8 of 3 classes` are of a
client that has no others. Over several steps, and over epochs, the labels of all examples are asked for. A share of 0.9
means that of 10 labels 9 were right, whichever images they belong to.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attacks import LocalTraining, NotApplicable
from attacks.labels import infer_labels, names
from attacks.twin import attacker_copy
from attacks.updates import mean_gradient, trained_part
from defenses import compose
from fedsim import data, models
from fedsim.data import Dataset
from fedsim.federation.start import train_centrally
from fedsim.local import Local, observed, train
from fedsim.random import rng_for

SPECS: dict[str, dict[str, Any]] = {
    "mlp": {"name": "mlp"},
    "mlp without biases": {"name": "mlp", "bias": False},
    "lenet": {"name": "lenet"},
    "vit": {"name": "vit"},
    "resnet18": {"name": "resnet18", "width": 16},
}
INFERRED = "inferred"
"""What a threat model's `labels: inferred` does."""


@dataclass(frozen=True)
class Case:
    """What a client does.

    Args:
        images: how many distinct ones it trains on.
        classes: of how many classes they are; 0: of any.
        local: how, None: it sends the gradient of all its images.
        batch_size: of a step.
    """

    images: int
    classes: int = 0
    local: LocalTraining | None = None
    batch_size: int | None = None


CASES = {
    "1": Case(1),
    "8": Case(8),
    "8 of 3 classes": Case(8, classes=3),
    "32": Case(32),
    "5 steps of 8": Case(40, local=LocalTraining(steps=5, learning_rate=0.05), batch_size=8),
    "2 epochs of 16 by 4": Case(16, local=LocalTraining(epochs=2, learning_rate=0.05), batch_size=4),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(SPECS), choices=list(SPECS))
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--methods", nargs="+", default=[*names(), INFERRED], choices=[*names(), INFERRED])
    parser.add_argument("--victims", type=int, default=16)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--pretrain", type=int, nargs="+", default=[0, 1500], help="steps of pretraining")
    parser.add_argument("--data", type=json.loads, default={"name": "mnist"}, help="as a scenario's `data` block")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print a JSON list of rows")
    parser.add_argument("--table", type=Path, help="a page to write the table into, between its two marks")
    arguments = parser.parse_args()
    dataset = data.load(arguments.data)
    rows = [
        row
        for name in arguments.models
        for steps in arguments.pretrain
        for row in measure(name, steps, dataset, arguments)
    ]
    if arguments.json:
        print(json.dumps(rows, indent=1))
    table = markdown(rows, arguments.methods)
    if arguments.table:
        insert(arguments.table, table)
    elif not arguments.json:
        print(table)


def measure(name: str, steps: int, dataset: Dataset, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each case: what every method gets right of the clients of one model."""
    classes = len(dataset.classes)
    spec = {**SPECS[name], "dropout": arguments.dropout}
    model = models.build(spec, input_shape=dataset.input_shape, classes=classes, seed=arguments.seed)
    if steps:
        train_centrally(model, dataset, steps=steps, batch_size=32, learning_rate=0.05, seed=arguments.seed)
    state = {key: value.detach().clone() for key, value in model.state_dict().items()}
    rows = []
    for case in arguments.cases:
        right: dict[str, list[float]] = {method: [] for method in arguments.methods}
        seconds = dict.fromkeys(arguments.methods, 0.0)
        believed, used = [], {}
        for victim in range(arguments.victims):
            model.load_state_dict(state)
            labels, gradient, twin = client(CASES[case], model, dataset, seed=arguments.seed, victim=victim)
            for method in arguments.methods:
                began = time.perf_counter()
                try:
                    found = infer_labels(
                        twin,
                        gradient,
                        batch_size=len(labels),
                        classes=classes,
                        input_shape=dataset.input_shape,
                        method="" if method == INFERRED else method,
                    )
                except NotApplicable:
                    continue
                seconds[method] += time.perf_counter() - began
                right[method].append(shared(found.labels, labels, classes))
                if method == INFERRED:
                    believed.append(found.confidence)
                    used[found.method] = used.get(found.method, 0) + 1
        rows.append(
            {
                "model": name,
                "steps": steps,
                "case": case,
                "right": {method: float(np.mean(of)) if of else None for method, of in right.items()},
                "answered": {method: len(of) for method, of in right.items()},
                "seconds": {method: seconds[method] / arguments.victims for method in arguments.methods},
                "confidence": float(np.mean(believed)) if believed else None,
                "used": used,
            }
        )
        print(f"{name}, {steps} steps, {case}: {rows[-1]['right']}", file=sys.stderr, flush=True)
    return rows


def client(
    case: Case, model: torch.nn.Module, dataset: Dataset, *, seed: int, victim: int
) -> tuple[Tensor, dict[str, Tensor], torch.nn.Module]:
    """A client's labels, the mean gradient that its update amounts to, and the attacker's copy of the model."""
    rng = rng_for(seed, "label victims", victim=victim)
    order = rng.permutation(len(dataset.train_labels))
    if case.classes:
        own = rng.permutation(len(dataset.classes))[: case.classes]
        order = order[np.isin(dataset.train_labels[order].numpy(), own)]
    chosen = torch.from_numpy(order[: case.images].copy())
    images, labels = dataset.normalise(dataset.train_images[chosen]), dataset.train_labels[chosen]
    state = {key: value.detach().clone() for key, value in model.state_dict().items()}
    local = Local(
        training=case.local or LocalTraining(),
        batch_size=case.batch_size or case.images,
        share="weights" if case.local else "gradient",
    )
    result = train(model, images, labels, local=local, defense=compose([]), seed=seed, client=victim, round=1)
    observation = observed(dataset, local, state=state, update=result.played.update)
    if case.local and case.local.epochs is not None:
        observation = replace(observation, examples=case.images)
    observation = trained_part(observation, model)
    gradient = observation.update if observation.kind == "gradient" else mean_gradient(observation)
    return labels, dict(gradient), attacker_copy(model, state)


def shared(found: Tensor, labels: Tensor, classes: int) -> float:
    """The share of the labels that are right, in whatever order."""
    mine, theirs = (torch.bincount(each, minlength=classes) for each in (found, labels))
    return float(torch.minimum(mine, theirs).sum()) / len(labels)


def markdown(rows: Sequence[dict[str, Any]], methods: Sequence[str]) -> str:
    """Shares in per cent; a dash where a method declines."""
    believes = INFERRED in methods
    head = ["model", "steps", "batch", *(f"`{method}`" for method in methods), *(["confidence"] if believes else [])]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in rows:
        shares = ["–" if (of := row["right"][method]) is None else f"{100 * of:.0f}" for method in methods]
        believed = [f"{100 * row['confidence']:.0f}"] if believes else []
        lines.append(f"| {' | '.join([row['model'], str(row['steps']), row['case'], *shares, *believed])} |")
    return "\n".join(lines)


def insert(page: Path, table: str) -> None:
    """Between the page's two marks."""
    before, _, rest = page.read_text().partition("<!-- table -->")
    _, _, after = rest.partition("<!-- end of table -->")
    page.write_text(f"{before}<!-- table -->\n{table}\n<!-- end of table -->{after}")


if __name__ == "__main__":
    main()
