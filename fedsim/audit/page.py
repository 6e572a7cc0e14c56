"""The verdict as one page that holds everything and asks the network for nothing; in the report's style."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from fedsim.audit.attempted import Tried, spoken
from fedsim.audit.outcome import Audit
from fedsim.audit.told import Told
from fedsim.audit.verdict import Swept, Verdict, largest, once, spoken_of
from fedsim.audit.working import Subject, certain_of
from fedsim.reporting.gallery import Tile
from fedsim.reporting.pages import environment
from fedsim.reporting.strips import strip
from fedsim.runs.directory import RunDirectory
from fedsim.table import LEAKED_PSNR, LEAKED_SSIM
from fedsim.version import versions

MOST = 8
"""Images of a reply that are shown, at most."""


@dataclass(frozen=True)
class Row:
    """One attempt's pictures, or why there are none."""

    label: str
    role: str
    tiles: list[Tile]
    absent: str = ""


@dataclass(frozen=True)
class Silent:
    """An attack that had no answer: under which letters, of how many replies, and why."""

    attack: str
    letters: list[str]
    replies: int
    why: list[str]


@dataclass(frozen=True)
class Panel:
    """One reply: its originals, if they are known, and a row for each attempt that answered."""

    name: str
    note: str
    originals: list[Tile]
    rows: list[Row]
    names: list[str]

    @property
    def width(self) -> int:
        return max([len(row.tiles) for row in self.rows] + [len(self.originals), 1])


def html(audit: Audit) -> str:
    """The page of an audit."""
    directory = RunDirectory(audit.path)
    panels = [_panel(directory, audit.rows, subject, outcomes) for subject, outcomes in audit.subjects]
    return environment().get_template("audit.html.j2").render(
        told=audit.told,
        verdict=audit.verdict,
        replies=_replies(audit.subjects),
        rows=list(zip(audit.verdict.rows, once(audit.verdict.rows), strict=True)),
        attacked=len(audit.subjects),
        answers=list(_answers(audit.verdict)),
        threshold=LEAKED_PSNR,
        similar=LEAKED_SSIM,
        panels=[panel for panel in panels if panel.rows or panel.originals],
        silent=_silent(audit.subjects),
        most=MOST,
        scored=any(subject.truth is not None for subject, _ in audit.subjects),
        sweep=_sweep(audit.verdict),
        defended=audit.verdict.defenses,
        spoken=spoken,
        findings=[{**finding, "of": spoken_of(finding["of"])} for finding in audit.verdict.findings],
        guesses=audit.verdict.guesses,
        said=list(_said(audit.told)),
        faults=audit.faults,
        strip=strip,
        command=audit.command,
        versions=versions(),
    )  # fmt: skip


def _answers(verdict: Verdict) -> Iterator[tuple[str, str]]:
    leaking = [row for row in verdict.rows if row.kind == "leaks"]
    if leaking:
        most = max(leaking, key=lambda row: (row.best.psnr or 0.0) if row.best is not None else 0.0)
        yield "Is it leaking?", f"Yes: {most.says}."
        letters = ", ".join(row.letter for row in leaking)
        yield "To whom?", f"To the adversaries {letters} of the table below; {leaking[0].letter} has {leaking[0].has}."
        if (swept := _sweep(verdict)) is not None:
            yield "At which batches and steps?", swept.sentence
    elif verdict.kind == "undecided":
        yield "Is it leaking?", (
            "This cannot be said for certain from what was recorded: look at the pictures below. To know, let a client "
            "train on images of yours (--app and --canary): then every reconstruction is scored."
        )
    elif verdict.kind == "not shown":
        yield "Is it leaking?", (
            "It was not shown to: no image counts as rebuilt by what was tried. Look at the pictures, in which you may "
            "see more than numbers do, and at what was not tried."
        )
    else:
        yield "Is it leaking?", "Nothing could be attacked, so nothing is known; the reasons stand below."


@dataclass(frozen=True)
class Sweep:
    """The canaries by batch size and steps, and what they come to in a sentence."""

    sentence: str
    rows: tuple[Swept, ...]


def _sweep(verdict: Verdict) -> Sweep | None:
    found = largest(verdict.sweep)
    if found is None:
        return None
    budgets = [one.best.iterations for one in verdict.sweep if one.best is not None and one.best.iterations]
    budget = f", in at most {max(budgets):,} iterations" if budgets else ""
    tried = f"Tried were batches of up to {found.tried_batch_size} and up to {found.tried_steps} steps{budget}."
    if found.batch_size is None:
        said = f"No image counts as rebuilt by what was tried. {tried}"
    else:
        said = (
            f"The largest batch of which images were still rebuilt is {found.batch_size}, the most steps "
            f"{found.steps}. {tried}"
        )
    note = "Where nothing was rebuilt, a stronger attack or more iterations may do better: it is no sign of safety."
    return Sweep(f"{said} {note}", verdict.sweep)


