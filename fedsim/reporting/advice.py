"""The three questions of a reader in a hurry: which defense should I use, what does it cost, whom does it not stop?

For each model the advice is the recommended defense (`verdicts.Verdict.recommended`) that costs least test accuracy.
Where none is, it says what was missing: that the attacks rebuilt nothing without a defense either, that none of them
knew the defense, that they failed or stopped at their budget, that there were too few clients. Nothing is advised that
was not measured, and what was never tried is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from fedsim.reporting import formats as f
from fedsim.reporting.leaderboard import THREAT
from fedsim.reporting.naming import spoken
from fedsim.reporting.prose import joined, some
from fedsim.reporting.verdicts import Verdict, chosen_on, of_another_form

REACHED = 0.02
"""A baseline further than this below the accuracy that its model reaches has not been trained to the end."""


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
    rivals: dict[str, list[Verdict]] = {}
    for verdict in judged:
        rivals.setdefault(verdict.setting, []).append(verdict)
    chosen = {setting: one for setting, group in rivals.items() if (one := _choice(group)) is not None}
    limits = [*_limits(board, chosen), *_more(rivals), *_untried(board)]
    return Advice([*_use(rivals, chosen), *_silent(board, judged)], _cost(rivals, chosen), limits)


def _silent(board: pl.DataFrame, judged: Sequence[Verdict]) -> list[str]:
    """Defenses under which no attack had an answer: they are in no verdict, and that is none in their favour."""
    known = {(verdict.setting, verdict.defense) for verdict in judged}
    pairs = board.select("setting_label", "defense_label").unique(maintain_order=True).rows()
    names = list(dict.fromkeys(defense for setting, defense in pairs if (setting, defense) not in known))
    return [f"Under {some(names)} no attack had an answer, which says nothing for it."] if names else []


def _choice(rivals: list[Verdict]) -> Verdict | None:
    """The recommended defense that costs least, one of unknown cost last; None where none is recommended."""
    fit = [verdict for verdict in rivals if verdict.recommended]
    return min(fit, key=lambda verdict: verdict.loss if verdict.loss is not None else 1.0, default=None)


def _use(rivals: dict[str, list[Verdict]], chosen: dict[str, Verdict]) -> list[str]:
    said: dict[str, list[str]] = {}
    for setting, group in rivals.items():
        said.setdefault(_praise(chosen[setting]) if setting in chosen else _refusal(group), []).append(setting)
    return [
        text[0].upper() + text[1:] if len(said) == 1 else f"On {joined(settings)}: {text}"
        for text, settings in said.items()
    ]


def _praise(verdict: Verdict) -> str:
    result = "none of the attacks tried rebuilt an image" if verdict.kind == "resists" else _held(verdict)
    among = f"{verdict.best['n']} images of {verdict.best['clients']} clients"
    return f"use {verdict.defense}. Under it {result} ({among})."


_NOTHING_TO_STOP = (
    "this run cannot say. Without a defense the attacks tried rebuilt no image, so that none can be seen to help"
)


def _refusal(rivals: list[Verdict]) -> str:
    """Why no defense of a setting is recommended."""
    defenses = [verdict for verdict in rivals if not verdict.baseline]
    plain = next((verdict for verdict in rivals if verdict.baseline), None)
    if not defenses:
        return "no defense was tried." if plain is None else f"no defense was tried; without one {_rebuilt(plain)}."
    if plain is not None and plain.held:
        said = _NOTHING_TO_STOP
        leaking = [verdict for verdict in defenses if not verdict.held]
        if leaking:
            worst = max(leaking, key=lambda verdict: verdict.best["leaked_psnr"] or 0.0)
            said += f"; yet {_rebuilt(worst)} under {worst.defense}"
        return f"{said}. {_stopped(plain)}Give the attacks more iterations, or take stronger ones."
    held = [verdict for verdict in defenses if verdict.held]
    if held:
        return f"this run recommends none. {' '.join(_doubts(held))}"
    least = min(defenses, key=lambda verdict: (verdict.best["leaked_psnr"] or 0.0, verdict.best["psnr"]))
    if plain is not None and (plain.best["leaked_psnr"] or 0.0) <= (least.best["leaked_psnr"] or 0.0):
        return f"none of those tried helps; {_rebuilt(plain)} without one, and no fewer under any."
    return f"none of those tried is enough. {least.defense} leaked least: {_rebuilt(least)} under it."


def _doubts(held: list[Verdict]) -> Iterator[str]:
    """Why defenses that held are not recommended; those of which the same is true in one sentence."""
    alike: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for verdict in held:
        alike.setdefault((_held(verdict), verdict.objections), []).append(verdict.defense)
    for (result, objections), names in alike.items():
        yield f"{result[0].upper()}{result[1:]} under {some(names)}, but {joined(list(objections))}."


def _held(verdict: Verdict) -> str:
    if verdict.kind == "resists":
        return "no image was rebuilt"
    return "the strongest attack did no better than a guess that ignores the update"


def _stopped(verdict: Verdict) -> str:
    if not verdict.best["at_budget"]:
        return ""
    share = f.percent(verdict.best["at_budget"])
    return f"{share} of the strongest attack's answers stopped at the budget of iterations. "


def _rebuilt(verdict: Verdict) -> str:
    return f"the strongest attack rebuilt {verdict.rebuilt} of {verdict.best['n']} images"


_NO_COST = "No defense is recommended, so there is no cost to weigh; the table has what each would cost."


def _cost(rivals: dict[str, list[Verdict]], chosen: dict[str, Verdict]) -> list[str]:
    if not chosen:
        return [_NO_COST, *_far(rivals)]
    plain = {setting: next((v for v in group if v.baseline), None) for setting, group in rivals.items()}
    losses = [verdict.loss for verdict in chosen.values() if verdict.loss is not None]
    names = {verdict.defense for verdict in chosen.values()}
    if len(losses) == len(chosen) > 2 and len(names) == 1:
        span = " to ".join(dict.fromkeys(f.number(100 * loss, 0) for loss in (min(losses), max(losses))))
        said = [f"{names.pop()}: {span} points of test accuracy, depending on the model; the table has each."]
        return [*said, *_far(rivals)]
    sentences = []
    for setting, verdict in chosen.items():
        before = plain[setting]
        where = f" on {setting}" if len(rivals) > 1 else ""
        if verdict.loss is None or before is None:
            sentences.append(f"The cost of {verdict.defense}{where} was not measured.")
            continue
        accuracies = f"test accuracy {_accuracy(verdict)} instead of {_accuracy(before)}"
        sentences.append(f"{verdict.defense}{where}: {accuracies}, {_points(verdict)}.")
        if other := of_another_form(verdict.best):
            sentences.append(f"This was {other}.")
    return [*dict.fromkeys(sentences), *_far(rivals)]


def _accuracy(verdict: Verdict) -> str:
    row = verdict.best
    return f.accuracy(row["utility"], row["utility_low"], row["utility_high"])


def _points(verdict: Verdict) -> str:
    loss, slack = verdict.loss or 0.0, verdict.slack
    if slack is not None and abs(loss) <= slack:
        return f"which cannot be told from no loss ({f.points(loss, slack)} points)"
    return f"{f.points(abs(loss), slack)} points {'less' if loss >= 0 else 'more'}"


def _far(rivals: dict[str, list[Verdict]]) -> list[str]:
    """Baselines that were not trained to the end: what a defense costs there is not what it costs in the end."""
    said = []
    for setting, group in rivals.items():
        for row in (verdict.best for verdict in group if verdict.baseline):
            reached, reachable = row["utility"], row["utility_reachable"]
            if reached is not None and reachable is not None and reached < reachable - REACHED:
                where = f" on {setting}" if len(rivals) > 1 else ""
                said.append(
                    f"The utility training without a defense{where} came to {f.accuracy(reached)} of the "
                    f"{f.accuracy(reachable)} that this model reaches: costs may be other ones once it is trained."
                )
    return said


def _limits(board: pl.DataFrame, chosen: dict[str, Verdict]) -> list[str]:
    """The attacks that still rebuilt images under the recommended defenses, oracles apart."""
    if not chosen:
        return []
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
    sentences = sentences or ["Every attack tried here failed on it; a stronger one, or more iterations, may not."]
    on = list(dict.fromkeys(chosen_on(verdict.best) for verdict in chosen.values()))
    return [*sentences, f"The strongest attack was chosen on {joined(on)}."]


def _more(rivals: dict[str, list[Verdict]]) -> list[str]:
    """Defenses that make things worse."""
    worse = {setting: [v for v in group if v.more_than_plain] for setting, group in rivals.items()}
    return [
        f"{verdict.defense}{f' on {setting}' if len(rivals) > 1 else ''} leaks more than no defense: a median of "
        f"{f.decibel(verdict.best['psnr'])} dB against {f.decibel(verdict.plain['psnr'] if verdict.plain else None)}."
        for setting, group in worse.items()
        for verdict in group
    ]


_UNTRIED = {
    "threat_server": ("malicious", "a server that changes the model it sends"),
    "threat_defense": ("known", "an attacker who knows the defense and adapts to it"),
    "threat_auxiliary_data": ("public", "an attacker with images of the same kind"),
}


def _untried(board: pl.DataFrame) -> list[str]:
    real = board.filter((pl.col("answered") > 0) & (pl.col("role") == "attack"))  # a floor's grants attack nobody
    tried = {column: set(real[column]) for column in THREAT}
    if real.filter(~pl.col("baseline"))["informed"].any():  # whichever grant told it, such as the dropout rate
        tried["threat_defense"].add("known")
    absent = [words for column, (value, words) in _UNTRIED.items() if value not in tried[column]]
    return [f"Not tried, so nothing is known: {joined(absent, last='or')}."] if absent else []
