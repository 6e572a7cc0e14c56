"""What a client, or an honest protocol, does against an adversarial server. Needs torch only.

Opacus is imported inside the one function that uses it, so that this package loads on a machine that has none.
"""

from defenses.base import Accounting, Defense, create, get, names
from defenses.composition import Composition, compose

__all__ = ["Accounting", "Composition", "Defense", "compose", "create", "get", "names"]
