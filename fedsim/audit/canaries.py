"""Canaries as subjects of an audit: what the user's own client makes of images that we know, over batches and steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from defenses.client.training import LocalTraining
from fedsim import data
from fedsim.audit.canary import NoCanary, play
from fedsim.audit.canary_findings import seen_in
from fedsim.audit.choosing import Chosen
from fedsim.audit.facts import Canary, Facts
from fedsim.audit.finding import Finding
from fedsim.audit.matching import Unusable
from fedsim.audit.observing import Reply
from fedsim.audit.picture import CannotReplay, layout, picture_of
from fedsim.audit.replaying import Replayed, replayed
from fedsim.audit.told import Told
from fedsim.audit.working import Subject
from fedsim.errors import BadInput
from fedsim.truth import Truth

BATCHES = (1, 2, 4, 8)
STEPS = (1, 2, 4)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The canaries to play.

    Args:
        app: the folder of the user's Flower app.
        images: a folder of pictures, one sub-folder for each class, or an `.npz` archive.
        batches: sizes of the batch of one step; `steps`: numbers of steps of one image each.
        own: also a round as the client plays it by itself, over as many images as there are and are attacked.
        run_config: in place of values of the app's own.
        timeout: of a client's round, in seconds.
        defenses: whether defenses of the update are tried on the canary that was rebuilt best.
    """

    app: Path
    images: Path
    batches: tuple[int, ...] = BATCHES
    steps: tuple[int, ...] = STEPS
    own: bool = True
    run_config: Mapping[str, Any] | None = None
    timeout: float = 300.0
    defenses: bool = True

    def points(self, there: int) -> list[Point]:
        """What is played with so many images, each once; batch size 1 in one step first."""
        return sorted((point for point in self._asked() if point.images <= there), key=lambda point: point.images)

    def beyond(self, there: int, most: int) -> str:
        """What is not played for want of images, or of a budget for them; empty where all is.

        Args:
            there: distinct images.
            most: images of a canary, at most.
        """
        large = sorted({point.images for point in self._asked() if point.images > min(there, most)})
        if not large:
            return ""
        why = f"{there} different ones are there" if there <= most else f"at most {most} are attacked"
        return f"canaries of {', '.join(map(str, large))} images were not played: {why}"

    def _asked(self) -> list[Point]:
        asked = [Point(size, size) for size in self.batches] + [Point(1, count) for count in self.steps]
        return list(dict.fromkeys(asked))


@dataclass(frozen=True)
class Point:
    """A canary's batch size, and its number of images; None: the client's own."""

    batch_size: int | None
    images: int


@dataclass(frozen=True)
class Played:
    """A canary that was played.

    Args:
        steps: optimizer steps that the client took.
        batch_size: the largest of them.
        own: as the client plays by itself.
    """

    subject: Subject
    facts: Facts
    replayed: Replayed
    steps: int
    batch_size: int
    own: bool


def pictures(sweep: Sweep, told: Told) -> tuple[Tensor, Tensor]:
    """The canary's images, distinct, uint8 (N, C, H, W), and their labels, (N,). Raises BadInput."""
    path, (channels, height, width) = sweep.images, told.shape
    if not path.exists():
        raise BadInput(f"--canary {path}: no such folder or archive; give a folder with one sub-folder for each class")
    kind = "npz" if path.suffix == ".npz" else "folder"
    size = height if kind == "folder" and height == width else None
    found = data.load({"name": kind, "path": str(path), "test_fraction": 0, "image_size": size})
    images, labels = found.train_images, found.train_labels
    if images.shape[1] == 1 and channels == 3:
        images = images.expand(-1, 3, -1, -1)
    if tuple(images.shape[1:]) != told.shape:
        found_shape, said = (",".join(map(str, shape)) for shape in (images.shape[1:], told.shape))
        raise BadInput(f"--canary {path}: its images are {found_shape}, and --data-shape says {said}")
    if all(name.isdigit() for name in found.classes):
        labels = torch.tensor([int(name) for name in found.classes])[labels]
    if int(labels.max()) >= told.classes:
        raise BadInput(f"--canary {path}: a class of number {int(labels.max())}, and --classes says {told.classes}")
    _, first = torch.unique(images.flatten(1), dim=0, return_inverse=True)
    kept = sorted({int(group): place for place, group in reversed(list(enumerate(first)))}.values())
    order = _one_of_each(labels[kept])
    return images[kept][order].contiguous(), labels[kept][order]


