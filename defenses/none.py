"""No defense: the baseline that every other one is compared with."""

from __future__ import annotations

from defenses.base import Defense, register


@register("none")
class NoDefense(Defense):
    """The client sends what it computed."""
