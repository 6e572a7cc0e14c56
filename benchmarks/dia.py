"""Does dropout protect a client? The Dropout Inversion Attack against IG and the oracle WIIG, measured.

    python benchmarks/dia.py --model mlp --data mnist --dropout 0.5 --victims 16

One row per attack, at equal budgets: PSNR in [0, 1] pixels of the answer with the lowest attack loss, the share of
victims at 50 dB or more, the iterations until an iterate has 30 dB, the share of victims that converged or were given
up before their budget was spent, and the speed in victim-steps a second (one step of
one victim). The update is computed here, in train mode with the client's own dropout masks, by an untrained model.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from dataclasses import replace
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor

import attacks
from attacks import NotApplicable, Observation, ThreatModel
from attacks.unknowns import Guess
from defenses.stochastic import Dropout, record
from fedsim import data, models
from fedsim.federation.start import train_centrally
from fedsim.local import Local, observed
from fedsim.random import rng_for, seed_for

ATTACKS = ("inverting_gradients", "dropout_inversion", "well_informed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model", default="mlp", help="mlp, lenet, resnet18 or vit; the MLP is without bias, as the paper's"
    )
    parser.add_argument("--keys", type=json.loads, default={}, help='further keys of the model: {"width": 16}')
    parser.add_argument("--data", default="mnist", help="mnist or photos")
    parser.add_argument("--dropout", type=float, default=0.5)
    parser.add_argument("--victims", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=20_000)
    parser.add_argument("--tolerance", type=float, help="instead of each attack's own; 0: none converges")
    parser.add_argument("--hide-rate", action="store_true", help="from the attacks: the server does not know it")
    parser.add_argument("--attacks", nargs="+", default=list(ATTACKS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print a JSON list of rows")
    arguments = parser.parse_args()
    images, observations, model, std = clients(arguments)
    if arguments.hide_rate:  # as fedsim builds the model for an attacker who is not told the rate
        for layer in model.modules():
            if isinstance(layer, Dropout):
                layer.p = 0.0
    granted = "unknown" if arguments.hide_rate else "known"
    limits: dict[str, Any] = {"iterations": arguments.iterations}
    if arguments.tolerance is not None:
        limits["tolerance"] = arguments.tolerance
    rows = [measure(name, limits, images, observations, model, std, granted) for name in arguments.attacks]
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return
    print(
        f"{arguments.model} on {arguments.data}, dropout {arguments.dropout}, {arguments.victims} victims of batch "
        f"size {arguments.batch_size}, at most {arguments.iterations} iterations, {torch.get_num_threads()} threads"
    )
    print("  ".join(f"{column:>{max(len(column), 8)}}" for column in ["attack".ljust(19), *list(rows[0])[1:]]))
    for row in rows:
        cells = [str(row["attack"]).ljust(19)]
        cells += [f"{_short(value):>{max(len(column), 8)}}" for column, value in list(row.items())[1:]]
        print("  ".join(cells))


def clients(arguments: argparse.Namespace) -> tuple[list[Tensor], list[Observation], torch.nn.Module, Tensor]:
    """Honest clients, each with images of its own: their images, what the server sees of them, the model, the std."""
    dataset = data.load({"name": arguments.data})
    spec: dict[str, Any] = {"name": arguments.model, "dropout": arguments.dropout}
    if arguments.model == "mlp":
        spec["bias"] = False
    spec |= arguments.keys
    model = models.build(spec, input_shape=dataset.input_shape, classes=len(dataset.classes), seed=arguments.seed)
    if getattr(arguments, "pretrain", 0):
        train_centrally(model, dataset, steps=arguments.pretrain, batch_size=32, learning_rate=0.1, seed=arguments.seed)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    order = rng_for(arguments.seed, "victims").permutation(len(dataset.train_images))
    images, observations = [], []
    for client in range(arguments.victims):
        chosen = torch.from_numpy(order[client * arguments.batch_size : (client + 1) * arguments.batch_size].copy())
        x, y = dataset.normalise(dataset.train_images[chosen]), dataset.train_labels[chosen]
        model.load_state_dict(state)
        model.zero_grad()
        with torch.random.fork_rng(), record(model) as drawn:
            torch.manual_seed(seed_for(arguments.seed, "masks", client=client))
            torch.nn.functional.cross_entropy(model(x), y).backward()
        images.append(x)
        update = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        seen = observed(dataset, Local(batch_size=arguments.batch_size), state=state, update=update)
        noise = {path: noise[0] for path, noise in drawn.items() if noise}
        observations.append(replace(seen, labels=y, noise=noise, client=client))
    return images, observations, model, torch.tensor(dataset.std).view(-1, 1, 1)


def measure(
    name: str,
    limits: dict[str, Any],
    images: list[Tensor],
    observations: list[Observation],
    model: torch.nn.Module,
    std: Tensor,
    dropout_rate: Literal["known", "unknown"] = "known",
) -> dict[str, Any]:
    """One attack on all clients at once: a row of the table."""
    truth = torch.stack(images)
    reached: dict[int, int] = {}
    steps = 0

    def watch(iteration: int, problems: Tensor, guess: Guess) -> None:
        nonlocal steps
        steps += len(problems)
        errors = (std * (guess["images"] - truth[problems])).square().flatten(1).mean(1)
        for problem in problems[errors <= 1e-3].tolist():  # 30 dB
            reached.setdefault(problem, iteration)

    attack = attacks.create(name, **limits)
    attack.watch = watch  # type: ignore[attr-defined]
    threat_model = ThreatModel(noise="known" if attack.oracle else "unknown", dropout_rate=dropout_rate)
    begin = time.perf_counter()
    results = attack.run(observations, threat_model, model)
    seconds = time.perf_counter() - begin
    answers = [(i, result) for i, result in enumerate(results) if not isinstance(result, NotApplicable)]
    if not answers:
        raise SystemExit(f"{name}: {results[0]}")
    reasons = Counter(result.stopped for _, result in answers)
    scores = [psnr(result.images, images[i], std) for i, result in answers]
    return {
        "attack": name,
        "median_psnr": median(scores),
        "worst_psnr": min(scores),
        "share_50db": sum(score >= 50 for score in scores) / len(scores),
        "share_30db": len(reached) / len(scores),
        "to_30db": median(reached.values()) if 2 * len(reached) > len(scores) else None,
        "iterations": median(result.iterations for _, result in answers),
        "converged": reasons["converged"] / len(answers),
        "given_up": reasons["patience"] / len(answers),
        "seconds": seconds,
        "steps_per_s": steps / seconds,
    }


def psnr(guess: Tensor, truth: Tensor, std: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of normalised images (B, C, H, W), in [0, 1] pixel space."""
    return -10 * float((std * (guess - truth)).square().mean().clamp_min(1e-16).log10())


def _short(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.2f}"


if __name__ == "__main__":
    main()
