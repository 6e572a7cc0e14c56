"""The scenario: a YAML file becomes one valid, immutable object, and its axes become cells.

`document` reads YAML and remembers lines, `normalise` writes shorthands out, `schema` and `members` say what is
accepted, `checks` what must fit together, `validate` explains what does not, `rehearsal` tries data, models and
defenses, `load` puts them together, `only` takes a part.
"""

from fedsim.scenario.bundled import bundled
from fedsim.scenario.cells import Cell, every_cell
from fedsim.scenario.jsonschema import json_schema
from fedsim.scenario.load import load, parse
from fedsim.scenario.only import only
from fedsim.scenario.schema import METRICS, Scenario

__all__ = ["METRICS", "Cell", "Scenario", "bundled", "every_cell", "json_schema", "load", "only", "parse"]
