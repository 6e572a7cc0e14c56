"""DropConnect's masks and dropped branches stand in the update as zeros: an attacker who knows of them reads them."""

import dataclasses

import pytest
import torch
from attack_victims import MNIST_MEAN, MNIST_STD
from torch import Tensor

import attacks
from attacks import NotApplicable, Observation, Reconstruction, ThreatModel
from defenses import compose
from defenses.client.round import ClientRound, play
from fedsim.local import generators
from fedsim.models import build

MLP = {"name": "mlp", "bias": False, "width": 64}
KNOWN = ThreatModel(defense="known")


def victim(specs: list[dict], *, model: dict | None = None, batch: int = 1, side: int = 8, client: int = 0, **more):
    """The attacker's model, what it sees of a client that shares its gradient, what the client played, its images."""
    spec = {"dropout": 0.0, "defenses": specs, **(model or MLP)}
    own = build(spec, input_shape=(1, side, side), classes=4, seed=0)
    state = {name: value.clone() for name, value in own.state_dict().items()}
    images = torch.rand(batch, 1, side, side, generator=torch.Generator().manual_seed(client)) / MNIST_STD
    images = images - MNIST_MEAN / MNIST_STD
    labels = torch.arange(batch) % 4
    round = ClientRound(model=own, defense=compose(specs))
    played = play(round, state, images, labels, generators(0, client=client, round=1))
    seen = Observation(
        state=state,
        update=played.update,
        input_shape=(1, side, side),
        classes=4,
        mean=(MNIST_MEAN,),
        std=(MNIST_STD,),
        labels=labels,
        defense=tuple(specs),
        client=client,
        **more,
    )
    twin = build(spec, input_shape=(1, side, side), classes=4, seed=0)
    return twin, seen, played, images


def answer(name: str, twin, seen, **parameters) -> Reconstruction:
    [found] = attacks.create(name, **parameters).run([seen], KNOWN, twin)
    assert isinstance(found, Reconstruction), found
    return found


def psnr(found: Tensor, truth: Tensor) -> float:
    return float(-10 * ((found - truth) * MNIST_STD).square().mean().log10())


@pytest.mark.parametrize("batch", [1, 3])
def test_masks_of_dropconnect_are_read(batch: int) -> None:
    twin, seen, played, images = victim([{"name": "dropconnect", "p": 0.3}], batch=batch)
    found = answer("mask_readout", twin, seen, iterations=400 if batch == 1 else 1)
    assert found.noise.keys() == played.drawn.keys()
    for name, mask in played.drawn.items():
        assert torch.equal(found.noise[name], mask)
    if batch == 1:
        assert psnr(found.images, images) > 30


def test_masks_are_not_read_where_noise_has_filled_the_zeros() -> None:
    twin, seen, _, _ = victim([{"name": "dropconnect", "p": 0.3}, {"name": "gaussian_noise", "std": 1e-6}])
    [found] = attacks.create("mask_readout").run([seen], KNOWN, twin)
    assert isinstance(found, NotApplicable)
    assert "no mask can be read" in str(found)


@pytest.mark.parametrize("noise", [{"name": "gaussian_noise", "std": 1e-6}, {"name": "dp_sgd", "max_grad_norm": 0.1}])
@pytest.mark.parametrize("depth", ["stochastic_depth", "layerdrop"])
def test_no_depth_is_read_off_a_branch_that_noise_has_filled(depth: str, noise: dict) -> None:
    """A dropped branch would read as one that is there: a bit is no pattern whose chance could be told."""
    twin, seen, played, _ = victim([{"name": depth, "p": 0.8}, noise], model=VIT)
    assert any(not bit.any() for site, bit in played.drawn.items() if site.endswith(depth))
    [found] = attacks.create("mask_readout", iterations=1).run([seen], KNOWN, twin)
    assert isinstance(found, NotApplicable)
    assert "no mask can be read: the update does not say what" in str(found)


