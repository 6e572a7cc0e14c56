"""What an audit comes to, from its rows alone. It never errs towards "safe".

An image counts as rebuilt where a canary scored it (above 19 dB or an SSIM of 0.6, and nearer than the mean colour), or
where a closed form is certain of it, by checks that need no truth. That nothing was rebuilt is said of the attacks that
were tried, with their budget: it is no evidence that nothing can be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from fedsim.audit import verdict_words as words
from fedsim.audit.adversaries import described
from fedsim.audit.attempted import Tried, strongest
from fedsim.audit.guessing import Guess
from fedsim.version import __version__

Kind = Literal["leaks", "undecided", "not shown", "no answer", "not tried"]

FORMAT, VERSION = "fedsim-verdict", 1


@dataclass(frozen=True, kw_only=True)
class Row:
    """One threat model.

    Args:
        has: what its adversary has.
        kind: `leaks`; `undecided`, where attacks answered with images that nobody can score; `not shown`, where nothing
            was rebuilt by what was tried; `no answer`, where none of it applied; or `not tried`.
        says: in a sentence.
        best: the strongest of what was tried; None where nothing was.
    """

    letter: str
    has: str
    kind: Kind
    says: str
    best: Tried | None = None


@dataclass(frozen=True, kw_only=True)
class Swept:
    """A canary of some batch size and number of steps, and the strongest of what was tried on it.

    Args:
        own: it is the client's round as it plays by itself.
        replay: empty where our picture of the round is exact; else why it is not.
    """

    round: int
    batch_size: int
    steps: int
    images: int
    own: bool
    replay: str
    best: Tried | None


@dataclass(frozen=True, kw_only=True)
class DefenseTried:
    """A defense on the strongest canary, and the strongest attack that knows it.

    Args:
        kept: the share of the progress of the client's own round that is left; None: not measured.
    """

    defense: str
    best: Tried | None
    images: int
    kept: float | None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The answer to: is it leaking, and to whom?

    Args:
        kind: of the whole: the first of these that a threat model has.
        rows: one a letter, A to H.
        limits: what was tried in part.
    """

    kind: Kind
    headline: str
    rows: tuple[Row, ...]
    untried: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    findings: tuple[Mapping[str, Any], ...] = ()
    tried: tuple[Tried, ...] = field(default=())
    sweep: tuple[Swept, ...] = ()
    defenses: tuple[DefenseTried, ...] = ()
    guesses: tuple[Guess, ...] = ()

    @property
    def leaks(self) -> bool:
        return self.kind == "leaks"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; docs/audit.md describes it."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "fedsim": __version__,
            "verdict": self.kind,
            "headline": self.headline,
            "threat_models": [asdict(row) for row in self.rows],
            "sweep": [asdict(one) for one in self.sweep],
            "largest": None if (found := largest(self.sweep)) is None else asdict(found),
            "defenses": [asdict(one) for one in self.defenses],
            "tried": [asdict(one) for one in self.tried],
            "limits": list(self.limits),
            "not_tried": list(self.untried),
            "findings": list(self.findings),
            "guesses": [asdict(one) for one in self.guesses],
        }


def verdict(
    found: Sequence[Tried],
    untried: Mapping[str, str],
    *,
    limits: Sequence[str],
    more: Sequence[str],
    findings: Sequence[Mapping[str, Any]],
    sweep: Sequence[Swept] = (),
    defenses: Sequence[DefenseTried] = (),
    guesses: Sequence[Guess] = (),
) -> Verdict:
    """Put together what was tried.

    Args:
        untried: why a letter was not.
        more: what else was not tried, a sentence each.
    """
    rows = tuple(_row(letter, [one for one in found if one.letter == letter], untried) for letter in "ABCDEFGH")
    kinds: tuple[Kind, ...] = ("leaks", "undecided", "not shown", "no answer", "not tried")
    kind = next(kind for kind in kinds if any(row.kind == kind for row in rows))
    return Verdict(
        kind=kind,
        headline=words.headline(kind, *next(((row.letter, row.best) for row in rows if row.kind == "leaks"), ())),
        rows=rows,
        untried=(*_untried(rows), *more),
        limits=tuple(limits),
        findings=tuple(findings),
        tried=tuple(found),
        sweep=tuple(sweep),
        defenses=tuple(defenses),
        guesses=tuple(guesses),
    )


@dataclass(frozen=True, kw_only=True)
class Largest:
    """How far canaries were still rebuilt, and how far any were tried; None: none was rebuilt."""

    batch_size: int | None
    steps: int | None
    tried_batch_size: int
    tried_steps: int


def largest(sweep: Sequence[Swept]) -> Largest | None:
    """The largest batch of one step, and the most steps, at which images were still rebuilt; None without a sweep.

    Beyond it lies what was tried and not rebuilt, and what was not tried: neither says that nothing leaks there.
    """
    if not sweep:
        return None
    rebuilt = [one for one in sweep if one.best is not None and one.best.rebuilt]
    return Largest(
        batch_size=max((one.batch_size for one in rebuilt), default=None),
        steps=max((one.steps for one in rebuilt), default=None),
        tried_batch_size=max(one.batch_size for one in sweep),
        tried_steps=max(one.steps for one in sweep),
    )


def _row(letter: str, found: Sequence[Tried], untried: Mapping[str, str]) -> Row:
    has = described(letter)
    best = strongest(found)
    if best is None:
        return Row(letter=letter, has=has, kind="not tried", says=untried.get(letter, "nothing could be attacked"))
    if best.rebuilt:
        return Row(letter=letter, has=has, kind="leaks", says=words.rebuilt(best), best=best)
    if not any(one.images for one in found):
        return Row(letter=letter, has=has, kind="no answer", says=words.declined(found), best=best)
    if not best.scored:
        return Row(letter=letter, has=has, kind="undecided", says=words.unjudged(found), best=best)
    return Row(letter=letter, has=has, kind="not shown", says=words.nothing(best), best=best)


def _untried(rows: Sequence[Row]) -> Iterator[str]:
    """What was not, those with the same reason in one line."""
    alike: dict[str, list[Row]] = {}
    for row in rows:
        if row.kind == "not tried":
            alike.setdefault(row.says, []).append(row)
    for says, group in alike.items():
        yield f"{', '.join(row.letter for row in group)} ({group[0].has}{', and more' if group[1:] else ''}): {says}"


def lines(found: Verdict) -> Iterator[str]:
    """For the terminal: the verdict, what was tried in part, what was said of the training and cannot be, what next."""
    yield found.headline
    for row, says in zip(found.rows, once(found.rows), strict=True):
        yield f"  {row.letter}  {row.kind:<9}  {says}"
    for limit in found.limits:
        yield f"in part: {limit}"
    for finding in found.findings:
        if finding["wrong"]:
            yield f"cannot be: {finding['about']}: {finding['says']} ({spoken_of(finding['of'])})"
    asked = found.sweep or any(finding["about"] == "Canary" for finding in found.findings)
    if not asked and not found.leaks:
        yield "next: let your client train on images of yours, so that there are originals: --app and --canary"


def once(rows: Sequence[Row]) -> Iterator[str]:
    """What each row says; of rows that say the same, the later ones name the first."""
    first: dict[str, str] = {}
    for row in rows:
        letter = first.setdefault(row.says, row.letter)
        yield row.says if letter == row.letter else f"as {letter}"


def spoken_of(names: Sequence[str]) -> str:
    """Whose reply a finding is of, in few words."""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
