"""What there is to say of each attack, read from its class: paper, kind, needs, what it does under dropout, and how."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.table import Table

import attacks
from attacks.base import Attack
from attacks.iterative import IterativeAttack
from attacks.malicious import MaliciousAttack
from fedsim import long_pages
from fedsim.catalogue import text
from fedsim.long_pages import Section

COMMAND = "fedsim list attacks --long --markdown > docs/attacks.md"

GRANTED = {
    "labels": "labels",
    "batch_size": "the batch size",
    "auxiliary_data": "public images",
    "noise": "what the client drew",
    "batch_norm": "statistics of batch norm",
}
"""What the fields of a threat model that an attack may require are called; its server and sums are said apart."""


@dataclass(frozen=True)
class AttackPage:
    """One attack.

    Args:
        kind: null, oracle, malicious, closed form, matching, or composed of others.
        needs: of the model and the client's round, then what the threat model must grant.
        sums: whether it accepts sums over clients.
        adapts: the defenses that it takes into account by itself, each with the grant that it needs for that, if any.
        text: how it works, as Markdown; what its keys are is left out.
        keys: with their defaults and what they mean, as Markdown.
    """

    name: str
    kind: str
    paper: str
    needs: str
    under_dropout: str
    sums: bool
    adapts: Sequence[str]
    text: str
    keys: Sequence[str]


def pages() -> list[AttackPage]:
    """Of all attacks, by name."""
    return [_page(name, attacks.get(name)) for name in attacks.names()]


def table() -> Table:
    """All attacks with what is short of them."""
    found = Table("name", "kind", "paper", "needs", "under dropout", title="attacks", title_justify="left")
    found.show_lines = True
    for page in pages():
        found.add_row(page.name, page.kind, page.paper, page.needs, page.under_dropout)
    return found


def markdown() -> str:
    """The same as a page of Markdown, with a section for each attack: `docs/attacks.md`."""
    said = (
        "What each attack is, as its class says it. *Closed forms* compute images from the update; *matching* looks\n"
        "for images whose update is like the one that came back; *malicious* servers change the model that they send;\n"
        "an *oracle* is told what no real server has; *null* attacks never look at the update: they are the floor;\n"
        "*composed* ones are made of others. Written by a command, and compared with it by a test:"
    )
    sections = [
        Section(page.name, (page.kind, page.paper, page.needs, page.under_dropout), page.text, _facts(page))
        for page in pages()
    ]
    return long_pages.markdown("Attacks", said, COMMAND, ("kind", "paper", "needs", "under dropout"), sections)


def _facts(page: AttackPage) -> Iterator[str]:
    yield f"kind: {page.kind}"
    if page.paper:
        yield f"paper: {page.paper}"
    yield f"needs: {page.needs}"
    yield f"under dropout: {page.under_dropout}"
    yield f"sums over clients: {'accepted' if page.sums else 'declined'}"
    if page.adapts:
        yield f"takes into account by itself: {', '.join(page.adapts)}"
    if page.keys:
        yield long_pages.listed(page.keys)


def _page(name: str, cls: type[Attack]) -> AttackPage:
    adapts = [f"`{defense}`" + (f" ({grant} known)" if grant else "") for defense, grant in sorted(cls.adapts.items())]
    return AttackPage(
        name=name,
        kind=_kind(cls),
        paper=cls.paper,
        needs="; ".join([*([cls.exploits] if cls.exploits else []), *_granted(cls)]),
        under_dropout=cls.under_dropout,
        sums=any(accepted.startswith("sum") for accepted in cls.requires.get("aggregation", ["sum_of_*"])),
        adapts=adapts,
        text=text(cls),
        keys=long_pages.keys(cls),
    )


def _kind(cls: type[Attack]) -> str:
    if cls.floor:
        return "null"
    if cls.oracle:
        return "oracle"
    if issubclass(cls, MaliciousAttack):
        return "malicious"
    if cls.solves:
        return "closed form"
    return "matching" if issubclass(cls, IterativeAttack) else "composed"


def _granted(cls: type[Attack]) -> Iterator[str]:
    for field, accepted in cls.requires.items():
        if field not in GRANTED or "unknown" in accepted or "none" in accepted:
            continue
        values = [value for value in accepted if value not in ("known", "public")]
        choice = f" ({' or '.join(accepted)})" if values else ""
        yield f"{GRANTED[field]}{choice}"
