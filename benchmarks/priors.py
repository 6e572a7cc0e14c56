"""What attacks with a prior make of a noised update, beside Inverting Gradients without one.

    fedsim train-decoder mnist --set test_fraction=0.5 --out digits.safetensors
    python benchmarks/priors.py digits --decoder digits.safetensors
    python benchmarks/priors.py faces                # pip install 'fedsim-privacy[faces]'
    python benchmarks/priors.py pretrained           # pip install 'fedsim-privacy[pretrained]'

One image a client, float32 gradient, labels known, weights of seed 0; the victims are the first `--victims` of a random
order, after `--skip` of it, which are for development. `gaussian_noise` adds `--std` to every entry; `noise` is its
length over the gradient's. PSNR, SSIM and LPIPS are the median of the victims, with the lowest and the highest; `s` is
wall time a victim. `digits` and `faces`: LeNet. `faces`: see `examples/priors/faces.py`. `pretrained`:
EfficientNet-Lite0 with ImageNet's weights and a fresh head, on photographs of 64 pixels, in evaluation and in train
mode.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from patch_embedding import show
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

import attacks
import defenses
from attacks import Observation, Reconstruction, ThreatModel
from attacks.statistics import revealed
from fedsim import data, decoders, models
from fedsim.data import Dataset
from fedsim.local import Local, observed, train
from fedsim.random import rng_for, seed_for
from fedsim.scoring.metrics import METRICS

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "priors"
IG, SMOOTH = ("inverting_gradients", {}), ("inverting_gradients", {"total_variation": 0.1})
LONG = [(name, {**keys, "iterations": 1000}) for name, keys in (IG, SMOOTH)]
PLAN: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "digits": [*LONG, ("deep_image_prior", {}), ("ggl", {}), ("gias", {"restarts": 2})],
    "faces": [*LONG, ("deep_image_prior", {}), ("ggl", {"restarts": 2}), ("gias", {"restarts": 1})],
    "pretrained": [IG, SMOOTH, ("gradinversion", {"restarts": 1})],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=sorted(PLAN))
    parser.add_argument("--decoder", help="digits: what `fedsim train-decoder` wrote")
    parser.add_argument("--victims", type=int, default=4)
    parser.add_argument("--skip", type=int, default=0, help="victims that are left out first: those for development")
    parser.add_argument("--std", type=float, default=0.01)
    parser.add_argument("--iterations", type=int, default=400)
    parser.add_argument("--only", nargs="+", default=[""], help="parts of names of attacks")
    parser.add_argument("--modes", nargs="+", choices=["eval", "train"], help="default: train, and both of pretrained")
    parser.add_argument("--picture", help="a PNG: originals, and below them what each attack made of their updates")
    arguments = parser.parse_args()
    plan = [(name, keys) for name, keys in PLAN[arguments.what] if any(part in name for part in arguments.only)]
    if not plan:
        parser.error(f"--only: of {', '.join(dict(PLAN[arguments.what]))} no name has any of these parts")
    dataset, model, decoder = setting(arguments)
    rows, shown = [], list[Tensor]()
    modes = ["eval", "train"] if arguments.what == "pretrained" else ["train"]
    for mode in arguments.modes or modes:
        seen, images, noise = clients(dataset, model, mode, arguments)
        shown = shown or [images]
        for name, keys in plan:
            own = {"decoder": decoder} if name in ("ggl", "gias") else {}
            attack = attacks.create(name, **{"iterations": arguments.iterations, **keys, **own})
            attack.compile = "never"
            threat = ThreatModel(
                auxiliary_data="public",
                client_mode=mode,
                batch_norm=revealed(seen[0].state, seen[0].buffers),
            )
            began = time.perf_counter()
            answers = attack.run(seen, threat, models.build(model[0], **model[1]), seed=0)
            seconds = (time.perf_counter() - began) / len(seen)
            label = ", ".join([name, *(f"{key}={value}" for key, value in keys.items())])
            row = {"mode": mode, "noise": noise, "attack": label, "s": round(seconds)}
            declined = [answer for answer in answers if not isinstance(answer, Reconstruction)]
            if declined:
                rows.append({**row, "psnr": str(declined[0])[:40], "ssim": "", "lpips": ""})
                continue
            found = pixels(torch.cat([answer.images for answer in answers]), dataset)  # type: ignore[union-attr]
            shown.append(found)
            for metric in ("psnr", "ssim", "lpips"):
                row[metric] = ranged(METRICS[metric](images, found).tolist())
            rows.append(row)
            print(row, file=sys.stderr, flush=True)
            if arguments.picture:
                draw(shown, arguments.picture)
    show(rows)


def setting(arguments: argparse.Namespace) -> tuple[Dataset, tuple[dict[str, Any], dict[str, Any]], Any]:
    """The data, what `models.build` is given, and the decoder."""
    spec: dict[str, Any] = {"name": "lenet"}
    decoder = None
    if arguments.what == "digits":
        dataset = data.load({"name": "mnist", "test_fraction": 0.5})
        block = {"name": "conv", "checkpoint": arguments.decoder}
        decoder = decoders.build(block, input_shape=dataset.input_shape)
    elif arguments.what == "faces":
        sys.path.insert(0, str(EXAMPLE))
        import faces  # type: ignore[import-not-found]

        faces.main("build/faces.npz")
        dataset = data.load({"name": "npz", "path": "build/faces.npz"})
        decoder = faces.decoder(dataset.input_shape)
    else:
        dataset, spec = data.load({"name": "photos", "image_size": 64}), {"name": "efficientnet_lite0"}
    keys = {"input_shape": dataset.input_shape, "classes": len(dataset.classes), "seed": seed_for(0, "weights")}
    return dataset, (spec, keys), decoder


def clients(
    dataset: Dataset, model: tuple[dict[str, Any], dict[str, Any]], mode: str, arguments: argparse.Namespace
) -> tuple[list[Observation], Tensor, str]:
    """What the server sees of each, their images as pixels, and the noise's length over the gradient's."""
    order = rng_for(0, "victims").permutation(len(dataset.train_images))
    chosen = torch.from_numpy(order[arguments.skip :][: arguments.victims].copy())
    local = Local(batch_size=1, mode=mode)
    seen, shares = [], []
    for number, index in enumerate(chosen.tolist()):
        images, labels = dataset.normalise(dataset.train_images[[index]]), dataset.train_labels[[index]]
        updates = []
        for parts in ([], [{"name": "gaussian_noise", "std": arguments.std}]):
            client = models.build(model[0], **model[1])
            before = {name: value.clone() for name, value in client.state_dict().items()}
            result = train(
                client,
                images,
                labels,
                local=local,
                defense=defenses.compose(parts if arguments.std else []),
                seed=0,
                client=number,
                round=1,
                classes=len(dataset.classes),
            )
            updates.append(result.played.update)
            buffers = dict(result.played.buffers)
        plain, noised = (torch.cat([value.flatten() for value in update.values()]) for update in updates)
        shares.append(float((noised - plain).norm() / plain.norm()))
        one = observed(dataset, local, state=before, update=updates[1])
        seen.append(
            replace(one, client=number, labels=labels, buffers=buffers, batch_size=1)
        )
    return seen, dataset.train_images[chosen].float() / 255, f"{100 * median(shares):.1f} %"


def pixels(images: Tensor, dataset: Dataset) -> Tensor:
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (dataset.mean, dataset.std))
    return (images * std + mean).clamp(0, 1)


def ranged(values: list[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def draw(rows: list[Tensor], target: str) -> None:
    """The originals above what each attack made of them, in the order of the table."""
    shown = torch.cat([torch.cat([F.pad(image, (1, 1, 1, 1), value=1.0) for image in row], 2) for row in rows], 1)
    array = (shown.expand(3, -1, -1).permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    picture = Image.fromarray(array)
    picture.resize((2 * picture.width, 2 * picture.height), Image.Resampling.NEAREST).save(target)


if __name__ == "__main__":
    main()
