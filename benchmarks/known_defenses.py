"""What it is worth to know the client's defense: attacks that are told of it, and attacks that are not.

    python benchmarks/known_defenses.py --victims 16 --iterations 3000

One row per defense and attacker, on bundled MNIST images, a fresh MLP without bias (`--bias` for one with; `--model`),
batch 1, a shared gradient. Where a client drew what can be looked for, such as masks, one attacker looks for it, and
the oracle is told it. PSNR in [0, 1] pixels of the answer with the lowest attack loss, and the median of that loss;
steps a second are those of a victim. Keys of the attack are given as JSON, for instance what it starts from:

    python benchmarks/known_defenses.py --only pruning --keys '{"start": "first_linear"}'

Noise that is one number an entry, under an attack that optimises and the closed form that weighs it:

    python benchmarks/known_defenses.py --bias --dropout 0 0.5 --attack inverting_gradients first_linear --knows no yes

A victim whose attack declined counts with what the public mean image has.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections import Counter
from dataclasses import replace
from statistics import median
from typing import Any, Literal

import torch
from splits import victims
from torch import Tensor

import attacks
from attacks import LocalTraining, Observation, Reconstruction, ThreatModel
from attacks.cascade import Cascade
from attacks.iterative import IterativeAttack
from defenses import compose
from defenses.client.round import ORDER, ClientRound, play
from defenses.client.training import freeze
from fedsim import data, models
from fedsim.local import Local, generators, observed
from fedsim.scoring.matching import match
from fedsim.scoring.metrics import METRICS

DEFENSES: dict[str, dict[str, Any]] = {
    "none": {"name": "none"},
    "gaussian_noise, std 1e-3": {"name": "gaussian_noise", "std": 1e-3},
    "gaussian_noise, std 1e-2": {"name": "gaussian_noise", "std": 1e-2},
    "laplace_noise, scale 1e-3": {"name": "laplace_noise", "scale": 1e-3},
    "laplace_noise, scale 1e-2": {"name": "laplace_noise", "scale": 1e-2},
    "random_sparsification, 0.1": {"name": "random_sparsification", "keep": 0.1},
    "partial_pert., std 1e-3": {"name": "partial_perturbation", "std": 1e-3},
    "partial_pert., std 1e-2": {"name": "partial_perturbation", "std": 1e-2},
    "partial_pert., std 1": {"name": "partial_perturbation", "std": 1.0},
    "partial_pert., head, std 1": {"name": "partial_perturbation", "std": 1.0, "parameters": "head.*"},
    "soteria, prune 0.5": {"name": "soteria", "prune": 0.5},
    "soteria, prune 0.9": {"name": "soteria", "prune": 0.9},
    "gradient_dropout, p 0.5": {"name": "gradient_dropout", "p": 0.5},
    "gradient_dropout, std 0.1": {"name": "gradient_dropout", "std": 0.1},
    "censor": {"name": "censor"},
    "censor, as published": {"name": "censor", "as_published": True},
    "outpost": {"name": "outpost"},
    "dcs": {"name": "dcs"},
    "ats": {"name": "ats"},
    "instahide, k 1": {"name": "instahide", "k": 1, "most": 1},
    "training_randomness": {"name": "training_randomness"},
    "training_randomness, std 0.1": {"name": "training_randomness", "std": 0.1},
    "svdefense, energy 0.9": {"name": "svdefense", "energy": 0.9},
    "local_dp, epsilon 1": {"name": "local_dp"},
    "local_dp, epsilon 1000": {"name": "local_dp", "epsilon": 1000.0},
    "pruning, keep 0.3": {"name": "pruning", "keep": 0.3},
    "pruning, keep 0.1": {"name": "pruning", "keep": 0.1},
    "pruning, keep 0.03": {"name": "pruning", "keep": 0.03},
    "sign": {"name": "sign"},
    "quantization, 16 levels": {"name": "quantization", "levels": 16},
    "quantization, 4 levels": {"name": "quantization", "levels": 4},
    "quantization, 1 level": {"name": "quantization", "levels": 1},
    "dp_sgd, noise 0.01": {"name": "dp_sgd", "noise_multiplier": 0.01},
    "dp_sgd, noise 1": {"name": "dp_sgd"},
    "precode": {"name": "precode"},
    "dropconnect, p 0.3": {"name": "dropconnect", "p": 0.3},
}

ATTACKERS = ["no", "yes", "seeks", "oracle"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--victims", type=int, default=16)
    parser.add_argument("--iterations", type=int, default=3_000)
    parser.add_argument("--attack", nargs="+", default=["inverting_gradients"])
    parser.add_argument("--keys", type=json.loads, default={}, help="further keys of the attack, as JSON")
    parser.add_argument("--knows", nargs="+", choices=ATTACKERS, default=ATTACKERS, help="whom to measure")
    parser.add_argument("--model", choices=["mlp", "lenet"], default="mlp")
    parser.add_argument("--dropout", type=float, nargs="+", default=[0.0])
    parser.add_argument("--bias", action="store_true")
    parser.add_argument("--only", nargs="+", default=[""], help="parts of names of defenses")
    parser.add_argument("--compile", choices=["always", "never", "auto"], default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print a JSON list of rows")
    arguments = parser.parse_args()
    chosen = {name: spec for name, spec in DEFENSES.items() if any(part in name for part in arguments.only)}
    rows = [
        row
        for attack, dropout, (name, spec) in itertools.product(arguments.attack, arguments.dropout, chosen.items())
        for row in measure(name, spec, argparse.Namespace(**{**vars(arguments), "attack": attack, "dropout": dropout}))
    ]
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return
    print(
        f"{', '.join(arguments.attack)} {json.dumps(arguments.keys)} on {arguments.model}, mnist, "
        f"{arguments.victims} victims, "
        f"at most {arguments.iterations} iterations"
    )
    print(f"{'defense':<29}{'dropout':>8} {'attack':<20}{'knows':>7}{'min':>8}{'median':>8}{'loss':>10}{'steps/s':>9}")
    for row in rows:
        print(
            f"{row['defense']:<29}{row['dropout']:>8g} {row['attack']:<20}{row['knows']:>7}{row['min_psnr']:>8.1f}"
            f"{row['median_psnr']:>8.1f}{row['median_loss']:>10.1e}{row['steps_per_second']:>9.0f}  {row['stopped']}"
        )


def clients(
    described: dict[str, Any],
    parts: list[dict[str, Any]],
    arguments: argparse.Namespace,
    *,
    local: LocalTraining | None = None,
) -> tuple[list[Tensor], list[Observation], data.Dataset]:
    """Clients of `--victims`, each with images of its own: the images in [0, 1], what the server sees of them with all
    grants, and the data set.

    Args:
        described: the model; the defenses in `parts` change it.
        local: the clients send weight deltas of it; without, the gradient of one step. Epochs go through three images
            in twos, or `--examples` in batches of `--batch`.
    """
    share: Literal["gradient", "delta"] = "gradient" if local is None else "delta"
    local = local or LocalTraining()
    dataset = data.load({"name": getattr(arguments, "dataset", "mnist")})
    shape, classes = dataset.input_shape, len(dataset.classes)
    size = getattr(arguments, "batch", 2 if local.epochs else 1)
    count = getattr(arguments, "examples", 3) if local.epochs else size * local.steps
    client = Local(training=local, batch_size=size, share="gradient" if share == "gradient" else "weights")
    order = victims(len(dataset.train_images), getattr(arguments, "split", "publish"), seed=arguments.seed)
    truths, seen = [], []
    for victim in range(arguments.victims):
        chosen = order[victim * count : (victim + 1) * count]
        model = freeze(
            models.build({**described, "defenses": parts}, input_shape=shape, classes=classes, seed=arguments.seed),
            local.trained,
        )
        state = {key: value.clone() for key, value in model.state_dict().items()}
        images, labels = dataset.normalise(dataset.train_images[chosen]), dataset.train_labels[chosen]
        round = ClientRound(
            model=model,
            local=local,
            defense=compose(parts),
            share=share,
            batch_size=size,
            classes=classes,
        )
        played = play(round, state, images, labels, generators(arguments.seed, client=victim, round=1))
        truths.append(dataset.train_images[chosen].double() / 255)
        sent = observed(dataset, client, state=state, update=played.update)
        seen.append(
            replace(
                sent,
                labels=labels,
                examples=count,
                order=played.drawn.pop(ORDER, None),
                noise={name: value for name, value in played.drawn.items() if played.sites[name].structural},
                defense=tuple(parts),
                client=victim,
            )
        )
    return truths, seen, dataset


def psnr(truth: Tensor, answer: Reconstruction, dataset: data.Dataset) -> float:
    """The mean over a client's images, each matched to the one that it shows, in [0, 1] pixels."""
    mean, std = (torch.tensor(value).double().view(-1, 1, 1) for value in (dataset.mean, dataset.std))
    found = (answer.images.double() * std + mean).clamp(0, 1)
    return float(METRICS["psnr"](truth, found[match(truth, found)]).mean())


