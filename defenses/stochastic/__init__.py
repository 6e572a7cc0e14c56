"""Layers whose randomness is explicit: it can be sampled, recorded, replayed, and optimised by an attacker."""

from defenses.stochastic.convert import Inexplicit, convert
from defenses.stochastic.dropout import Dropout, FeatureDropout
from defenses.stochastic.layer import StochasticLayer, record, set_stochastic, stochastic_layers

__all__ = [
    "Dropout",
    "FeatureDropout",
    "Inexplicit",
    "StochasticLayer",
    "convert",
    "record",
    "set_stochastic",
    "stochastic_layers",
]
