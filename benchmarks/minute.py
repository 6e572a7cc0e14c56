"""How long each attack takes for one cell of four digits, at its defaults.

    python benchmarks/minute.py --markdown
    python benchmarks/minute.py --models lenet --batches 4 --only fedavg_inversion

Wall seconds of four victims side by side on the engine, one thread, by model and batch size: gradients of one step in
train mode with `--dropout`, MNIST, first weights, labels known, public images granted; oracles are told what was drawn.
`-` where an attack declines; a star above `--most` seconds. Attacks of a malicious server are not searches of their own
and are left out; so are those that need a decoder, which `benchmarks/priors.py` measures.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from known_defenses import clients
from splits import add_split

import attacks
from attacks import NotApplicable, ThreatModel
from attacks.malicious import MaliciousAttack
from defenses.registry import parameters
from fedsim import models


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["mlp", "lenet"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--victims", type=int, default=4)
    parser.add_argument("--dropout", type=float, default=0.5)
    parser.add_argument("--only", nargs="+", default=[""], help="parts of names of attacks")
    parser.add_argument("--most", type=float, default=60.0, help="seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--markdown", action="store_true")
    add_split(parser)
    arguments = parser.parse_args()
    cells = [(model, batch) for model in arguments.models for batch in arguments.batches]
    between, end = (" | ", " |") if arguments.markdown else ("  ", "")
    start = "| " if arguments.markdown else ""
    print(start + between.join([f"{'attack':<24}", *(f"{model}, batch {batch}" for model, batch in cells)]) + end)
    if arguments.markdown:
        print("|".join(["|---", *["--:"] * len(cells)]) + "|")
    seen = {(model, batch): _clients(model, batch, arguments) for model, batch in cells}
    for name in names(arguments.only):
        times = [_cell(seconds(name, *seen[cell], arguments.seed), arguments.most) for cell in cells]
        times = [each.replace("*", "\\*") if arguments.markdown else each for each in times]
        shown = f"`{name}`" if arguments.markdown else name
        print(start + between.join([f"{shown:<24}", *(f"{each:>14}" for each in times)]) + end, flush=True)


def names(parts: list[str]) -> list[str]:
    """Those that have no model to change and no parameter without a default."""
    every = [name for name in attacks.names() if any(part in name for part in parts)]
    alone = [name for name in every if not issubclass(attacks.get(name), MaliciousAttack)]
    return [n for n in alone if all(p.default is not p.empty for p in parameters(attacks.get(n)).values())]


def seconds(name: str, model: Any, seen: list[Any], seed: int) -> float | None:
    """Of all victims side by side; None where the attack declines each."""
    threat_model = ThreatModel(noise="known" if attacks.get(name).oracle else "unknown", auxiliary_data="public")
    began = time.perf_counter()
    answers = attacks.create(name).run(seen, threat_model, model, seed=seed)
    took = time.perf_counter() - began
    return None if all(isinstance(answer, NotApplicable) for answer in answers) else took


def _clients(name: str, batch: int, arguments: argparse.Namespace) -> tuple[Any, list[Any]]:
    spec = {"name": name, "dropout": arguments.dropout}
    own = argparse.Namespace(**{**vars(arguments), "batch": batch, "dataset": "mnist"})
    _, seen, dataset = clients(spec, [], own)
    shape, classes = dataset.input_shape, len(dataset.classes)
    return models.build(spec, input_shape=shape, classes=classes, seed=arguments.seed), seen


def _cell(took: float | None, most: float) -> str:
    return "-" if took is None else f"{took:.1f}" + ("*" if took > most else "")


if __name__ == "__main__":
    main()