def measure(name: str, spec: dict[str, Any], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    described: dict[str, Any] = {"name": arguments.model, "dropout": arguments.dropout}
    described |= {"bias": arguments.bias} if arguments.model == "mlp" else {}
    truths, seen, dataset = clients(described, [spec], arguments)
    rows = []
    attackers: list[tuple[str, str, tuple[dict[str, Any]] | None]] = [
        ("no", arguments.attack, None),
        ("yes", arguments.attack, (spec,)),
    ]
    if seen[0].noise:
        attackers += [("seeks", "dropout_inversion", (spec,)), ("oracle", "well_informed", (spec,))]
    for knows, algorithm, granted in attackers:
        if knows not in arguments.knows:
            continue
        iterates = issubclass(attacks.get(algorithm), (IterativeAttack, Cascade))
        keys = {"iterations": arguments.iterations} if iterates else {}
        attack = attacks.create(algorithm, **keys, **(arguments.keys if algorithm == arguments.attack else {}))
        attack.compile = arguments.compile
        known = {**described, "defenses": [spec], "resting": granted is None}
        shape, classes = dataset.input_shape, len(dataset.classes)
        model = models.build(known, input_shape=shape, classes=classes, seed=arguments.seed)
        began = time.perf_counter()
        answers = attack.run(
            [replace(one, defense=granted) for one in seen], ThreatModel(**attack.given), model, seed=arguments.seed
        )
        seconds = time.perf_counter() - began - attack.compile_seconds
        answered = [answer for answer in answers if isinstance(answer, Reconstruction)]
        grey = [Reconstruction(images=torch.zeros_like(truth), loss=math.nan) for truth in truths]
        images = [answer if isinstance(answer, Reconstruction) else floor for answer, floor in zip(answers, grey)]
        scores = [psnr(truth, image, dataset) for truth, image in zip(truths, images)]
        why = Counter(answer.stopped or "solved" for answer in answered)
        why["declined"] = len(answers) - len(answered)
        why["certain"] = sum(all(answer.details.get("certain", [False])) for answer in answered)
        rows.append(
            {
                "defense": name,
                "dropout": arguments.dropout,
                "attack": algorithm,
                "knows": knows,
                "min_psnr": min(scores),
                "median_psnr": median(scores),
                "median_loss": median([answer.loss for answer in answered] or [math.nan]),
                "steps_per_second": sum(answer.iterations for answer in answered) / seconds,
                "stopped": ", ".join(f"{reason} {count}" for reason, count in why.items() if count),
            }
        )
    return rows


if __name__ == "__main__":
    main()