def _panel(directory: RunDirectory, rows: pl.DataFrame, subject: Subject, outcomes: Sequence[Tried]) -> Panel:
    answered = [one for one in outcomes if one.images]
    named = zip(answered, labels(rows, answered), strict=True)
    shown = [_row(directory, rows, one, label) for one, label in named]
    if not shown and subject.truth is not None:
        shown = [Row("all attacks", "", [], "no answer")]
    originals: list[Tile] = []
    if subject.truth is not None:
        images = subject.truth.images[:MOST].permute(0, 2, 3, 1).numpy()
        originals = [Tile(image) for image in images]
    count = max([len(row.tiles) for row in shown] + [len(originals), 1])
    images_of = subject.reply.examples
    note = "" if images_of is None else f"{images_of:,} image{'' if images_of == 1 else 's'}, as the client says"
    return Panel(subject.name, note, originals, shown, [f"image {place + 1}" for place in range(count)])


def _silent(subjects: Sequence[tuple[Subject, Sequence[Tried]]]) -> list[Silent]:
    """Each attack once, of the replies and letters that have no answer of any."""
    found: dict[str, list[Tried]] = {}
    for _, outcomes in subjects:
        answered = {one.letter for one in outcomes if one.images}
        for one in outcomes:
            if one.letter not in answered:
                found.setdefault(spoken(one), []).append(one)
    return [
        Silent(
            attack,
            sorted({one.letter for one in each}),
            len({one.subject for one in each}),
            list(dict.fromkeys(one.reason for one in each)),
        )
        for attack, each in sorted(found.items())
    ]


def labels(rows: pl.DataFrame, attempts: Sequence[Tried]) -> list[str]:
    """What attempts on one reply are called; those of one attack by what of its parameters differs, too."""
    plain = [f"{one.letter} · {spoken(one)}" for one in attempts]
    given = [json.loads(rows.filter(pl.col("job") == one.job)["attack_params"][0]) for one in attempts]
    found = []
    for label, own in zip(plain, given, strict=True):
        alike = [other for name, other in zip(plain, given, strict=True) if name == label]
        apart = [f"{key}={own[key]}" for key in own if any(other.get(key) != own[key] for other in alike)]
        found.append(f"{label}, {', '.join(apart)}" if apart else label)
    return found


def _row(directory: RunDirectory, rows: pl.DataFrame, one: Tried, label: str) -> Row:
    own = rows.filter((pl.col("job") == one.job) & (pl.col("status") == "ok")).head(MOST).to_dicts()
    stack = _stack(directory, str(one.job))
    tiles = []
    for row in own:
        place = row["picture"]
        image = stack[place] if stack is not None and place is not None and place < len(stack) else None
        tiles.append(Tile(image, row["psnr"], "" if image is not None else "no picture"))
    certain = certain_of(own[0]["details"]) if own else []
    role = f"certain of {sum(certain)} of {len(certain)}" if any(certain) else ""
    if one.stopped == "budget":
        role = f"{role}, at its budget" if role else "at its budget"
    return Row(label, role, tiles)


def _stack(directory: RunDirectory, job: str) -> np.ndarray | None:
    try:
        with np.load(directory.score(job) / "pictures.npz", allow_pickle=False) as stack:
            found: np.ndarray = stack["reconstruction"]
            return found
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _replies(subjects: Sequence[tuple[Subject, Sequence[Tried]]]) -> str:
    recorded = sum(subject.truth is None for subject, _ in subjects)
    canaries = len(subjects) - recorded
    parts = [f"{recorded} recorded repl{'y' if recorded == 1 else 'ies'}"] if recorded else []
    parts += [f"{canaries} canar{'y' if canaries == 1 else 'ies'}"] if canaries else []
    return " and ".join(parts) + " attacked"


def _said(told: Told) -> Iterator[tuple[str, str]]:
    yield "model", told.model
    yield "images", f"{' × '.join(map(str, told.shape))}, {told.classes} classes"
    yield "normalisation", f"mean {_numbers(told.mean)}, std {_numbers(told.std)}"
    yield "clients send", told.shared
    yield "mode", told.mode
    yield "batch size", str(told.batch_size or "not said")
    if told.local is None:
        yield "local training", "not said"
    else:
        local = told.local
        spec = dict(local.optimizer.spec())
        keys = ", ".join(f"{key} {json.dumps(value)}" for key, value in spec.items() if key != "name" and value)
        yield "optimizer", f"{spec['name']}, learning rate {local.learning_rate:g}" + (f", {keys}" if keys else "")
        if local.schedule is not None:
            of = {key: value for key, value in local.schedule.spec().items() if key != "name"}
            yield "schedule", f"{local.schedule.name}, " + ", ".join(f"{key} {value}" for key, value in of.items())
        for group in local.groups:
            said = {key: value for key, value in group.to_dict().items() if value is not None}
            yield "trained apart", json.dumps(said)
        count, unit = (local.steps, "step") if local.epochs is None else (local.epochs, "epoch")
        yield "length", f"{count} {unit}{'' if count == 1 else 's'}"
    if told.defense:
        yield "defense", ", ".join(str(part["name"]) for part in told.defense)


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
