"""What an attack returned, looked at where it returns: it may be anybody's own, and all that follows relies on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from attacks import NotApplicable, Observation, Reconstruction


class MisshapenAnswer(ValueError):
    """An attack returned what is no answer: what it is, and what would be one."""


def check_answers(found: Any, seen: Sequence[Observation]) -> None:
    """Whether `found` is one answer for each of the observations, in shapes that can be scored.

    Raises:
        MisshapenAnswer: it is not.
    """
    if not isinstance(found, list | tuple) or len(found) != len(seen):
        number = f"{len(found)} answers" if isinstance(found, list | tuple) else type(found).__name__
        raise MisshapenAnswer(f"the attack returned {number} for {len(seen)} clients: one for each is accepted")
    for one, answer in zip(seen, found, strict=True):
        if isinstance(answer, NotApplicable):
            continue
        if not isinstance(answer, Reconstruction):
            raise MisshapenAnswer(f"the attack returned {type(answer).__name__}, not a Reconstruction")
        _check(answer, one)


def _check(answer: Reconstruction, seen: Observation) -> None:
    wanted = ("B", *seen.input_shape)
    images = _tensor(answer.images, "images", wanted)
    if images.dim() != 4 or tuple(images.shape[1:]) != tuple(seen.input_shape):
        raise MisshapenAnswer(f"images are {_shape(tuple(images.shape))}: {_shape(wanted)} is accepted")
    if images.is_complex():
        raise MisshapenAnswer(f"images are of type {images.dtype}: real numbers are accepted")
    if answer.labels is not None:
        labels = _tensor(answer.labels, "labels", ("B",))
        if labels.shape != images.shape[:1]:
            raise MisshapenAnswer(f"labels are {_shape(tuple(labels.shape))}, for {len(images)} images: one for each")
        if labels.is_floating_point() or labels.is_complex():
            raise MisshapenAnswer(f"labels are of type {labels.dtype}: whole numbers are accepted")
    for path, noise in (answer.noise or {}).items():
        _tensor(noise, f"noise of {path!r}", ("B", "..."))
    if not isinstance(answer.loss, int | float):
        raise MisshapenAnswer(f"loss is {type(answer.loss).__name__}: a number is accepted, NaN where there is none")


def _tensor(value: Any, what: str, wanted: tuple[object, ...]) -> Tensor:
    if not isinstance(value, Tensor):
        raise MisshapenAnswer(f"{what}: {type(value).__name__} is no tensor: {_shape(wanted)} is accepted")
    return value


def _shape(sides: tuple[object, ...]) -> str:
    return f"({', '.join(map(str, sides))})"
