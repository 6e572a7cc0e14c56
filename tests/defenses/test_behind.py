"""What a defense that says so leaves alone: what the first layer sees, and how its gradient follows from that.

So a closed form that reads that layer alone is the same with the defense and without, known or not, and counts as an
attack that takes it into account.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from test_clients_round import CLASSES, DEFENSES, MODELS, ONLY, SHAPE, build, generators
from torch import Tensor, nn
from torch.func import functional_call, vjp

import attacks
import defenses
from defenses.client.round import ClientRound, play
from fedsim.reporting.naming import needed_for

BEHIND = [name for name in defenses.names() if defenses.get(name).behind]
OTHERS = [
    name
    for name in defenses.names()
    if name not in BEHIND and defenses.create(name).changes_model and not defenses.get(name).checks_model
]


def first_of(model: nn.Module) -> str:
    """The path of the first layer with parameters of its own that is called."""
    called: list[str] = []
    handles = [
        layer.register_forward_pre_hook(lambda layer, inputs, path=path: called.append(path))
        for path, layer in model.named_modules()
        if next(layer.parameters(recurse=False), None) is not None and not isinstance(layer, nn.TransformerEncoderLayer)
    ]
    model(torch.zeros(2, *SHAPE, dtype=torch.float64))
    for handle in handles:
        handle.remove()
    own = [path for path in called if not any(path.startswith(f"{other}.") for other in called)]
    return next(path for path in own if path)


class Watched:
    """Notes what a layer is given and what comes back to what it computes, before any hook acts on that."""

    def __init__(self, layer: nn.Module) -> None:
        self.seen, self.back, self._forward = torch.empty(0), torch.empty(0), layer.forward
        layer.forward = self._noted  # type: ignore[method-assign]

    def _noted(self, x: Tensor) -> Tensor:
        self.seen = x.detach()
        output: Tensor = self._forward(x)
        if output.requires_grad:
            output.register_hook(lambda slope: setattr(self, "back", slope))
        return output


def leaves_the_first_layer_alone(name: str, kind: str) -> bool:
    spec = {"name": name, **DEFENSES[name]}
    plain, defended = build(MODELS[kind], []), build(MODELS[kind], [spec])
    path = first_of(plain)
    images = torch.rand(2, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    watched = Watched(plain.get_submodule(path))
    plain(images)
    expected = watched.seen
    layer = defended.get_submodule(path)
    watched = Watched(layer)
    defense = defenses.compose([spec])
    state = {name: value.detach().clone() for name, value in defended.state_dict().items()}
    round = ClientRound(model=defended, defense=defense, batch_size=2, classes=CLASSES)
    played = play(round, state, images, torch.arange(2), generators(3))
    weight = f"{path}.weight"
    if weight not in played.update or not torch.equal(watched.seen, expected):
        return False
    untouched = build(MODELS[kind], []).get_submodule(path)
    own = dict(untouched.named_parameters(recurse=False))
    [gradients] = vjp(lambda named: functional_call(untouched, named, (expected,)), own)[1](watched.back)
    found: Mapping[str, Any] = {key: played.update[f"{path}.{key}"] for key in own}
    assert any(bool(value.any()) for value in gradients.values())
    return all(torch.allclose(found[key], value, rtol=1e-9, atol=1e-12) for key, value in gradients.items())


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in BEHIND for kind in ONLY.get(name, MODELS)])
def test_a_defense_that_says_so_leaves_the_first_layer_alone(name: str, kind: str) -> None:
    assert leaves_the_first_layer_alone(name, kind)


@pytest.mark.parametrize("name", OTHERS)
def test_one_that_does_not_say_so_changes_it_somewhere(name: str) -> None:
    assert not all(leaves_the_first_layer_alone(name, kind) for kind in ONLY.get(name, MODELS))


def test_what_reads_the_first_layer_alone_takes_into_account_what_is_done_behind_it() -> None:
    for name in ("precode", "stochastic_depth", "nested_dropout", "token_dropout", "dropout", "gaussian_dropout"):
        for attack in ("first_linear", "sparse_dictionary", "patch_embedding", "imprint", "trap_weights"):
            assert needed_for(attack, name) is None, (attack, name)
    for name in ("dropconnect", "mixout", "lora_dropout", "mixup", "input_noise", "soteria"):
        for attack in ("first_linear", "sparse_dictionary", "patch_embedding"):
            assert needed_for(attack, name) is False, (attack, name)
    assert needed_for("april", "concrete_dropout") is False  # which drops what enters its attention's layers
    assert needed_for("april", "attention_drop") is None
    assert needed_for("inverting_gradients", "stochastic_depth") is False
    assert {name for name in attacks.names() if attacks.get(name).reads_first} == {
        "cocktail_party",
        "fidel",
        "multi_round",
        "spear",
        "first_linear",
        "sparse_dictionary",
        "patch_embedding",
        "imprint",
        "trap_weights",
    }
