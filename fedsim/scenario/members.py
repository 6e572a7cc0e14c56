"""The blocks of a scenario whose keys are constructor parameters: models, attacks and defenses.

One pydantic model for each registered class, made from its signature, and one union for each kind, told apart by
`name`.
A new attack, defense or model appears in the scenario format without a line written here.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, Union, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, create_model

import attacks
import defenses
from attacks.generated import Decoder as DecoderModule
from defenses.client import optimizers, schedules
from defenses.registry import parameters
from fedsim import decoders, models
from fedsim.described import described, summary
from fedsim.models.build import MODELS

FACTORY = "factory"
"""The internal tag of a model that is given as `factory:` rather than by name."""

Rate = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


class Block(BaseModel):
    """A part of a scenario: immutable, strictly typed, no unknown keys."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        use_attribute_docstrings=True,
    )


class Member(Block):
    """A named thing with the parameters of its constructor."""

    # members are made, not written: pydantic would look for their source in every frame
    model_config = ConfigDict(use_attribute_docstrings=False)

    name: str

    def spec(self) -> dict[str, Any]:
        """`{"name": ..., **parameters}` with every parameter filled in; JSON-able."""
        return self.model_dump(mode="json")

    def given(self) -> dict[str, Any]:
        """`{"name": ..., **parameters}` with the parameters that were given."""
        return {"name": self.name, **{key: own for key, own in self.spec().items() if key in self.model_fields_set}}

    def label(self) -> str:
        """The name with the parameters that were given: `clip(norm=1.0)`."""
        given = {key: value for key, value in self.given().items() if key != "name"}
        return self.name + (f"({', '.join(f'{key}={value}' for key, value in given.items())})" if given else "")


class Pretrain(Block):
    """Honest central training of the global model before the first round: plain SGD on the whole training part."""

    steps: Count
    """How many."""
    batch_size: Count = 32
    """Images of a step."""
    learning_rate: Positive = 0.1
    """Of plain SGD."""


class ModelMember(Member):
    """A model's own keys, and where its weights come from: one of `start`, or a fresh initialisation."""

    if TYPE_CHECKING:  # each model declares them itself, after the keys that are its own
        pretrain: Pretrain | None
        checkpoint: str | None

    def spec(self) -> dict[str, Any]:
        """What `fedsim.models.build` takes."""
        return self.model_dump(mode="json", exclude=set(_START))

    def start(self) -> dict[str, Any]:
        """`{"pretrain": {...}}`, `{"checkpoint": path}`, or nothing."""
        return self.model_dump(mode="json", include=set(_START), exclude_none=True)


_START: dict[str, Any] = {
    "pretrain": (
        Pretrain | None,
        Field(None, description="Train the global model before the first round; null leaves it as initialised."),
    ),
    "checkpoint": (
        str | None,
        Field(None, description="A safetensors file with the global model's weights; relative to the scenario file."),
    ),
}


class FactoryModel(ModelMember):
    """A model made by the user's own function, which takes the further keys of this block."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)

    name: Literal["factory"] = FACTORY  # type: ignore[assignment]
    """Goes without saying where there is a `factory`."""
    factory: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
    """`package.module:function`, called with input_shape, classes and the other keys of this block."""
    dropout: Rate | None = None
    """The rate of all its dropout layers; null leaves its own."""
    pretrain: Pretrain | None = _START["pretrain"][1]
    checkpoint: str | None = _START["checkpoint"][1]

    def spec(self) -> dict[str, Any]:
        return {key: value for key, value in super().spec().items() if key != "name"}


class FactoryDecoder(Member):
    """A decoder made by the user's own function, which takes the further keys of this block."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)

    name: Literal["factory"] = FACTORY  # type: ignore[assignment]
    """Goes without saying where there is a `factory`."""
    factory: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
    """`package.module:function`, called with input_shape and the other keys of this block."""
    checkpoint: str | None = None
    """A safetensors file with its weights; relative to the scenario file."""


def _member(kind: str, name: str, constructor: type, accepted: Mapping[str, inspect.Parameter]) -> Any:
    # those of a dataclass are looked up where each was written, not where it is inherited
    hints = get_type_hints(constructor if is_dataclass(constructor) else constructor.__init__)  # type: ignore[misc]
    whole = summary(constructor)
    fields: dict[str, Any] = {"name": (Literal[name], Field(description=whole))}
    for key, parameter in accepted.items():
        default = ... if parameter.default is inspect.Parameter.empty else parameter.default
        kept = Decoder if hints[key] is DecoderModule else hints[key]
        fields[key] = (kept, Field(default, description=described(constructor, key)))
    if kind == "model":
        fields |= {"dropout": (Rate, Field(0.0, description="The rate of all its dropout layers.")), **_START}
    if kind == "decoder":
        fields["checkpoint"] = (str | None, FactoryDecoder.model_fields["checkpoint"])
    title = "".join(part.title() for part in name.split("_")) + kind.title()
    base = ModelMember if kind == "model" else Member
    return create_model(title, __base__=base, __doc__=whole, **fields)


def _union(members: Iterable[type[Member]]) -> Any:
    return Annotated[Union[tuple(members)], Field(discriminator="name")]  # noqa: UP007


def _model(name: str) -> Any:
    return _member("model", name, MODELS[name], models.parameters(name))


def _decoder(name: str) -> Any:
    return _member("decoder", name, decoders.DECODERS[name], decoders.parameters(name))


if TYPE_CHECKING:
    Decoder: TypeAlias = Member
    Model: TypeAlias = ModelMember
    Attack: TypeAlias = Member
    Defense: TypeAlias = Member
    Optimizer: TypeAlias = Member
    Schedule: TypeAlias = Member
else:
    Decoder = _union([*(_decoder(name) for name in decoders.names()), FactoryDecoder])
    Model = _union([*(_model(name) for name in models.names()), FactoryModel])
    Attack = _union(_member("attack", name, cls, parameters(cls)) for name, cls in attacks.base._registry)
    Defense = _union(_member("defense", name, cls, parameters(cls)) for name, cls in defenses.base._registry)
    Optimizer = _union(_member("optimizer", name, cls, parameters(cls)) for name, cls in optimizers._registry)
    Schedule = _union(_member("schedule", name, cls, parameters(cls)) for name, cls in schedules._registry)

SGD = TypeAdapter(Optimizer).validate_python({"name": "sgd"})
"""Plain stochastic gradient descent."""
