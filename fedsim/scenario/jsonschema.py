"""The JSON Schema of scenario files, for editors: the schema with the shorthands that a file may use."""

from __future__ import annotations

from typing import Any

from fedsim.scenario.schema import Scenario


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
        for key in {"optimizer", "schedule"} & block.get("properties", {}).keys():
            block["properties"][key] = _or_name(block["properties"][key])
        partition = block.get("properties", {}).get("partition")
        if partition is not None:
            block["properties"]["partition"] = {"anyOf": [{"const": "iid"}, partition]}
    return schema


def _or_name(union: dict[str, Any]) -> dict[str, Any]:
    """A block or, in short, its name; a union that may be null stays one."""
    if "discriminator" not in union:
        return {**union, "anyOf": [_or_name(one) if "discriminator" in one else one for one in union["anyOf"]]}
    names = [name for name in union["discriminator"]["mapping"] if name != "factory"]
    return {"anyOf": [{"enum": names}, {key: value for key, value in union.items() if key != "discriminator"}]}


def _or_several(key: str, value: dict[str, Any]) -> dict[str, Any]:
    if key == "name" or "array" in (value.get("type"), *(one.get("type") for one in value.get("anyOf", ()))):
        return value
    said: dict[str, Any] = {what: value[what] for what in ("default", "title", "description") if what in value}
    one = {what: of for what, of in value.items() if what not in said}
    return {**said, "anyOf": [one, {"type": "array", "items": one, "minItems": 1}]}
