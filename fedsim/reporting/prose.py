"""The report in sentences: the answer that the numbers give, and the threat model. No more than was measured.

"Above 19 dB" is the criterion of `leaked_psnr`; every image that was attacked counts.
"""

from __future__ import annotations

import re
from collections import Counter

import polars as pl

from fedsim.reporting import formats as f
from fedsim.reporting.leaderboard import THREAT
from fedsim.reporting.naming import spoken
from fedsim.reporting.verdicts import Verdict, chosen_on
from fedsim.scoring import intervals
from fedsim.table import LEAKED_PSNR


def answer(judged: list[Verdict], *, failed: int) -> str:
    """The report's first paragraph; the table beside it holds the single models.

    Args:
        failed: how many reconstructions failed.
    """
    if not judged:
        return "No attack has answered yet, so there is nothing to conclude."
    sentences = []
    plain = [verdict for verdict in judged if verdict.baseline]
    if plain:
        sentences.append(f"Without a defense, the strongest attack rebuilt {_pooled(plain)}.")
    of_defense: dict[str, list[Verdict]] = {}
    for verdict in judged:
        if not verdict.baseline:
            of_defense.setdefault(verdict.defense, []).append(verdict)
    by_kind: dict[str, dict[str, list[Verdict]]] = {}
    for defense, group in of_defense.items():
        by_kind.setdefault(_overall(group), {})[defense] = group
    sentences += [say(by_kind[kind]) for kind, say in _SAYINGS.items() if kind in by_kind]
    criterion = f"An image counts as rebuilt above a PSNR of {LEAKED_PSNR:g} dB"
    sentences.append(f"{criterion}; where an attack gave no answer, it was not.")
    sentences += _more(judged)
    if any(verdict.best["utility"] is not None for verdict in judged):
        sentences += _cost(of_defense)
    else:
        sentences.append("What the defenses cost in accuracy was not measured.")
    if by_kind.keys() - {"leaks"}:
        sentences.append(
            "Where a defense held, it held against the attacks tried here, with the iterations they were given: "
            "a stronger attack may do better."
        )
    sentences += _budget(judged)
    on = list(dict.fromkeys(chosen_on(verdict.best) for verdict in judged))
    sentences.append(f"The strongest attack was chosen on {joined(on)}.")
    if failed:
        sentences.append(f"{failed} reconstructions failed.")
    return " ".join(sentences)


def _more(judged: list[Verdict]) -> list[str]:
    """Defenses under which more was rebuilt than without one."""
    worse = list(dict.fromkeys(verdict.defense for verdict in judged if verdict.more_than_plain))
    return [f"More was rebuilt than without a defense under {some(worse)}."] if worse else []


def _budget(judged: list[Verdict]) -> list[str]:
    """Attacks that were not done when their iterations ended."""
    short = list(dict.fromkeys(spoken(verdict.best["attack_label"]) for verdict in judged if verdict.best["at_budget"]))
    if not short:
        return []
    stopped = f"Some of the strongest attacks stopped at their budget of iterations ({joined(short)})"
    return [f"{stopped}: given more, they may do better."]


def _overall(group: list[Verdict]) -> str:
    """A defense's verdict over all models: what holds for each of them, or else `partly`."""
    kinds = {verdict.kind for verdict in group}
    return kinds.pop() if len(kinds) == 1 else "partly"


def _leaks(of_defense: dict[str, list[Verdict]]) -> str:
    return f"Most images were still rebuilt under {_details(of_defense)}."


def _partly(of_defense: dict[str, list[Verdict]]) -> str:
    return f"Part of the images were rebuilt under {_details(of_defense)}."


def _details(of_defense: dict[str, list[Verdict]]) -> str:
    return some([f"{name} ({_strongest(group)}: {_pooled(group)})" for name, group in of_defense.items()])


