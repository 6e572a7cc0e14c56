"""Who could attack a recorded reply, by the letters of the literature, and with which attacks.

The letters are those of Carletti et al. (SoK, USENIX Security 2025), see `attacks.threat.LETTERS`. A letter is tried
where what its adversary has is there; where not, it has a reason, and stands among what was not tried.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import attacks
from attacks.threat import LETTERS
from fedsim.audit.observing import Form, Reply, derived, images_of, steps_of
from fedsim.audit.told import Told

MOST_IMAGES = 64
"""Images of a reply beyond which nothing is optimised, unless the user says otherwise."""
MOST_STEPS = 32
"""Likewise optimizer steps, all of which an attack unrolls."""

SMOOTH = (0.03, 0.3)
"""Weights of total variation: of a net with ReLUs and pooling the search for one image ends early, in a noisy one,
unless it is asked for a smooth image; how smooth, differs from net to net."""
PATIENT = {"plateau": 1500, "patience": 5000}
"""And unless it is not given up so soon."""
LONGER = 3
"""By so much more iterations: they are cheap."""

H = "as G, and it selects the clients"


@dataclass(frozen=True)
class Attempt:
    """One attack of one adversary.

    Args:
        letter: whose.
        attack: `{"name": ..., **parameters}`.
        grants: what it is told, of `attacks.threat.GRANTS`.
        form: in which form the reply is told.
        where: it is run `always`; where those before it, of the same letter, are `uncertain` of an image; or where they
            are `silent`.
    """

    letter: str
    attack: Mapping[str, Any]
    grants: Mapping[str, str]
    form: Form
    where: Literal["always", "uncertain", "silent"] = "always"


@dataclass(frozen=True)
class Plan:
    """What is tried on a reply, and by letter why what is not.

    Args:
        limits: what is tried in part only, and why.
    """

    attempts: tuple[Attempt, ...]
    untried: Mapping[str, str]
    limits: tuple[str, ...] = field(default=())


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much is spent on an attack.

    Args:
        iterations: of an attack that optimises, at most.
        images, steps: of a reply beyond which only closed forms are tried.
    """

    iterations: int = 2000
    images: int = MOST_IMAGES
    steps: int = MOST_STEPS


def plan(reply: Reply, told: Told, budget: Budget, *, labels: str = "inferred") -> Plan:
    """What to try on a reply.

    Args:
        labels: `inferred`, or `known` where the user grants those of the canary.
    """
    images, steps = images_of(reply, told), steps_of(reply, told)
    attempts: list[Attempt] = []
    untried: dict[str, str] = {}
    limits: list[str] = []
    basic = {"labels": labels, "batch_size": "known", "local_training": "unknown", "dropout_rate": "unknown"}
    nothing = {**basic, "labels": "inferred", "batch_size": "unknown"}
    attempts += _closed("A", nothing, "blind")
    if images is None:
        untried["B"] = "nobody said how many images a reply is made of: --batch-size, or --examples"
    elif images > budget.images:
        attempts += _closed("B", basic, "blind")
        limits.append(f"B: {_many(images)} are beyond the budget of {budget.images}: closed forms alone")
    else:
        attempts += _searched("B", basic, "blind", budget, images)
    training = {**basic, "local_training": "known", "dropout_rate": "known", "defense": "known"}
    if told.local is None and told.shared != "gradient":
        untried["C"] = "how clients train was not said: --lr, and --optimizer, --epochs or --steps"
    elif images is None or steps is None:
        untried["C"] = "nobody said how many images a step takes: --batch-size, or --examples"
    elif images > budget.images or steps > budget.steps:
        attempts += _closed("C", training, "told")
        limits.append(
            f"C: {_many(images)} over {steps} step{'s' if steps > 1 else ''} are beyond the budget of {budget.images} "
            f"images and {budget.steps} steps: closed forms alone"
        )
    else:
        attempts += _searched("C", training, "told", budget, images)
    untried["D"] = "the attacks that use images of the same kind (ggl, gias) want a decoder, which no audit is given"
    statistics = derived(reply, told, form="told")["batch_norm"]
    tried_c = any(attempt.letter == "C" and attempt.attack["name"] == "cascade" for attempt in attempts)
    if statistics != "batch":
        untried["E"] = "the replies hold no batch-norm statistics of the clients' batches"
    elif not tried_c:
        untried["E"] = untried.get("C") or "its attack optimises: " + limits[-1].removeprefix("C: ").partition(":")[0]
    else:
        spec = {"name": "gradinversion", "iterations": budget.iterations}
        attempts.append(Attempt("E", spec, training, "told"))
    for letter in ("F", "G"):
        untried[letter] = "what was recorded is what an honest server sent: --app and --canary let a malicious one send"
    untried["H"] = "no attack of fedsim makes use of choosing the clients"
    return Plan(tuple(attempts), untried, tuple(limits))


def described(letter: str) -> str:
    """What the adversary of a letter has."""
    return next((has for known, has in LETTERS.items() if known == letter), H)


def closed_forms() -> list[str]:
    return [name for name in attacks.names() if attacks.get(name).solves and not attacks.get(name).looks_back]


def _closed(letter: str, grants: Mapping[str, str], form: Form) -> list[Attempt]:
    return [Attempt(letter, {"name": name}, grants, form) for name in closed_forms()]


def _searched(letter: str, grants: Mapping[str, str], form: Form, budget: Budget, images: int) -> list[Attempt]:
    """The cascade; of one image in one step also a search for a smooth one; and where labels cannot be read, a search
    for them together with the images."""
    cascade = Attempt(letter, {"name": "cascade", "iterations": budget.iterations}, grants, form)
    spec = {"name": "inverting_gradients", "iterations": budget.iterations}
    found = [cascade, Attempt(letter, spec, {**grants, "labels": "unknown"}, form, where="silent")]
    if images == 1 and grants["dropout_rate"] == "known":
        for weight in SMOOTH:
            smooth = {"name": "cut", "iterations": LONGER * budget.iterations, "total_variation": weight, **PATIENT}
            found.append(Attempt(letter, smooth, grants, form, where="uncertain"))
    return found


def _many(images: int) -> str:
    return f"{images:,} images"
