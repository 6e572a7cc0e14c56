"""Attacks of a server that changes the model which it sends, so that what comes back says more."""

from attacks.malicious.base import MaliciousAttack, Outset

__all__ = ["MaliciousAttack", "Outset"]
