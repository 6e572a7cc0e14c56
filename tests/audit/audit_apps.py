"""Models and replies as somebody else's app has them."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedsim.data import load
from fedsim.recording import Recorded, Store

MEAN, STD = 0.5, 0.5


class Perceptron(nn.Module):
    """With a bias in its first layer, whose input is one division away from a gradient."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.first = nn.Linear(784, width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.first(x.flatten(1))))


class Convolutional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 12, 5, stride=2, padding=2)
        self.fc = nn.Linear(12 * 14 * 14, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.sigmoid(self.conv2(torch.sigmoid(self.conv1(x)))).flatten(1))


class Normalised(nn.Module):
    """With batch norm and a layer that is not trained."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4)
        self.fixed = nn.Linear(784, 16)
        self.fixed.requires_grad_(False)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.fixed(torch.relu(self.norm(self.conv(x))).flatten(1))))


class Answer(OrderedDict):
    """As Hugging Face's outputs are: a mapping that has its entries as attributes, too."""

    def __getattr__(self, name: str) -> Tensor:
        return self[name]


class Answering(Perceptron):
    """Returns its logits in a field."""

    def forward(self, x: Tensor) -> Answer:
        return Answer(loss=None, logits=super().forward(x))


class Nested(Perceptron):
    """Takes a dict."""

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return super().forward(batch["image"])


class Tied(nn.Module):
    """One weight under two names."""

    def __init__(self):
        super().__init__()
        self.enter, self.one, self.two = nn.Linear(784, 24), nn.Linear(24, 24), nn.Linear(24, 24)
        self.two.weight = self.one.weight
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.two(torch.relu(self.one(torch.relu(self.enter(x.flatten(1))))))))


def digits(count: int = 1, *, start: int = 0) -> tuple[Tensor, Tensor]:
    """Bundled digits: uint8 (N, 1, 28, 28) and their labels."""
    data = load({"name": "mnist"})
    return data.train_images[start : start + count], data.train_labels[start : start + count]


def reply(
    model: nn.Module,
    *,
    images: int = 1,
    batch: int = 1,
    epochs: int = 1,
    lr: float = 0.1,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    mode: str = "train",
    optimizer: type[torch.optim.Optimizer] = torch.optim.SGD,
    reduction: str = "mean",
    round: int = 1,
    node: str = "17",
    start: int = 0,
) -> Recorded:
    """What a server sees of a plain PyTorch client that takes its images in their order."""
    pixels, labels = digits(images, start=start)
    x = (pixels.float() / 255 - MEAN) / STD
    model.train(mode == "train")
    sent = {name: value.clone() for name, value in model.state_dict().items()}
    keys = {"momentum": momentum} if momentum else {}
    trained = [p for p in model.parameters() if p.requires_grad]
    made = optimizer(trained, lr=lr, weight_decay=weight_decay, **keys)
    for _ in range(epochs):
        for x_part, y_part in zip(x.split(batch), labels.split(batch), strict=True):
            made.zero_grad()
            out = model(x_part)
            F.cross_entropy(out["logits"] if isinstance(out, dict) else out, y_part, reduction=reduction).backward()
            made.step()
    received = {name: value.clone() for name, value in model.state_dict().items()}
    return Recorded(round, node, sent, received, {"num-examples": images}, {})


def store(path: Path, *replies: Recorded) -> Path:
    made = Store.create(path)
    for one in replies:
        made.add(one)
    return path
