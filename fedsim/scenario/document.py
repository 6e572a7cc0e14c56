"""A scenario file as plain data that remembers where each key and value stood, and which `--set` option replaced it.

YAML 1.2 scalars, mappings and sequences only: no tags, no merge keys, no duplicate keys. Aliases are expanded up to a
bounded number of nodes, so that a file of a few lines cannot fill the memory.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from fedsim.errors import BadInput, on_one_line

KeyPath = tuple[str | int, ...]

_MAX_CHARACTERS = 1_000_000
_MAX_NODES = 20_000
_TAG = "tag:yaml.org,2002:"
_SCALARS = {"str", "int", "float", "bool", "null"}


class Problem(Exception):
    """Something is wrong at `path`; `Document.explain` turns it into a located `BadInput`.

    Args:
        path: keys and list indices from the root.
        message: one line, without the location.
        about: what to point at: the value, the key itself, or the block in which the key is missing.
    """

    def __init__(self, path: KeyPath, message: str, *, about: Literal["value", "key", "missing"] = "value") -> None:
        super().__init__(message)
        self.path, self.message, self.about = path, message, about


@dataclass(frozen=True)
class Place:
    """Line and column, from 1, of a key (or list dash's value) and of its value."""

    key: tuple[int, int]
    value: tuple[int, int]

    def at(self, *, key: bool) -> tuple[int, int]:
        """A value that starts on a later line than its key is a block: its key is the better place to point at."""
        return self.key if key or self.value[0] != self.key[0] else self.value


@dataclass
class Document:
    """Plain data with the origin of every part.

    Args:
        data: what the file says; overrides are applied in place.
        source: how the file is named in messages; empty for data that came from Python.
        places: where each path stood in the file.
        options: the `--set` option that each overridden path came from.
    """

    data: dict[str, Any]
    source: str = ""
    places: dict[KeyPath, Place] = field(default_factory=dict)
    options: dict[KeyPath, str] = field(default_factory=dict)

    def override(self, option: str) -> None:
        """Apply one `a.b=value` option; the value is YAML. Raises BadInput."""
        dotted, equals, text = option.partition("=")
        if not dotted.strip() or not equals:
            raise BadInput(f"--set {option}: expected key=value, e.g. --set model.dropout=0.5")
        try:
            path = _target(option)
            value, _ = _read(text, f"--set {option}", lines=False)
            assign(self.data, path, value)
        except Problem as problem:
            raise BadInput(f"--set {option}: {problem.message}") from None
        for known in [known for known in (*self.places, *self.options) if known[: len(path)] == path]:
            self.places.pop(known, None)
            self.options.pop(known, None)
        self.options[path] = option

    def explain(self, problem: Problem) -> BadInput:
        """The error to show: `file:line:column: key: message`, or `--set a.b=v: message`."""
        node = self._node(problem.path)
        shown = format_path(problem.path)
        said = f"{shown}: {problem.message}" if shown else problem.message
        for length in range(len(node), -1, -1):
            option = self._option(node[:length], problem)
            if option is not None:
                same = format_path(_target(option)) == shown
                return BadInput(f"--set {option}: {problem.message if same else said}")
            if node[:length] in self.places:
                line, column = self.places[node[:length]].at(key=problem.about == "key")
                return BadInput(f"{self.source}:{line}:{column}: {said}")
        return BadInput(f"{self.source or 'scenario'}: {said}")

    def _option(self, node: KeyPath, problem: Problem) -> str | None:
        """The option that set this node, or made it on its way, or changed the block in which a key is now missing."""
        if node in self.options:
            return self.options[node]
        for path, option in self.options.items():
            made = path[: len(node)] == node and node not in self.places
            if (made and self.places) or (problem.about == "missing" and path[:-1] == node == problem.path[:-1]):
                return option
        return None

    def _node(self, path: KeyPath) -> KeyPath:
        """The parts of `path` that are nodes of the document: normalisation adds parts, e.g. a composition's index."""
        node: Any = self.data
        found: list[str | int] = []
        for part in path:
            if (isinstance(node, dict) and part in node) or (
                isinstance(node, list) and isinstance(part, int) and part < len(node)
            ):
                found.append(part)
                node = node[part]  # type: ignore[index]
        return tuple(found)


def _target(option: str) -> KeyPath:
    return parse_path(option.partition("=")[0].strip())


def read(path: Path) -> Document:
    """Read a scenario file. Raises BadInput: unreadable, not YAML, empty, not a mapping, a key given twice."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not UTF-8 text (byte {error.start})") from None
    data, places = _read(text, str(path))
    if data is None:
        raise BadInput(f"{path}: the file is empty; a scenario needs at least name and attacks")
    if not isinstance(data, dict):
        raise BadInput(f"{path}: a scenario is a mapping of keys, not {_kind(data)}")
    return Document(data, str(path), places)


def from_mapping(data: Mapping[str, Any]) -> Document:
    """A document made in Python: no file, no lines."""
    return Document(copy.deepcopy(dict(data)))


def parse_path(dotted: str) -> KeyPath:
    """`attacks[1].iterations` or `attacks.1.iterations` as ("attacks", 1, "iterations").

    A key of `sweep` is itself dotted and stays whole, `sweep.model.name` is ("sweep", "model.name"), and so is one of
    a setting: `settings[0].model.name`.
    """
    parts = re.sub(r"\[(\d+)\]", r".\1", dotted).split(".")
    if "" in parts:
        raise Problem((), f"{dotted!r} is not a dotted path such as model.dropout or attacks[0].iterations")
    if parts[0] == "sweep" and len(parts) > 2:
        parts = ["sweep", ".".join(parts[1:])]
    if parts[0] == "settings" and len(parts) > 3:
        parts = [*parts[:2], ".".join(parts[2:])]
    return tuple(int(part) if part.isdecimal() else part for part in parts)


def format_path(path: KeyPath) -> str:
    """("attacks", 1, "iterations") as `attacks[1].iterations`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def assign(data: dict[str, Any], path: KeyPath, value: Any) -> None:
    """Set `path` in nested data, in place; blocks that are missing or null on the way are made. Raises Problem."""
    node: Any = data
    for depth, part in enumerate(path):
        here, last = format_path(path[:depth]), depth == len(path) - 1
        if isinstance(node, list):
            if not isinstance(part, int) or part >= len(node):
                raise Problem(path, f"{here} is a list of {len(node)}: give an index from 0 to {len(node) - 1}")
        elif isinstance(node, dict):
            part = str(part)
            if not last and node.get(part) is None:
                node[part] = {}
        else:
            raise Problem(path, f"{here} is {node!r}, which has no keys")
        if last:
            node[part] = value  # type: ignore[index]
        else:
            node = node[part]  # type: ignore[index]


def _read(text: str, source: str, *, lines: bool = True) -> tuple[Any, dict[KeyPath, Place]]:
    """The value of a YAML text, and where its parts stood; messages name line and column if `lines`."""
    if len(text) > _MAX_CHARACTERS:
        raise BadInput(f"{source}: {len(text)} characters; a scenario has at most {_MAX_CHARACTERS}")
    if text.count(",") + text.count("\n") > _MAX_NODES:  # to read so much takes seconds, to be refused all the same
        raise BadInput(f"{source}: more than {_MAX_NODES} values")
    yaml = YAML(typ="safe", pure=True)
    try:
        root = yaml.compose(text)
        if root is None:
            return None, {}
        reader = _Reader(yaml, source)
        place = _start(root)
        return reader.convert(root, (), Place(place, place)), reader.places
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f":{mark.line + 1}:{mark.column + 1}" if mark and lines else ""
        what = " ".join(part for part in (error.context, error.problem) if part)
        raise BadInput(f"{source}{where}: not valid YAML: {' '.join(what.split())}") from None
    except YAMLError as error:
        raise BadInput(f"{source}: not valid YAML: {on_one_line(error)}") from None
    except RecursionError:
        raise BadInput(f"{source}: not a scenario: nested too deeply") from None


class _Reader:
    """Turns a composed node tree into plain data and remembers the places."""

    def __init__(self, yaml: YAML, source: str) -> None:
        self.places: dict[KeyPath, Place] = {}
        self._yaml, self._source, self._nodes = yaml, source, 0

    def convert(self, node: Node, path: KeyPath, place: Place) -> Any:
        self._nodes += 1
        if self._nodes > _MAX_NODES:
            raise BadInput(f"{self._source}: more than {_MAX_NODES} values once its aliases are expanded")
        self.places[path] = place
        if isinstance(node, MappingNode) and node.tag == f"{_TAG}map":
            return self._mapping(node, path)
        if isinstance(node, SequenceNode) and node.tag == f"{_TAG}seq":
            items = [(item, _start(item)) for item in node.value]
            return [self.convert(item, (*path, i), Place(start, start)) for i, (item, start) in enumerate(items)]
        if isinstance(node, ScalarNode):
            if node.tag == f"{_TAG}timestamp":  # a date has no meaning here: it is the text that was written
                return node.value
            if str(node.tag).removeprefix(_TAG) in _SCALARS:
                return self._scalar(node)
        raise self._error(node, f"the YAML tag {node.tag!r} is not supported")

    def _mapping(self, node: MappingNode, path: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in node.value:
            if key.tag == f"{_TAG}merge":
                raise self._error(key, "merge keys (<<) are not supported")
            if not isinstance(key, ScalarNode):
                raise self._error(key, "a key must be plain text")
            name = str(key.value)
            if name in result:
                raise self._error(key, f"{format_path((*path, name))}: the key stands here a second time")
            result[name] = self.convert(value, (*path, name), Place(_start(key), _start(value)))
        return result

    def _scalar(self, node: ScalarNode) -> Any:
        try:
            return self._yaml.constructor.construct_object(node)
        except (ValueError, KeyError, IndexError, TypeError, OverflowError):  # of what a tag calls something else
            kind = str(node.tag).removeprefix(_TAG)
            what = "a number" if kind in ("int", "float") else {"bool": "true or false"}.get(kind, kind)
            raise self._error(node, f"{str(node.value)[:40]!r} cannot be read as {what}") from None

    def _error(self, node: Node, message: str) -> BadInput:
        line, column = _start(node)
        return BadInput(f"{self._source}:{line}:{column}: {message}")


def _start(node: Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _kind(value: Any) -> str:
    return "a list" if isinstance(value, list) else f"the single value {value!r}"
