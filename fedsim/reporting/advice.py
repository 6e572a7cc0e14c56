"""The three questions of a reader in a hurry: which defense should I use, what does it cost, whom does it not stop?

For each model the advice is the defense that held (no image rebuilt, or no better than a guess) at the least loss of
test accuracy; where none held, it says so and names the one that leaked least. Nothing is advised that was not
measured, and what was never tried is said. Where the attacks rebuilt nothing without a defense, none can be advised;
nor where a defense that held cannot be told from no defense, as the 95 % intervals of the median PSNR overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from fedsim.reporting import formats as f
from fedsim.reporting.leaderboard import THREAT
from fedsim.reporting.naming import spoken
from fedsim.reporting.prose import Verdict, joined

HELD = {"resists", "floor"}


@dataclass(frozen=True)
class Advice:
    """The answers; each a few sentences of plain text."""

    use: list[str]
    cost: list[str]
    limits: list[str]


def advise(board: pl.DataFrame, judged: Sequence[Verdict]) -> Advice | None:
    """The advice that a leaderboard's verdicts give; None where no attack has answered."""
    if not judged:
        return None
    chosen: dict[str, Verdict] = {}
    for setting in dict.fromkeys(verdict.setting for verdict in judged):
        chosen[setting] = _choice([verdict for verdict in judged if verdict.setting == setting])
    return Advice(_use(chosen, judged), _cost(chosen, judged), [*_limits(board, chosen), *_untried(board)])


def _choice(rivals: list[Verdict]) -> Verdict:
    """The defense to take on one model: what held and costs least, or else what leaked least."""

    def dislike(verdict: Verdict) -> tuple[bool, float, bool, float]:
        held = verdict.kind in HELD
        leaked = 0.0 if held else verdict.best["leaked_psnr"] or 0.0
        price = verdict.loss if verdict.loss is not None else 1.0
        return (not held, leaked, verdict.defense != "none", price)  # where none leaks less than no defense: no defense

    plain = next((verdict for verdict in rivals if verdict.defense == "none"), None)
    if plain is not None and plain.kind in HELD:
        return plain
    best = min(rivals, key=dislike)
    if plain is None or best.kind not in HELD:
        return best
    # a dearer defense that was seen to help goes before a cheaper one that was not
    helped = [verdict for verdict in rivals if verdict.kind in HELD and _apart(verdict, plain)]
    return min(helped, key=dislike) if helped else best


def _apart(verdict: Verdict, plain: Verdict) -> bool:
    """Whether the strongest attack is surely worse under the defense than without one."""
    below, above = verdict.best["psnr_high"], plain.best["psnr_low"]
    return below is not None and above is not None and below < above


def _use(chosen: dict[str, Verdict], judged: Sequence[Verdict]) -> list[str]:
    alike: dict[tuple[str, bool], list[str]] = {}
    for setting, verdict in chosen.items():
        alike.setdefault((verdict.defense, verdict.kind in HELD), []).append(setting)
    sentences = []
    for (defense, held), settings in alike.items():
        where = "" if len(alike) == 1 else f"On {joined(settings)}: "
        best = [chosen[setting] for setting in settings]
        if held and defense == "none":
            said = _nothing_to_stop([verdict for verdict in judged if verdict.setting in settings])
        elif held and (weak := _indistinct(best, judged)):
            said = weak
        elif held:
            result = (
                "none of the attacks tried rebuilt an image"
                if all(verdict.kind == "resists" for verdict in best)
                else "the strongest attack did no better than a guess that ignores the update"
            )
            said = f"use {defense}. Under it {result}."
        elif defense == "none":
            said = f"none of those tried helps; {_rebuilt(best)} without one, and no fewer under any."
        else:
            said = f"none of those tried is enough. {defense} leaked least: {_rebuilt(best)} under it."
        sentences.append(where + (said if where else said[0].upper() + said[1:]))
    return sentences


def _indistinct(best: list[Verdict], judged: Sequence[Verdict]) -> str | None:
    """What to say where a defense held, but not surely better than no defense at all; None where it did."""
    settings = [verdict.setting for verdict in best]
    plain = [verdict for verdict in judged if verdict.setting in settings and verdict.defense == "none"]
    if not plain or any(_apart(verdict, one) for verdict in best for one in plain if one.setting == verdict.setting):
        return None
    return (
        f"this run cannot say. No image was rebuilt under {best[0].defense}, but {_rebuilt(plain)} without a defense, "
        "and the intervals overlap. Take more victims, or give the attacks more iterations."
    )


