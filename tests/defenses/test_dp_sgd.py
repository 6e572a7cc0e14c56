"""DP-SGD: its clipping is Opacus' to the last digits, and so is its epsilon."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from opacus.accountants import PRVAccountant, RDPAccountant
from played_defenses import a_batch, played, private_model
from torch import nn

import defenses
from defenses.base import Accounting
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


def accounting(**changes: float) -> Accounting:
    taken = {"noise_multiplier": 1.0, "updates": 1, "steps": 20, "batch_size": 8, "examples": 400, **changes}
    found = defenses.create("dp_sgd", noise_multiplier=taken.pop("noise_multiplier")).accounting(**taken)
    assert found is not None
    assert found.delta == 1e-5
    assert found.note == "as if Poisson-sampled"
    return found


def epsilon(**changes: float) -> float:
    return accounting(**changes).epsilon


@pytest.mark.parametrize(("batch_size", "examples"), [(1, 1000), (8, 400), (32, 100), (50, 50)])
@pytest.mark.parametrize("rounds", [1, 7])
@pytest.mark.parametrize("local_steps", [1, 5])
def test_epsilon_is_that_of_opacus_accountants_told_of_each_step(batch_size, examples, rounds, local_steps):
    renyi, loss = RDPAccountant(), PRVAccountant()
    for _ in range(rounds * local_steps):
        for accountant in (renyi, loss):
            accountant.step(noise_multiplier=1.0, sample_rate=batch_size / examples)
    found = accounting(updates=rounds, steps=rounds * local_steps, batch_size=batch_size, examples=examples)
    assert found.epsilon == pytest.approx(renyi.get_epsilon(delta=1e-5), rel=1e-9, abs=1e-9)
    assert found.epsilon_prv == pytest.approx(loss.get_epsilon(delta=1e-5), rel=1e-9, abs=1e-9)
    assert 0 < found.epsilon_prv < found.epsilon


def test_epsilon_moves_the_right_way():
    for name in ("epsilon", "epsilon_prv"):
        spent = {
            change: getattr(accounting(**dict([change])), name)
            for change in (("steps", 20), ("noise_multiplier", 2.0), ("steps", 40), ("batch_size", 4), ("examples", 8))
        }
        usual = spent.pop(("steps", 20))
        assert spent["noise_multiplier", 2.0] < usual < spent["steps", 40]
        assert spent["batch_size", 4] < usual < spent["examples", 8]
    assert epsilon(noise_multiplier=0.0) == math.inf
    assert accounting(noise_multiplier=0.0).epsilon_prv is None


def test_an_example_that_a_step_takes_several_times_weighs_as_much_in_the_sum():
    """Of three examples a batch of eight takes one up to three times."""
    crowded = accounting(batch_size=8, examples=3, noise_multiplier=3.0)
    assert crowded == accounting(batch_size=8, examples=8, noise_multiplier=1.0)
    assert crowded.epsilon > accounting(batch_size=3, examples=3, noise_multiplier=3.0).epsilon


@pytest.mark.parametrize("changes", [{"noise_multiplier": 0.01}, {"steps": 100_000_000, "noise_multiplier": 1e4}])
def test_the_tighter_accountant_is_not_asked_where_it_cannot_answer(changes):
    """At noise 0.01 it states 703 for 10,960, out of overflows; a mesh of a hundred million steps fills memory."""
    found = accounting(**changes)
    assert found.epsilon > 0
    assert found.epsilon_prv is None


def test_of_examples_that_were_mixed_before_nothing_is_accounted_for():
    private, mixing = {"name": "dp_sgd"}, {"name": "mixup"}
    taken = {"updates": 1, "steps": 20, "batch_size": 8, "examples": 400}
    assert defenses.compose([mixing, private]).accounting(**taken) is None
    assert defenses.compose([{"name": "input_noise"}, private]).accounting(**taken) == accounting()
    assert defenses.compose([mixing, {"name": "local_dp"}]).accounting(**taken) is not None


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
