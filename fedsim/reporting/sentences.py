"""What is to be said of each defense, in one sentence: whom it stops, whom it does not, and what it costs.

The attackers are those of `attackers`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import polars as pl

from fedsim.reporting import formats as f
from fedsim.reporting.attackers import Attackers, attackers
from fedsim.reporting.leaderboard import Row
from fedsim.reporting.naming import spoken
from fedsim.reporting.verdicts import Verdict

MOST = 0.5
"""The share of images from which on an attack counts as one that is not stopped."""


def sentences(board: pl.DataFrame, judged: Sequence[Verdict]) -> list[tuple[str, str, str]]:
    """Setting, defense and sentence of every defense that was judged; none of the undefended client."""
    found = []
    for verdict in judged:
        if not verdict.baseline:
            found.append((verdict.setting, verdict.defense, _sentence(attackers(board, verdict), verdict)))
    return found


def _sentence(by: Attackers, verdict: Verdict) -> str:
    parts = [_attackers(by)]
    if by.oracle is not None:
        parts.append(f"told what the client drew, {_said(by.oracle)}")
    if by.guess is not None:
        parts.append(f"a guess that never looks at the update has {f.decibel(by.guess)} dB")
    said = "; ".join(parts)
    return f"{said[0].upper()}{said[1:]}. {_cost(verdict)}"


def _attackers(by: Attackers) -> str:
    naive, lost = _shown(by.naive, by.naive_able)
    known, missed = _shown(by.told, by.told_able)
    untried = "no attack that takes it into account was tried"
    if known is None:
        assert naive is not None, "a defense is judged where an attack has answered"
        return f"{_idle([_said(naive)]) if lost else _does(naive)}; {untried}"
    knowing = f"{_said(known)}, which takes it into account"
    if naive is None:
        return _idle([f"{knowing},"]) if missed else f"{_does(known)}, which takes it into account"
    if _stopped(known) and not _stopped(naive):
        return f"{_does(naive)}; {knowing}, does less: it is no measure of the defense"
    if lost and missed:
        return _idle([_said(naive), f"{knowing},"])
    if lost:
        return f"{_does(known)}, which takes it into account; {_idle([_said(naive)])}"
    if missed:
        return f"{_does(naive)}; {_idle([f'{knowing},'])}"
    if _stopped(naive) and not _stopped(known):
        return f"stops {_said(naive)}, not {knowing}"
    return f"{_does(naive)}, {'nor' if not _stopped(naive) else 'and'} {knowing}"


def _shown(row: Row | None, able: Row | None) -> tuple[Row | None, bool]:
    """Who is spoken of, and whether it is one that nothing stops: it does not rebuild the undefended client either.

    Where the strongest rebuilds little that is one that the defense may have stopped, if there is any.
    """
    if row is None or not _stopped(row):
        return row, False
    return able or row, able is None


def _idle(attackers: list[str]) -> str:
    """Of attackers that the defense cannot be said to have stopped."""
    return f"{' and '.join(attackers)} {'get' if len(attackers) > 1 else 'gets'} no further without it"


def _stopped(row: Row) -> bool:
    return bool((row["leaked_psnr"] or 0.0) < MOST)


def _does(row: Row) -> str:
    return f"{'stops' if _stopped(row) else 'does not stop'} {_said(row)}"


def _said(row: Row) -> str:
    """`inverting gradients (12.3 dB, some images rebuilt)`."""
    words = [f"{f.decibel(row['psnr'])} dB"]
    if _stopped(row) and row["leaked_psnr"]:
        words.append(f"{round(row['leaked_psnr'] * row['n'])} of {f.images(row['n'])} rebuilt all the same")
    if row["at_budget"]:
        words.append("at its budget")
    return f"{spoken(row['attack_label'])} ({', '.join(words)})"


def _cost(verdict: Verdict) -> str:
    return " ".join([_accuracy(verdict), *_bytes(verdict.best), *_privacy(verdict.best)])


def _bytes(best: Row) -> Iterator[str]:
    """Where they differ from those of an undefended client."""
    if best["bytes_relative"] is not None and f.times(best["bytes_relative"]) != "1":
        yield f"It sends {f.times(best['bytes_relative'])} times the bytes."


def _privacy(best: Row) -> Iterator[str]:
    if best["epsilon"] is not None:
        spent = f.spent(best["epsilon"], best["epsilon_prv"])
        yield f"Its ε is {spent} at δ = {f.epsilon(best['delta'])}."


def _accuracy(verdict: Verdict) -> str:
    if verdict.loss is None:
        return "What it costs in accuracy was not measured."
    slack = verdict.slack
    if slack is not None and abs(verdict.loss) <= slack:
        return f"Its cost cannot be told from none ({f.points(verdict.loss, slack)} points of test accuracy)."
    gain = "It costs" if verdict.loss >= 0 else "It gains"
    return f"{gain} {f.points(abs(verdict.loss), slack)} points of test accuracy."
