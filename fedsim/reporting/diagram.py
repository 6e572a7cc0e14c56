"""The threat model as a drawing: what a client has, what it sends, who sees it, and which of it the attacker is given.

Drawn twice, wide for a screen and narrow for a phone; the style sheet shows one. Marks differ in shape, not only in
colour: a full dot is known to the attacker, a ring is hidden from it, a half dot depends on the attack.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Knowledge = Mapping[str, Sequence[str]]
"""By field of the threat model (`labels`, `noise`, ...) the values that the run's attacks had."""

LINE = 22
"""Between two lines of text, in units of the drawing."""


@dataclass(frozen=True)
class Item:
    """A line in a box; `mark` is known, hidden, varies, or empty for a plain line."""

    text: str
    mark: str = ""


@dataclass(frozen=True)
class Box:
    """A box of the drawing with its lines, placed."""

    title: str
    items: tuple[Item, ...]
    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class Diagram:
    """One of the two drawings. `down` is the arrow of the model, `up` that of the update: x1, y1, x2, y2."""

    kind: str
    width: int
    height: int
    client: Box
    server: Box
    down: tuple[int, int, int, int]
    up: tuple[int, int, int, int]
    sent: tuple[str, ...]
    returned: tuple[str, ...]
    summed: bool


def diagrams(known: Knowledge, update_kinds: Sequence[str]) -> tuple[Diagram, Diagram]:
    """The wide and the narrow drawing of the same threat model."""
    items, seen = _client(known), _server(known)
    sent = ("the model", "may be changed" if "malicious" in known["server"] else "unchanged")
    words = {"gradient": "gradient", "delta": "weights"}
    first, *others = (words.get(kind, "update") for kind in update_kinds or ("",))
    returned = (f"its {first}", *others)
    summed = any(value != "individual" for value in known["aggregation"])
    tall = 44 + LINE * max(len(items), len(seen))
    wide = Diagram(
        "wide", 720, tall + 24,
        Box("Client", items, 12, 12, 268, tall), Box("Server, the attacker", seen, 440, 12, 268, tall),
        (436, 58, 286, 58), (286, tall - 34, 436, tall - 34), sent, returned, summed,
    )  # fmt: skip
    upper, lower = 44 + LINE * len(items), 44 + LINE * len(seen)
    narrow = Diagram(
        "narrow", 340, upper + lower + 100,
        Box("Client", items, 12, 8, 312, upper), Box("Server, the attacker", seen, 12, upper + 86, 312, lower),
        (60, upper + 80, 60, upper + 18), (200, upper + 18, 200, upper + 80), sent, returned, summed,
    )  # fmt: skip
    return wide, narrow


def _client(known: Knowledge) -> tuple[Item, ...]:
    mode = known["client_mode"]
    masks = "dropout masks it drew" if "train" in mode else "no dropout masks: evaluation mode"
    return (
        Item("private images", "hidden"),
        Item("their labels" + (", inferred" if set(known["labels"]) == {"inferred"} else ""), _mark(known["labels"])),
        Item(masks, _mark(known["noise"]) if "train" in mode else ""),
        Item("dropout rate", _mark(known["dropout_rate"])),
        Item("batch size", _mark(known["batch_size"])),
        Item("steps and learning rate", _mark(known["local_training"])),
        Item("which defense it uses", _mark(known["defense"])),
        Item("how pixels are normalised", _mark(known["normalisation"])),
    )


def _server(known: Knowledge) -> tuple[Item, ...]:
    malicious, following = "malicious" in known["server"], "passive" in known["server"]
    role = "may change the model it sends" if malicious else "follows the protocol"
    sums = [value.removeprefix("sum_of_") for value in known["aggregation"] if value != "individual"]
    view = f"sees sums over {', '.join(sums)} clients" if sums else "sees each client's update"
    batch_norm = [value for value in known["batch_norm"] if value != "none"]
    return (
        Item(role, "varies" if malicious and following else ""),
        Item(view, "varies" if sums and "individual" in known["aggregation"] else ""),
        Item("sees the model that it sends"),
        Item("batch-norm statistics", _mark(known["batch_norm"])) if batch_norm else Item("no batch-norm statistics"),
        Item("public images of the same kind", _mark(known["auxiliary_data"])),
    )


_HIDDEN = {"unknown", "inferred", "client", "none"}


def _mark(values: Sequence[str]) -> str:
    hidden = {value in _HIDDEN for value in values}
    return "varies" if len(hidden) > 1 else "hidden" if True in hidden else "known"
