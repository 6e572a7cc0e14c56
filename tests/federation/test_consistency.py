"""The update that the Flower server received equals the one recomputed from the sealed truth.

Where this fails, every attack on the payload fails with it: another reduction, normalisation, mode or buffer.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from federation_cells import consistency_cells

import defenses
from attacks import ThreatModel
from attacks.twin import attacker_copy, simulate
from fedsim import models, observations, truth
from fedsim.local import Local, train

KNOWN = ThreatModel(noise="known")
# The bound for float32 deltas. A delta is a difference of two float32 weights: each entry carries a rounding error of
# up to a unit in the last place of the weight per step, whatever the size of the step. And the second step starts from
# weights that already differ by rounding: relative differences of up to 4e-4 were seen on residual networks, where
# float64 agrees to 1e-9.
ULP = 2.0**-23
TWO_STEPS = 1e-3
STARTS = 12
"""An activation may be so near to zero that rounding decides whether its ReLU passes it, differently on two kinds of
processor. Then what was received is the replay of a start within rounding of the one that was sent."""


@pytest.mark.parametrize("name", consistency_cells())
def test_the_received_update_is_the_recomputed_one(simulated, name):
    cell, work = simulated.cell(name), consistency_cells()[name]
    assert (cell / "cell.json").exists(), simulated.log.read_text()[-3000:]
    double = work.federation.local.precision == "float64"
    pairs = observations.listed(cell)
    assert len(pairs) == 4  # two clients in each of two rounds
    for round, client in pairs:
        seen = observations.load(cell, round, client, KNOWN)
        envelope = truth.open_envelope(cell, round, client)
        received = observations.to(seen.observation, torch.device("cpu"), torch.float64)
        dtype = torch.float64 if double else torch.float32
        observation = observations.to(seen.observation, torch.device("cpu"), dtype)
        model = models.build(seen.model, input_shape=observation.input_shape, classes=observation.classes, seed=9)
        mean, std = (torch.tensor(v, dtype=dtype).view(-1, 1, 1) for v in (observation.mean, observation.std))
        # the client normalises in float32; so must we, to compare in float64
        images = ((envelope.images.float() / 255 - mean.float()) / std.float()).to(dtype)
        model = model.to(dtype)

        apart = partial(_apart, model, received.update, observation, images, envelope.labels)
        distance = apart(observation.state)
        size = sum(float(value.square().sum()) for value in received.update.values()) ** 0.5
        assert size > 0
        if double:
            assert distance <= 1e-9 * size
        elif observation.kind == "gradient":
            assert distance <= 1e-4 * size
        else:
            weights = sum(float(received.state[key].square().sum()) for key in received.update) ** 0.5
            within = TWO_STEPS * size + 2 * ULP * weights
            near = (apart(_rounded(observation.state, seed)) for seed in range(STARTS))
            assert distance <= within or any(one <= within for one in near)


def _apart(model, update, observation, images, labels, state):
    """How far what `simulate` makes of a start is from what the server received."""
    of_round = {"local": observation.local, "kind": observation.kind}
    recomputed = simulate(attacker_copy(model, state), state, images, labels, observation.noise, **of_round)
    assert recomputed.keys() == update.keys()
    return sum(float((recomputed[key].double() - update[key]).square().sum()) for key in update) ** 0.5


def _rounded(state, seed):
    """The same weights, but for errors as large as those of rounding to float32."""
    generator = torch.Generator().manual_seed(seed)
    moves = {key: 1 + ULP * torch.randn(value.shape, generator=generator) for key, value in state.items()}
    return {
        key: (value * moves[key]).to(value.dtype) if value.is_floating_point() else value
        for key, value in state.items()
    }


def test_vit_b16_in_process():
    """Through Flower its replies are 350 MB; the client's own function and the attacker's are compared directly."""
    torch.manual_seed(0)
    model = models.build({"name": "vit_b16", "dropout": 0.1}, input_shape=(3, 224, 224), classes=8, seed=0)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    images, labels = torch.randn(1, 3, 224, 224), torch.tensor([3])
    sent = train(model, images, labels, local=Local(), defense=defenses.create("none"), seed=0, client=0, round=1)
    assert sent.played.drawn
    recomputed = simulate(attacker_copy(model, state), state, images, labels, sent.played.drawn)
    distance = sum(float((recomputed[k] - sent.arrays[k]).square().sum()) for k in recomputed) ** 0.5
    size = sum(float(value.square().sum()) for value in recomputed.values()) ** 0.5
    assert size > 0
    assert distance <= 1e-4 * size
