"""What a setting is called: the data set and the model, and whatever else tells the settings of one table apart.

A setting is a JSON object with everything that can change a result (`fedsim.scenario.Cell.setting`). Nothing here lists
its keys: a key that did not exist when this was written parts settings, and shows, like any other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_SHORT = ("federation.local.", "federation.", "model.", "data.", "engine.")
_WORDS = {
    "batch_size": lambda value: f"batch {value}",
    "steps": lambda value: f"steps {value}",
    "share": lambda value: {"gradient": "gradients"}.get(value, str(value)),
    "optimizer.name": lambda value: str(value),
    "schedule.name": lambda value: f"{value} schedule" if value else "constant rate",
    "groups": lambda value: f"{len(value or ())} parameter groups",
    "optimizer.momentum": lambda value: f"momentum {value}",
    "content": lambda value: f"files {str(value)[:6]}",
}
_ALWAYS: dict[str, Any] = {
    "federation.local.batch_size": 1,
    "federation.local.steps": 1,
    "federation.local.epochs": None,
    "federation.local.schedule.name": None,
    "federation.local.groups": [],
    "federation.local.optimizer.name": "sgd",
    "federation.local.optimizer.momentum": 0.0,
    "federation.local.clip_norm": None,
    "federation.local.clip_value": None,
    "federation.local.proximal": 0.0,
    "federation.local.label_smoothing": 0.0,
}
"""Keys that are named wherever they are not this, even where all settings agree."""


def setting_labels(settings: Sequence[str]) -> dict[str, str]:
    """A label for each distinct setting, given as JSON text: `mnist · mlp · pretrained · batch 8`."""
    blocks = {text: json.loads(text) for text in dict.fromkeys(settings)}
    heads = {text: _head(block) for text, block in blocks.items()}
    flat = {text: dict(_flat(block)) for text, block in blocks.items()}
    starts = any("start" in block for block in blocks.values())
    labels: dict[str, str] = {}
    for text, own in flat.items():
        # a model's own keys are compared with those of the same model: another one has other keys
        alike = [other for name, other in flat.items() if heads[name] == heads[text]]
        parts = [*heads[text], *([_start(blocks[text])] if starts else [])]
        parts += [_said(key, own.get(key)) for key in _differing(own, alike, list(flat.values()))]
        labels[text] = " · ".join(dict.fromkeys(parts))
    return labels


def _head(block: Mapping[str, Any]) -> tuple[str, str]:
    model = block.get("model", {})
    return str(block.get("data", {}).get("name", "?")), str(model.get("name") or model.get("factory") or "?")


def _start(block: Mapping[str, Any]) -> str:
    start = block.get("start", {})
    if "pretrain" in start:
        return "pretrained"
    return f"checkpoint {start['checkpoint']['path']}" if "checkpoint" in start else "init"


def _flat(block: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in block.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _differing(own: Mapping[str, Any], alike: list[dict[str, Any]], everyone: list[dict[str, Any]]) -> list[str]:
    """The keys by which a setting differs from others, those that go without saying apart.

    A block that others lack altogether is named by its absence there, not by each of its keys here.
    """
    named = [key for key, usual in _ALWAYS.items() if own.get(key, usual) != usual]
    for key, value in own.items():
        if key in ("data.name", "model.name", "model.factory"):
            continue
        rivals = alike if key.startswith("model.") else everyone
        values = {json.dumps(other[key]) for other in rivals if key in other}
        lacking = value is None and any(name.startswith(f"{key}.") for other in rivals for name in other)
        if len(values) > 1 or lacking or any(_without(key, other) for other in rivals):
            named.append(key)
    return list(dict.fromkeys(named))


def _without(key: str, other: Mapping[str, Any]) -> bool:
    """Whether a setting has no such key, and no word for the lack of its whole block."""
    blocks = [key[:at] for at, letter in enumerate(key) if letter == "."]
    return key not in other and not key.startswith("start.") and not any(block in other for block in blocks)


def _said(key: str, value: Any) -> str:
    for prefix in _SHORT:
        if key.startswith(prefix):
            key = key.removeprefix(prefix)
            break
    if key in _WORDS:
        return _WORDS[key](value)
    words = key.replace("_", " ").replace(".", " ")
    return f"no {words}" if value is None else f"{words} {value if isinstance(value, str) else json.dumps(value)}"
