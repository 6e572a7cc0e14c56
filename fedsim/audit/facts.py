"""What a canary is: a client that trained on images that we know, and what it was seen to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from torch import Tensor

from fedsim.recording import Recorded

Option = float | int | bool | str | tuple[float, ...] | None


@dataclass(frozen=True, kw_only=True)
class LossSeen:
    """One function of `torch.nn.functional` that a client computed its loss with.

    Args:
        name: as torch calls it, `cross_entropy`.
        weighted: whether classes were given weights.
    """

    name: str
    reduction: str = "mean"
    label_smoothing: float = 0.0
    weighted: bool = False


@dataclass(frozen=True, kw_only=True)
class GroupSeen:
    """Parameters that the optimizer treats unlike those of its first group: their names, and the like of `Facts`."""

    parameters: tuple[str, ...]
    options: Mapping[str, Option]
    learning_rates: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a client was seen to do in one round, as far as it can be said in a few words.

    Args:
        optimizer: its class, `torch.optim.SGD`; another's with its module, `opacus.optimizers.DPOptimizer`.
        options: its hyper-parameters as torch names them, without the learning rate; of its first group of parameters.
        learning_rates: of each step, likewise.
        groups: the other parameters, where their hyper-parameters or rates are others.
        steps: of the optimizer.
        backwards: how many backward passes each step added up.
        mode: of the modules during training; `mixed` where `resting` names those in evaluation mode.
        resting: paths of the modules that were in evaluation mode.
        frozen: parameters, by the model's own names, that no step was given a gradient for.
        dropout: the rate at each site that drew a mask, by its name in `Canary.noise`.
        dtype: of the parameters while they were trained, `float32`.
        losses: what the loss was computed with, and `loss_values` what backward passes started from.
        clip_norm: of each step's gradient over all parameters (L2); `clip_value` of each entry.
        input_shape: of one example as it enters the model.
        batch_size: of the client's own training loader, before the canary changed it, if it did.
        unexplained: what the client did that a replay does not know of, one line each.
        notes: what the canary changed or left out, and what looks odd, one line each.
    """

    optimizer: str
    options: Mapping[str, Option]
    learning_rates: tuple[float, ...]
    groups: tuple[GroupSeen, ...] = ()
    steps: int
    backwards: tuple[int, ...]
    mode: Literal["train", "eval", "mixed"]
    resting: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    dropout: Mapping[str, float] = field(default_factory=dict)
    dtype: str = "float32"
    losses: tuple[LossSeen, ...] = ()
    loss_values: tuple[float, ...] = ()
    clip_norm: float | None = None
    clip_value: float | None = None
    input_shape: tuple[int, ...] = ()
    batch_size: int | None = None
    unexplained: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def lr(self) -> float:
        """The learning rate of the first step."""
        return self.learning_rates[0]

    @property
    def momentum(self) -> float:
        return float(self.options.get("momentum") or 0)  # type: ignore[arg-type]

    @property
    def nesterov(self) -> bool:
        return bool(self.options.get("nesterov"))

    @property
    def weight_decay(self) -> float:
        return float(self.options.get("weight_decay") or 0)  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `from_dict` reads it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Facts:
        def frozen(value: Any) -> Any:
            return tuple(value) if isinstance(value, list) else value

        found = {name: frozen(value) for name, value in plain.items()}
        found["losses"] = tuple(LossSeen(**loss) for loss in plain["losses"])
        found["options"] = {name: frozen(value) for name, value in plain["options"].items()}
        found["groups"] = tuple(
            GroupSeen(
                parameters=tuple(group["parameters"]),
                options={name: frozen(value) for name, value in group["options"].items()},
                learning_rates=tuple(group["learning_rates"]),
            )
            for group in plain["groups"]
        )
        return cls(**found)


@dataclass(frozen=True, kw_only=True)
class Canary:
    """One round of the user's own client on known images.

    Args:
        recorded: what was sent and what came back, as a server would have seen them.
        pixels: uint8 (N, C, H, W), distinct images.
        labels: int64 (N,).
        mean, std: of each channel: images enter the model as `(pixels / 255 - mean) / std`.
        order: for each optimizer step the images that it took; () for a step whose images were not those of the canary.
        noise: what was drawn at each random site, (examples of all steps, ...), as `defenses.client.round.replay`
            takes it for the model that `fedsim.audit.picture.explicit` makes.
        gradient: what the optimizer was given in the first step, by parameter.
        facts: what the client did.
    """

    recorded: Recorded
    pixels: Tensor
    labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    order: tuple[tuple[int, ...], ...]
    noise: Mapping[str, Tensor]
    gradient: Mapping[str, Tensor]
    facts: Facts
