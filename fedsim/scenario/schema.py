"""What a scenario may say: one immutable model of its keys, their types and defaults, and what each means."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_type_hints

from pydantic import ConfigDict, Discriminator, Field, JsonValue, PrivateAttr, Tag, create_model

from attacks import ThreatModel
from attacks.threat import GRANTS
from fedsim.described import described
from fedsim.scenario.members import Attack, Block, Count, Defense, Member, Model, Positive
from fedsim.scenario.sources import Folder, Hub, Mnist, Npz, Photos
from fedsim.scenario.training import Federation

Metric = Literal["mse", "psnr", "ssim", "lpips"]
METRICS: tuple[str, ...] = get_args(Metric)

NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"

FIXED = {
    "sweep": ("name", "description", "seeds", "defenses", "sweep", "settings"),
    "settings": ("name", "description", "seeds", "sweep", "settings"),
}
"""What they cannot vary: the run's identity, and what is an axis already; a setting may have defenses of its own."""


class Victims(Block):
    """Whose updates are attacked."""

    rounds: Annotated[tuple[Count, ...], Field(min_length=1)] = (1,)
    """The attacked rounds, from 1."""
    clients: Count
    """How many of a round's clients, the first by partition; all by default."""
    development: Annotated[int, Field(ge=0)] = 0
    """The first so many of them serve to choose the strongest attack on each defense; no score reports them."""


class UtilityLocal(Block):
    """What is null is as in `federation.local`: the defense then acts on what it acts on in the attacked rounds."""

    batch_size: Count = 32
    """Images of a local step."""
    steps: Count | None = None
    """Clients that share gradients share weights instead where this is more than 1."""
    learning_rate: Positive | None = None
    """Of the local optimizer."""


class Reachable(Block):
    """Central training of the model without a defense, for what it reaches: plain SGD, once for all defenses."""

    steps: Count = 1000
    """How many."""
    batch_size: Count = 32
    """Images of a step."""
    learning_rate: Positive = 0.1
    """Of plain SGD."""


class Utility(Block):
    """The same model and defense trained unattacked; its final test accuracy is the utility column."""

    rounds: Count
    """Of the unattacked training."""
    local: UtilityLocal = UtilityLocal()
    """What a client does in a round of it."""
    reachable: Reachable | None = Reachable()
    """The column `utility_reachable`; null leaves it empty."""


class Record(Block):
    """Snapshots of what an attack that optimises is at, for `fedsim animate`; they change no result."""

    every: Count
    """Iterations between two snapshots."""


class Engine(Block):
    """How attacks are computed. Only `dtype` and `chunk` can change a result."""

    compile: Literal["auto", "always", "never"] = "auto"
    """Whether iterations are compiled; auto: where that pays."""
    chunk: Count = 64
    """Victims attacked at once."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where attacks run; auto: on a GPU if a machine of the cluster has one."""
    gpus: Annotated[float, Field(gt=0)] = 1
    """What an attack job occupies where it runs on a GPU; a fraction lets several share one."""
    dtype: Literal["float32", "float64"] = "float32"
    """The floating-point type that attacks compute in."""
    record: Record | None = None
    """Keep snapshots of the first victims; null keeps none."""


def _one_or_several(value: Any) -> Any:
    """A grant, or a list of them. Which of the two is meant is told by the form, so that errors speak of that one."""
    several = Annotated[tuple[value, ...], Field(min_length=1)]
    branches = Annotated[value, Tag("one")] | Annotated[several, Tag("several")]
    return Annotated[branches, Discriminator(lambda given: "several" if isinstance(given, list | tuple) else "one")]


if TYPE_CHECKING:
    Data = Mnist | Photos | Npz | Folder | Hub

    class Grants(Block):
        pass

else:
    Data = Annotated[Union[Mnist, Photos, Npz, Folder, Hub], Field(discriminator="name")]  # noqa: UP007
    _hints = get_type_hints(ThreatModel)

    class _Made(Block):
        model_config = ConfigDict(use_attribute_docstrings=False)

    Grants = create_model(
        "Grants",
        __base__=_Made,
        __doc__="What the adversary is granted to know; of a list every attack runs under each that changes anything.",
        **{
            f.name: (_one_or_several(_hints[f.name]), Field(f.default, description=described(ThreatModel, f.name)))
            for f in fields(ThreatModel)
            if f.name in GRANTS
        },
    )


