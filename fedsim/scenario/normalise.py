"""The shorthands of a scenario file, written out before anything is validated.

`model: mlp` is `model: {name: mlp}`, `optimizer: adamw` is `optimizer: {name: adamw}`, `- none` is `- {name: none}`,
`partition: iid` is `partition: {kind: iid}`, a defense that is no list is a composition of one, at several
strengths it is several, and what another key
decides is filled in: the schema knows one form.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from fedsim.scenario.members import FACTORY
from fedsim.scenario.strengths import expanded
from fedsim.scenario.training import CLIENTS


def write_out(data: dict[str, Any]) -> None:
    """Turn bare names into blocks, in place: afterwards every place that `--set` may name exists."""
    for key in ("data", "model"):
        if isinstance(data.get(key), str):
            data[key] = {"name": data[key]}
    for key in ("attacks", "defenses"):
        if isinstance(data.get(key), list):
            data[key] = [_named(item) for item in data[key]]
    federation = data.get("federation")
    local = federation.get("local") if isinstance(federation, dict) else None
    if isinstance(local, dict):
        groups = local.get("groups")
        for block in (local, *(groups if isinstance(groups, list) else ())):
            for key in ("optimizer", "schedule"):
                if isinstance(block, dict) and isinstance(block.get(key), str):
                    block[key] = {"name": block[key]}
    for attack in decoding(data):
        if isinstance(attack["decoder"], str):
            attack["decoder"] = {"name": attack["decoder"]}
    source = data.get("data")
    if isinstance(source, dict) and isinstance(source.get("partition"), str):
        source["partition"] = {"kind": source["partition"]}


def canonical(data: Mapping[str, Any]) -> dict[str, Any]:
    """The one form that the schema knows, as a copy: every defense a list of parts, every model with its tag."""
    result = copy.deepcopy(dict(data))
    for optional in ("threat_model", "victims", "engine", "sweep", "settings", "federation"):
        if optional in result and result[optional] is None:  # `sweep:` with nothing after it
            del result[optional]
    for key, default in (("data", {"name": "mnist"}), ("model", {"name": "mlp"}), ("defenses", [{"name": "none"}])):
        result.setdefault(key, default)
    victims, federation = result.setdefault("victims", {}), result.get("federation", {})
    if isinstance(victims, dict) and "clients" not in victims and isinstance(federation, dict):
        victims["clients"] = federation.get("clients_per_round", federation.get("clients", CLIENTS))
    if isinstance(result["defenses"], list):
        entries = expanded(result["defenses"])
        result["defenses"] = [part if isinstance(part, list) else [part] for part in entries]
    for block in (result.get("model"), *(attack["decoder"] for attack in decoding(result))):
        if isinstance(block, dict) and "factory" in block and "name" not in block:
            block["name"] = FACTORY
    return result


def decoding(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The attacks that name a decoder."""
    named = data.get("attacks")
    found = named if isinstance(named, list) else []
    return [attack for attack in found if isinstance(attack, dict) and "decoder" in attack]


def following(data: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The numbers of clients that the file leaves to `federation.clients`, as block and key."""
    places = (("federation", "clients_per_round"), ("victims", "clients"))
    return tuple(place for place in places if place[1] not in (data.get(place[0]) or {}))


def _named(item: Any) -> Any:
    if isinstance(item, str):
        return {"name": item}
    return [_named(part) for part in item] if isinstance(item, list) else item