def played(
    sweep: Sweep, seen: Chosen, told: Told, model: nn.Module, *, most: int, say: Callable[[str], None]
) -> Iterator[Played | Finding]:
    """Let the client play each canary of a sweep, on what was sent in one round.

    Yields a finding in place of a canary that cannot be played; the first that cannot ends the sweep.

    Args:
        seen: what was sent, and which records of the reply held the model.
        most: images of a canary, at most.
    """
    recorded = seen.recorded
    images, labels = pictures(sweep, told)
    points = [(point, False) for point in sweep.points(min(len(images), most))]
    if sweep.own:
        points.append((Point(None, min(len(images), most)), True))
    for point, own in points:
        say(f"round {recorded.round}: a canary of {_images(point.images)}")
        try:
            yield canary_of(sweep, seen, told, model, images, labels, point, own=own)
        except (NoCanary, Unusable) as fault:
            yield Finding("Canary", str(fault), True)
            return


def canary_of(
    sweep: Sweep,
    seen: Chosen,
    told: Told,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    point: Point,
    *,
    own: bool,
) -> Played:
    """One canary: the client on the first images of some, as a point says. Raises NoCanary, Unusable."""
    canary = play(
        sweep.app,
        seen.recorded,
        images[: point.images],
        labels[: point.images],
        mean=told.mean,
        std=told.std,
        batch_size=point.batch_size,
        run_config=sweep.run_config,
        timeout=sweep.timeout,
        message=seen.message,
        received_in=seen.received_in,
    )
    return _played(canary, told, model, own=own)


def _played(canary: Canary, told: Told, model: nn.Module, *, own: bool) -> Played:
    everything = range(len(canary.pixels))  # where the client changes its images, so that none is known again
    taken = [place for step in canary.order for place in step] or everything
    chosen, order = torch.tensor(list(dict.fromkeys(taken))), None
    local: LocalTraining | None = told.local
    batch_size = max((len(step) for step in canary.order), default=0) or len(chosen) // max(1, len(canary.order))
    mode: Literal["train", "eval"] = "eval" if canary.facts.mode == "eval" else "train"
    again = replayed(canary, model)
    try:
        picture = picture_of(canary, model)
        local = picture.round.local
        _, batch, chosen, order = layout(canary)
        batch_size = batch or len(chosen) // local.steps
    except CannotReplay:
        pass  # what was said of the client is all that there is; `again` says why
    own_told = replace(
        told, local=local, batch_size=batch_size, examples=len(chosen), mode=mode, length_said=True, unrated=None
    )
    steps = len(canary.order)
    who = "the client's own round" if own else "canary"
    name = f"round {canary.recorded.round}, {who}: batch {batch_size}, {steps} step{'s' if steps > 1 else ''}"
    losses = canary.facts.loss_values
    truth = Truth(
        images=canary.pixels[chosen],
        labels=canary.labels[chosen],
        noise=canary.noise,
        loss=sum(losses) / len(losses) if losses else float("nan"),
        order=order,
    )
    reply = Reply.of(canary.recorded, own_told, model)
    subject = Subject(name, reply, 0, own_told, truth=truth, findings=tuple(seen_in(canary.facts, again, told, steps)))
    return Played(subject, canary.facts, again, steps, batch_size, own)


def _one_of_each(labels: Tensor) -> Tensor:
    """An order in which the first images are of different classes: each class in turn."""
    turns: dict[int, int] = {}
    keys = []
    for place, label in enumerate(labels.tolist()):
        turns[label] = turns.get(label, -1) + 1
        keys.append((turns[label], label, place))
    return torch.tensor([place for _, _, place in sorted(keys)])


def _images(count: int) -> str:
    return f"{count} image{'' if count == 1 else 's'}"
