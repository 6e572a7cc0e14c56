"""Where does dropout give a whole batch away? `sparse_dictionary` over batch size, width and dropout rate, measured.

    python benchmarks/phase_diagram.py --picture docs/phase_diagram.png

One cell is one client: a batch of colour photographs (32 x 32 x 3), an MLP with biases and three hidden layers, and its
float32 gradient in train mode. Cells are paired: with another rate the weights and the images stay the same, and only
the masks that the client draws differ. A row tells the share of images with 60 dB or more, the share that the attack
itself calls certain, how many of these are wrong, how many images are below the rounding of the update, and the share
that could have 60 dB at all: that of the least-squares solution for the client's true deltas, which no attacker knows.

Beside it stand `first_linear` at batch size 1, the null attack, and with `--iterative N` the Dropout Inversion Attack
with N iterations on the small cells.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

import attacks
from attacks import NotApplicable, ThreatModel
from fedsim import data, models
from fedsim.data import Dataset
from fedsim.local import Local, observed
from fedsim.random import rng_for, seed_for

matplotlib.use("Agg")
from matplotlib import pyplot as plt

SUCCESS = 60.0  # dB
ITERATIVE_BATCHES, ITERATIVE_WIDTH = (1, 4), 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[2, 4, 8, 16, 32, 64])
    parser.add_argument("--widths", type=int, nargs="+", default=[128, 256, 512, 1024])
    parser.add_argument("--rates", type=float, nargs="+", default=[0.0, 0.1, 0.25, 0.5, 0.75])
    parser.add_argument("--activations", nargs="+", default=["gelu", "relu"], choices=["gelu", "relu"])
    parser.add_argument("--train", type=int, default=0, help="steps of Adam, at dropout 0.5, before the attack")
    parser.add_argument("--iterative", type=int, default=0, metavar="N", help="DIA with N iterations on small cells")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path, help="write the diagram there")
    parser.add_argument("--json", action="store_true", help="print a JSON list of rows")
    arguments = parser.parse_args()
    dataset = data.load({"name": "photos"})
    rows = []
    for activation, width in product(arguments.activations, arguments.widths):
        state = weights(dataset, activation, width, arguments.train, arguments.seed)
        for batch, rate in product(arguments.batches, arguments.rates):
            rows.append(cell(dataset, state, activation, width, batch, rate, "sparse_dictionary", arguments.seed))
            print(line(rows[-1]), file=sys.stderr if arguments.json else sys.stdout, flush=True)
        for rate, (name, batch, params) in product(arguments.rates, others(width, arguments.iterative)):
            rows.append(cell(dataset, state, activation, width, batch, rate, name, arguments.seed, **params))
            print(line(rows[-1]), file=sys.stderr if arguments.json else sys.stdout, flush=True)
    if arguments.json:
        print(json.dumps(rows, indent=1))
    if arguments.picture:
        draw(rows, arguments)


def others(width: int, iterations: int) -> list[tuple[str, int, dict[str, Any]]]:
    """What else is run at this width: attack, batch size, parameters."""
    if width != ITERATIVE_WIDTH:
        return []
    found: list[tuple[str, int, dict[str, Any]]] = [("first_linear", 1, {}), ("null_mean", 4, {})]
    if iterations:
        found += [("dropout_inversion", batch, {"iterations": iterations}) for batch in ITERATIVE_BATCHES]
    return found


def weights(dataset: Dataset, activation: str, width: int, steps: int, seed: int) -> dict[str, Tensor]:
    """The global model of all cells of this activation and width."""
    model = build(dataset, activation, width, 0.5, seed)
    optimiser = torch.optim.Adam(model.parameters(), 3e-4)
    with torch.random.fork_rng():
        torch.manual_seed(seed_for(seed, "training"))
        for _ in range(steps):
            chosen = torch.randint(len(dataset.train_images), (32,))
            optimiser.zero_grad()
            logits = model(dataset.normalise(dataset.train_images[chosen]))
            nn.functional.cross_entropy(logits, dataset.train_labels[chosen]).backward()
            optimiser.step()
    return {name: value.clone() for name, value in model.state_dict().items()}


def build(dataset: Dataset, activation: str, width: int, rate: float, seed: int) -> nn.Module:
    spec = {"name": "mlp", "width": width, "activation": activation, "dropout": rate}
    return models.build(spec, input_shape=dataset.input_shape, classes=len(dataset.classes), seed=seed)


def cell(
    dataset: Dataset,
    state: dict[str, Tensor],
    activation: str,
    width: int,
    batch: int,
    rate: float,
    name: str,
    seed: int,
    **params: Any,
) -> dict[str, Any]:
    """One client attacked: a row."""
    model = build(dataset, activation, width, rate, seed)
    model.load_state_dict(state)
    chosen = torch.from_numpy(rng_for(seed, "images").permutation(len(dataset.train_images))[:batch].copy())
    images, labels = dataset.normalise(dataset.train_images[chosen]), dataset.train_labels[chosen]
    with torch.random.fork_rng():
        torch.manual_seed(seed_for(seed, "masks", width=width, batch=batch))
        first = model.hidden[0].linear  # type: ignore[union-attr, index]
        seen: list[Tensor] = []
        handle = first.register_forward_hook(lambda layer, inputs, output: keep(output, seen))
        nn.functional.cross_entropy(model(images), labels).backward()
        handle.remove()
    std = torch.tensor(dataset.std).view(-1, 1, 1)
    possible = psnr(oracle(seen[0], first).view_as(images), images, std)
    update = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    observation = replace(observed(dataset, Local(batch_size=batch), state=state, update=update), labels=labels)
    row: dict[str, Any] = {"activation": activation, "width": width, "batch": batch, "rate": rate, "attack": name}
    row |= {"found": 0.0, "certain": 0.0, "wrong": 0, "below_floor": 0, "median_psnr": None, "reason": None}
    row["possible"] = float((possible >= SUCCESS).double().mean())
    begin = time.perf_counter()
    try:
        result = attacks.create(name, **params)(observation, ThreatModel(), model)
    except NotApplicable as reason:
        return row | {"seconds": time.perf_counter() - begin, "reason": str(reason)}
    seconds = time.perf_counter() - begin
    scores = psnr(result.images, images, std)
    certain = torch.tensor(result.details.get("certain", [False] * batch))
    return row | {
        "found": float((scores >= SUCCESS).double().mean()),
        "certain": float(certain.double().mean()),
        "wrong": int((certain & (scores < SUCCESS)).sum()),
        "below_floor": result.details.get("below_floor", 0),
        "median_psnr": median(scores.tolist()),
        "seconds": seconds,
    }


def keep(output: Tensor, seen: list[Tensor]) -> None:
    """Let the gradient of a layer's output be collected when it is computed."""
    output.register_hook(seen.append)


