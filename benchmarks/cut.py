"""How many iterations does Cut need for the quality at which the Dropout Inversion Attack ends? Measured.

    python benchmarks/cut.py --model lenet --data mnist --victims 4 --iterations 3000

Both attacks run for the same number of iterations (no victim is stopped earlier) on the same clients, from the same
starting images, with the same Adam; `--plateau` gives both the same patience before its rate falls. One row per victim:
the quality of each answer (its iterate of lowest attack loss), and for each attack the first iteration at which an
iterate has the quality of DIA's answer, and at which it is good: 30 dB, or an SSIM of 0.6. Quality is PSNR unless
`--quality ssim`, which suits models whose normalisation hides the brightness. The truth is used for measuring only. The
last row holds the medians; an attack that never gets there counts its budget.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from dia import clients
from torch import Tensor

import attacks
from attacks import NotApplicable, Observation, ThreatModel
from attacks.unknowns import Guess
from fedsim.scoring.metrics import METRICS

ATTACKS = ("dropout_inversion", "cut")
GOOD = {"psnr": 30.0, "ssim": 0.6}
SLACK = 1e-3  # an answer is measured once more than its iterate: rounding


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="lenet")
    parser.add_argument("--keys", type=json.loads, default={}, help='further keys of the model: {"init": "xavier"}')
    parser.add_argument("--data", default="mnist", help="mnist or photos")
    parser.add_argument("--dropout", type=float, default=0.5)
    parser.add_argument("--victims", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=3000)
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--total-variation", type=float, default=1e-5)
    parser.add_argument("--plateau", type=int, help="of both; else each attack's own, 800 and 200")
    parser.add_argument("--pretrain", type=int, default=0, help="steps of SGD before the attack, batch 32, rate 0.1")
    parser.add_argument("--quality", choices=list(GOOD), default="psnr")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print a JSON list of rows")
    arguments = parser.parse_args()
    arguments.batch_size = 1
    images, observations, model, std = clients(arguments)
    limits = {
        "iterations": arguments.iterations,
        "learning_rate": arguments.learning_rate,
        "total_variation": arguments.total_variation,
        "tolerance": 0.0,
        "patience": arguments.iterations,
    }
    if arguments.plateau:
        limits |= {"plateau": arguments.plateau}
    mean = torch.tensor(observations[0].mean).view(-1, 1, 1)

    def quality(guess: Tensor, truth: Tensor) -> Tensor:
        return METRICS[arguments.quality](truth * std + mean, guess * std + mean)

    runs = {name: trace(name, limits, images, observations, model, quality) for name in ATTACKS}
    rows = [compare(runs, str(victim), [victim], GOOD[arguments.quality]) for victim in range(arguments.victims)]
    rows.append(compare(runs, "median", list(range(arguments.victims)), GOOD[arguments.quality]))
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return
    print(
        f"{arguments.model} {arguments.keys or ''} on {arguments.data}, pretrained {arguments.pretrain} steps, dropout "
        f"{arguments.dropout}, {arguments.iterations} iterations, {torch.get_num_threads()} threads; "
        + ", ".join(f"{name} {run['seconds']:.0f} s" for name, run in runs.items())
    )
    print("  ".join(f"{column:>9}" for column in rows[0]))
    for row in rows:
        cells = (f"{value:.2f}" if isinstance(value, float) else str(value) for value in row.values())
        print("  ".join(f"{cell:>9}" for cell in cells))


def trace(
    name: str,
    limits: dict[str, Any],
    images: list[Tensor],
    observations: list[Observation],
    model: torch.nn.Module,
    quality: Callable[[Tensor, Tensor], Tensor],
) -> dict[str, Any]:
    """One attack on all clients at once: its answers' quality, and every iterate's, (iterations, victims)."""
    truth = torch.cat(images)
    curve = torch.full((limits["iterations"], len(images)), -torch.inf)

    def watch(iteration: int, problems: Tensor, guess: Guess) -> None:
        curve[iteration, problems] = quality(guess["images"].flatten(0, 1), truth[problems]).float()

    attack = attacks.create(name, **limits)
    attack.watch = watch  # type: ignore[attr-defined]
    begin = time.perf_counter()
    results = attack.run(observations, ThreatModel(), model)
    seconds = time.perf_counter() - begin
    final = []
    for image, result in zip(images, results):
        if isinstance(result, NotApplicable):
            raise SystemExit(f"{name}: {result}")
        final.append(quality(result.images, image).item())
    return {"final": final, "curve": curve, "seconds": seconds}


def compare(runs: dict[str, dict[str, Any]], label: str, victims: list[int], good: float) -> dict[str, Any]:
    """Both attacks on these victims, medians where they are several."""
    dia, cut = (runs[name] for name in ATTACKS)
    to_dia, cut_to_dia = (
        median(first(run["curve"][:, v], dia["final"][v] - SLACK) for v in victims) for run in (dia, cut)
    )
    to_good, cut_to_good = (median(first(run["curve"][:, v], good) for v in victims) for run in (dia, cut))
    return {
        "victim": label,
        "dia": median(dia["final"][v] for v in victims),
        "cut": median(cut["final"][v] for v in victims),
        "dia_its": int(to_dia),
        "cut_its": int(cut_to_dia),
        "ratio": cut_to_dia / max(1, to_dia),
        "dia_good": int(to_good),
        "cut_good": int(cut_to_good),
    }


def first(curve: Tensor, quality: float) -> int:
    """The first iteration at which a curve has this quality, or its length."""
    reached = (curve >= quality).nonzero()
    return int(reached[0]) if len(reached) else len(curve)


if __name__ == "__main__":
    main()
