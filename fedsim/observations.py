"""What the server saw, on disk; and the grants that a threat model may add to it.

    cells/<key>/observations/round_1.state.safetensors      the global model that was sent
                             round_1_client_0.safetensors   the update that came back
                             round_1_client_0.json          everything else the server knows
                             round_1_sum.safetensors, .json in their place, where it sees clients together alone
    cells/<key>/grants/round_1_client_0.labels.safetensors  loaded only where the threat model grants it
                       round_1_client_0.noise.safetensors
                       round_1_client_0.order.safetensors
                       public.safetensors

`load` is the only reader, and it returns exactly what the threat model allows.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attacks import LocalTraining, Observation, ThreatModel
from attacks.observation import SUM
from fedsim import records
from fedsim.errors import Damaged
from fedsim.files import read_tensors, tensor_named, write_json, write_tensors


@dataclass(frozen=True)
class Seen:
    """One observation and what goes with it: how to build the attacker's model, and what follows from the federation.

    Args:
        model: the specification for `fedsim.models.build`; without a dropout rate if that is not granted.
        derived: fields of the threat model that the federation decides, e.g. `client_mode`.
    """

    observation: Observation
    model: dict[str, Any]
    derived: dict[str, str]


_PLAIN = (
    "kind",
    "precision",
    "input_shape",
    "classes",
    "mean",
    "std",
    "batch_size",
    "examples",
    "defense",
    "round",
    "client",
    "clients",
    "weights",
)
"""What JSON holds of an observation as it is."""


_NAME = re.compile(r"round_(\d+)_(?:sum|client_(\d+))")


def name_of(round: int, client: int) -> str:
    """Of what was seen of one client in a round; of the sum over its clients where `client` is `SUM`."""
    return f"round_{round}_sum" if client == SUM else f"round_{round}_client_{client}"


def save(cell: Path, observation: Observation, *, model: Mapping[str, Any], derived: Mapping[str, str]) -> None:
    """Write one observation (with every field set) under a cell's directory, grants apart."""
    name = name_of(observation.round, observation.client)
    state = cell / "observations" / f"round_{observation.round}.state.safetensors"
    if not state.exists():
        write_tensors(state, observation.state)
    tensors = {f"update.{key}": value for key, value in observation.update.items()}
    tensors |= {f"buffer.{key}": value for key, value in observation.buffers.items()}
    write_tensors(cell / "observations" / f"{name}.safetensors", tensors)
    if observation.labels is not None:
        write_tensors(cell / "grants" / f"{name}.labels.safetensors", {"labels": observation.labels})
    if observation.noise is not None:
        write_tensors(cell / "grants" / f"{name}.noise.safetensors", observation.noise)
    if observation.order is not None:
        write_tensors(cell / "grants" / f"{name}.order.safetensors", {"order": observation.order})
    record = {field: getattr(observation, field) for field in _PLAIN}
    record["local"] = observation.local.to_dict() if observation.local else None
    write_json(
        cell / "observations" / f"{name}.json",
        {"observation": record, "model": dict(model), "derived": dict(derived)},
    )


def save_public(cell: Path, images: Tensor) -> None:
    """Public images (N, C, H, W) in normalised units: auxiliary data that a threat model may grant."""
    write_tensors(cell / "grants" / "public.safetensors", {"public": images})


def listed(cell: Path) -> list[tuple[int, int]]:
    """The (round, client) pairs that were observed in a cell, in order; `SUM` is the client of a sum."""
    names = (_NAME.fullmatch(path.stem) for path in (cell / "observations").glob("*.json"))
    return sorted((int(name[1]), SUM if name[2] is None else int(name[2])) for name in names if name)


def clients_of(cell: Path, round: int, client: int) -> list[int]:
    """Whose updates an observation holds: of a sum several."""
    seen = recorded(cell, round, client, records.Owned)["observation"]
    return [int(one) for one in seen.get("clients") or [client]]


def recorded(
    cell: Path, round: int, client: int, kind: type[records.Record] = records.Observed
) -> dict[str, Any]:
    """What of an observation is no tensor: `observation`, `model`, `derived`.

    Args:
        kind: what it must be, which may be less than all of it.

    Raises:
        Damaged: it is not.
    """
    path = cell / "observations" / f"{name_of(round, client)}.json"
    record = records.read(path, kind)
    seen = record["observation"]
    if (seen.get("round", round), seen.get("client", client)) != (round, client):
        raise Damaged(path, f"holds what was seen of client {seen['client']} in round {seen['round']}")
    return record


