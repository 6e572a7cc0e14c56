"""From plain data to a valid `Scenario`, or to one `Problem` that says where and what would be accepted."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import ValidationError

from fedsim.scenario.checks import check
from fedsim.scenario.document import KeyPath, Problem
from fedsim.scenario.members import FACTORY, Block, FactoryDecoder, FactoryModel
from fedsim.scenario.normalise import canonical
from fedsim.scenario.schema import Scenario

_KINDS = {
    "model": "model",
    "attacks": "attack",
    "defenses": "defense",
    "data": "data set",
    "optimizer": "optimizer",
    "schedule": "schedule",
    "decoder": "decoder",
}

_WORDS = {
    "a valid array": "a list",
    "an object": "a block",
    "a valid integer": "a whole number",
    "a valid string": "text",
}


def validate(data: Mapping[str, Any]) -> Scenario:
    """A scenario, its sweep not yet looked into. Raises `Problem`."""
    try:
        scenario = Scenario.model_validate_json(json.dumps(canonical(data), default=str))
    except ValidationError as error:
        raise _first(error.errors(include_url=False), data) from None
    check(scenario)
    return scenario


def nearest(word: object, known: Iterable[str]) -> str:
    """`; did you mean 'width'?`, or nothing."""
    close = difflib.get_close_matches(str(word), list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _first(errors: Iterable[Mapping[str, Any]], data: Mapping[str, Any]) -> Problem:
    """What to mend first, with the number of the other places at which something is wrong.

    A misspelt key is the cause of the key that is missing, so the cause is said; else it goes from top to bottom.
    """
    found = [(_problem(error), error["type"] != "extra_forbidden") for error in errors]
    found = [one for one in found if not any(_within(other.path, one[0].path) for other, _ in found)]
    found.sort(key=lambda one: (one[1], _order(data, one[0].path)))
    first = found[0][0]
    misspelt = {problem.path[:-1] for problem, other in found if not other}
    others = {problem.path for problem, _ in found if problem.about != "missing" or problem.path[:-1] not in misspelt}
    if more := len(others - {first.path}):
        first.message += f"; {more} more {'mistake' if more == 1 else 'mistakes'} besides"
    return first


def _within(path: KeyPath, block: KeyPath) -> bool:
    """Whether a place lies in a block; what is wrong with the block then follows: its one value was left out."""
    return len(path) > len(block) and path[: len(block)] == block


def _order(data: Any, path: KeyPath) -> list[int]:
    """Where something stands among all: its place in each of the blocks and lists that it lies in."""
    order = []
    for part in path:
        if isinstance(data, Mapping) and part in data:
            order.append(list(data).index(part))
            data = data[part]
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            order.append(part)
            data = data[part]
        else:
            break
    return order


def _problem(error: Mapping[str, Any]) -> Problem:
    path, parent = _follow(error["loc"])
    kind, context, value = error["type"], error.get("ctx", {}), error["input"]
    if kind == "extra_forbidden":
        return Problem(path, f"unknown key{nearest(path[-1], parent)} (accepted: {', '.join(parent)})", about="key")
    if kind == "missing":
        return Problem(path, f"missing key (accepted here: {', '.join(parent)})", about="missing")
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return _unnamed(path, str(context["discriminator"]).strip("'"), value, parent)
    if kind == "literal_error" and isinstance(value, str):
        names = re.findall(r"'([^']*)'", context["expected"])
        return Problem(path, f"{value!r} is not accepted{nearest(value, names)} (accepted: {', '.join(names)})")
    if kind == "string_pattern_mismatch" and path == ("name",):
        return Problem(path, f"{value!r} names a directory: letters, digits, - _ . and no leading dot or dash")
    if kind == "string_pattern_mismatch":
        return Problem(path, f"{value!r} is not of the form package.module:function")
    if kind == "none_required":
        return Problem(path, f"{_short(value)} has no meaning here (accepted: null)")
    if kind == "too_short":
        empty = "nothing is here" if isinstance(value, dict) else "the list is empty"
        return Problem(path, f"{empty}; it needs at least one value")
    message = str(error["msg"]).replace("Input should", "should", 1)
    for theirs, ours in _WORDS.items():
        message = message.replace(theirs, ours)
    return Problem(path, f"{_short(value)} {message[0].lower()}{message[1:]}")


def _unnamed(path: KeyPath, tag: str, value: Any, known: list[str]) -> Problem:
    place = next((str(part) for part in reversed(path) if not isinstance(part, int)), "")
    kind = _KINDS.get(place, "member") if tag == "name" else tag
    names = ", ".join(name for name in known if name != FACTORY) + (", or a factory" if FACTORY in known else "")
    if isinstance(value, dict) and tag in value:
        return Problem((*path, tag), f"unknown {kind} {value[tag]!r}{nearest(value[tag], known)} (known: {names})")
    return Problem(path, f"needs a {tag} (known: {names})")


def _follow(location: tuple[str | int, ...]) -> tuple[KeyPath, list[str]]:
    """The part of pydantic's location that names keys and indices, and what the block (or union) at its end accepts.

    Pydantic puts the tag of a discriminated union after the union's own place; following the types tells a tag from a
    key of the same name. What follows a plain value (the branch of a `float | str`) is no place either.
    """
    path: list[str | int] = []
    here: Any = Scenario
    accepted: list[str] = []
    for part in location:
        members = _members(here)
        if members:
            here = members[str(part)]
            continue
        if isinstance(here, type) and issubclass(here, Block):
            accepted = _keys(here)
            found = here.model_fields.get(str(part))
            here = found.annotation if found else None
        elif isinstance(part, int) and (item := _item(here)) is not None:
            here = item
        elif get_origin(here) is dict:
            here = get_args(here)[1]
        else:
            continue
        here = _bare(here)
        path.append(part)
    return tuple(path), list(_members(here)) or accepted


def _bare(annotation: Any) -> Any:
    """A type without `Annotated` and without `| None`."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        others = [branch for branch in get_args(annotation) if branch is not NoneType]
        return _bare(others[0]) if len(others) == 1 else annotation
    return annotation


def _item(annotation: Any) -> Any:
    """What a list holds, or the list among the branches of a union; None where there is none."""
    if get_origin(annotation) in (Union, UnionType):
        return next(filter(None, (_item(_bare(branch)) for branch in get_args(annotation))), None)
    return get_args(annotation)[0] if get_origin(annotation) is tuple else None


def _members(annotation: Any) -> dict[str, type[Block]]:
    """The members of a union of blocks by tag; empty for any other type."""
    branches = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else ()
    if not branches or not all(isinstance(branch, type) and issubclass(branch, Block) for branch in branches):
        return {}
    tags = [branch.model_fields.get("name") or branch.model_fields["kind"] for branch in branches]
    return {get_args(tag.annotation)[0]: branch for tag, branch in zip(tags, branches, strict=True)}


def _keys(block: type[Block]) -> list[str]:
    named = not issubclass(block, FactoryModel | FactoryDecoder)
    return [key for key in block.model_fields if named or key != "name"]


def _short(value: Any) -> str:
    text = json.dumps(value) if isinstance(value, dict | list) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