def _nothing_to_stop(judged: list[Verdict]) -> str:
    """Where nothing was rebuilt without a defense a run can praise none; it may show that the attacks were too weak."""
    said = "this run cannot say. Without a defense the attacks tried rebuilt no image, so that none can be seen to help"
    leaking = [verdict for verdict in judged if verdict.kind not in HELD]
    if not leaking:
        return f"{said}."
    worst = max(leaking, key=lambda verdict: verdict.best["leaked_psnr"] or 0.0)
    return f"{said}; yet {_rebuilt([worst])} under {worst.defense}. Give them more iterations."


def _rebuilt(group: list[Verdict]) -> str:
    images = sum(verdict.best["n"] for verdict in group)
    leaked = sum(round((verdict.best["leaked_psnr"] or 0) * verdict.best["n"]) for verdict in group)
    return f"the strongest attack rebuilt {leaked} of {images} images"


def _cost(chosen: dict[str, Verdict], judged: Sequence[Verdict]) -> list[str]:
    plain = {verdict.setting: verdict.best["utility"] for verdict in judged if verdict.defense == "none"}
    losses = [verdict.loss for verdict in chosen.values() if verdict.loss is not None]
    names = {verdict.defense for verdict in chosen.values()}
    if len(losses) == len(chosen) > 2 and len(names) == 1 and "none" not in names:
        span = " to ".join(dict.fromkeys(f.number(100 * loss, 1) for loss in (min(losses), max(losses))))
        return [f"{names.pop()}: {span} points of test accuracy, depending on the model; the table has each."]
    if names == {"none"}:
        return ["Nothing: no defense is recommended. The table has what each would cost."]
    sentences = []
    for setting, verdict in chosen.items():
        after, before = verdict.best["utility"], plain.get(setting)
        where = f" on {setting}" if len(chosen) > 1 else ""
        if verdict.defense == "none":
            sentences.append(f"Nothing{where}, where none is recommended.")
        elif verdict.loss is None or before is None:
            sentences.append(f"The cost of {verdict.defense}{where} was not measured.")
        else:
            points = f.number(100 * abs(verdict.loss), 1)
            change = f"{points} points less" if verdict.loss >= 0 else f"{points} points more"
            accuracies = f"test accuracy {f.accuracy(after)} instead of {f.accuracy(before)}"
            sentences.append(f"{verdict.defense}{where}: {accuracies}, {change}.")
    return list(dict.fromkeys(sentences))


def _limits(board: pl.DataFrame, chosen: dict[str, Verdict]) -> list[str]:
    """The attacks that still rebuilt images under the chosen defenses, oracles apart."""
    leaks: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for setting, verdict in chosen.items():
        here = board.filter((pl.col("setting_label") == setting) & (pl.col("defense_label") == verdict.defense))
        for row in here.filter((pl.col("role") != "floor") & (pl.col("leaked_psnr") > 0)).to_dicts():
            share = (round(row["leaked_psnr"] * row["n"]), row["n"])
            leaks.setdefault((row["role"], row["attack_label"]), []).append(share)
    named: dict[str, list[str]] = {"attack": [], "oracle": []}
    for (role, label), shares in leaks.items():
        named[role].append(f"{spoken(label)} ({sum(a for a, _ in shares)} of {sum(b for _, b in shares)} images)")
    sentences = []
    if named["attack"]:
        sentences.append(f"Images were still rebuilt by {joined(named['attack'])}.")
    if named["oracle"]:
        oracles = joined(named["oracle"])
        sentences.append(f"It does not help against an attacker who is told what no real server knows: {oracles}.")
    return sentences or ["Every attack tried here failed on it; a stronger one, or more iterations, may not."]


_UNTRIED = {
    "threat_server": ("malicious", "a server that changes the model it sends"),
    "threat_defense": ("known", "an attacker who knows the defense and adapts to it"),
    "threat_auxiliary_data": ("public", "an attacker with images of the same kind"),
}


def _untried(board: pl.DataFrame) -> list[str]:
    tried = {column: set(board.filter(pl.col("n") > 0)[column]) for column in THREAT}
    absent = [words for column, (value, words) in _UNTRIED.items() if value not in tried[column]]
    return [f"Not tried, so nothing is known: {joined(absent, last='or')}."] if absent else []
