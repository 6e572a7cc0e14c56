"""What a scenario may say: one immutable model of its keys, their types and defaults, and what each means."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_type_hints

from pydantic import Discriminator, Field, JsonValue, PrivateAttr, Tag, create_model

from attacks import ThreatModel
from attacks.threat import GRANTS
from fedsim.scenario.members import SGD, Attack, Block, Count, Defense, Member, Model, Optimizer, Positive, Schedule

Fraction = Annotated[float, Field(ge=0, lt=1)]
Metric = Literal["mse", "psnr", "ssim", "lpips"]
CLIENTS = 4
METRICS: tuple[str, ...] = get_args(Metric)


class Iid(Block):
    """Every client's images are a fair sample of all."""

    kind: Literal["iid"]


class Dirichlet(Block):
    """Class shares differ among clients: drawn from a Dirichlet distribution, more unequal the smaller `alpha`."""

    kind: Literal["dirichlet"]
    alpha: Positive


class Shards(Block):
    """Images sorted by class are cut into shards, and each client gets some: few classes a client."""

    kind: Literal["shards"]
    shards_per_client: Count


class _Source(Block):
    image_size: Count | None = None
    """Resize to squares of this many pixels; null keeps the source's size (photos: 32)."""
    test_fraction: Fraction = 0.2
    """Part held out for testing where the source has no test part; 0 trains on all of it and leaves no utility."""
    partition: Annotated[Iid | Dirichlet | Shards, Field(discriminator="kind")] = Iid(kind="iid")
    """How the images are divided among the clients."""


class Mnist(_Source):
    """5,000 bundled MNIST digits."""

    name: Literal["mnist"]
    path: None = None


class Photos(_Source):
    """Colour crops of the photographs that ship with scikit-image."""

    name: Literal["photos"]
    path: None = None
    image_size: Annotated[int, Field(ge=32, le=224)] | None = None
    """Pixels a side, 32 to 224; null is 32."""


class Npz(_Source):
    """Your own arrays: x and y, or x_train, y_train, x_test and y_test; uint8."""

    name: Literal["npz"]
    path: str
    """The archive; relative to the scenario file."""


class Folder(_Source):
    """Your own pictures: one sub-folder for each class."""

    name: Literal["folder"]
    path: str
    """The folder; relative to the scenario file."""


class Hub(_Source):
    """A data set of the Hugging Face Hub."""

    name: Literal["hub"]
    path: None = None
    dataset: str
    """Its name there, e.g. `uoft-cs/cifar10`."""
    subset: str | None = None
    image_key: str | None = None
    label_key: str | None = None


class Group(Block):
    """Parameters that a client trains unlike the others."""

    parameters: Annotated[tuple[str, ...], Field(min_length=1)]
    """Patterns of their names, such as `*.bias`; the first group that a name fits has it."""
    scale: Annotated[float, Field(ge=0)] = 1.0
    """Their learning rate over `learning_rate`."""
    optimizer: Optimizer | None = None
    """Theirs; null is that of the others."""
    schedule: Schedule | None = None
    """Theirs; null is that of the others."""


class Local(Block):
    """What a client does in a round."""

    batch_size: Count = 1
    steps: Count = 1
    """Local optimizer steps, each on a fresh batch."""
    epochs: Count | None = None
    """Passes over the client's own examples, in place of `steps` fresh batches; the last batch of a pass may be
    smaller."""
    examples: Count | None = None
    """How many of its examples a client goes through in its epochs; null is all."""
    learning_rate: Positive = 0.1
    schedule: Schedule | None = None
    """What it is multiplied by in each step of a round; null is a constant rate."""
    optimizer: Optimizer = SGD
    """Its state starts afresh in each round."""
    groups: tuple[Group, ...] = ()
    """Parameters that are trained otherwise."""
    clip_norm: Positive | None = None
    """Bound of each step's gradient in L2 norm; null is none."""
    clip_value: Positive | None = None
    """Bound of each entry of it; null is none."""
    proximal: Annotated[float, Field(ge=0)] = 0.0
    """Weight mu of FedProx' term, `mu / 2 |w - w_0|^2`."""
    label_smoothing: Fraction = 0.0
    """Share of each label that is spread over all classes."""
    trained: tuple[str, ...] = ()
    """Patterns of the parameters that clients train, such as `head.*`; empty is all."""
    mode: Literal["train", "eval"] = "train"
    """train: dropout active, batch norm on batch statistics: what an honest client does."""
    share: Literal["gradient", "weights"] = "gradient"
    """gradient is FedSGD (one step); weights is FedAvg."""
    precision: Literal["float32", "float64"] = "float32"
    """The floating-point type that clients compute in and send."""


