"""What is chosen rather than drawn, experts and sensitive units; and what may take few values, which are all tried."""

from __future__ import annotations

import math

import pytest
import relatives
import torch
from told_attacks import error, observed, run

import attacks
import defenses
from attacks import Observation, ThreatModel
from attacks.twin import attacker_copy
from defenses.client.round import ClientRound, Played, play, replay
from defenses.stochastic import begin
from defenses.stochastic.depth import StochasticDepth
from defenses.stochastic.experts import Experts
from defenses.stochastic.nested import NestedDropout
from fedsim.models import build

KNOWN = ThreatModel(defense="known")


def victim(specs: list[dict], *, depth: int = 1, batch: int = 1, seed: int = 0, round: int = 1, memory=None):
    """The attacker's model, what it sees of a client with all grants, and its images in [0, 1]."""
    spec = {"name": "mlp", "dropout": 0.0, "defenses": specs, "width": 24, "depth": depth, "bias": False}
    make = lambda: begin(build(spec, input_shape=(1, 8, 8), classes=4, seed=0), round)  # noqa: E731
    images = torch.rand(batch, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    labels = torch.arange(batch) % 4
    own = make()
    state = {name: value.clone() for name, value in own.state_dict().items()}
    client = ClientRound(model=own, defense=defenses.compose(specs), classes=4)
    played = play(client, state, images, labels, lambda site, step: torch.Generator().manual_seed(seed), memory)
    seen = observed(state, played, labels, specs, round=round)
    return make(), seen, images, played


EXPERTS = [{"name": "smoe_dropout", "experts": 4, "least": 2}]


@pytest.mark.parametrize("seed", range(3))
def test_the_experts_of_an_image_are_read(seed: int) -> None:
    twin, seen, images, played = victim(EXPERTS, depth=2, seed=seed)
    found = run("mask_readout", twin, seen, iterations=150)
    assert found.noise.keys() == played.drawn.keys() == set(found.details["masks_read"])
    assert all(torch.equal(found.noise[site], chosen) for site, chosen in played.drawn.items())
    oracle, blind = (run(name, twin, seen, iterations=150) for name in ("well_informed", "inverting_gradients"))
    assert error(found, images) == pytest.approx(error(oracle, images), rel=1e-3)
    assert error(found, images) < error(blind, images) / 3


def test_the_experts_of_several_images_are_not_read() -> None:
    twin, seen, _, _ = victim(EXPERTS, batch=2)
    [found] = attacks.create("mask_readout").run([seen], KNOWN, twin)
    assert "not a batch" in str(found) or "no mask can be read" in str(found)


TRIED = {
    "experts": [{"name": "smoe_dropout", "experts": 4, "least": 2}],
    "nested": [{"name": "nested_dropout", "p": 0.5}],
}


@pytest.mark.parametrize("specs", TRIED.values(), ids=TRIED)
@pytest.mark.parametrize("seed", [1, 2])
def test_few_values_are_tried_and_the_right_one_is_found(specs: list[dict], seed: int) -> None:
    twin, seen, _, played = victim(specs, seed=seed)
    found = run("dropout_inversion", twin, seen, iterations=80)
    [(site, drawn)] = played.drawn.items()
    assert torch.equal(found.noise[site], drawn)
    assert not drawn.all()


def test_the_values_that_are_tried_are_all_that_can_be_drawn() -> None:
    experts = Experts(5, experts=4, least=2, rising=0, weight="weight")
    for layer, shape, count in (
        (experts, (1, 4 + 8), 6),
        (experts, (1, 2, 4 + 8), 36),
        (StochasticDepth(0.5, per="example"), (4, 3), 16),
        (NestedDropout(0.5), (1, 6), 6),
        (NestedDropout(0.5), (2, 3), 9),
    ):
        values = layer.support(100, torch.Size(shape))
        assert len(values) == count == len(values.flatten(1).unique(dim=0))
        assert layer.support(count - 1, torch.Size(shape)) is None
        blank = torch.zeros(shape)
        drawn = {tuple(layer.sample(blank, torch.Generator().manual_seed(i)).flatten().tolist()) for i in range(600)}
        assert drawn == {tuple(value.flatten().tolist()) for value in values}
        assert values.shape[1:] == layer.sample(blank).shape


def test_where_a_nested_vector_hardly_ever_ends_is_not_tried() -> None:
    layer = NestedDropout(0.5)
    values = layer.support(16, torch.Size((1, 512)))
    assert len(values) == 10
    assert 0.5 ** len(values) < 1e-3 <= 0.5 ** (len(values) - 1)
    assert values.sum(-1).flatten().tolist() == list(range(1, 11))
    assert NestedDropout(0.01).support(16, torch.Size((1, 512))) is None
    assert len(NestedDropout(0.01).support(16, torch.Size((1, 7)))) == 7


def test_a_choice_of_experts_follows_from_the_logits_and_else_each_is_as_likely() -> None:
    layer = Experts(5, experts=4, least=2, rising=0, weight="weight")
    x = torch.cat([torch.tensor([[0.3, -1.0, 0.2, 5.0]]), torch.ones(1, 8)], dim=1)
    assert layer.sample(x, torch.Generator().manual_seed(0)).tolist() == [[1.0, 0.0, 0.0, 1.0]]
    drawn = layer.sample(torch.zeros(6000, 12), torch.Generator().manual_seed(0))
    _, counts = drawn.unique(dim=0, return_counts=True)
    assert len(counts) == 6
    assert all(abs(int(count) - 1000) < 5 * math.sqrt(1000) for count in counts)
    weights = layer.inject(x, torch.tensor([[1.0, 0.0, 0.0, 1.0]]))[0, ::2]
    torch.testing.assert_close(weights[[0, 3]], torch.tensor([0.3, 5.0]).softmax(0))
    assert layer.inject(x, torch.zeros(1, 4)).eq(0).all()


SENSITIVE = [{"name": "sensitive_neuron_dropout", "share": 0.25, "window": 2}]


def later() -> tuple[torch.nn.Module, Observation, torch.Tensor, Played]:
    """The third round of a client."""
    memory = None
    for number in (1, 2):
        memory = victim(SENSITIVE, seed=number, round=number, memory=memory)[3].memory
    return victim(SENSITIVE, seed=3, round=3, memory=memory)


def test_units_that_a_client_dropped_by_what_it_remembers_are_read() -> None:
    twin, seen, images, played = later()
    [(site, mask)] = played.drawn.items()
    assert mask.shape == (24,)
    assert int((mask == 0).sum()) == 6
    found = run("mask_readout", twin, seen, iterations=150)
    assert torch.equal(found.noise[site], mask)
    oracle = run("well_informed", twin, seen, iterations=150)
    assert error(found, images) == pytest.approx(error(oracle, images), rel=1e-3)
    sought = run("dropout_inversion", twin, seen, iterations=3)
    assert sought.noise[site].shape == mask.shape


def test_the_mask_of_a_round_is_replayed() -> None:
    twin, seen, images, played = later()
    round = ClientRound(model=attacker_copy(twin, seen.state), defense=defenses.compose(SENSITIVE), classes=4)
    state = {name: value for name, value in seen.state.items() if name in played.update}
    again = replay(round, state, images, seen.labels, played.drawn)
    for name, value in played.update.items():
        torch.testing.assert_close(again.update[name], value)
    assert relatives.added_to(twin) == ["head.sensitive_neuron_dropout"]


def test_who_is_not_told_what_a_client_remembers_drops_as_many_units_at_random() -> None:
    layer = begin(build({"name": "mlp", "defenses": SENSITIVE}, input_shape=(1, 8, 8), classes=4, seed=0), 3)
    drop = layer.get_submodule("head.sensitive_neuron_dropout")
    masks = [drop.sample(torch.zeros(1, 24), torch.Generator().manual_seed(seed)) for seed in range(2)]
    assert [int((mask == 0).sum()) for mask in masks] == [6, 6]
    assert not torch.equal(*masks)
    assert drop.penalty(masks[0]) == 0
    drop.recall({})
    assert drop.sample(torch.zeros(1, 24)).eq(1).all()