class Scenario(Block):
    """An experiment: immutable and valid. `load` and `parse` make it."""

    name: Annotated[str, Field(pattern=NAME, max_length=100)]
    """The run's identity and its directory: letters, digits, - _ ."""
    description: str = ""
    """The question that the run answers, in words; the report begins with it."""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**63)], ...], Field(min_length=1)] = (0,)
    """One whole federation for each."""
    data: Data
    """What clients train on; mnist if not given."""
    model: Model
    """What clients train; mlp if not given, or your own: `factory: module:function`."""
    federation: Federation = Federation()
    """The honest training that the server eavesdrops on."""
    threat_model: Grants = Grants()
    """What the adversary is granted to know."""
    victims: Victims
    """Whose updates are attacked."""
    attacks: tuple[Attack, ...]
    """The null attacks stand in every table and need not be named."""
    defenses: Annotated[tuple[Annotated[tuple[Defense, ...], Field(min_length=1)], ...], Field(min_length=1)]
    """Compared with each other, each from the same start; a list within the list is a composition."""
    metrics: tuple[Metric, ...] = ("mse", "psnr", "ssim", "lpips")
    """What is measured on each rebuilt image."""
    utility: Utility | None = None
    """What the defenses cost in test accuracy; null does not measure it."""
    engine: Engine = Engine()
    """How attacks are computed."""
    sweep: dict[str, Annotated[tuple[JsonValue, ...], Field(min_length=1)]] = Field(default_factory=dict)
    """Further axes: a dotted key and its values, e.g. `model.name: [mlp, lenet]`; all combinations are run."""

    settings: tuple[Annotated[dict[str, JsonValue], Field(min_length=1)], ...] = ()
    """Each says what differs there from the scenario: dotted keys and their values, e.g. `{model.name: lenet,
    attacks: [cut]}`; the sweep, if any, is run in each."""

    _variants: tuple[tuple[dict[str, Any], Scenario], ...] = PrivateAttr(default=())
    _folder: str | None = PrivateAttr(default=None)
    _following: tuple[tuple[str, str], ...] = PrivateAttr(default=())

    @property
    def folder(self) -> str | None:
        """Where the scenario's file lies, and a factory's module may lie too; None for one that was made in Python."""
        return self._folder

    @property
    def variants(self) -> tuple[tuple[dict[str, Any], Scenario], ...]:
        """The scenarios that settings and sweep make, none of which has any, each with its values by dotted key."""
        return self._variants or (({}, self),)

    def attack_specs(self) -> list[dict[str, Any]]:
        """The attacks as `{"name": ..., **parameters}`, without the null attacks that were not named."""
        return [attack.spec() for attack in self.attacks]

    def grants(self) -> list[dict[str, str]]:
        """The scenario's part of the threat model: every combination of what it lists, the first of each list first."""
        block = self.threat_model.model_dump(mode="json")
        lists = [value if isinstance(value, list) else [value] for value in block.values()]
        return [dict(zip(block, values, strict=True)) for values in itertools.product(*lists)]

    def to_dict(self) -> dict[str, Any]:
        """The whole scenario, defaults filled in, JSON-able; `parse` reads it back."""
        plain = self.model_dump(mode="json")
        plain["model"] = {**self.model.spec(), **self.model.start()}
        varied = {*self.sweep, *(key for setting in self.settings for key in setting)}
        if "model.name" in varied:  # the defaults of one model are unknown keys, or other values, to the next
            plain["model"] = {key: plain["model"][key] for key in plain["model"] if key in self.model.model_fields_set}
        local = self.federation.local
        for key, own in (("optimizer", local.optimizer), ("schedule", local.schedule)):
            if own is not None and f"federation.local.{key}.name" in varied:  # and those of one optimizer
                plain["federation"]["local"][key] = own.model_dump(mode="json", include=own.model_fields_set)
        if any(key.split(".")[0] == "federation" for key in varied):  # what nobody wrote follows from it in each
            for block, key in self._following:
                del plain[block][key]
        return plain

    def digest(self) -> str:
        """A hash of all that the scenario says."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def axes(self) -> Iterator[dict[str, Any]]:
        """The settings with each combination of the sweep's values, `{}` alone without either."""
        for setting, values in itertools.product(self.settings or ({},), itertools.product(*self.sweep.values())):
            yield {**setting, **dict(zip(self.sweep, values, strict=True))}


def specs_of(parts: tuple[Member, ...]) -> tuple[dict[str, Any], ...]:
    return tuple(part.spec() for part in parts)


def label_of(parts: tuple[Member, ...]) -> str:
    """`clip(norm=1.0) + gaussian_noise(std=0.001)`."""
    return " + ".join(part.label() for part in parts)
