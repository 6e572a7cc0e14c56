"""The report in sentences: the answer that the numbers give, and the threat model. No more than was measured.

A defense is judged by the strongest attack on it: the one with the highest median PSNR among those that are no oracle
and no floor. "Above 19 dB" is the criterion of `leaked_psnr`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import polars as pl
from scipy.stats import binomtest

from fedsim.reporting import formats as f
from fedsim.reporting.charts import strongest
from fedsim.reporting.leaderboard import SETTING, THREAT
from fedsim.reporting.naming import spoken
from fedsim.table import LEAKED_PSNR


@dataclass(frozen=True)
class Verdict:
    """How one model fared under one defense.

    Args:
        kind: `leaks` (at least half of the images), `partly`, `resists` (no image of any attack leaked), or `floor`
            (images above the criterion, but no better than a guess that never looks at the update).
        best: the board's row of the strongest attack.
    """

    setting: str
    defense: str
    kind: str
    best: dict[str, Any]


def verdicts(board: pl.DataFrame) -> list[Verdict]:
    found = []
    keys = [*SETTING, "defense", "defense_params", "dropout"]
    for best in strongest(board).to_dicts():
        here = board.filter(pl.all_horizontal(pl.col(key).eq_missing(pl.lit(best[key])) for key in keys))
        attacks = here.filter((pl.col("role") == "attack") & (pl.col("n") > 0))
        guess = here.filter(pl.col("role") == "floor")["psnr"].max()
        most = max((rate for rate in attacks["leaked_psnr"] if rate is not None), default=0.0)
        if most == 0:
            kind = "resists"
        elif guess is not None and best["psnr"] <= guess:
            kind = "floor"
        else:
            kind = "leaks" if (best["leaked_psnr"] or 0) >= 0.5 else "partly"
        found.append(Verdict(best["setting_label"], best["defense_label"], kind, best))
    return found


def answer(board: pl.DataFrame) -> str:
    """The report's first paragraph."""
    judged = verdicts(board)
    if not judged:
        return "No attack has answered yet, so there is nothing to conclude."
    sentences = []
    for defense in dict.fromkeys(verdict.defense for verdict in judged):
        for kind, say in _SAYINGS.items():
            group = [verdict for verdict in judged if verdict.defense == defense and verdict.kind == kind]
            if group:
                sentences.append(say(_named(defense), group))
    sentences.append(_cost(board))
    if any(verdict.kind in ("resists", "floor", "partly") for verdict in judged):
        sentences.append(
            "Where a defense held, it held against the attacks tried here, with the iterations they were given; "
            "a stronger attack may do better, so this is no guarantee."
        )
    failed = board["failed"].sum()
    if failed:
        sentences.append(f"{failed} reconstructions failed and count in no number above; the reasons are listed below.")
    return " ".join(sentences)


def _named(defense: str) -> str:
    return "Without a defense" if defense == "none" else f"Under {defense}"


def _leaks(subject: str, group: list[Verdict]) -> str:
    return f"{subject}, the server rebuilt most images: {_each(group)}."


def _partly(subject: str, group: list[Verdict]) -> str:
    return f"{subject}, the server rebuilt some images: {_each(group)}."


def _resists(subject: str, group: list[Verdict]) -> str:
    fewest = min(verdict.best["n"] for verdict in group)
    limit = binomtest(0, fewest).proportion_ci(0.95, method="exact").high
    return (
        f"{subject}, none of the attacks tried rebuilt an image above {LEAKED_PSNR:g} dB: {_each(group, rates=False)}; "
        f"from {fewest} images, a true rate up to {f.percent(limit)} cannot be excluded."
    )


def _floor(subject: str, group: list[Verdict]) -> str:
    return f"{subject}, the strongest attack did no better than a guess that never looks at the update: {_each(group)}."


_SAYINGS = {"leaks": _leaks, "partly": _partly, "resists": _resists, "floor": _floor}


def _each(group: list[Verdict], *, rates: bool = True) -> str:
    """What the strongest attack reached in each setting; the three first of many."""
    parts = []
    for verdict in group[:3]:
        best = verdict.best
        span = f.interval(best["psnr_low"], best["psnr_high"], 1)
        median = f"median {f.decibel(best['psnr'])} dB{f', 95 % interval {span}' if span else ''}"
        reached = f"{round(best['leaked_psnr'] * best['n'])} of {best['n']} images above {LEAKED_PSNR:g} dB ({median})"
        parts.append(f"{spoken(best['attack_label'])} reached {reached if rates else median} on {verdict.setting}")
    rest = len(group) - len(parts)
    return "; ".join(parts) + (
        f"; and alike on {rest} more {'model' if rest == 1 else 'models'}, see the table" if rest else ""
    )


