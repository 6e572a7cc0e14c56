"""DP-SGD: its clipping is Opacus' to the last digits, and so is its epsilon."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from played_defenses import a_batch, played, private_model
from torch import nn

import defenses
from defenses.stochastic import set_stochastic, stochastic_layers

SMALL_VIT = {"depth": 1, "width": 16, "heads": 2, "mlp": 16}


PRIVATE_MODELS = {
    "mlp": {"width": 16},
    "lenet": {},
    "resnet18": {"norm": "group"},
    "vit": SMALL_VIT,
    "vit_b16": {**SMALL_VIT, "patch": 8},
}


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("name", PRIVATE_MODELS)
def test_dp_sgd_without_noise_and_bound_is_the_plain_gradient(name, mode):
    """Also with dropout: the examples' gradients are taken at the masks that were drawn, which can be recorded."""
    defense = defenses.create("dp_sgd", noise_multiplier=0.0, max_grad_norm=1e9)
    model = defense.on_model(private_model(name, dropout=0.5, **PRIVATE_MODELS[name])).train(mode == "train")
    images, labels = a_batch()
    state, modes = list(model.state_dict()), [m.training for m in model.modules()]
    found = played(defense, model, images, labels)
    private, drawn = found.update, found.drawn
    assert drawn.keys() == (stochastic_layers(model).keys() if mode == "train" else set())
    assert list(model.state_dict()) == state
    assert [m.training for m in model.modules()] == modes
    assert all(parameter.grad is None and not parameter.__dict__ for parameter in model.parameters())
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())

    set_stochastic(model, False)
    noise = {f"{path}.noise": mask for path, mask in drawn.items()}
    named = dict(model.named_parameters())
    loss = F.cross_entropy(torch.func.functional_call(model, {**named, **noise}, (images,)), labels)
    plain = torch.autograd.grad(loss, list(named.values()))
    assert list(private) == list(named)
    torch.testing.assert_close(list(private.values()), list(plain), rtol=1e-9, atol=1e-12)


def epsilon(**changes: float) -> float:
    parameters = {"noise_multiplier": 1.0, "updates": 1, "steps": 20, "batch_size": 8, "examples": 400, **changes}
    accounting = defenses.create("dp_sgd", noise_multiplier=parameters.pop("noise_multiplier")).accounting(**parameters)
    assert accounting is not None
    assert accounting.delta == 1e-5
    assert accounting.note == "as if Poisson-sampled"
    return accounting.epsilon


def test_epsilon_is_that_of_opacus_and_moves_the_right_way():
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    for _ in range(20):
        accountant.step(noise_multiplier=1.0, sample_rate=8 / 400)
    assert epsilon() == pytest.approx(accountant.get_epsilon(delta=1e-5))
    assert epsilon(noise_multiplier=2.0) < epsilon() < epsilon(steps=40)
    assert epsilon(batch_size=4) < epsilon() < epsilon(examples=8)
    assert epsilon(noise_multiplier=0.0) == math.inf


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: private_model("resnet18"), "layer 'stem.1' (BatchNorm2d)"),
        (lambda: nn.BatchNorm1d(4), "the model (BatchNorm1d)"),
        (lambda: nn.Sequential(nn.InstanceNorm2d(4, track_running_stats=True)), "layer '0' (InstanceNorm2d)"),
    ],
)
def test_a_layer_in_which_examples_meet_is_refused_by_name(make, named):
    with pytest.raises(ValueError) as refusal:
        defenses.create("dp_sgd").on_model(make())
    assert named in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("name", "batch"), [("lenet", 4), ("mlp", 1), ("vit", 3)])
def test_dp_sgd_clips_as_opacus_does(name, batch):
    """To the last digits, and with the same masks; its noise is its own."""
    from opacus.grad_sample import GradSampleModule
    from opacus.optimizers import DPOptimizer

    defense = defenses.create("dp_sgd", noise_multiplier=0.0, max_grad_norm=0.05)
    model = private_model(name, dropout=0.5, **PRIVATE_MODELS[name])
    images, labels = a_batch(batch)
    ours = played(defense, model, images, labels)
    for path, mask in ours.drawn.items():
        model.get_submodule(path).noise = mask
    theirs = GradSampleModule(model, loss_reduction="mean")
    named = dict(model.named_parameters())
    optimizer = DPOptimizer(
        torch.optim.SGD(named.values(), lr=0.0), noise_multiplier=0.0, max_grad_norm=0.05, expected_batch_size=batch
    )
    F.cross_entropy(theirs(images), labels).backward()
    optimizer.pre_step()
    for key, value in ours.update.items():
        torch.testing.assert_close(value, named[key].grad, rtol=1e-9, atol=1e-14)
