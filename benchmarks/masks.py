"""Masks that nobody tells: by which relaxation, and by which descent, the attacker looks for them.

    python benchmarks/masks.py --victims 4 --iterations 600

One row per model, batch size and attacker, on MNIST, dropout 0.5, one step, a shared gradient, labels known: PSNR in
[0, 1] pixels, the mean over a client's images, each matched to the one that it shows; of the victims one by one. `rest`
takes no notice of masks, `expected` takes the mean gradient over four draws of them in each iteration, `oracle` is told
them; all others look for them together with the images.
"""

from __future__ import annotations

import argparse
import json
import time
from statistics import median
from typing import Any

from known_defenses import clients, psnr
from splits import add_split

import attacks
from attacks import ThreatModel
from fedsim import models

SHORT = {"plateau": 100, "patience": 1_000}
ATTACKERS: dict[str, tuple[str, dict[str, Any]]] = {
    "rest": ("inverting_gradients", SHORT),
    "expected": ("inverting_gradients", {**SHORT, "draws": "anew", "averaged": 4}),
    "box, as published": ("dropout_inversion", {}),
    "box": ("dropout_inversion", SHORT),
    "straight_through": ("dropout_inversion", {**SHORT, "masks": "straight_through"}),
    "logistic": ("dropout_inversion", {**SHORT, "masks": "logistic"}),
    "annealed": ("dropout_inversion", {**SHORT, "masks": "annealed"}),
    "logistic, lbfgs": ("dropout_inversion", {**SHORT, "masks": "logistic", "descent": "lbfgs"}),
    "oracle": ("well_informed", SHORT),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--victims", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=600)
    parser.add_argument("--models", nargs="+", default=["lenet", "mlp"], help="the MLP is without bias, as the paper's")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--dropout", type=float, default=0.5)
    parser.add_argument("--attackers", nargs="+", default=list(ATTACKERS))
    parser.add_argument("--seed", type=int, default=0)
    add_split(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object a row")
    arguments = parser.parse_args()
    if not arguments.json:
        print(f"dropout {arguments.dropout}, {arguments.victims} victims, {arguments.iterations} iterations")
        columns = f"{'min':>6}{'median':>8}{'max':>6}{'loss':>9}{'seconds':>9}"
        print(f"{'model':<7}{'batch':>6} {'attacker':<19}{columns}  each")
    for model in arguments.models:
        for batch in arguments.batches:
            for attacker in arguments.attackers:
                row = measure(model, batch, attacker, arguments)
                if arguments.json:
                    print(json.dumps(row), flush=True)
                    continue
                each = " ".join(f"{score:.1f}" for score in row["each"])
                print(
                    f"{model:<7}{batch:>6} {attacker:<19}{min(row['each']):>6.1f}{median(row['each']):>8.1f}"
                    f"{max(row['each']):>6.1f}{row['loss']:>9.1e}{row['seconds']:>9.1f}  {each}",
                    flush=True,
                )


def measure(name: str, batch: int, attacker: str, arguments: argparse.Namespace) -> dict[str, Any]:
    spec = {"name": name, "dropout": arguments.dropout, **({"bias": False} if name == "mlp" else {})}
    truths, seen, dataset = clients(spec, [], argparse.Namespace(**{**vars(arguments), "batch": batch}))
    model = models.build(spec, input_shape=dataset.input_shape, classes=len(dataset.classes), seed=arguments.seed)
    algorithm, keys = ATTACKERS[attacker]
    attack = attacks.create(algorithm, iterations=arguments.iterations, **keys)
    began = time.perf_counter()
    answers = attack.run(seen, ThreatModel(**attack.given), model, seed=arguments.seed)
    seconds = time.perf_counter() - began
    each = [psnr(truth, answer, dataset) for truth, answer in zip(truths, answers)]
    loss = median(answer.loss for answer in answers)
    return {"model": name, "batch": batch, "attacker": attacker, "each": each, "loss": loss, "seconds": seconds}


if __name__ == "__main__":
    main()
