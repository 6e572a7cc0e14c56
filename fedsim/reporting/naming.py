"""What things are called in a report: short where nothing is ambiguous, with the parameters that differ where it is."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import attacks
import defenses
from defenses import Defense
from defenses.registry import UnknownName


def is_floor(attack: str) -> bool:
    """True for the null attacks. A name that this installation does not know is an ordinary attack."""
    try:
        return attacks.get(attack).floor
    except UnknownName:
        return False


def needed_for(attack: str, defense: str) -> str | Literal[False] | None:
    """The field of the threat model that must be `known` for an attack to take a defense into account; None: it does at
    any rate; False: it does not, or one of the two is not known here.

    An attack that replays what it is granted does so with every defense (`attacks.Attack.replays`); but where a defense
    draws something structural, or changes the model, only one that looks for what was drawn, or one that reads nothing
    but a layer before it (`attacks.Attack.reads_first`). Of what a server does only
    once it has seen all there is nothing to take into account.
    To replay some defenses is not to see through them (`Defense.beyond_replay`).
    Another weighs what was sent by the noise on it (`attacks.Attack.weighs_noise`), where the defense can say how much.
    """
    try:
        algorithm, kind = attacks.get(attack), defenses.get(defense)
    except UnknownName:
        return False
    if defense in algorithm.adapts:
        return algorithm.adapts[defense]
    if kind.beyond_replay:
        return False
    if kind().server_alone or (algorithm.reads_first and kind.behind):
        return None
    if kind.told_by != Defense.told_by:
        return kind.told_by
    if algorithm.weighs_noise and kind.spread is not Defense.spread:
        return "defense"
    rate_alone = kind.model_overrides is not Defense.model_overrides
    random = kind.draws or (kind.on_model is not Defense.on_model and not kind.checks_model)
    return "defense" if algorithm.replays and not rate_alone and (algorithm.seeks_noise or not random) else False


def has_oracle(row: Mapping[str, Any]) -> bool:
    """Whether the client of a board's row drew anything that an oracle is told: masks and other structure.

    Of noise that is one number an entry it is told nothing: whoever knew that would have the undefended client.
    """
    if row["dropout"]:
        return True
    for part in json.loads(row["defense_parts"]):
        try:
            kind = defenses.get(part["name"])
        except UnknownName:
            return True
        if kind.draws or (kind.on_model is not Defense.on_model and not kind.checks_model):
            return True
    return False


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