class Resources(Block):
    """What one client occupies while it trains."""

    cpus: Count = 1
    gpus: Annotated[float, Field(ge=0)] = 0


class Federation(Block):
    clients: Count = CLIENTS
    clients_per_round: Count = Field(default_factory=lambda data: data.get("clients", CLIENTS))
    """Clients drawn each round; all by default."""
    rounds: Count = 1
    local: Local = Local()
    resources: Resources = Resources()


class Victims(Block):
    """Whose updates are attacked."""

    rounds: Annotated[tuple[Count, ...], Field(min_length=1)] = (1,)
    clients: Count
    """How many of a round's clients, the first by partition; all by default."""
    development: Annotated[int, Field(ge=0)] = 0
    """The first so many of them serve to choose the strongest attack on each defense; no score reports them."""


class UtilityLocal(Block):
    """What is null is as in `federation.local`: the defense then acts on what it acts on in the attacked rounds."""

    batch_size: Count = 32
    steps: Count | None = None
    """Clients that share gradients share weights instead where this is more than 1."""
    learning_rate: Positive | None = None


class Reachable(Block):
    """Central training of the model without a defense, for what it reaches: plain SGD, once for all defenses."""

    steps: Count = 1000
    batch_size: Count = 32
    learning_rate: Positive = 0.1


class Utility(Block):
    """The same model and defense trained unattacked; its final test accuracy is the utility column."""

    rounds: Count
    local: UtilityLocal = UtilityLocal()
    reachable: Reachable | None = Reachable()
    """The column `utility_reachable`; null leaves it empty."""


class Record(Block):
    """Snapshots of what an attack that optimises is at, for `fedsim animate`; they change no result."""

    every: Count
    """Iterations between two snapshots."""


class Engine(Block):
    """How attacks are computed. Only `dtype` and `chunk` can change a result."""

    compile: Literal["auto", "always", "never"] = "auto"
    chunk: Count = 64
    """Victims attacked at once."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["float32", "float64"] = "float32"
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
    Grants = create_model(
        "Grants",
        __base__=Block,
        __doc__="What the adversary is granted to know; of a list every attack runs under each that changes anything.",
        **{f.name: (_one_or_several(_hints[f.name]), f.default) for f in fields(ThreatModel) if f.name in GRANTS},
    )


class Scenario(Block):
    """An experiment: immutable and valid. `load` and `parse` make it."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=100)]
    """The run's identity and its directory: letters, digits, - _ ."""
    description: str = ""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**63)], ...], Field(min_length=1)] = (0,)
    data: Data
    model: Model
    federation: Federation = Federation()
    threat_model: Grants = Grants()
    victims: Victims
    attacks: tuple[Attack, ...]
    """The null attacks stand in every table and need not be named."""
    defenses: Annotated[tuple[Annotated[tuple[Defense, ...], Field(min_length=1)], ...], Field(min_length=1)]
    """Compared with each other, each from the same start; a list within the list is a composition."""
    metrics: tuple[Metric, ...] = ("mse", "psnr", "ssim", "lpips")
    utility: Utility | None = None
    engine: Engine = Engine()
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
