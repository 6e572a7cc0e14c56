"""Whether a repetition agrees with an entry of the leaderboard, and what the entry then says of it.

    agrees             every repeated victim is within 0.1 dB of what the entry records of it, or at the cap of 100 dB
                       as there; or, where something differs that changes digits, the median of the repeated victims
                       lies within the entry's interval, which is widened to hold their recorded median
    differs            it does not agree, and nothing differs that could explain it
    other environment  it does not agree, and versions, processor, threads or the victims attacked at once differ

The attacks are deterministic, so equal circumstances give equal numbers. Others change the last digits of a gradient,
and an optimiser makes decibels of them: then only the distribution can be compared.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from rich.table import Table
from rich.text import Text

from fedsim.errors import BadInput
from fedsim.reporting import formats as f
from fedsim.reporting.entries.entry import Entry
from fedsim.reporting.entries.parts import Value, Verification
from fedsim.runs.repeat import Part
from fedsim.scoring.summary import counted
from fedsim.version import __version__

TOLERANCE = 0.1
"""dB."""

Outcome = Literal["agrees", "differs", "other environment"]


@dataclass(frozen=True)
class Compared:
    """A victim as the entry records it, and its PSNR in dB in the repetition; None where the attack had no answer."""

    recorded: Value
    repeated: float | None
    counts: float | None  # the repeated score that counts: the floor's without an answer

    @property
    def alike(self) -> bool:
        if self.recorded.answered != (self.repeated is not None):
            return False
        if self.recorded.psnr is None or self.counts is None:
            return self.recorded.psnr is None and self.counts is None
        return abs(self.recorded.psnr - self.counts) <= TOLERANCE


@dataclass(frozen=True)
class Finding:
    """What a repetition showed.

    Args:
        differences: what differs of the circumstances, each with the entry's and the present value.
        environment: the present one.
    """

    outcome: Outcome
    victims: tuple[Compared, ...]
    differences: tuple[tuple[str, str, str], ...]
    environment: dict[str, Any]
    why: str

    def verification(self, date: str) -> Verification:
        """As it stands in the entry; `date` is YYYY-MM-DD."""
        return Verification(
            date=date,
            outcome=self.outcome,
            victims=len(self.victims),
            fedsim_version=__version__,
            environment=self.environment,
        )


def part_of(entry: Entry, *, seed: int, clients: int) -> Part:
    """What is to be repeated of the entry's scenario, for the first so many clients of a seed."""
    return Part(
        definition=entry.source.definition,
        setting=entry.setting.conditions,
        defense=entry.defense.parts,
        attack=entry.attack.name,
        params=entry.attack.params,
        threat_model=entry.threat_model,
        seed=seed,
        clients=clients,
    )


def compare(entry: Entry, rows: pl.DataFrame, *, together: int, formerly: int) -> Finding:
    """Compare an entry with the rows of a repetition of some of its victims.

    Args:
        rows: the results of the repetition; other attacks, seeds and clients in it are ignored.
        together: how many victims it attacked at once.
        formerly: how many the entry's run did.

    Raises:
        BadInput: none of the entry's victims is among the rows.
    """
    victims = _victims(entry, rows)
    if not victims:
        raise BadInput("its scenario does not have the victims that the entry lists")
    ours = rows.filter(pl.col("attack") == entry.attack.name)
    environment: dict[str, Any] = next((json.loads(text) for text in ours["environment"].drop_nulls()), {})
    differences = tuple(_differences(entry, environment, ours, together, formerly))
    close = sum(victim.alike for victim in victims)
    why = f"{close} of {len(victims)} victims within {TOLERANCE:g} dB"
    if close == len(victims):
        return Finding("agrees", victims, differences, environment, why)
    if not differences:
        return Finding("differs", victims, differences, environment, why)
    within, said = _within(entry, victims)
    return Finding("agrees" if within else "other environment", victims, differences, environment, f"{why}; {said}")


