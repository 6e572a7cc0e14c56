"""What a user says of the app that is audited: what anybody knows who runs its server, or wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from defenses.client.groups import refuse_foreign
from defenses.client.training import LocalTraining
from fedsim import models
from fedsim.errors import BadInput
from fedsim.models import factory


@dataclass(frozen=True, kw_only=True)
class Told:
    """The app in the user's words; what is None was not said.

    Args:
        model: `package.module:Class`, or a function, of the user's.
        model_keys: what it is called with.
        output: the field of what the model returns that holds the logits; empty where it returns them alone.
        loss: `package.module:function` of what clients minimise; empty: the cross-entropy.
        arrays: the record of arrays that holds the model, where a message or a reply has several that could.
        shape: (C, H, W) of one image.
        classes: the number of classes.
        mean, std: per channel; the model sees `(pixel - mean) / std` with pixels in [0, 1].
        shared: what clients send: their weights after training, or a gradient.
        mode: that clients train in: `train`, dropout active and batch norm on batch statistics; or `eval`.
        local: how they train; None: not known.
        unrated: the same but for the learning rate, where only a message may say that.
        length_said: whether steps or epochs are the user's word.
        batch_size: images of a step.
        examples: images of a client, where a reply does not say it.
        defense: what clients do to their update, as `{"name": ..., **parameters}`; told to the attacks of the letter C.
    """

    model: str
    model_keys: Mapping[str, Any] = field(default_factory=dict)
    output: str = ""
    loss: str = ""
    arrays: str = ""
    shape: tuple[int, int, int]
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shared: Literal["weights", "gradient"] = "weights"
    mode: Literal["train", "eval"] = "train"
    local: LocalTraining | None = None
    unrated: LocalTraining | None = None
    length_said: bool = True
    batch_size: int | None = None
    examples: int | None = None
    defense: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if any(side < 1 for side in self.shape):
            raise BadInput(f"--data-shape {','.join(map(str, self.shape))}: takes channels, height, width, as 3,32,32")
        if self.classes < 2:
            raise BadInput(f"--classes {self.classes}: there are at least 2")
        for option, values in (("--mean", self.mean), ("--std", self.std)):
            if len(values) != self.shape[0]:
                raise BadInput(
                    f"{option}: {len(values)} value{'' if len(values) == 1 else 's'} for {self.shape[0]} channels; "
                    "give one, or one for each channel, as 0.5,0.5,0.5"
                )
        if any(value <= 0 for value in self.std):
            raise BadInput("--std: a standard deviation is above 0")
        for option, number in (("--batch-size", self.batch_size), ("--examples", self.examples)):
            if number is not None and number < 1:
                raise BadInput(f"{option} {number}: at least 1")

    def spec(self) -> dict[str, Any]:
        """The specification of the attacker's model, for `fedsim.models.build`."""
        return {**self.model_keys, "factory": self.model, "foreign": {"output": self.output, "loss": self.loss}}

    def build(self) -> torch.nn.Module:
        """The model, as the attacker builds it. Raises BadInput."""
        model = models.build(self.spec(), input_shape=self.shape, classes=self.classes, seed=0)
        training = self.local or self.unrated
        for group in () if training is None else training.groups:
            try:
                refuse_foreign(model, group.parameters, "--group")
            except ValueError as error:
                raise BadInput(str(error)) from None
        return model

    def source(self) -> str:
        """A hash of the model's code."""
        return factory.source(self.model)

    def to_dict(self) -> dict[str, Any]:
        """All of it, JSON-able."""
        return {
            **{name: value for name, value in vars(self).items() if name not in ("local", "unrated")},
            "model_keys": dict(self.model_keys),
            "defense": [dict(part) for part in self.defense],
            "local": None if self.local is None else self.local.to_dict(),
        }
