"""What an audit comes to, from its rows alone. It never errs towards "safe".

An image counts as rebuilt where a canary scored it (above 19 dB or an SSIM of 0.6, and nearer than the mean colour), or
where a closed form is certain of it, by checks that need no truth. That nothing was rebuilt is said of the attacks that
were tried, with their budget: it is no evidence that nothing can be.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import polars as pl

from fedsim.audit.adversaries import described
from fedsim.audit.guessing import Guess
from fedsim.audit.working import certain_of
from fedsim.version import __version__

Kind = Literal["leaks", "undecided", "not shown", "no answer", "not tried"]

KNOWS = {
    "A": "sees nothing but what a client sends",
    "B": "sees what a client sends, and how many images that is of,",
    "C": "sees what a client sends, and knows how it trains,",
    "E": "sees what a client sends, its batch-norm statistics among it,",
}
"""The adversaries that can leak here, in a sentence."""

FORMAT, VERSION = "fedsim-verdict", 1


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What one attack made of one reply under one adversary.

    Args:
        letter: of the adversary.
        subject: whose reply, as the page names it.
        scored: whether the truth was there.
        attack: by name; `stage` is the attack that answered in its place, of a cascade.
        status, reason: as in the rows; of the first of them.
        images: that it answered, of `of` that there were; `of` is None where nobody knows.
        rebuilt: how many count as rebuilt.
        psnr: of the best image in dB; None without a truth.
        median: likewise over all.
        loss, stopped, iterations: of the attack itself.
        beyond: what it was told that no real server has.
        job: where the pictures are.
    """

    letter: str
    subject: str
    scored: bool
    attack: str
    stage: str
    status: str
    reason: str
    images: int
    of: int | None
    rebuilt: int
    psnr: float | None
    median: float | None
    loss: float | None
    stopped: str | None
    iterations: int | None
    seconds: float | None
    beyond: str
    job: str | None


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
            "largest": largest(self.sweep),
            "defenses": [asdict(one) for one in self.defenses],
            "tried": [asdict(one) for one in self.tried],
            "limits": list(self.limits),
            "not_tried": list(self.untried),
            "findings": list(self.findings),
            "guesses": [asdict(one) for one in self.guesses],
        }


def tried(rows: pl.DataFrame, *, letter: str, scored: bool, guess: Mapping[int, float]) -> Tried:
    """The rows of one attempt on one subject, as one.

    Args:
        guess: by sample the PSNR of a guess that never looks at the update.
    """
    found = rows.to_dicts()
    first = found[0]
    answered = [row for row in found if row["status"] == "ok"]
    certain = certain_of(first["details"]) if answered else []
    if scored:
        rebuilt = sum(
            bool(row["leaked_psnr"] or row["leaked_ssim"]) and row["psnr"] > guess.get(row["sample"], 0.0)
            for row in answered
        )
    else:
        rebuilt = sum(certain)
    levels = sorted(row["psnr"] for row in answered if row["psnr"] is not None)
    return Tried(
        letter=letter,
        subject=first["dataset"],
        scored=scored,
        attack=first["attack"],
        stage=_stage(first["details"]),
        status=first["status"],
        reason=first["reason"] or "",
        images=len(answered),
        of=len(found) if scored else None,
        rebuilt=rebuilt,
        psnr=levels[-1] if levels else None,
        median=levels[len(levels) // 2] if levels else None,
        loss=first["attack_loss"],
        stopped=first["stopped"],
        iterations=first["iterations"],
        seconds=first["seconds"],
        beyond=first["beyond"] or "",
        job=first["job"],
    )


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
        headline=_headline(kind, rows),
        rows=rows,
        untried=(*_untried(rows), *more),
        limits=tuple(limits),
        findings=tuple(findings),
        tried=tuple(found),
        sweep=tuple(sweep),
        defenses=tuple(defenses),
        guesses=tuple(guesses),
    )


def largest(sweep: Sequence[Swept]) -> dict[str, Any] | None:
    """The largest batch of one step, and the most steps, at which images were still rebuilt; None without a sweep.

    Beyond it lies what was tried and not rebuilt, and what was not tried: neither says that nothing leaks there.
    """
    if not sweep:
        return None
    rebuilt = [one for one in sweep if one.best is not None and one.best.rebuilt]
    return {
        "batch_size": max((one.batch_size for one in rebuilt), default=None),
        "steps": max((one.steps for one in rebuilt), default=None),
        "tried_batch_size": max(one.batch_size for one in sweep),
        "tried_steps": max(one.steps for one in sweep),
    }


