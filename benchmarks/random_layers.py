"""What defenses that act in the model hide from attackers who know them, and who do not.

    python benchmarks/random_layers.py --defense dropconnect --p 0.3 --victims 16 --iterations 3000

One image a client, as initialised, PSNR in [0, 1] pixels. `ignored`: inverting_gradients that does not know the
defense; `still`: that knows it and puts nothing in the place of its noise; then the attacks that know it.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from statistics import median

import torch
from known_defenses import clients, psnr

import attacks
from attacks import NotApplicable, ThreatModel
from fedsim import data, models

ATTACKS = ("inverting_gradients", "dropout_inversion", "mask_readout", "well_informed", "cut", "first_linear")
ITERATIVE = ATTACKS[:5]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mlp")
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--model-keys", type=json.loads, default={}, help="other keys of the model, as JSON")
    parser.add_argument("--bias", action="store_true", help="of mlp, which has none otherwise")
    parser.add_argument("--defense", default="dropconnect")
    parser.add_argument("--p", type=float, help="of the defense, if it has a rate")
    parser.add_argument("--keys", type=json.loads, default={}, help="other keys of the defense, as JSON")
    parser.add_argument("--victims", type=int, default=16)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=3_000)
    parser.add_argument("--attacks", nargs="+", default=list(ATTACKS))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rate = {} if arguments.p is None else {"p": arguments.p}
    parts = [{"name": arguments.defense, **rate, **arguments.keys}]
    spec = {"name": arguments.model, "dropout": 0.0}
    if arguments.model == "mlp":
        spec["bias"] = arguments.bias
    spec |= arguments.model_keys
    truths, seen, dataset = clients(spec, parts, arguments)
    build = {"input_shape": dataset.input_shape, "classes": len(dataset.classes), "seed": arguments.seed}
    spec["defenses"] = parts
    told, resting = models.build(spec, **build), models.build({**spec, "resting": True}, **build)
    named = f"{arguments.model}, {arguments.model_keys}, {arguments.dataset}"
    print(f"{named}, {parts}, {arguments.victims} victims, batch {arguments.batch}")
    print(f"{'attack':<32}{'min':>8}{'median':>8}{'noise right':>13}{'iterations':>12}{'loss':>10}")
    for name in arguments.attacks:
        budget = {"iterations": arguments.iterations} if name in ITERATIVE else {}
        for knows in ("unknown", "known"):
            if knows == "unknown" and name in ("dropout_inversion", "mask_readout", "well_informed"):
                continue
            known = knows == "known"
            attack = attacks.create(name, **budget)
            threat = ThreatModel(defense=knows, **attack.given)
            views = seen if known else [replace(one, defense=None) for one in seen]
            answers = attack.run(views, threat, told if known else resting, seed=arguments.seed)
            report(f"{name}, {knows}", answers, truths, seen, dataset)


def report(label: str, answers: list, truths: list, seen: list, dataset: data.Dataset) -> None:
    scores, rights, iterations, losses = [], [], [], []
    for truth, answer, one in zip(truths, answers, seen):
        if isinstance(answer, NotApplicable):
            print(f"{label:<32} {str(answer)[:100]}")
            return
        scores.append(psnr(truth, answer, dataset))
        noise = {name: value for name, value in (answer.noise or {}).items() if name in one.noise}
        entries = [(value.double().round() == one.noise[name].double()).flatten() for name, value in noise.items()]
        rights.append(float(torch.cat(entries).double().mean()) if entries else float("nan"))
        iterations.append(answer.iterations)
        losses.append(answer.loss)
    print(
        f"{label:<32}{min(scores):>8.1f}{median(scores):>8.1f}{median(rights):>13.4f}{median(iterations):>12.0f}"
        f"{median(losses):>10.1e}",
        flush=True,
    )


if __name__ == "__main__":
    main()
