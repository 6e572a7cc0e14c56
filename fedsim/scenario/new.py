"""A scenario to begin with: commented, with the schema that editors read and a model of one's own."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path

from fedsim.errors import BadInput
from fedsim.files import write_text
from fedsim.scenario.jsonschema import json_schema
from fedsim.scenario.schema import NAME

SCHEMA_FILE = "fedsim.schema.json"


def begin(name: str, directory: Path) -> list[Path]:
    """Write `<name>.yaml`, the model that it names, and the JSON Schema for editors; returns their paths.

    Raises:
        BadInput: it is no name for a scenario, or one of the files is there already; nothing was written then.
    """
    if not re.fullmatch(NAME, name):
        raise BadInput(f"new {name}: not a name for a scenario: letters, digits, - _ . as in my-question")
    module = re.sub(r"\W", "_", name if name[0].isalpha() else f"_{name}") + "_model"
    words = {"name": name, "module": module, "file": f"{name}.yaml"}
    made = {
        directory / f"{name}.yaml": _filled("new.yaml", words),
        directory / f"{module}.py": _filled("new_model.txt", words),
    }
    for path in made:
        if path.exists():
            raise BadInput(f"{path}: is there already; choose another name, or delete it")
    made[directory / SCHEMA_FILE] = json.dumps(json_schema(), indent=1) + "\n"  # of this version, whatever was there
    for path, text in made.items():
        write_text(path, text)
    return list(made)


def _filled(asset: str, words: dict[str, str]) -> str:
    text = files("fedsim").joinpath("assets", asset).read_text(encoding="utf-8")
    return re.sub(r"@(\w+)@", lambda found: words[found[1]], text)