def _resists(of_defense: dict[str, list[Verdict]]) -> str:
    """Defenses of which as much is known share one bound."""
    alike: dict[str, list[str]] = {}
    for name, group in of_defense.items():
        images = sum(verdict.best["n"] for verdict in group)
        clients = sum(verdict.best["clients"] for verdict in group)
        limit = intervals.of_share(0, clients)[1]
        bound = f"0 of {images} images; a true rate up to {f.percent(limit)} cannot be excluded"
        alike.setdefault(bound, []).append(name)
    parts = [f"{some(names)} ({bound}{', for each' if len(names) > 1 else ''})" for bound, names in alike.items()]
    return f"None of the attacks tried rebuilt an image under {'; '.join(parts)}."


def _floor(of_defense: dict[str, list[Verdict]]) -> str:
    return f"The strongest attack did no better than a guess that ignores the update under {some(list(of_defense))}."


_SAYINGS = {"leaks": _leaks, "partly": _partly, "resists": _resists, "floor": _floor}

def _pooled(group: list[Verdict]) -> str:
    images = sum(verdict.most["n"] for verdict in group)
    return f"{sum(verdict.rebuilt for verdict in group)} of {images} images"


def _strongest(group: list[Verdict]) -> str:
    return joined(list(dict.fromkeys(spoken(verdict.most["attack_label"]) for verdict in group)))


def headline(text: str) -> tuple[str, str]:
    """The first sentence, and the rest."""
    first, _, rest = re.sub(r"([.?!])\s+(?=[A-Z])", r"\1\n", text.strip(), count=1).partition("\n")
    return first, rest


MOST_NAMES = 4
"""How many things a sentence names one by one."""


def some(parts: list[str]) -> str:
    """`a, b, c, d and 3 more`: the tables name all."""
    if len(parts) <= MOST_NAMES:
        return joined(parts)
    return f"{', '.join(parts[:MOST_NAMES])} and {len(parts) - MOST_NAMES} more"


def joined(parts: list[str], *, last: str = "and") -> str:
    """`a, b and c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {last} {parts[-1]}"


def _cost(of_defense: dict[str, list[Verdict]]) -> list[str]:
    """The largest loss of test accuracy that each defense brought on any model, against no defense on that model; of
    many defenses the dearest."""
    costs = []
    for defense, group in of_defense.items():
        measured = [verdict for verdict in group if verdict.loss is not None]
        if measured:
            worst = max(measured, key=lambda verdict: verdict.loss or 0.0)
            costs.append((worst.loss or 0.0, f"{defense} {f.points(worst.loss, worst.slack)}"))
    if len(costs) > MOST_NAMES:
        costs.sort(key=lambda cost: -cost[0])
    said = [words for _, words in costs]
    parts, left = said[:MOST_NAMES], len(said) - MOST_NAMES
    rest = f"; the {left} others cost no more" if left > 0 else ""
    return [f"The cost in test accuracy, in percentage points at most: {', '.join(parts)}{rest}."] if parts else []


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
        "running": "It has the running batch-norm statistics, which say nothing of a client's own batch.",
        "batch": "It works out the batch-norm statistics of a client's own batch from the running ones that come back.",
    },
    "local_training": {
        "known": "It knows how clients train: steps, learning rate, optimiser.",
        "unknown": "It does not know how clients train: neither steps nor learning rate.",
    },
    "batch_order": {
        "known": "Where clients train for epochs, it was told in which order they take their examples.",
        "unknown": "Where clients train for epochs, it does not know in which order they take their examples.",
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
    """Who sees what: the sentences that hold for the attacks in general, and for each exception those that differ.

    An exception is an attack; or a defense, where that decides what the server sees.
    """
    rows = board.select("attack_label", "defense_label", "role", *THREAT).unique(maintain_order=True).to_dicts()
    usual = [row for row in rows if row["role"] == "attack"] or rows
    common = {name: Counter(row[name] for row in usual).most_common(1)[0][0] for name in THREAT} if usual else {}
    general = [_threat(name, value) for name, value in common.items()]
    exceptions: dict[str, list[str]] = {}
    for row in rows:
        for name in THREAT:
            sentence = _threat(name, row[name])
            whom = row["defense_label" if name == "threat_aggregation" else "attack_label"]
            if row[name] != common[name] and sentence not in exceptions.get(whom, []):
                exceptions.setdefault(whom, []).append(sentence)
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
