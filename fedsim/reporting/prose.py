"""The report in sentences: the answer that the numbers give, and the threat model. No more than was measured.

A defense is judged by the strongest attack on it: the one with the highest median PSNR among those that are no oracle
and no floor. "Above 19 dB" is the criterion of `leaked_psnr`.
"""

from __future__ import annotations

import re
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
        loss: test accuracy lost against the same model without a defense, in [-1, 1]; None where it was not measured.
    """

    setting: str
    defense: str
    kind: str
    best: dict[str, Any]
    loss: float | None


def verdicts(board: pl.DataFrame) -> list[Verdict]:
    found = []
    plain = board.filter((pl.col("defense_label") == "none") & pl.col("utility").is_not_null())
    undefended = dict(plain.select("setting_label", "utility").iter_rows())
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
        before, after = undefended.get(best["setting_label"]), best["utility"]
        loss = before - after if before is not None and after is not None else None
        found.append(Verdict(best["setting_label"], best["defense_label"], kind, best, loss))
    return found


def answer(judged: list[Verdict], *, failed: int) -> str:
    """The report's first paragraph; the table beside it holds the single models.

    Args:
        failed: how many reconstructions failed.
    """
    if not judged:
        return "No attack has answered yet, so there is nothing to conclude."
    of_defense: dict[str, list[Verdict]] = {}
    for verdict in judged:
        of_defense.setdefault(verdict.defense, []).append(verdict)
    sentences = []
    if "none" in of_defense:
        sentences.append(f"Without a defense, the strongest attack rebuilt {_pooled(of_defense.pop('none'))}.")
    by_kind: dict[str, dict[str, list[Verdict]]] = {}
    for defense, group in of_defense.items():
        by_kind.setdefault(_overall(group), {})[defense] = group
    sentences += [say(by_kind[kind]) for kind, say in _SAYINGS.items() if kind in by_kind]
    sentences.append(f"An image counts as rebuilt above a PSNR of {LEAKED_PSNR:g} dB.")
    if any(verdict.best["utility"] is not None for verdict in judged):
        sentences += _cost(of_defense)
    else:
        sentences.append("What the defenses cost in accuracy was not measured.")
    if by_kind.keys() - {"leaks"}:
        sentences.append(
            "Where a defense held, it held against the attacks tried here, with the iterations they were given: "
            "a stronger attack may do better."
        )
    if failed:
        sentences.append(f"{failed} reconstructions failed and count in none of these numbers.")
    return " ".join(sentences)


def _overall(group: list[Verdict]) -> str:
    """A defense's verdict over all models: what holds for each of them, or else `partly`."""
    kinds = {verdict.kind for verdict in group}
    return kinds.pop() if len(kinds) == 1 else "partly"


def _leaks(of_defense: dict[str, list[Verdict]]) -> str:
    return f"Most images were still rebuilt under {_details(of_defense)}."


def _partly(of_defense: dict[str, list[Verdict]]) -> str:
    return f"Part of the images were rebuilt under {_details(of_defense)}."


def _details(of_defense: dict[str, list[Verdict]]) -> str:
    return joined([f"{name} ({_strongest(group)}: {_pooled(group)})" for name, group in of_defense.items()])


def _resists(of_defense: dict[str, list[Verdict]]) -> str:
    parts = []
    for name, group in of_defense.items():
        images = sum(verdict.best["n"] for verdict in group)
        limit = binomtest(0, images).proportion_ci(0.95, method="exact").high
        parts.append(f"{name} (0 of {images} images; a true rate up to {f.percent(limit)} cannot be excluded)")
    return f"None of the attacks tried rebuilt an image under {joined(parts)}."


def _floor(of_defense: dict[str, list[Verdict]]) -> str:
    return f"The strongest attack did no better than a guess that ignores the update under {joined(list(of_defense))}."


_SAYINGS = {"leaks": _leaks, "partly": _partly, "resists": _resists, "floor": _floor}

KIND_IN_WORDS = {
    "leaks": "most images rebuilt",
    "partly": "some images rebuilt",
    "resists": "none rebuilt by the attacks tried",
    "floor": "no better than a guess",
}


def _pooled(group: list[Verdict]) -> str:
    images = sum(verdict.best["n"] for verdict in group)
    leaked = sum(round(verdict.best["leaked_psnr"] * verdict.best["n"]) for verdict in group)
    return f"{leaked} of {images} images"


def _strongest(group: list[Verdict]) -> str:
    return joined(list(dict.fromkeys(spoken(verdict.best["attack_label"]) for verdict in group)))


def headline(text: str) -> tuple[str, str]:
    """The first sentence, and the rest."""
    first, _, rest = re.sub(r"([.?!])\s+(?=[A-Z])", r"\1\n", text.strip(), count=1).partition("\n")
    return first, rest


def joined(parts: list[str], *, last: str = "and") -> str:
    """`a, b and c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {last} {parts[-1]}"


def _cost(of_defense: dict[str, list[Verdict]]) -> list[str]:
    """The largest loss of test accuracy that each defense brought on any model, against no defense on that model."""
    parts = []
    for defense, group in of_defense.items():
        losses = [verdict.loss for verdict in group if verdict.loss is not None]
        if losses:
            parts.append(f"{defense} {f.number(100 * max(losses), 1)}")
    return [f"The cost in test accuracy, in percentage points at most: {', '.join(parts)}."] if parts else []


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
            if row[name] != common[name] and sentence not in exceptions.get(row["attack_label"], []):
                exceptions.setdefault(row["attack_label"], []).append(sentence)
    alike: dict[tuple[str, ...], list[str]] = {}
    for label, sentences in exceptions.items():
        alike.setdefault(tuple(sentences), []).append(label)
    return general, [(", ".join(labels), list(sentences)) for sentences, labels in alike.items()]


def knowledge(board: pl.DataFrame) -> dict[str, list[str]]:
    """By field of the threat model the values that the run's attacks had: no oracle, unless there is nothing else."""
    real = board.filter(pl.col("role") == "attack")
    rows = real if len(real) else board
    return {
        name.removeprefix("threat_"): rows[name].drop_nulls().unique(maintain_order=True).to_list() for name in THREAT
    }


def _threat(column: str, value: str) -> str:
    aspect = column.removeprefix("threat_")
    if aspect == "aggregation" and value.startswith("sum_of_"):
        return f"It sees only the sum over {value.removeprefix('sum_of_')} clients."
    return _THREATS.get(aspect, {}).get(value, f"{spoken(aspect).capitalize()}: {value}.")
