"""Where the options of attacks end: the last value that is taken, and the first ones that are refused by name."""

from __future__ import annotations

import math
import re

import pytest
from torch import nn

import attacks
from defenses.registry import parameters

COUNT = ([1], [0, -1, 1.5])
WEIGHT = ([0.0], [-1e-9, math.nan, math.inf])
EDGES = {
    "iterations": COUNT,
    "restarts": COUNT,
    "plateau": COUNT,
    "patience": COUNT,
    "memory": COUNT,
    "starts": COUNT,
    "total_variation": WEIGHT,
    "tolerance": WEIGHT,
    "drop_rate": WEIGHT,
    "alpha": WEIGHT,
    "learning_rate": ([1e-9], [0.0, -0.1, math.nan, math.inf]),
    "ridge": ([None, 0.0], [-1e-9, math.nan, math.inf]),
}
"""Of the options that several attacks have, and of others that somebody has added."""

ANY = nn.Identity()
ANY.latent_shape = (4,)
NEEDED = {"ggl": {"decoder": ANY}, "gias": {"decoder": ANY}}
"""What an attack cannot be made without."""

OPTIONS = [(name, key) for name in attacks.names() for key in parameters(attacks.get(name)) if key in EDGES]


@pytest.mark.parametrize(("name", "key"), OPTIONS)
def test_an_option_is_taken_up_to_its_edge_and_no_further(name: str, key: str) -> None:
    taken, refused = EDGES[key]
    for value in taken:
        if (name, key, value) == ("gias", "iterations", 1):
            value = 2  # for its two parts
        assert getattr(attacks.create(name, **NEEDED.get(name, {}), **{key: value}), key) == value
    for value in refused:
        with pytest.raises(ValueError, match=f"^{name}: {key} = {re.escape(repr(value))} is not [^\n]+$"):
            attacks.create(name, **NEEDED.get(name, {}), **{key: value})