def _cost(board: pl.DataFrame) -> str:
    """What the defenses cost in test accuracy, against no defense on the same model."""
    known = board.filter(pl.col("utility").is_not_null()).unique([*SETTING, "defense_label"], maintain_order=True)
    if known.is_empty():
        return "What the defenses cost in accuracy was not measured."
    costs: dict[str, list[str]] = {}
    for _, part in known.group_by(SETTING, maintain_order=True):
        plain = part.filter(pl.col("defense_label") == "none")["utility"].to_list()
        for row in part.to_dicts():
            if row["defense_label"] == "none":
                continue
            of = f" (from {f.accuracy(plain[0])})" if plain else ""
            costs.setdefault(row["defense_label"], []).append(
                f"{f.accuracy(row['utility'])}{of} on {row['setting_label']}"
            )
    if not costs:
        values = ", ".join(f"{f.accuracy(row['utility'])} on {row['setting_label']}" for row in known.to_dicts())
        return f"Without a defense the global model's test accuracy is {values}."
    listed = "; ".join(f"{defense}: {' and '.join(values[:3])}" for defense, values in costs.items())
    return f"The price is the global model's test accuracy. {listed}."


_THREATS: dict[str, dict[str, str]] = {
    "server": {
        "passive": "The attacker is the server. It follows the protocol and attacks what it receives.",
        "malicious": "The attacker is the server, and it may change the model that it sends.",
    },
    "aggregation": {"individual": "It sees the update of each client by itself."},
    "client_mode": {
        "train": "Clients train in the ordinary training mode: dropout, if any, is active.",
        "eval": "Clients compute their update in evaluation mode: dropout is switched off, which makes attacks easier.",
    },
    "labels": {
        "known": "It was told the labels of the images.",
        "inferred": "It infers the labels of the images.",
        "unknown": "It does not know the labels of the images.",
    },
    "batch_size": {
        "known": "It knows how many images an update was computed from.",
        "unknown": "It does not know how many images an update was computed from.",
    },
    "defense": {
        "known": "It knows which defense a client uses.",
        "unknown": "It does not know which defense a client uses.",
    },
    "dropout_rate": {"known": "It knows the dropout rate.", "unknown": "It does not know the dropout rate."},
    "noise": {
        "known": "It was told the dropout masks that each client drew, which no real server knows.",
        "unknown": "It does not know the dropout masks that a client drew.",
    },
    "batch_norm": {
        "none": "It receives no batch-norm statistics.",
        "running": "It receives the clients' running batch-norm statistics.",
        "batch": "It receives the batch-norm statistics of the very batch.",
    },
    "local_training": {
        "known": "It knows how clients train: steps, learning rate, optimiser.",
        "unknown": "It does not know how clients train: neither steps nor learning rate.",
    },
    "normalisation": {
        "public": "How pixels are normalised is public.",
        "client": "How pixels are normalised is known to the client alone.",
    },
    "auxiliary_data": {
        "none": "It has no data of its own.",
        "public": "It has public images of the same kind as the clients'.",
    },
}


def threat_model(board: pl.DataFrame) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Who sees what: the sentences that hold for the attacks in general, and for each exception those that differ."""
    rows = board.select("attack_label", "role", *THREAT).unique(maintain_order=True).to_dicts()
    usual = [row for row in rows if row["role"] == "attack"] or rows
    common = {name: Counter(row[name] for row in usual).most_common(1)[0][0] for name in THREAT} if usual else {}
    general = [_threat(name, value) for name, value in common.items()]
    exceptions: dict[str, list[str]] = {}
    for row in rows:
        for name in THREAT:
            sentence = _threat(name, row[name])
            if row[name] != common[name] and sentence not in exceptions.setdefault(row["attack_label"], []):
                exceptions[row["attack_label"]].append(sentence)
    return general, [(label, sentences) for label, sentences in exceptions.items() if sentences]


def _threat(column: str, value: str) -> str:
    aspect = column.removeprefix("threat_")
    if aspect == "aggregation" and value.startswith("sum_of_"):
        return f"It sees only the sum over {value.removeprefix('sum_of_')} clients."
    return _THREATS.get(aspect, {}).get(value, f"{spoken(aspect).capitalize()}: {value}.")
