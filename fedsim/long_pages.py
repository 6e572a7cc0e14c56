"""A document of all members of a kind: a table of them, then a section for each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from defenses.registry import parameters
from fedsim.catalogue import shown
from fedsim.described import described


@dataclass(frozen=True)
class Section:
    """One member.

    Args:
        cells: of its row in the table, without its name.
        text: how it works, as Markdown.
        facts: short ones, below the text.
    """

    name: str
    cells: Sequence[str]
    text: str
    facts: Iterable[str]


def keys(cls: type) -> list[str]:
    """What a scenario may set of a class: each key with its default, and what it means."""
    found = []
    for name, parameter in parameters(cls).items():
        meaning = described(cls, name)
        found.append(f"`{shown(parameter)}`" + (f": {meaning}" if meaning else ""))
    return found


def listed(keys: Sequence[str]) -> str:
    """Keys as one fact: a list below it."""
    return "\n".join(["keys:", *(f"    - {key}" for key in keys)])


def markdown(title: str, said: str, command: str, columns: Sequence[str], sections: Sequence[Section]) -> str:
    """The document.

    Args:
        said: what it is; the command that writes it follows.
        columns: of the table, behind the name.
    """
    lines = [f"# {title}", "", said, "", f"    {command}", ""]
    lines += ["| " + " | ".join(["name", *columns]) + " |", "|---" * (1 + len(columns)) + "|"]
    for one in sections:
        cells = (f"[`{one.name}`](#{one.name})", *one.cells)
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    for one in sections:
        lines += ["", f"## {one.name}", "", one.text, "", *(f"- {fact}" for fact in one.facts)]
    return "\n".join([*lines, ""])