def _victims(entry: Entry, rows: pl.DataFrame) -> tuple[Compared, ...]:
    scored = counted(rows).filter(pl.col("attack") == entry.attack.name)
    found = {
        (row["seed"], row["round"], row["client"], row["sample"]): row
        for row in scored.select("seed", "round", "client", "sample", "psnr", "answered").to_dicts()
    }
    return tuple(
        Compared(value, row["psnr"] if row["answered"] else None, row["psnr"])
        for value in entry.victims.values
        if (row := found.get((value.seed, value.round, value.client, value.sample))) is not None
    )


def _within(entry: Entry, victims: Sequence[Compared]) -> tuple[bool, str]:
    repeated = [victim.counts for victim in victims if victim.counts is not None]
    recorded = [victim.recorded.psnr for victim in victims if victim.recorded.psnr is not None]
    if entry.scores.psnr is None or not repeated or not recorded:
        return False, "there is no median to compare"
    median, formerly = float(np.median(repeated)), float(np.median(recorded))
    ends = [formerly - TOLERANCE, formerly + TOLERANCE]
    ends += [end for end in (entry.scores.psnr.low, entry.scores.psnr.high) if end is not None]
    within = min(ends) <= median <= max(ends)
    span = f.interval(min(ends), max(ends), 1)
    return within, f"their median, {f.decibel(median)} dB, is {'within' if within else 'not within'} {span} dB"


def _differences(
    entry: Entry, environment: dict[str, Any], rows: pl.DataFrame, together: int, formerly: int
) -> list[tuple[str, str, str]]:
    """What differs of all that changes digits: the environment, fedsim's version, the device, the size of a chunk."""
    found = []
    recorded = entry.source.environments or [{}]
    for key in sorted({key for block in (*recorded, environment) for key in block}):
        values = sorted({str(block.get(key, "unknown")) for block in recorded})
        here = str(environment.get(key, "unknown"))
        if values != [here]:
            found.append((key, ", ".join(values), here))
    if not environment and not found:
        found.append(("environment", "unknown", "unknown"))
    if entry.source.fedsim_version != __version__:
        found.append(("fedsim", entry.source.fedsim_version, __version__))
    theirs, ours = (_chips(names) for names in (entry.source.hardware, rows["device"].drop_nulls().to_list()))
    if theirs != ours and "processor" not in {name for name, *_ in found}:
        found.append(("device", theirs, ours))
    if together != formerly:
        found.append(("victims attacked at once", str(formerly), str(together)))
    return found


def _chips(devices: Sequence[str]) -> str:
    """Devices without the number of their cores, which changes nothing; threads do, and stand in the environment."""
    return ", ".join(sorted({re.sub(r", \d+ cores?$", "", device) for device in devices})) or "unknown"


def terminal(finding: Finding) -> Table:
    """The finding for a terminal: a line for each victim, the outcome, and what differs."""
    victims = Table(box=None, padding=(0, 1), collapse_padding=True, pad_edge=False, header_style="dim")
    victims.add_column("victim", no_wrap=True)
    for heading in ("entry dB", "repeated dB", ""):
        victims.add_column(heading, justify="right")
    for victim in finding.victims:
        own = victim.recorded
        name = f"seed {own.seed}, round {own.round}, client {own.client}, image {own.sample}"
        recorded, repeated = _said(own.psnr, own.answered), _said(victim.counts, victim.repeated is not None)
        victims.add_row(name, recorded, repeated, "" if victim.alike else "differs")
    page = Table.grid()
    page.add_row(victims)
    page.add_row(Text.assemble((finding.outcome, "bold"), f": {finding.why}"))
    for what, theirs, ours in finding.differences:
        page.add_row(Text(f"  {what}: {theirs}; here {ours}", style="dim"))
    return page


def _said(psnr: float | None, answered: bool) -> str:
    return f.decibel(psnr) if answered else "no answer"