def digest(cell: Path, round: int, clients: Collection[int]) -> str:
    """A hash of all that is on disk of these clients, of this round and of those before."""
    found = hashlib.sha256()
    for folder in ("observations", "grants"):
        for before in range(1, round + 1):
            for name in (f"round_{before}.state", *(name_of(before, client) for client in clients)):
                for file in sorted((cell / folder).glob(f"{name}.*")):
                    found.update(file.name.encode() + file.read_bytes())
    return found.hexdigest()[:16]


def load(cell: Path, round: int, client: int, threat_model: ThreatModel) -> Seen:
    """One observation as `threat_model` allows it to be seen: what is not granted is None, or left out."""
    name = name_of(round, client)
    record = recorded(cell, round, client)
    fields = dict(record["observation"])
    tensors = read_tensors(cell / "observations" / f"{name}.safetensors")
    granted: dict[str, Any] = {
        "batch_size": fields["batch_size"] if threat_model.batch_size == "known" else None,
        "local": _local(cell / name, fields["local"]) if threat_model.local_training == "known" else None,
        "defense": tuple(fields["defense"] or ()) if threat_model.defense == "known" else None,
        "examples": fields["examples"] if threat_model.batch_size == "known" else None,
        "order": None,
        "labels": None,
        "noise": None,
        "public": None,
    }
    if threat_model.labels == "known":
        granted["labels"] = _granted(cell / "grants" / f"{name}.labels.safetensors", "labels")
    if threat_model.noise == "known":
        path = cell / "grants" / f"{name}.noise.safetensors"
        granted["noise"] = read_tensors(path) if path.exists() else {}
    if threat_model.batch_order == "known":
        path = cell / "grants" / f"{name}.order.safetensors"
        granted["order"] = _granted(path, "order") if path.exists() else None
    if threat_model.auxiliary_data == "public":
        path = cell / "grants" / "public.safetensors"
        granted["public"] = _granted(path, "public") if path.exists() else None
    model = dict(record["model"])
    if threat_model.dropout_rate == "unknown":
        model["dropout"] = 0.0
    if threat_model.defense == "unknown" and "defenses" in model:
        model["resting"] = True  # the model itself was sent: what the defense draws in it is not known
    observation = Observation(
        state=read_tensors(cell / "observations" / f"round_{round}.state.safetensors"),
        update={key.removeprefix("update."): value for key, value in tensors.items() if key.startswith("update.")},
        buffers={key.removeprefix("buffer."): value for key, value in tensors.items() if key.startswith("buffer.")},
        kind=fields["kind"],
        precision=fields["precision"],
        input_shape=tuple(fields["input_shape"]),
        classes=fields["classes"],
        mean=tuple(fields["mean"]),
        std=tuple(fields["std"]),
        round=fields["round"],
        client=fields["client"],
        clients=tuple(fields.get("clients", ())),
        weights=tuple(fields.get("weights", ())),
        **granted,
    )
    return Seen(observation=observation, model=model, derived=record["derived"])


def _local(path: Path, plain: dict[str, Any]) -> LocalTraining:
    try:
        return LocalTraining.from_dict(plain)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise Damaged(path, f"observation.local: {error}") from None


def _granted(path: Path, name: str) -> Tensor:
    return tensor_named(read_tensors(path), name, path)


def load_earlier(cell: Path, round: int, client: int, threat_model: ThreatModel) -> tuple[Observation, ...]:
    """What was seen of the same client, or sum over the same clients, in earlier rounds, the latest first."""
    own = clients_of(cell, round, client)
    rounds = sorted((other for other, one in listed(cell) if one == client and other < round), reverse=True)
    rounds = [other for other in rounds if clients_of(cell, other, client) == own]
    return tuple(load(cell, other, client, threat_model).observation for other in rounds)


def to(observation: Observation, device: torch.device, dtype: torch.dtype) -> Observation:
    """The same observation with its floating-point tensors on a device and in a dtype."""

    def move(tensor: Tensor) -> Tensor:
        return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else tensor.dtype)

    changes: dict[str, Any] = {}
    for field in ("state", "update", "buffers", "noise"):
        tensors = getattr(observation, field)
        if tensors is not None:
            changes[field] = {key: move(value) for key, value in tensors.items()}
    for field in ("labels", "public", "order"):
        tensor = getattr(observation, field)
        if tensor is not None:
            changes[field] = move(tensor)
    earlier = tuple(to(one, device, dtype) for one in observation.earlier)
    return dataclasses.replace(observation, **changes, earlier=earlier)
