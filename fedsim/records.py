"""What the JSON files of a run directory look like, and the one way to read them: validated, or one line that says what
is wrong with which file.

A run directory may have been damaged on its way, or made by somebody else. Keys that are not named here are let
through: another version may have written them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fedsim.errors import Damaged
from fedsim.files import read_json

Round = Annotated[int, Field(ge=0)]
Whole = Annotated[int, Field(ge=1, le=2**31)]
Spec = dict[str, Any]


class Record(BaseModel):
    """A JSON object of a run directory."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())


class Marker(Record):
    """`fedsim-run.json`."""

    name: str = ""
    scenario: Spec = {}
    command: str = ""
    version: str = ""
    folder: str | None = None
    salted: bool = False


class Fault(Record):
    """A client that sent nothing that could be used."""

    round: Round
    client: int
    reason: str


class Length(Record):
    """The bytes of what a client sent."""

    round: Round
    client: int
    bytes: int | float | None  # as it was counted: a whole number stays one


class Trained(Record):
    """`cells/<key>/cell.json`."""

    faults: list[Fault]
    lost: list[Fault] = []
    accuracy: list[float | None]
    accounting_note: str
    lengths: list[Length] = []
    dropout: float | None = None
    utility: float | None = None
    test_images: int | None = None
    utility_reachable: float | None = None
    epsilon: float | None = None
    epsilon_prv: float | None = None
    delta: float | None = None
    cost_of: Spec | None = None


class Reason(Record):
    """`*.error.json`: why a cell or a job failed."""

    reason: str


class Seen(Record):
    """What of an observation is no tensor."""

    round: Round
    client: int
    clients: list[int] = []
    weights: list[float] = []
    kind: Literal["gradient", "delta"]
    precision: str
    input_shape: Annotated[list[Whole], Field(min_length=3, max_length=3)]
    classes: Whole
    mean: Annotated[list[float], Field(min_length=1)]
    std: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]
    batch_size: Whole | None
    examples: Whole | None
    local: Spec | None
    defense: list[Spec] | None

    @model_validator(mode="after")
    def _channels(self) -> Seen:
        if not len(self.mean) == len(self.std) == self.input_shape[0]:
            raise ValueError(f"mean and std are not of {self.input_shape[0]} channels")
        return self


class _Pixels(Record):
    mean: Annotated[list[float], Field(min_length=1)]
    std: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]


class Shown(Record):
    """Of `Observed` what it takes to show an image."""

    observation: _Pixels


class _Owners(Record):
    clients: list[int] = []


class Owned(Record):
    """Of `Observed` whose update it is."""

    observation: _Owners


class Model(Record):
    """How the model of an observation is built: by `name`, or by `factory`."""

    name: str | None = None
    factory: str | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    defenses: list[Spec] = []


class Observed(Record):
    """`cells/<key>/observations/*.json`."""

    observation: Seen
    model: Model
    derived: dict[str, str]


class Answered(Record):
    """`jobs/<key>/job.json`."""

    spec: Spec
    threat_model: dict[str, str]
    observed: dict[str, str | None]
    clients: dict[Annotated[str, Field(pattern=r"^-?\d{1,9}$")], Spec]
    seconds: float
    device: str
    environment: Spec | None = None


def read(path: Path, kind: type[Record]) -> dict[str, Any]:
    """The content of a JSON file, as it stands there, once it is known to be of this kind.

    Raises:
        Damaged: it is not; file and fault in one line.
        OSError: the file is not there, or cannot be read.
    """
    content = read_json(path)
    try:
        kind.model_validate(content)
    except ValidationError as error:
        raise Damaged(path, first_fault(error)) from None
    return content


def first_fault(error: ValidationError) -> str:
    """`observation.classes: Input should be a valid integer (and 2 more)`."""
    faults = error.errors(include_url=False, include_input=False)
    where = ".".join(str(step) for step in faults[0]["loc"])
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return f"{where + ': ' if where else ''}{faults[0]['msg']}{more}"
