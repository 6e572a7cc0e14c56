"""Does DP-SGD stop the Dropout Inversion Attack? One client, trained by Opacus, against its server.

    python examples/opacus/dia.py --out dia_against_dp_sgd.png

For each amount of noise, clients of one image each take one step of DP-SGD on a model with dropout. Their server, which
knows the model, the training and the label but neither image nor masks, runs Inverting Gradients (which knows nothing
of masks), the Dropout Inversion Attack and a closed form on the change of the weights.
"""

from __future__ import annotations

import argparse
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from matplotlib.figure import Figure
from opacus import PrivacyEngine
from opacus.accountants.utils import get_noise_multiplier
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import attacks
import fedsim
from attacks import NotApplicable
from fedsim import data

RATE, CLIP, DELTA = 0.1, 1.0, 1e-5
SMALL = (1e-3, 1e-2)  # of the bound: noise that hides little, and buys no privacy to speak of
EPSILON = 8.0
SHORT = {"inverting_gradients": "IG", "dropout_inversion": "DIA", "first_linear": "closed form"}
SEARCHES = ("inverting_gradients", "dropout_inversion")


@dataclass(frozen=True)
class Update:
    """What a server sees of a client, and the epsilon that Opacus says the client has spent."""

    sent: dict[str, Tensor]
    received: dict[str, Tensor]
    epsilon: float


def net() -> nn.Module:
    """A model as a user of Opacus has it: plain torch layers, dropout among them."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(28 * 28, 256), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(256, 256), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(256, 10),
    )  # fmt: skip


def train(image: Tensor, label: Tensor, noise: float, *, seed: int) -> Update:
    """The client: one step of DP-SGD by Opacus on the one image (1, 1, 28, 28) that it has.

    Its data set is its batch, so that nothing is sampled, and the guarantee is the plain Gaussian mechanism's.
    """
    model = net()
    sent = {name: value.clone() for name, value in model.state_dict().items()}
    engine = PrivacyEngine(accountant="rdp")  # Opacus' other one, PRV, runs out of memory where noise is so small
    private, optimizer, loader = engine.make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=RATE),
        data_loader=DataLoader(TensorDataset(image, label)),
        noise_multiplier=noise,
        max_grad_norm=CLIP,
        poisson_sampling=False,
        noise_generator=torch.Generator().manual_seed(seed),
    )
    private.train()
    torch.manual_seed(seed)  # of the masks
    for images, labels in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(private(images), labels).backward()
        optimizer.step()
    received = {name.removeprefix("_module."): value.clone() for name, value in private.state_dict().items()}
    return Update(sent, received, engine.get_epsilon(DELTA) if noise else math.inf)


def observed(update: Update, label: Tensor, noise: float, facts: data.Dataset) -> attacks.Observation:
    """The server: what it knows of an update, DP-SGD's parameters included. Neither the image nor what was drawn."""
    return attacks.Observation(
        state=update.sent,
        update={key: update.received[key] - value for key, value in update.sent.items()},
        kind="delta",
        local=attacks.LocalTraining(learning_rate=RATE),
        defense=({"name": "dp_sgd", "noise_multiplier": noise, "max_grad_norm": CLIP},),
        input_shape=facts.input_shape,
        classes=len(facts.classes),
        mean=facts.mean,
        std=facts.std,
        labels=label,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--victims", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=1500, help="of an attack on one update, at most")
    parser.add_argument("--out", type=Path, default=Path("dia_against_dp_sgd.png"))
    parser.add_argument("--record", type=Path, help="a new folder: record the updates there, for `fedsim audit`")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")  # of Opacus: that its random numbers are no secret, and of what is known here
    facts = data.load({"name": "mnist"})
    real = get_noise_multiplier(target_epsilon=EPSILON, target_delta=DELTA, sample_rate=1.0, steps=1, accountant="rdp")
    pixels, labels = facts.train_images[: arguments.victims], facts.train_labels[: arguments.victims]
    images = facts.normalise(pixels)
    rows: list[tuple[str, list[Tensor], list[float]]] = []
    print(f"{'noise':>6}  {'epsilon':>12}  {'attack':<20}  {'median dB':>9}  {'worst':>5}  {'best':>5}  stopped")
    for level, noise in enumerate((0.0, *SMALL, real), start=1):
        updates = [train(images[[at]], labels[[at]], noise, seed=at) for at in range(arguments.victims)]
        epsilon = updates[0].epsilon
        if arguments.record:
            for at, update in enumerate(updates):
                fedsim.observe(update.sent, update.received, store=arguments.record, round=level, node=at)
        seen = [observed(update, labels[[at]], noise, facts) for at, update in enumerate(updates)]
        for name in SHORT:
            limits = {"iterations": arguments.iterations} if name in SEARCHES else {}
            told = attacks.ThreatModel(defense="unknown" if name in SEARCHES else "known")
            found = attacks.create(name, **limits).run(seen, told, net())
            shown = [shown_as(answer.images[0], facts) for answer in found if not isinstance(answer, NotApplicable)]
            if len(shown) < len(found):
                print(f"{noise:6.3g}  {epsilon:12,.1f}  {name:<20}  {next(map(str, found))}", flush=True)
                continue
            scores = [psnr(ours, truth) for ours, truth in zip(shown, shown_as(images, facts), strict=True)]
            stopped = ", ".join(sorted({str(answer.stopped or "-") for answer in found}))
            print(
                f"{noise:6.3g}  {epsilon:12,.1f}  {name:<20}  {median(scores):9.1f}  {min(scores):5.1f}  "
                f"{max(scores):5.1f}  {stopped}",
                flush=True,
            )
            title = f"noise {noise:.3g}, ε {spent(epsilon)}\n{SHORT[name]}: {median(scores):.1f} dB"
            rows.append((title, shown, scores))
    draw(shown_as(images, facts), rows, arguments.out)
    print(arguments.out)


def shown_as(images: Tensor, facts: data.Dataset) -> Tensor:
    """Pixels in [0, 1] of images in the model's units."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (facts.mean, facts.std))
    return (images * std + mean).clamp(0, 1)


def spent(epsilon: float) -> str:
    return "infinite" if math.isinf(epsilon) else f"{epsilon:,.0f}"


def psnr(ours: Tensor, truth: Tensor) -> float:
    return float(-10 * (ours - truth).square().mean().clamp_min(1e-16).log10())


def draw(originals: Tensor, rows: list[tuple[str, list[Tensor], list[float]]], out: Path) -> None:
    """The originals above what each attack rebuilt from each amount of noise."""
    lines = [("the client's images", list(originals), [math.nan] * len(originals)), *rows]
    figure = Figure(figsize=(3.2 + 1.1 * len(originals), 1.25 * len(lines)), layout="constrained")
    axes = figure.subplots(len(lines), len(originals), squeeze=False)
    for line, (title, shown, scores) in zip(axes, lines, strict=True):
        for axis, image, score in zip(line, shown, scores, strict=True):
            axis.imshow(image.reshape(28, 28), cmap="gray", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
            if not math.isnan(score):
                axis.set_xlabel(f"{score:.1f} dB", fontsize=8, labelpad=2)
        line[0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=9)
    figure.savefig(out, dpi=80)


if __name__ == "__main__":
    main()
