"""What a verdict says of the attacks that were tried, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from fedsim.audit.attempted import Tried, spoken

KNOWS = {
    "A": "sees nothing but what a client sends",
    "B": "sees what a client sends, and how many images that is of,",
    "C": "sees what a client sends, and knows how it trains,",
    "E": "sees what a client sends, its batch-norm statistics among it,",
    "F": "sends clients a model that it has changed",
    "G": "has images of the same kind, and sends clients a model that it has changed",
}
"""The adversaries that can leak here, in a sentence."""


def rebuilt(best: Tried) -> str:
    by = spoken(best)
    if best.scored:
        return (
            f"{best.rebuilt} of {best.of} image{'s' if best.of != 1 else ''} of {best.subject} rebuilt by {by}, the "
            f"best to {_level(best)}"
        )
    many = f"{best.rebuilt} image{'s' if best.rebuilt != 1 else ''}"
    return f"{by} is certain of {many} of {best.subject}, by checks that need no truth"


def nothing(best: Tried) -> str:
    stopped = f", stopped at its budget of {best.iterations} iterations" if best.stopped == "budget" else ""
    level = f"{spoken(best)} came to {_level(best)} at best{stopped}"
    return f"no image counts as rebuilt by what was tried; {level}: look at the pictures"


def _level(best: Tried) -> str:
    """Either may be what makes an image count as rebuilt."""
    return f"{best.psnr or 0:.1f} dB" + (f" and an SSIM of {best.ssim:.2f}" if best.ssim is not None else "")


def unjudged(found: Sequence[Tried]) -> str:
    """All that answered: of images that nobody can score none is the best, least of all the most."""
    names = list(dict.fromkeys(spoken(one) for one in found if one.images))
    budget = " (stopped at its budget)" if any(one.stopped == "budget" for one in found if one.images) else ""
    said = " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)
    return f"{said} answered with images{budget}; how near they are, only a canary can say: look at them"


def declined(found: Sequence[Tried]) -> str:
    names = list(dict.fromkeys(one.attack.replace("_", " ") for one in found))
    return f"none of {', '.join(names)} could answer; verdict.json says why (tried: reason)"


def headline(kind: str, least: str = "", best: Tried | None = None) -> str:
    """The answer in a sentence.

    Args:
        kind: of the whole verdict.
        least: the letter of the weakest adversary that something leaks to, and the strongest attack of it.
    """
    if kind in ("not tried", "no answer"):
        return "No attack that was tried applies to these replies: this audit says nothing of them."
    if kind == "undecided":
        return "Not decided: attacks answered with images, and without originals only your eyes can judge them."
    if kind == "not shown":
        return "No image counts as rebuilt by the attacks that were tried. That is no evidence that none can be."
    scored = "a canary's images" if best is not None and best.scored else "images"
    return f"It leaks: a server that {KNOWS.get(least, 'sees the updates')} rebuilds {scored}."
