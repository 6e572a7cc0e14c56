"""What things are called in a report: short where nothing is ambiguous, with the parameters that differ where it is."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

import attacks
from defenses.registry import UnknownName


def is_floor(attack: str) -> bool:
    """True for the null attacks. A name that this installation does not know is an ordinary attack."""
    try:
        return attacks.get(attack).floor
    except UnknownName:
        return False


def adapts_to(attack: str) -> Mapping[str, str | None]:
    """The defenses that an attack takes into account (`attacks.Attack.adapts`); none where the attack is not known."""
    try:
        return attacks.get(attack).adapts
    except UnknownName:
        return {}


def distinguished(pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """A label for each (name, JSON parameters): the name, and only those parameters that tell its variants apart."""
    variants: dict[str, list[tuple[str, dict[str, object]]]] = {}
    for name, text in dict.fromkeys(pairs):
        variants.setdefault(name, []).append((text, json.loads(text)))
    labels = {}
    for name, members in variants.items():
        keys = sorted({key for _, params in members for key in params})
        differing = [key for key in keys if len({json.dumps(params.get(key)) for _, params in members}) > 1]
        for text, params in members:
            shown = ", ".join(f"{key}={_value(params[key])}" for key in differing if key in params)
            labels[name, text] = f"{name} ({shown})" if shown else name
    return labels


def defense_label(defense: str, dropout: float | None) -> str:
    """The defense, and the effective dropout rate where the label does not say it."""
    if not dropout or re.search(r"\bdropout\b", defense):
        return defense
    return f"{defense}, dropout {dropout:g}"


def spoken(name: str) -> str:
    """`dropout_inversion` as it stands in a sentence."""
    return name.replace("_", " ")


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
