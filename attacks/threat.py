"""What an adversary's knowledge amounts to: its letter in the literature, and what of it no real server has."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from attacks.observation import ThreatModel

Letter = Literal["A", "B", "C", "D", "E", "F", "G"]

GRANTS = (
    "labels",
    "batch_size",
    "defense",
    "dropout_rate",
    "noise",
    "local_training",
    "batch_order",
    "auxiliary_data",
)
"""The fields of the threat model that are granted. The others follow from the federation and from the attack."""

LETTERS: dict[Letter, str] = {
    "A": "updates only",
    "B": "updates and basic knowledge: how many images, which labels",
    "C": "also how clients train: their local training, dropout rate and defense",
    "D": "also data of the same kind",
    "E": "also statistics of the client's own data",
    "F": "as C, and it changes the model that it sends",
    "G": "as D, and it changes the model that it sends",
}
"""The threat models of Carletti et al. (SoK: Gradient Inversion Attacks in Federated Learning, USENIX Security 2025).

Their H, who also selects the clients, is nobody here.
"""

_BASIC = ("labels", "batch_size")
_TRAINING = ("local_training", "dropout_rate", "defense", "batch_order")


def letter(threat_model: ThreatModel, uses: Collection[str]) -> Letter:
    """The letter of the adversary who has what this threat model grants, as far as an attack uses it.

    Args:
        uses: the fields that the attack uses, as `attacks.Attack.uses` has them.
    """
    granted = {name for name in uses if getattr(threat_model, name) not in ("unknown", "none", "inferred")}
    if threat_model.server == "malicious":
        return "G" if "auxiliary_data" in granted else "F"
    if "batch_norm" in uses and threat_model.batch_norm == "batch":  # running ones are the model's, which it sent
        return "E"
    if "auxiliary_data" in granted:
        return "D"
    if granted & {*_TRAINING}:
        return "C"
    return "B" if granted & {*_BASIC} else "A"


def beyond(threat_model: ThreatModel, uses: Collection[str], *, images: int) -> tuple[str, ...]:
    """The fields of what an attack was told that no real server has; empty: such an attack is feasible.

    What a client drew (its masks, the order of its epochs) stays with it. So do its labels; but those of a single image
    can be tried out one after the other, so that being told them saves time and no more.

    Args:
        images: of all clients whose updates are attacked as one.
    """
    told = {"noise": "known", "batch_order": "known", **({"labels": "known"} if images > 1 else {})}
    return tuple(name for name, value in told.items() if name in uses and getattr(threat_model, name) == value)