def oracle(deltas: Tensor, layer: nn.Linear) -> Tensor:
    """The images (B, inputs) that follow from a layer's gradients if the deltas (B, m) are known; float64."""
    deltas = deltas.double()
    lengths = deltas.norm(dim=1, keepdim=True).clamp_min(1e-300)
    assert layer.weight.grad is not None
    assert layer.bias.grad is not None
    gradient = torch.cat([layer.weight.grad, layer.bias.grad[:, None]], 1).double()
    rows = torch.linalg.lstsq((deltas / lengths).T, gradient, driver="gelsd").solution
    return (rows[:, :-1] / rows[:, -1:]).nan_to_num()


def psnr(guess: Tensor, truth: Tensor, std: Tensor) -> Tensor:
    """PSNR (dB, at most 160) of each image of an answer, each matched to another true image; in [0, 1] pixels."""
    guess, truth = (std * guess.double()).flatten(1), (std * truth.double()).flatten(1)
    errors = torch.cdist(guess, truth).square() / truth.shape[1]
    scores = -10 * errors.clamp_min(1e-16).log10()
    row, column = linear_sum_assignment(-scores.numpy())
    return scores[row, column]


def line(row: dict[str, Any]) -> str:
    head = f"{row['activation']}  width {row['width']:>4}  batch {row['batch']:>2}  rate {row['rate']:<4}"
    head = f"{head}  {row['attack']:<17}"
    if row["reason"]:
        return f"{head}  declined: {row['reason']}  {row['seconds']:.1f} s"
    share = (
        f"found {row['found']:>4.0%} of {row['possible']:>4.0%}  certain {row['certain']:>4.0%}  wrong {row['wrong']}"
    )
    return (
        f"{head}  {share}  below floor {row['below_floor']}  median {row['median_psnr']:.0f} dB  {row['seconds']:.1f} s"
    )


def draw(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    """One panel for each activation and rate: the share found, by batch size and width."""
    share = {
        (r["activation"], r["rate"], r["batch"], r["width"]): r["found"]
        for r in rows
        if r["attack"] == "sparse_dictionary"
    }
    across, down = len(arguments.rates), len(arguments.activations)
    size = (1.3 + 2.1 * across, 0.9 + 2.5 * down)
    figure, panels = plt.subplots(down, across, figsize=size, sharex=True, sharey=True, squeeze=False)
    image = None
    for (i, activation), (j, rate) in product(enumerate(arguments.activations), enumerate(arguments.rates)):
        panel = panels[i][j]
        grid = [[share[activation, rate, batch, width] for width in arguments.widths] for batch in arguments.batches]
        image = panel.imshow(grid, cmap="cividis", vmin=0, vmax=1, origin="lower", aspect="auto")
        for (y, line_), x in product(enumerate(grid), range(len(arguments.widths))):
            colour = "white" if line_[x] < 0.5 else "black"
            panel.text(x, y, f"{100 * line_[x]:.0f}", ha="center", va="center", color=colour, fontsize=8)
        panel.set_xticks(range(len(arguments.widths)), [str(width) for width in arguments.widths])
        panel.set_yticks(range(len(arguments.batches)), [str(batch) for batch in arguments.batches])
        panel.tick_params(length=0, labelsize=8)
        if i == 0:
            panel.set_title("no dropout" if rate == 0 else f"dropout {rate:g}", fontsize=10)
        if j == 0:
            panel.set_ylabel(f"{ {'gelu': 'GELU', 'relu': 'ReLU'}[activation] }\nbatch size", fontsize=10)
        if i == down - 1:
            panel.set_xlabel("width", fontsize=10)
    figure.suptitle(f"Images recovered at {SUCCESS:.0f} dB or more from one float32 gradient, %", fontsize=12)
    figure.tight_layout(rect=(0, 0, 0.94, 1))
    bar = figure.colorbar(image, cax=figure.add_axes((0.95, 0.15, 0.012, 0.65)), ticks=[0, 0.5, 1])
    bar.ax.set_yticklabels(["0", "50", "100"], fontsize=8)
    figure.savefig(arguments.picture, dpi=150)


if __name__ == "__main__":
    main()
