"""The sealed envelope: what a client really trained on. Only scoring opens it (an import contract holds that).

Truth travels from the client as the bytes of one safetensors file in one config record of its reply; the eavesdropper
takes it out before any strategy sees the reply, and seals it under the cell's `truth/` folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor

from fedsim.files import read_tensors, write_tensors
from fedsim.observations import name_of


@dataclass(frozen=True)
class Truth:
    """What one client trained on in one round.

    Args:
        images: uint8 (N, C, H, W) with N = steps * batch size, the originals in the order they were trained on.
        labels: int64 (N,).
        noise: what each stochastic layer drew, (N, ...) by module path.
        loss: the mean training loss over the batches.
    """

    images: Tensor
    labels: Tensor
    noise: Mapping[str, Tensor]
    loss: float

    def tensors(self) -> dict[str, Tensor]:
        flat = {f"noise.{path}": noise for path, noise in self.noise.items()}
        return {"images": self.images, "labels": self.labels, "loss": torch.tensor(self.loss).double(), **flat}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Truth:
        noise = {key.removeprefix("noise."): value for key, value in tensors.items() if key.startswith("noise.")}
        return cls(tensors["images"], tensors["labels"], noise, float(tensors["loss"]))


def pack(truth: Truth) -> bytes:
    return save({name: tensor.contiguous() for name, tensor in truth.tensors().items()})


def unpack(content: bytes) -> Truth:
    return Truth.of(load(content))


def seal(cell: Path, round: int, client: int, truth: Truth) -> None:
    write_tensors(cell / "truth" / f"{name_of(round, client)}.safetensors", truth.tensors())


def open_envelope(cell: Path, round: int, client: int) -> Truth:
    return Truth.of(read_tensors(cell / "truth" / f"{name_of(round, client)}.safetensors"))