def strongest(found: Sequence[Tried]) -> Tried | None:
    """By what it rebuilt, then by its best image; an answer before none."""
    feasible = [one for one in found if not one.beyond] or list(found)
    return max(feasible, key=lambda one: (one.rebuilt, one.psnr or 0.0, one.images), default=None)


def _row(letter: str, found: Sequence[Tried], untried: Mapping[str, str]) -> Row:
    has = described(letter)
    best = strongest(found)
    if best is None:
        return Row(letter=letter, has=has, kind="not tried", says=untried.get(letter, "nothing could be attacked"))
    if best.rebuilt:
        return Row(letter=letter, has=has, kind="leaks", says=_rebuilt(best), best=best)
    if not any(one.images for one in found):
        return Row(letter=letter, has=has, kind="no answer", says=_declined(found), best=best)
    return Row(letter=letter, has=has, kind="not shown" if best.scored else "undecided", says=_nothing(best), best=best)


def _untried(rows: Sequence[Row]) -> Iterator[str]:
    """What was not, those with the same reason in one line."""
    alike: dict[str, list[Row]] = {}
    for row in rows:
        if row.kind == "not tried":
            alike.setdefault(row.says, []).append(row)
    for says, group in alike.items():
        yield f"{', '.join(row.letter for row in group)} ({group[0].has}{', and more' if group[1:] else ''}): {says}"


def _rebuilt(best: Tried) -> str:
    by = spoken(best)
    if best.scored:
        return (
            f"{best.rebuilt} of {best.of} image{'s' if best.of != 1 else ''} of {best.subject} rebuilt by {by}, the "
            f"best to {best.psnr:.1f} dB"
        )
    many = f"{best.rebuilt} image{'s' if best.rebuilt != 1 else ''}"
    return f"{by} is certain of {many} of {best.subject}, by checks that need no truth"


def _nothing(best: Tried) -> str:
    stopped = f", stopped at its budget of {best.iterations} iterations" if best.stopped == "budget" else ""
    if best.scored:
        level = f"{spoken(best)} came to {best.psnr or 0:.1f} dB at best{stopped}"
        return f"no image counts as rebuilt by what was tried; {level}: look at the pictures"
    near = "it is" if best.images == 1 else "they are"
    return f"{spoken(best)} answered {_images(best.images)}{stopped}; how near {near}, only a canary can say"


def _declined(found: Sequence[Tried]) -> str:
    names = list(dict.fromkeys(one.attack.replace("_", " ") for one in found))
    return f"none of {', '.join(names)} could answer; verdict.json says why (tried: reason)"


def _headline(kind: Kind, rows: Sequence[Row]) -> str:
    if kind in ("not tried", "no answer"):
        return "No attack that was tried applies to these replies: this audit says nothing of them."
    if kind == "undecided":
        return "Not decided: attacks answered with images, and without originals only your eyes can judge them."
    if kind == "not shown":
        return "No image counts as rebuilt by the attacks that were tried. That is no evidence that none can be."
    leaking = [row for row in rows if row.kind == "leaks"]
    least = leaking[0]
    assert least.best is not None
    scored = "a canary's images" if least.best.scored else "images"
    return f"It leaks: a server that {KNOWS.get(least.letter, 'sees the updates')} rebuilds {scored}."


def spoken(one: Tried) -> str:
    """`the cascade (first linear)`."""
    name = one.attack.replace("_", " ")
    return f"{name} ({one.stage.replace('_', ' ')})" if one.stage and one.stage != one.attack else name


def _stage(details: str | None) -> str:
    stage = json.loads(details or "{}").get("stage", "")
    return stage if isinstance(stage, str) else ""


def _images(count: int) -> str:
    return f"{count} image{'' if count == 1 else 's'}"


def lines(found: Verdict) -> Iterator[str]:
    """For the terminal."""
    yield found.headline
    for row in found.rows:
        yield f"  {row.letter}  {row.kind:<9}  {row.says}"
