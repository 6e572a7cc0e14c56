"""What there is to say of each defense, read from its class: where it acts, what an attacker makes of it, and how."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.table import Table

import defenses
from defenses.base import Defense
from fedsim import long_pages
from fedsim.catalogue import text
from fedsim.described import summary
from fedsim.long_pages import Section

COMMAND = "fedsim list defenses --long --markdown > docs/each-defense.md"

PLACES = {
    "batch": "the images and labels of a local step",
    "model": "the model",
    "training": "the local training",
    "update": "what leaves the client",
    "aggregation": "the updates of all clients, once they have left",
}
"""What defenses act on, by the folder of `defenses/` that they stand in."""


@dataclass(frozen=True)
class DefensePage:
    """One defense.

    Args:
        place: what it acts on.
        known: what an attacker makes of it who is told.
        told_by: the key of `threat_model` that tells an attacker of it; empty where there is nothing to tell.
        private: whether it accounts for differential privacy.
        mod: why it is no mod of a Flower client; empty if it is one.
        text: how it works, as Markdown; what its keys are is left out.
        keys: with their defaults and what they mean, as Markdown.
    """

    name: str
    summary: str
    place: str
    known: str
    told_by: str
    private: bool
    mod: str
    text: str
    keys: Sequence[str]


def pages() -> list[DefensePage]:
    """Of all defenses, by name."""
    return [_page(name, defenses.get(name)) for name in defenses.names()]


def table() -> Table:
    """All defenses with what is short of them."""
    found = Table("name", "acts on", "an attacker who knows it", "Flower mod", title="defenses", title_justify="left")
    found.show_lines = True
    for page in pages():
        found.add_row(page.name, page.place, page.known, "no" if page.mod else "yes")
    return found


def markdown() -> str:
    """The same as a page of Markdown, with a section for each defense: `docs/each-defense.md`."""
    said = (
        "What each defense is, as its class says it; what each stops and costs is [measured](defenses.md).\n"
        "Written by a command, and compared with it by a test:"
    )
    sections = [
        Section(page.name, (page.summary, page.place, page.known), page.text, _facts(page)) for page in pages()
    ]
    columns = ("what it does", "acts on", "an attacker who knows it")
    return long_pages.markdown("Defenses", said, COMMAND, columns, sections)


def _facts(page: DefensePage) -> Iterator[str]:
    yield f"acts on: {page.place}"
    yield f"an attacker who knows it: {page.known}"
    if page.told_by:
        yield f"who knows it: `threat_model: {{{page.told_by}: known}}`"
    if page.private:
        yield "differential privacy: epsilon is accounted for"
    mod = f'`fedsim.flower.mod("{page.name}")`'
    yield f"in your own Flower app: {f'not as a mod of clients: it {page.mod}' if page.mod else mod}"
    if page.keys:
        yield long_pages.listed(page.keys)


def _page(name: str, cls: type[Defense]) -> DefensePage:
    known, told_by = _known(cls)
    return DefensePage(
        name=name,
        summary=summary(cls),
        place=PLACES.get(cls.__module__.split(".")[1], "nothing"),
        known=known,
        told_by=told_by,
        private=cls._overrides("accounting"),
        mod=_no_mod(name),
        text=text(cls),
        keys=long_pages.keys(cls),
    )


def _known(cls: type[Defense]) -> tuple[str, str]:
    """What an attacker makes of it, and the key that tells of it."""
    if cls().server_alone:
        return "has seen each update before it acts", ""
    if cls().declarative and not (cls().model_overrides() or cls().local_overrides()):
        return "has nothing to know", ""
    if cls.beyond_replay:
        return "needs an attack that names it", cls.told_by
    means = {
        "surrogate": "replays it, by a function with a derivative",
        "selection": "compares what it let through",
        "compare": "compares by what is certain of it",
        "spread": "weighs entries by the noise on them",
    }
    found = [said for hook, said in means.items() if cls._overrides(hook)]
    rate = cls._overrides("model_overrides")  # of the model's own dropout, which has a key of its own
    return "; ".join(found) or "replays it", "dropout_rate" if rate else cls.told_by


def _no_mod(name: str) -> str:
    from fedsim.flower import mod  # what is at hand without Flower stays so

    try:
        mod(name)
    except ValueError as refused:
        return str(refused).removeprefix(f"{name} ").partition(", which a mod")[0]
    return ""
