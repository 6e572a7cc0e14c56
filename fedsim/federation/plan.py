"""What one cell trains: the data, the model, the defense and the batches that follow from the description of its work.

Server and clients both work from the same description, which travels in Flower's messages.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

import defenses
from defenses.client.training import freeze
from fedsim import data, models
from fedsim.data import Dataset
from fedsim.local import Local
from fedsim.random import rng_for, salted, seed_for
from fedsim.scenario.work import Federation, Spec, Work


@dataclass(frozen=True)
class Plan:
    """One cell's work, with the objects that its description names built on demand.

    Args:
        work: it holds no more of a salt than its hash.
        salt: what the clients' seed is salted with, in hexadecimal digits; empty for none. An unattacked training,
            which measures what a defense costs, has none.
    """

    work: Work
    salt: str = ""

    @property
    def seed(self) -> int:
        return self.work.seed

    @property
    def client_seed(self) -> int:
        """What the clients' batches, their masks and their defenses' noise are drawn from: the truth of an attack."""
        return salted(self.seed, self.salt) if self.salt else self.seed

    @property
    def federation(self) -> Federation:
        return self.work.federation

    @property
    def local(self) -> Local:
        return self.federation.local

    @property
    def dtype(self) -> torch.dtype:
        return self.local.dtype

    @property
    def dataset(self) -> Dataset:
        return data.load(self.work.data)

    def model(self) -> nn.Module:
        """A fresh model, as initialised; what the first round sends is `start.initial_state`."""
        dataset = self.dataset
        model = models.build(
            self.model_spec(),
            input_shape=dataset.input_shape,
            classes=len(dataset.classes),
            seed=seed_for(self.seed, "weights"),
        )
        return model.to(self.dtype)

    def model_spec(self) -> Spec:
        """The model block, with the defenses that change the model, and what a malicious server adds to it: server,
        clients and attackers build the same."""
        changing = [spec for spec in self.work.defense if defenses.compose([spec]).changes_model]
        spec = {**self.work.model, **({"defenses": changing} if changing else {})}
        return spec if self.work.malicious is None else {**spec, "malicious": self.work.malicious}

    def client_model(self) -> nn.Module:
        """The same as a client has it: only what it trains requires a gradient."""
        return freeze(self.model(), self.local.training.trained)

    def defense(self) -> defenses.Defense:
        return defenses.compose(self.work.defense)

    def partition(self) -> list[np.ndarray]:
        return _partition(json.dumps(self.work.data, sort_keys=True), self.federation.clients, self.seed)

    def batch(self, client: int, round: int) -> tuple[Tensor, Tensor]:
        """The images uint8 (N, C, H, W) and labels that a client trains on in a round.

        Batches are drawn without replacement; a client with too few images goes through them again. For epochs they
        are the client's own examples, or as many of them as `examples` says.
        """
        own, count = self.partition()[client], self.images(client)
        rng = rng_for(self.client_seed, "batch", client=client, round=round)
        order = np.concatenate([rng.permutation(own) for _ in range(-(-count // len(own)))])[:count]
        chosen = torch.from_numpy(order)
        return self.dataset.train_images[chosen], self.dataset.train_labels[chosen]

    def images(self, client: int) -> int:
        """How many images a client trains on in a round: those of its steps, or the examples of its epochs."""
        local = self.local
        return local.training.steps * local.batch_size if local.training.epochs is None else self.examples(client)

    def examples(self, client: int) -> int:
        """How many examples a client's batches of one round are taken from: with epochs, as many as `examples` says."""
        own = len(self.partition()[client])
        return own if self.local.training.epochs is None else min(self.local.examples or own, own)

    def drawn(self, round: int) -> list[int]:
        """The clients of a round, in partition order: those that Flower's strategy draws."""
        seed, federation = seed_for(self.seed, "sampling", round=round), self.federation
        return list(_drawn(seed, federation.clients, federation.clients_per_round))

    def attacked(self, round: int) -> bool:
        return round in self.work.victims.rounds

    def victims(self, round: int) -> list[int]:
        """The clients of a round whose replies are attacked: the first that are drawn, in partition order."""
        return self.drawn(round)[: self.work.victims.clients] if self.attacked(round) else []


@lru_cache(maxsize=8)
def _drawn(seed: int, clients: int, per_round: int) -> tuple[int, ...]:
    return tuple(sorted(random.Random(seed).sample(range(clients), per_round)))


@lru_cache(maxsize=8)
def _partition(spec: str, clients: int, seed: int) -> list[np.ndarray]:
    source = json.loads(spec)
    labels = data.load(source).train_labels
    return data.partition(labels, clients, source["partition"], seed_for(seed, "partition"))
