"""Is the one attack without parameters as strong as the best of the others, cell by cell? Measured.

    python benchmarks/standard.py --markdown docs/standard.md

One row per model, dropout rate, batch size and attack: PSNR in [0, 1] pixels, the mean over a client's images, each
matched to the one that it shows, and of the mean image where an attack declines; of the images to tune by
(benchmarks/splits.py). All attacks have the same limit: as many iterations as `standard_v1` allows one of its searches
there, or with `--share` a share of its operations, and with `--longest` fewer iterations; for it too. The page that
`--markdown` names keeps what stands above its table. `--rows` takes rows that were printed before, in place of
measuring.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

from known_defenses import clients, psnr
from splits import add_split

import attacks
from attacks import NotApplicable, ThreatModel, standard_v1
from attacks.operations import of_an_iteration
from fedsim import models

MODELS: dict[str, tuple[dict[str, Any], str]] = {
    "mlp": ({"name": "mlp"}, "mnist"),
    "lenet": ({"name": "lenet"}, "mnist"),
    "resnet18": ({"name": "resnet18", "width": 8}, "photos"),
    "vit": ({"name": "vit", "depth": 2, "width": 128, "heads": 4, "mlp": 128}, "photos"),
}
SINGLE = ("inverting_gradients", "dropout_inversion", "fedavg_inversion", "multiscale_inversion", "cut", "cascade")
VERSIONS = ("standard_v1", "standard_v2")
CLOSED = ("sparse_dictionary", "cocktail_party", "patch_embedding")
BELOW = "<!-- below: written by benchmarks/standard.py -->"
WITHIN = 1.0
"""dB by which another attack may be better and the standard still counts as level with it."""
EXACT = 58.9
"""dB: rounding to 8 bits is an error of 1 / (255 sqrt(12)). Beyond it nothing is better than anything else."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--victims", type=int, default=2)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--dropout", type=float, nargs="+", default=[0.0, 0.5])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--share", type=float, default=1.0, help="of the operations that version 1 allows")
    parser.add_argument("--longest", type=int, default=standard_v1.LONGEST, help="iterations at most")
    parser.add_argument("--attacks", nargs="+", default=["null_mean", *CLOSED, *SINGLE, *VERSIONS])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--markdown", type=Path, help="the page whose table is to be written")
    parser.add_argument("--rows", type=Path, nargs="+", help="what earlier calls have printed")
    add_split(parser)
    parser.set_defaults(split="tune")
    arguments = parser.parse_args()
    standard_v1.OPERATIONS *= arguments.share
    standard_v1.LONGEST = arguments.longest
    if arguments.rows:
        printed = [line for file in arguments.rows for line in file.read_text().splitlines()]
        write(arguments.markdown, [json.loads(line) for line in printed])
        return
    rows = []
    for name in arguments.models:
        for dropout in arguments.dropout:
            for batch in arguments.batches:
                rows += measure(name, dropout, batch, arguments)
                if arguments.markdown:
                    write(arguments.markdown, rows)


def measure(name: str, dropout: float, batch: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One cell: every attack on the same clients."""
    spec, dataset = MODELS[name]
    spec = {**spec, "dropout": dropout}
    own = argparse.Namespace(**{**vars(arguments), "batch": batch, "dataset": dataset})
    truths, seen, loaded = clients(spec, [], own)
    model = models.build(spec, input_shape=loaded.input_shape, classes=len(loaded.classes), seed=arguments.seed)
    operations = of_an_iteration(seen[0], ThreatModel(), model)
    iterations = int(max(1, min(arguments.longest, standard_v1.OPERATIONS // operations)))
    guesses = attacks.create("null_mean").run(seen, ThreatModel(), model, seed=arguments.seed)
    rows = []
    for attack in arguments.attacks:
        keys = {"iterations": iterations} if attack in SINGLE else {}
        if attack in SINGLE and attack != "cascade":
            keys["plateau"] = min(100, max(1, iterations // 10))
        began = time.perf_counter()
        answers = attacks.create(attack, **keys).run(seen, ThreatModel(), model, seed=arguments.seed)
        seconds = time.perf_counter() - began
        declined = all(isinstance(answer, NotApplicable) for answer in answers)
        found = [guess if isinstance(answer, NotApplicable) else answer for answer, guess in zip(answers, guesses)]
        scores = [psnr(truth, answer, loaded) for truth, answer in zip(truths, found)]
        stages = sorted({answer.details.get("stage", "") for answer in found if attack in VERSIONS})
        row = {
            "model": name, "dropout": dropout, "batch": batch, "attack": attack, "each": scores, "seconds": seconds,
            "declined": declined, "stages": stages, "iterations": iterations,
        }  # fmt: skip
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def write(page: Path, rows: list[dict[str, Any]]) -> None:
    """The table, below what somebody wrote."""
    above = page.read_text().partition(BELOW)[0].rstrip() if page.exists() else "# The standard attack"
    heads = ("model", "p", "batch", "iterations", "mean image", "best single attack", *VERSIONS, "by", "the best")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    cells = dict.fromkeys((row["model"], row["dropout"], row["batch"]) for row in rows)
    for cell in cells:
        here = [row for row in rows if (row["model"], row["dropout"], row["batch"]) == cell]
        by_name = {row["attack"]: row for row in here}
        floor, first, ours = (by_name.pop(name) for name in ("null_mean", *VERSIONS))
        single = max((row for row in by_name.values() if not row["declined"]), key=_median)
        theirs, own = ([min(EXACT, each) for each in row["each"]] for row in (single, ours))
        behind = median(theirs) - median(own)
        apart = sorted(mine - its for mine, its in zip(own, theirs))
        verdict = f"**no, {behind:.1f} dB behind**"
        if behind <= WITHIN or apart[-1] > 0:
            verdict = "yes" if behind <= WITHIN else f"victims differ: {apart[0]:+.1f} to {apart[-1]:+.1f} dB"
        by = ", ".join(filter(None, ours["stages"])) or "-"
        best, limit = f"{_text(single)} `{single['attack']}`", str(ours["iterations"])
        measured = (f"{_median(floor):.1f}", best, _text(first), _text(ours))
        shown = (cell[0], f"{cell[1]:g}", str(cell[2]), limit, *measured, by, verdict)
        lines.append(f"| {' | '.join(shown)} |")
    page.write_text("\n".join([above, "", BELOW, "", *lines, ""]))


def _median(row: dict[str, Any]) -> float:
    return min(100.0, median(row["each"]))


def _text(row: dict[str, Any]) -> str:
    low, high = (min(100.0, end(row["each"])) for end in (min, max))
    return f"{_median(row):.1f} ({low:.1f} to {high:.1f})"


if __name__ == "__main__":
    main()
