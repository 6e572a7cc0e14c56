"""The decoder of an attack on its way: described in a scenario, told apart by its content, built where it is used.

The attack's process is given no path, so that the weights travel beside the description.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from fedsim.decoders.build import build
from fedsim.files import read_tensors
from fedsim.models import fingerprint, source

Spec = Mapping[str, Any]
"""An attack as a scenario has it, filled in."""

DECODER = "decoder"


def with_contents(attack: Spec) -> Spec:
    """An attack whose decoder is told apart by its weights and its code: other ones, another attack."""
    if not isinstance(attack.get(DECODER), Mapping):
        return attack
    block = dict(attack[DECODER])
    if block.get("checkpoint") is not None:
        block["content"] = fingerprint(block["checkpoint"], key="decoder.checkpoint")
    if "factory" in block:
        block["source"] = source(block["factory"], of="decoder")
    return {**attack, DECODER: block}


def params_of(attack: Spec) -> str:
    """An attack's parameters as JSON for a table, a decoder's file by its name alone."""
    params = {key: value for key, value in attack.items() if key != "name"}
    if isinstance(params.get(DECODER), Mapping) and params[DECODER].get("checkpoint") is not None:
        params[DECODER] = {**params[DECODER], "checkpoint": Path(params[DECODER]["checkpoint"]).name}
    return json.dumps(params, sort_keys=True)


def sent(attack: Spec) -> tuple[Spec, dict[str, Tensor]]:
    """The same without a path, and the weights that it named: nothing, where it named none."""
    if not isinstance(attack.get(DECODER), Mapping) or attack[DECODER].get("checkpoint") is None:
        return attack, {}
    block = {key: value for key, value in attack[DECODER].items() if key != "checkpoint"}
    return {**attack, DECODER: block}, read_tensors(Path(attack[DECODER]["checkpoint"]))


def built(attack: Spec, weights: Mapping[str, Tensor] | None = None, *, input_shape: tuple[int, int, int]) -> Spec:
    """The attack with the module in place of its description.

    Args:
        weights: of `sent`, where there are any.
    """
    if not isinstance(attack.get(DECODER), Mapping):
        return attack
    decoder = build(attack[DECODER], input_shape=input_shape)
    if weights:
        decoder.load_state_dict(dict(weights))
    return {**attack, DECODER: decoder}