def test_a_unit_without_gradient_says_nothing_of_its_weights() -> None:
    twin, seen, played, _ = victim([{"name": "dropconnect", "p": 0.3}])
    name = "hidden.1.linear"
    layer = twin.get_submodule(name)
    gradient = {f"{name}.weight": seen.update[f"{name}.weight"].clone()}
    gradient[f"{name}.weight"][5] = 0
    gradient[f"{name}.weight"][:, 7] = 0
    read = layer.read(gradient, name, torch.Size((1, 64)))
    expected = played.drawn[name][0].clone()
    expected[5], expected[:, 7] = 0.7, 0.7
    torch.testing.assert_close(read, expected)
    assert layer.read({}, name, torch.Size((1, 64))) is None


VIT = {"name": "vit", "depth": 3, "width": 16, "heads": 2, "mlp": 16}


@pytest.mark.parametrize(("batch", "per"), [(1, "batch"), (1, "example"), (3, "batch")])
@pytest.mark.parametrize("name", ["vit", "resnet18"])
def test_depths_are_read(name: str, batch: int, per: str) -> None:
    model = VIT if name == "vit" else {"name": "resnet18", "width": 4}
    specs = [{"name": "stochastic_depth", "p": 0.8, "per": per}]
    twin, seen, played, _ = victim(specs, model=model, batch=batch, side=8 if name == "vit" else 16)
    found = answer("mask_readout", twin, seen, iterations=1)
    assert found.noise.keys() == played.drawn.keys()
    assert {float(bit) for bits in played.drawn.values() for bit in bits} == {0.0, 1.0}
    for site, bit in played.drawn.items():
        assert torch.equal(found.noise[site], bit)


def test_depths_of_several_examples_are_optimised() -> None:
    specs = [{"name": "stochastic_depth", "p": 0.8, "per": "example"}]
    twin, seen, played, _ = victim(specs, model=VIT, batch=4)
    found = answer("mask_readout", twin, seen, iterations=2)
    assert found.noise.keys() == played.drawn.keys()
    dropped = {site for site, bits in played.drawn.items() if not bits.any()}
    assert set(found.details["masks_read"]) == dropped


def test_a_bottleneck_before_the_head_hides_nothing_of_a_first_layer_with_bias() -> None:
    model = {"name": "mlp", "width": 64}
    twin, seen, played, images = victim([{"name": "precode", "size": 8}], model=model)
    assert played.drawn
    assert psnr(answer("first_linear", twin, seen).images, images) > 100


def test_what_lies_behind_a_bottleneck_is_not_matched() -> None:
    """Nothing of an update's head and decoder reaches an attacker who knows the defense and leaves them out."""
    twin, seen, _, _ = victim([{"name": "precode", "size": 8}])
    other = dict(seen.update)
    for name in ("head.weight", "head.bottleneck.decoder.weight", "head.bottleneck.decoder.bias"):
        other[name] = other[name] + torch.randn(other[name].shape, generator=torch.Generator().manual_seed(1))
    first, second = (
        answer("inverting_gradients", twin, dataclasses.replace(seen, update=update), iterations=20)
        for update in (seen.update, other)
    )
    torch.testing.assert_close(first.images, second.images, rtol=0, atol=0)


def test_an_oracle_of_a_defense_that_is_not_granted_is_no_number() -> None:
    """Its model draws nothing where the client did: the masks that it is told have no place in it."""
    specs = [{"name": "dropconnect", "p": 0.3}]
    model, seen, played, _ = victim(specs)
    observation = dataclasses.replace(seen, noise=played.drawn)
    oracle = attacks.create("well_informed", iterations=5)
    assert oracle(observation, ThreatModel(defense="known", noise="known"), model).images.isfinite().all()
    resting = build({"dropout": 0.0, "defenses": specs, "resting": True, **MLP}, input_shape=(1, 8, 8), classes=4)
    blind = dataclasses.replace(observation, defense=None)
    with pytest.raises(NotApplicable, match="the defense, or the dropout rate, is not granted"):
        oracle(blind, ThreatModel(noise="known"), resting)
