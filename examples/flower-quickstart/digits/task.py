"""The model, each client's own images, and how it learns from them."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

MEAN, STD = 0.5, 0.5  # of pixels in [0, 1]


class Net(nn.Module):
    """Two convolutions and two linear layers, for grey images of 28 x 28."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 5, padding=2)
        self.conv2 = nn.Conv2d(8, 16, 5, padding=2)
        self.hidden = nn.Linear(16 * 7 * 7, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        seen = functional.max_pool2d(functional.relu(self.conv1(images)), 2)
        seen = functional.max_pool2d(functional.relu(self.conv2(seen)), 2)
        return self.head(functional.relu(self.hidden(seen.flatten(1))))


@cache
def digits() -> TensorDataset:
    """The 5,000 digits that come with fedsim: here they stand for what would be a client's own files."""
    with files("fedsim").joinpath("assets/mnist_5k.npz").open("rb") as file, np.load(file) as arrays:
        pixels, labels = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"])
    return TensorDataset((pixels.float().reshape(-1, 1, 28, 28) / 255 - MEAN) / STD, labels.long())


def loaders(client: int, clients: int, batch_size: int) -> tuple[DataLoader, DataLoader]:
    """One client's images, four fifths of them to learn from and the rest to look how well that went."""
    images, labels = digits().tensors
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    own = order[client::clients]
    cut = len(own) * 4 // 5
    learn, look = (TensorDataset(images[part], labels[part]) for part in (own[:cut], own[cut:]))
    return DataLoader(learn, batch_size=batch_size, shuffle=True), DataLoader(look, batch_size=128)


def train(model: nn.Module, batches: DataLoader, epochs: int, learning_rate: float) -> float:
    """Stochastic gradient descent with momentum; returns the mean loss."""
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=0.9)
    model.train()
    total = 0.0
    for _ in range(epochs):
        for images, labels in batches:
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            total += loss.item()
    return total / (epochs * len(batches))


@torch.no_grad()
def accuracy(model: nn.Module, batches: DataLoader) -> float:
    model.eval()
    right = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in batches)
    return right / len(batches.dataset)
