"""What servers that change the model read off one batch, with and without dropout, and what a client could see of it.

    python benchmarks/malicious.py [--seeds 0 1 2] [--trained 300] [--fishing] [--ares] [--json]

The victim sends the float32 gradient of one batch, in train mode: 64 images for `imprint`, 20 for `trap_weights`, whose
`share` is 1 over that. `rebuilt` counts the images to which an answer comes within `--aim` dB, `certain` the answers
that the attack vouches for, `wrong` those of them that come within the aim of no image; each is the median over seeds,
with the range. `d_snr` and `alike` (`fedsim.scoring.detection`) are of the changed model, in brackets of the honest
one, on the same batch.

With `--fishing` the table is of that attack instead: in a batch of 64 digits one is of its class, on which it lets
`cascade` go with at most `--iterations`; `psnr` is that image's, `stage` who answered. With `--feature-fishing` all 32
are of the class, and `share` is 1 over that: `caught` counts the images that came in, `psnr` is of the image that an
answer is next to, of the rounds that caught any.

With `--ares` it is of that attack: networks of two convolutions with pooling and several linear layers, as PyTorch's
and Flower's tutorials have them, on batches of 8 and 20. `psnr` is the median over the batch's images of the answer
that is next to each, `20 dB` counts those to which one comes as near, `alone` those that are alone in a unit.

With `--trained N` the honest model is trained for N steps of SGD before.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from patch_embedding import show
from torch import nn

import attacks
import defenses
from attacks import NotApplicable, ThreatModel
from attacks.malicious import MaliciousAttack, Outset
from fedsim import data, models
from fedsim.data import Dataset
from fedsim.federation.start import train_centrally
from fedsim.local import Local, observed, train
from fedsim.random import rng_for, seed_for
from fedsim.scoring.detection import alike, disaggregation
from fedsim.sent import changed

VICTIMS: tuple[tuple[str, dict[str, Any], str, dict[str, Any], int], ...] = (
    ("mnist", {"name": "mlp"}, "imprint", {}, 64),
    ("mnist", {"name": "lenet"}, "imprint", {}, 64),
    ("photos", {"name": "resnet18", "width": 8}, "imprint", {}, 64),
    ("photos", {"name": "vit"}, "imprint", {}, 64),
    ("mnist", {"name": "mlp", "activation": "relu"}, "trap_weights", {"share": 0.05}, 20),
    ("mnist", {"name": "mlp"}, "trap_weights", {"share": 0.05}, 20),
    ("photos", {"name": "mlp", "activation": "relu"}, "trap_weights", {"share": 0.05}, 20),
    ("photos", {"name": "mlp"}, "trap_weights", {"share": 0.05}, 20),
)
TUTORIALS = (("mnist", "Flower's example"), ("photos", "PyTorch's tutorial"))
THREAT = ThreatModel(server="malicious", auxiliary_data="public", labels="unknown")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rates", type=float, nargs="+", default=[0.0, 0.5])
    parser.add_argument("--trained", type=int, default=0, help="steps of SGD before the attack, batch 32, rate 0.1")
    parser.add_argument("--aim", type=float, default=40.0, help="dB")
    parser.add_argument("--fishing", action="store_true")
    parser.add_argument("--feature-fishing", action="store_true")
    parser.add_argument("--ares", action="store_true")
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 20], help="of ares")
    parser.add_argument("--iterations", type=int, default=600, help="of what fishing lets go")
    parser.add_argument("--json", action="store_true", help="print a JSON list of rows")
    arguments = parser.parse_args()
    rows = []
    other = arguments.fishing or arguments.feature_fishing or arguments.ares
    for source, model, name, keys, batch in () if other else VICTIMS:
        dataset = data.load({"name": source})
        for rate in arguments.rates:
            found = [
                one(dataset, {**model, "dropout": rate}, {"name": name, **keys}, batch, seed, arguments)
                for seed in arguments.seeds
            ]
            label = model["name"] + (f", {model['activation']}" if "activation" in model else "")
            counts = {key: _range([each[key] for each in found]) for key in ("rebuilt", "certain", "wrong")}
            honest = {
                key: f"{median(e[key] for e in found):.2f} ({median(e[f'{key} honest'] for e in found):.2f})"
                for key in ("d_snr", "alike")
            }
            rows.append({"data": source, "model": label, "p": rate, "attack": name, "of": batch, **counts, **honest})
            if not arguments.json:
                print(".", end="", flush=True)
    for name in [n for n in ("fishing", "feature_fishing") if getattr(arguments, n)]:
        rows = [fished(name, model, rate, arguments) for model in ("mlp", "lenet") for rate in arguments.rates]
    if arguments.ares:
        rows = [
            recovered(source, name, rate, batch, arguments)
            for source, name in TUTORIALS
            for batch in arguments.batches
            for rate in arguments.rates
        ]
    if arguments.json:
        print(json.dumps(rows, indent=1))
    else:
        print()
        show(rows)


def fished(attack: str, name: str, rate: float, arguments: argparse.Namespace) -> dict[str, Any]:
    """A batch of digits for each seed: one of class 3 among 64, or of that class alone."""
    dataset = data.load({"name": "mnist"})
    of, keys = (64, {}) if attack == "fishing" else (32, {"share": 1 / 32})
    spec = {"name": attack, "target": 3, "iterations": arguments.iterations, **keys}
    fisher, found, caught, stages, seen = attacks.create(**spec), list[float](), list[int](), list[str](), []
    fisher.compile = "never"
    for seed in arguments.seeds:
        order = torch.from_numpy(rng_for(seed, "batch").permutation(len(dataset.train_images)).copy())
        of_class = dataset.train_labels[order] == 3
        mine = 1 if attack == "fishing" else of
        chosen = torch.cat([order[of_class][:mine], order[~of_class][: of - mine]])
        model = models.build(
            {"name": name, "dropout": rate},
            input_shape=dataset.input_shape,
            classes=len(dataset.classes),
            seed=seed_for(seed, "weights"),
        )
        images, labels = dataset.normalise(dataset.train_images[chosen]), dataset.train_labels[chosen]
        before = disaggregation(model, images, labels)
        state = {n: v.clone() for n, v in changed(model, dataset, spec, seed=0).items()}
        seen.append((disaggregation(model, images, labels), before))
        local = Local(batch_size=of)
        result = train(model, images, labels, local=local, defense=defenses.compose([]), seed=seed, client=0, round=1)
        observation = observed(dataset, local, state=state, update=result.played.update)
        try:
            answer = fisher(observation, replace(THREAT, batch_size="known"), model)
        except NotApplicable:
            caught.append(0)
            continue
        std = torch.tensor(dataset.std).view(-1, 1, 1)
        errors = ((answer.images[:, None] - images[None, :mine]) * std).square().flatten(2).mean(2)
        found.append(min(100.0, -10 * float(errors.min().clamp_min(1e-16).log10())))
        caught.append(answer.details["caught"])
        stages.append(str(answer.details.get("stage")))
    psnr = f"{median(found):.1f} ({min(found):.1f} to {max(found):.1f})" if found else "none"
    ratio = f"{median(after for after, _ in seen):.2f} ({median(before for _, before in seen):.2f})"
    row = {"model": name, "p": rate, "of": of, "caught": _range(caught), "psnr": psnr}
    return {**row, "stage": ", ".join(sorted(set(stages))), "d_snr": ratio}


def tutorial(source: str, rate: float) -> nn.Module:
    """A network of tutorials: for grey digits as in `examples/flower-quickstart`, for photographs as in PyTorch's
    training of a classifier; `rate` is of dropout behind the first linear layer."""
    pooled, drop = [nn.ReLU(), nn.MaxPool2d(2)], nn.Dropout(rate)
    if source == "mnist":
        first = [nn.Conv2d(1, 8, 5, padding=2), *pooled, nn.Conv2d(8, 16, 5, padding=2), *pooled, nn.Flatten()]
        return nn.Sequential(*first, nn.Linear(784, 64), nn.ReLU(), drop, nn.Linear(64, 10))
    first = [nn.Conv2d(3, 6, 5), *pooled, nn.Conv2d(6, 16, 5), *pooled, nn.Flatten()]
    last = [nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)]
    return nn.Sequential(*first, nn.Linear(400, 120), nn.ReLU(), drop, *last)


def recovered(source: str, name: str, rate: float, batch: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """What `ares` has of a batch, over seeds."""
    dataset, attack = data.load({"name": source}), attacks.create("ares", share=1 / batch)
    attack.compile = "never"
    psnr, shown, alone, certain, wrong = (list[float]() for _ in range(5))
    for seed in arguments.seeds:
        torch.manual_seed(seed_for(seed, "weights"))
        model = tutorial(source, rate)
        order = torch.from_numpy(rng_for(seed, "batch").permutation(len(dataset.train_images))[:batch].copy())
        images, labels = dataset.normalise(dataset.train_images[order]), dataset.train_labels[order]
        classes = len(dataset.classes)
        outset = Outset(
            input_shape=dataset.input_shape,
            classes=classes,
            mean=tuple(dataset.mean),
            std=tuple(dataset.std),
            public=dataset.public,
        )
        assert isinstance(attack, MaliciousAttack)
        attack.change(model, outset, seed=seed)
        state, local = {n: v.clone() for n, v in model.state_dict().items()}, Local(batch_size=batch)
        plain = defenses.compose([])
        result = train(
            model, images, labels, local=local, defense=plain, seed=seed, client=0, round=1, classes=classes
        )
        update = result.played.update
        answer = attack(observed(dataset, local, state=state, update=update), THREAT, model)
        std = torch.tensor(dataset.std).view(-1, 1, 1)
        errors = ((answer.images[:, None] - images[None]) * std).square().flatten(2).mean(2)
        near = -10 * errors.clamp_min(1e-10).log10()
        sure = torch.tensor(answer.details["certain"])
        psnr.append(float(near.amax(0).median()))
        shown.append(int((near.amax(0) >= 20).sum()))
        certain.append(int(sure.sum()))
        wrong.append(int((near[sure].amax(1) < 20).sum()))
        alone.append(_alone(model.eval(), images))
    decibels = f"{median(psnr):.1f} ({min(psnr):.1f} to {max(psnr):.1f})"
    counts = {"20 dB": shown, "alone": alone, "certain": certain, "certain below 20 dB": wrong}
    return {
        "data": source, "model": name, "p": rate, "of": batch, "psnr": decibels,
        **{key: _range(each) for key, each in counts.items()},
    }  # fmt: skip


def _alone(model: nn.Module, images: torch.Tensor) -> int:
    """How many images are alone in a unit of the first linear layer, had nothing been dropped."""
    layer = next(layer for layer in model.modules() if isinstance(layer, nn.Linear))
    made: list[torch.Tensor] = []
    handle = layer.register_forward_hook(lambda own, inputs, output: made.append(output))
    with torch.no_grad():
        model(images)
    handle.remove()
    active = made[0] > 0
    return int(active[:, active.sum(0) == 1].any(1).sum())


def one(
    dataset: Dataset,
    model: dict[str, Any],
    attack: dict[str, Any],
    batch: int,
    seed: int,
    arguments: argparse.Namespace,
) -> dict[str, float]:
    """One client under one server."""
    spec = {**model, "malicious": attack}
    shape, classes = dataset.input_shape, len(dataset.classes)
    how = {"input_shape": shape, "classes": classes, "seed": seed_for(seed, "weights")}
    victim, bare = models.build(spec, **how), models.build(model, **how)
    if arguments.trained:
        train_centrally(bare, dataset, steps=arguments.trained, batch_size=32, learning_rate=0.1, seed=seed)
    victim.load_state_dict({**victim.state_dict(), **bare.state_dict()})
    chosen = torch.from_numpy(rng_for(seed, "batch").permutation(len(dataset.train_images))[:batch].copy())
    images, labels = dataset.normalise(dataset.train_images[chosen]), dataset.train_labels[chosen]
    honest = disaggregation(victim, images, labels), alike(victim)
    state = changed(victim, dataset, attack, seed=seed_for(seed, "malicious"))
    state = {name: value.clone() for name, value in state.items()}
    seen = disaggregation(victim, images, labels), alike(victim)
    local = Local(batch_size=batch)
    plain = defenses.compose([])
    result = train(victim, images, labels, local=local, defense=plain, seed=seed, client=0, round=1, classes=classes)
    observation = observed(dataset, local, state=state, update=result.played.update)
    found = {"d_snr": seen[0], "alike": seen[1], "d_snr honest": honest[0], "alike honest": honest[1]}
    try:
        answer = attacks.create(**attack)(observation, THREAT, victim)
    except NotApplicable:
        return {"rebuilt": 0, "certain": 0, "wrong": 0, **found}
    std = torch.tensor(dataset.std).view(-1, 1, 1)
    errors = ((answer.images[:, None] - images[None]) * std).square().flatten(2).mean(2)  # (answers, images)
    near = errors <= 10 ** (-arguments.aim / 10)
    certain = torch.tensor(answer.details["certain"])
    return {
        "rebuilt": int(near.any(0).sum()),
        "certain": int(certain.sum()),
        "wrong": int((certain & ~near.any(1)).sum()),
        **found,
    }


def _range(values: list[float]) -> str:
    return f"{median(values):.0f} ({min(values):.0f} to {max(values):.0f})"


if __name__ == "__main__":
    main()
