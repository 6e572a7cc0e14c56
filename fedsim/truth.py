"""The sealed envelope: what a client really trained on. Only scoring opens it (an import contract holds that).

Truth travels from the client as the bytes of one safetensors file in one config record of its reply; the server's
grid takes it out before any strategy sees the reply, and it is sealed under the cell's `truth/` folder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor

from defenses.client.round import ORDER, Played
from defenses.client.site import EXAMPLE, Axis
from fedsim.files import read_tensors, write_tensors
from fedsim.observations import name_of


@dataclass(frozen=True)
class Truth:
    """What one client trained on in one round.

    Args:
        images: uint8 (N, C, H, W), the distinct originals: of the steps' batches one after the other, or, of a client
            that trained for epochs, all that it went through.
        labels: int64 (N,).
        noise: what was drawn at each random site: of a dropout layer (N, ...), by its module path.
        axes: what has a draw of its own at each site (see `defenses.client.site`).
        order: in which order epochs took the images; None where there were none.
        loss: the mean training loss over the batches.
        trained: where a defense changes batches, the images as they were trained on, (N, V, C, H, W) in normalised
            units.
        views: likewise as far as the defense shows them (`defenses.base.Defense.views`).
    """

    images: Tensor
    labels: Tensor
    noise: Mapping[str, Tensor]
    loss: float
    axes: Mapping[str, tuple[Axis, ...]] = field(default_factory=dict)
    order: Tensor | None = None
    trained: Tensor | None = None
    views: Tensor | None = None

    @classmethod
    def of_round(cls, images: Tensor, labels: Tensor, played: Played) -> Truth:
        """What a client trained on, as its round says."""
        drawn = {name: value.cpu() for name, value in played.drawn.items()}
        order = drawn.pop(ORDER, None)
        axes = {name: site.axes for name, site in played.sites.items()}
        trained, views = (None if v is None else v.float().cpu() for v in (played.trained, played.views))
        return cls(images, labels, drawn, float(played.loss), axes, order, trained, views)

    def tensors(self) -> dict[str, Tensor]:
        """Flat, with the axes in the names: `noise(step,example).<site>`."""
        flat = {f"noise({','.join(self.axes.get(site, EXAMPLE))}).{site}": v for site, v in self.noise.items()}
        later = {"order": self.order, "trained": self.trained, "views": self.views}
        flat |= {name: value for name, value in later.items() if value is not None}
        return {"images": self.images, "labels": self.labels, "loss": torch.tensor(self.loss).double(), **flat}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Truth:
        noise: dict[str, Tensor] = {}
        axes: dict[str, tuple[Axis, ...]] = {}
        for key, value in tensors.items():
            if found := re.fullmatch(r"noise\(([a-z,]+)\)\.(.+)", key):
                noise[found[2]] = value
                axes[found[2]] = tuple(found[1].split(","))  # type: ignore[arg-type]
        later = {name: tensors.get(name) for name in ("order", "trained", "views")}
        return cls(tensors["images"], tensors["labels"], noise, float(tensors["loss"]), axes, **later)


def together(truths: Sequence[Truth], *, steps: int = 1) -> Truth:
    """What several clients trained on, as one batch: one client after the other, in each step.

    Noise is left out where it is no draw of an example: each client has its own. So is the order of epochs.

    Args:
        steps: of fresh batches that each client took; 1 for epochs.
    """

    def joined(values: Sequence[Tensor]) -> Tensor:
        return torch.cat([part for step in zip(*(value.chunk(steps) for value in values)) for part in step])

    def all_of(values: Sequence[Tensor | None]) -> Tensor | None:
        there = [value for value in values if value is not None]
        return joined(there) if len(there) == len(values) else None

    first = truths[0]
    sites = [] if first.order is not None else [site for site in first.noise if "example" in first.axes[site]]
    return Truth(
        images=joined([truth.images for truth in truths]),
        labels=joined([truth.labels for truth in truths]),
        noise={site: joined([truth.noise[site] for truth in truths]) for site in sites},
        loss=sum(truth.loss for truth in truths) / len(truths),
        axes={site: first.axes[site] for site in sites},
        trained=all_of([truth.trained for truth in truths]),
        views=all_of([truth.views for truth in truths]),
    )


def pack(truth: Truth) -> bytes:
    return save({name: tensor.contiguous() for name, tensor in truth.tensors().items()})


def unpack(content: bytes) -> Truth:
    """Raises: ValueError, SafetensorError or KeyError: these bytes are no envelope."""
    truth = Truth.of(load(content))
    if truth.images.dim() != 4 or truth.images.dtype != torch.uint8:
        raise ValueError("its images are no pictures")
    if truth.labels.shape != truth.images.shape[:1] or truth.labels.dtype != torch.int64:
        raise ValueError("its labels are not one for each image")
    return truth


def seal(cell: Path, round: int, client: int, truth: Truth) -> None:
    write_tensors(cell / "truth" / f"{name_of(round, client)}.safetensors", truth.tensors())


def open_envelope(cell: Path, round: int, client: int) -> Truth:
    return Truth.of(read_tensors(cell / "truth" / f"{name_of(round, client)}.safetensors"))
