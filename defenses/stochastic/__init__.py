"""Layers whose randomness is explicit: it can be sampled, recorded, replayed, and optimised by an attacker."""

from defenses.stochastic.convert import Inexplicit, check_explicit, convert, refuse_hidden
from defenses.stochastic.depth import DropPath
from defenses.stochastic.dropout import AlphaDropout, Dropout, FeatureDropout, untold
from defenses.stochastic.layer import (
    StochasticLayer,
    at_rest,
    begin,
    drawing,
    record,
    set_stochastic,
    stochastic_layers,
)

__all__ = [
    "AlphaDropout",
    "DropPath",
    "Dropout",
    "FeatureDropout",
    "Inexplicit",
    "StochasticLayer",
    "at_rest",
    "begin",
    "check_explicit",
    "convert",
    "drawing",
    "record",
    "refuse_hidden",
    "set_stochastic",
    "stochastic_layers",
    "untold",
]
