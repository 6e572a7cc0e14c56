"""The JSON Schema of scenario files, for editors: the schema with the shorthands that a file may use."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

from fedsim.scenario.schema import FIXED, Scenario

_UNKNOWN = (r"^model\.[A-Za-z_]\w*$", r"^[a-z_.]+[.\[]\d+(\W.*)?$")
"""Keys of sweeps and settings that the schema cannot know: a factory's own, and places in lists."""

_SAID = ("default", "title", "description")


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a scenario file, shorthands included."""
    schema = Scenario.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "fedsim scenario"
    keys = schema["properties"]
    for key in ("data", "model"):
        keys[key] = _or_name(keys[key])
    keys["attacks"]["items"] = _or_name(keys["attacks"]["items"])
    composition = keys["defenses"]["items"]
    part = _or_name(composition["items"])
    keys["defenses"]["items"] = {"anyOf": [*part["anyOf"], {**composition, "items": part}]}
    for key in ("data", "model", "victims", "defenses"):  # the normalisation fills them in
        schema["required"].remove(key)
    schema["$defs"]["Victims"]["required"].remove("clients")
    for name, block in schema["$defs"].items():
        if name.endswith("Defense"):  # at several strengths an entry is several
            block["properties"] = {key: _or_several(key, of) for key, of in block["properties"].items()}
        for key in {"optimizer", "schedule", "decoder"} & block.get("properties", {}).keys():
            block["properties"][key] = _or_name(block["properties"][key])
        partition = block.get("properties", {}).get("partition")
        if partition is not None:
            block["properties"]["partition"] = _said(partition) | {"anyOf": [{"const": "iid"}, _bare(partition)]}
    axes = dict(dotted(schema))
    keys["sweep"] |= _axes(axes, fixed=FIXED["sweep"], value=_listed)
    keys["settings"]["items"] |= _axes(axes, fixed=FIXED["settings"], value=lambda of: of)
    own = [key for key in axes if key.startswith("model.")]
    model_keys = {"anyOf": [{"enum": own}, {"not": {"pattern": r"^model\."}}]}
    foreign = [_has("model", "factory"), _has("sweep", "model.factory"), {"required": ["settings"]}]
    schema["if"] = {"not": {"anyOf": foreign}}
    schema["then"] = {"properties": {"sweep": {"propertyNames": model_keys}}}  # no factory: no key that only it knows
    return schema


def _has(block: str, key: str) -> dict[str, Any]:
    return {"required": [block], "properties": {block: {"type": "object", "required": [key]}}}


def dotted(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every key of a scenario as settings and sweeps name it, `federation.local.steps`, with what it may be.

    Entries of lists are named by their places, and are no part of this.
    """

    def walk(prefix: str, block: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        for key, of in block.get("properties", {}).items():
            yield f"{prefix}{key}", of
            for inner in _blocks(of, schema["$defs"]):
                yield from walk(f"{prefix}{key}.", inner)

    found: dict[str, list[dict[str, Any]]] = {}
    for key, of in walk("", schema):
        if of not in found.setdefault(key, []):
            found[key].append(of)
    for key, several in found.items():  # the members of a union have keys of one name that take different values
        yield key, several[0] if len(several) == 1 else {"anyOf": [_bare(of) for of in several], **_said(several[0])}


def _blocks(of: dict[str, Any], known: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The blocks that a value may be."""
    if "$ref" in of:
        yield known[of["$ref"].rpartition("/")[2]]
    for one in (*of.get("anyOf", ()), *of.get("oneOf", ())):
        yield from _blocks(one, known)


def _axes(axes: dict[str, dict[str, Any]], *, fixed: Collection[str], value: Callable[..., Any]) -> dict[str, Any]:
    """An object whose keys are those of a scenario; a factory's own keys and places in lists are not known here."""
    return {
        "type": "object",
        "properties": {key: value(of) for key, of in axes.items() if key.split(".")[0] not in fixed},
        "patternProperties": {pattern: value({}) for pattern in _UNKNOWN},
        "additionalProperties": False,
    }


def _listed(of: dict[str, Any]) -> dict[str, Any]:
    return {**_said(of), "type": "array", "items": _bare(of), "minItems": 1}


def _or_name(union: dict[str, Any]) -> dict[str, Any]:
    """A block or, in short, its name; a union that may be null stays one."""
    if "discriminator" not in union:
        return {**union, "anyOf": [_or_name(one) if "discriminator" in one else one for one in union["anyOf"]]}
    names = [name for name in union["discriminator"]["mapping"] if name != "factory"]
    bare = {key: value for key, value in _bare(union).items() if key != "discriminator"}
    return _said(union) | {"anyOf": [{"enum": names}, bare]}


def _said(value: dict[str, Any]) -> dict[str, Any]:
    """What an editor shows of a value, and what it is if nobody says it."""
    return {what: value[what] for what in _SAID if what in value}


def _bare(value: dict[str, Any]) -> dict[str, Any]:
    return {what: of for what, of in value.items() if what not in _SAID}


def _or_several(key: str, value: dict[str, Any]) -> dict[str, Any]:
    if key == "name" or "array" in (value.get("type"), *(one.get("type") for one in value.get("anyOf", ()))):
        return value
    one = _bare(value)
    return {**_said(value), "anyOf": [one, {"type": "array", "items": one, "minItems": 1}]}
