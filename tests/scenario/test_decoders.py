"""The decoder of an attack: described in a scenario, refused where it does not fit, told apart by its content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from fedsim import decoders
from fedsim.errors import BadInput
from fedsim.runs.jobs import attack_specs
from fedsim.scenario import json_schema, parse

OWN = '''
import torch
from torch import nn

class Decoder(nn.Module):
    latent_shape = (4,)
    def __init__(self, shape, gain):
        super().__init__()
        self.shape, self.gain = shape, gain
        self.layer = nn.Linear(4, shape[0] * shape[1] * shape[2])
    def forward(self, latents):
        return (self.gain * self.layer(latents).sigmoid()).view(-1, *self.shape)

def fitting(input_shape, gain=1.0):
    return Decoder(input_shape, gain)

def small(input_shape):
    return Decoder((1, 8, 8), 1.0)

def silent(input_shape):
    return nn.Identity()

def broken(input_shape):
    raise RuntimeError("no weights here")
'''


def scenario(decoder: Any, **keys: Any) -> dict[str, Any]:
    attack = {"name": "ggl", **({} if decoder is None else {"decoder": decoder}), **keys}
    return {"name": "mine", "model": {"name": "mlp", "width": 8}, "attacks": [attack], "victims": {"clients": 1}}


@pytest.fixture
def folder(tmp_path: Path) -> str:
    (tmp_path / "own_decoders.py").write_text(OWN)
    return str(tmp_path)


@pytest.mark.parametrize(
    ("decoder", "expected"),
    [
        (None, "attacks[0].decoder: missing key"),
        ("cvon", "attacks[0].decoder.name: unknown decoder 'cvon'; did you mean 'conv'?"),
        ({"name": "conv", "latnet": 3}, "attacks[0].decoder.latnet: unknown key; did you mean 'latent'?"),
        ({"name": "conv", "latent": 0}, "latent = 0 is not a whole number of at least 1"),
        ({"name": "conv", "checkpoint": "none.safetensors"}, "attacks[0].decoder.checkpoint"),
        ({"factory": "own_decoders"}, "'own_decoders' is not of the form package.module:function"),
        ({"factory": "own_decoders:none"}, "decoder factory 'own_decoders:none': module 'own_decoders' has no"),
        (
            {"factory": "own_decoders:small"},
            "attacks[0].decoder: decoder factory 'own_decoders:small': the decoder made shape (2, 1, 8, 8) of two "
            "latents (2, 4); accepted: (2, 1, 28, 28)",
        ),
        ({"factory": "own_decoders:fitting", "gain": 2.0}, "accepted: 0 to 1, before any normalisation"),
        ({"factory": "own_decoders:silent"}, "decoder.latent_shape = None; accepted: a tuple of whole numbers"),
        ({"factory": "own_decoders:broken"}, "no weights here (RuntimeError at "),
        ({"factory": "own_decoders:fitting", "size": 3}, "unexpected keyword argument 'size'"),
    ],
    ids=str,
)
def test_a_decoder_that_does_not_fit_is_refused_before_anything_runs(folder, decoder, expected):
    with pytest.raises(BadInput) as caught:
        parse(scenario(decoder), folder=folder)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_its_own_are_refused(folder):
    save_file({"first.weight": torch.zeros(3)}, f"{folder}/weights.safetensors")
    with pytest.raises(BadInput, match=r"attacks\[0\]\.decoder\.checkpoint: .*unlike the model's state"):
        parse(scenario({"name": "conv", "checkpoint": "weights.safetensors"}), folder=folder)


def test_other_weights_or_other_code_are_another_attack_and_no_path_is_told(folder):
    own = {"factory": "own_decoders:fitting", "checkpoint": "weights.safetensors"}
    keys = []
    for value in (0.0, 1.0):
        weights = {"layer.weight": torch.full((784, 4), value), "layer.bias": torch.zeros(784)}
        save_file(weights, f"{folder}/{own['checkpoint']}")
        [spec, *_] = attack_specs(parse(scenario(own), folder=folder))
        keys.append(spec["decoder"]["content"])
    assert keys[0] != keys[1]
    assert len(spec["decoder"]["source"]) == 16
    attack, weights = decoders.sent(spec)
    assert folder not in str(attack)
    assert folder not in decoders.params_of(spec)
    built = decoders.built(attack, weights, input_shape=(1, 28, 28))["decoder"]
    assert torch.equal(built.layer.weight, torch.ones(784, 4))


def test_editors_are_told_what_a_decoder_may_be():
    [block] = [block for name, block in json_schema()["$defs"].items() if name == "GglAttack"]
    assert {"enum": ["conv"]} in block["properties"]["decoder"]["anyOf"]
