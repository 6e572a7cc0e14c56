"""What one cell trains: the data, the model, the defense and the batches that follow from its JSON description.

Server and clients both work from the same description (`Cell.work()`), which travels in Flower's messages. It holds no
attack and no label, so equal work has equal results.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import defenses
from fedsim import data, models
from fedsim.data import Dataset
from fedsim.random import rng_for, salted, seed_for


@dataclass(frozen=True)
class Plan:
    """One cell's work, with the objects that its description names built on demand.

    Args:
        work: as `Cell.work()` describes it; it holds no more of a salt than its hash.
        salt: what the clients' seed is salted with, in hexadecimal digits; empty for none. An unattacked training,
            which measures what a defense costs, has none.
    """

    work: dict[str, Any]
    salt: str = ""

    @property
    def seed(self) -> int:
        return int(self.work["seed"])

    @property
    def client_seed(self) -> int:
        """What the clients' batches, their masks and their defenses' noise are drawn from: the truth of an attack."""
        return salted(self.seed, self.salt) if self.salt else self.seed

    @property
    def federation(self) -> dict[str, Any]:
        return self.work["federation"]

    @property
    def local(self) -> dict[str, Any]:
        return self.federation["local"]

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64 if self.local.get("precision") == "float64" else torch.float32

    @property
    def dataset(self) -> Dataset:
        return data.load(self.work["data"])

    def model(self) -> nn.Module:
        """A fresh model, as initialised; what the first round sends is `start.initial_state`."""
        dataset = self.dataset
        model = models.build(
            self.work["model"],
            input_shape=dataset.input_shape,
            classes=len(dataset.classes),
            seed=seed_for(self.seed, "weights"),
        )
        return model.to(self.dtype)

    def client_model(self) -> nn.Module:
        """The same as a client makes of it: its defense may change it."""
        return self.defense().on_model(self.model())

    def defense(self) -> defenses.Defense:
        return defenses.compose(self.work["defense"])

    def partition(self) -> list[np.ndarray]:
        return _partition(json.dumps(self.work["data"], sort_keys=True), self.federation["clients"], self.seed)

    def batch(self, client: int, round: int) -> tuple[Tensor, Tensor]:
        """The images uint8 (steps * batch_size, C, H, W) and labels that a client trains on in a round.

        Batches are drawn without replacement; a client with too few images goes through them again.
        """
        count = self.local["steps"] * self.local["batch_size"]
        own = self.partition()[client]
        rng = rng_for(self.client_seed, "batch", client=client, round=round)
        order = np.concatenate([rng.permutation(own) for _ in range(-(-count // len(own)))])[:count]
        chosen = torch.from_numpy(order)
        return self.dataset.train_images[chosen], self.dataset.train_labels[chosen]

    def attacked(self, round: int) -> bool:
        return round in self.work["victims"]["rounds"]


@lru_cache(maxsize=8)
def _partition(spec: str, clients: int, seed: int) -> list[np.ndarray]:
    source = json.loads(spec)
    labels = data.load(source).train_labels
    return data.partition(labels, clients, source["partition"], seed_for(seed, "partition"))
