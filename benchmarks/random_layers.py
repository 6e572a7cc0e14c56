"""What defenses that act in the model hide from attackers who know them, and who do not.

    python benchmarks/random_layers.py --defense dropconnect --p 0.3 --victims 16 --iterations 3000

One image a client, as initialised, PSNR in [0, 1] pixels. `ignored`: inverting_gradients that does not know the
defense; `still`: that knows it and puts nothing in the place of its noise; then the attacks that know it.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from statistics import median

import torch

import attacks
from attacks import NotApplicable, Observation, ThreatModel
from defenses import compose
from defenses.client.round import ClientRound, play
from fedsim import data, models
from fedsim.local import generators
from fedsim.random import rng_for
from fedsim.scoring.matching import match
from fedsim.scoring.metrics import METRICS

ATTACKS = ("inverting_gradients", "dropout_inversion", "mask_readout", "well_informed", "cut", "first_linear")
ITERATIVE = ATTACKS[:5]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mlp")
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--bias", action="store_true", help="of mlp, which has none otherwise")
    parser.add_argument("--defense", default="dropconnect")
    parser.add_argument("--p", type=float, help="of the defense, if it has a rate")
    parser.add_argument("--per", help="of stochastic_depth: batch or example")
    parser.add_argument("--victims", type=int, default=16)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=3_000)
    parser.add_argument("--attacks", nargs="+", default=list(ATTACKS))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    given = {"p": arguments.p, "per": arguments.per}
    parts = [{"name": arguments.defense, **{key: value for key, value in given.items() if value is not None}}]
    spec = {"name": arguments.model, "dropout": 0.0, "defenses": parts}
    if arguments.model == "mlp":
        spec["bias"] = arguments.bias
    dataset = data.load({"name": arguments.dataset})
    shape, classes = dataset.input_shape, len(dataset.classes)
    build = {"input_shape": shape, "classes": classes, "seed": arguments.seed}
    order = rng_for(arguments.seed, "victims").permutation(len(dataset.train_images))
    state = {name: value.clone() for name, value in models.build(spec, **build).state_dict().items()}
    seen, truths = [], []
    for victim in range(arguments.victims):
        chosen = torch.from_numpy(order[victim * arguments.batch : (victim + 1) * arguments.batch])
        images, labels = dataset.normalise(dataset.train_images[chosen]), dataset.train_labels[chosen]
        round = ClientRound(model=models.build(spec, **build), defense=compose(parts))
        played = play(round, state, images, labels, generators(arguments.seed, client=victim, round=1))
        truths.append(dataset.train_images[chosen].double() / 255)
        seen.append(
            Observation(
                state=state,
                update=played.update,
                input_shape=shape,
                classes=classes,
                mean=dataset.mean,
                std=dataset.std,
                labels=labels,
                noise=played.drawn,
                defense=tuple(parts),
                client=victim,
            )
        )
    told, resting = models.build(spec, **build), models.build({**spec, "resting": True}, **build)
    print(f"{arguments.model}, {arguments.dataset}, {parts}, {arguments.victims} victims, batch {arguments.batch}")
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
        mean, std = (torch.tensor(value).double().view(-1, 1, 1) for value in (dataset.mean, dataset.std))
        found = (answer.images.double() * std + mean).clamp(0, 1)
        scores.append(float(METRICS["psnr"](truth, found[match(truth, found)]).mean()))
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
