"""What a parameter of an attack, a defense or a model means, from the docstring of its class.

Editors show it beside the key. Nothing is written twice: a parameter is described under `Args:` of its class or of one
that it derives from, or else by the sentence of the docstring that mentions it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from functools import cache


def summary(documented: object) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join((inspect.getdoc(documented) or "").split("\n\n", 1)[0].split()).rstrip(".:")


def described(documented: type, key: str) -> str | None:
    """What the parameter `key` of a class means; None where its docstrings do not say."""
    for text in _docstrings(documented):
        if key in (listed := _arguments(text)):
            return listed[key]
    for text in _docstrings(documented):
        prose = text.split("\nArgs:", 1)[0].removeprefix("Args:")
        for sentence in re.split(r"(?<=[.:;])\s+|\n\n", prose):
            if re.search(rf"(?<![\w.]){re.escape(key)}(?!\w)", sentence) and len(sentence.split()) > 1:
                return _line(sentence)
    return None


def _docstrings(documented: type) -> Iterator[str]:
    """Of a class and of those that it derives from, the nearest first."""
    for cls in documented.__mro__:
        if cls.__doc__ and cls is not object and not cls.__module__.startswith(("abc", "typing", "torch")):
            yield inspect.cleandoc(cls.__doc__)


@cache
def _arguments(text: str) -> dict[str, str]:
    """The entries of a docstring's `Args:`; one may describe several parameters: `low, high: ...`."""
    _, _, listed = text.partition("Args:\n")
    found: dict[str, str] = {}
    block = re.split(r"\n(?=\S)", listed, maxsplit=1)[0]
    for entry in re.split(r"\n(?= {4}\S)", f"\n{block}"):
        names, colon, said = entry.strip().partition(": ")
        if colon and re.fullmatch(r"\w+(, \w+)*", names):
            found |= dict.fromkeys(names.split(", "), _line(said))
    return found


def _line(text: str) -> str:
    return " ".join(text.split()).rstrip(":;")
