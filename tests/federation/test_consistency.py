"""The update that the Flower server received equals the one recomputed from the sealed truth.

Where this fails, every attack on the payload fails with it: another reduction, normalisation, mode or buffer.
"""

from __future__ import annotations

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
        recomputed = simulate(
            attacker_copy(model.to(dtype), observation.state),
            observation.state,
            images,
            envelope.labels,
            observation.noise,
            local=observation.local,
            kind=observation.kind,
        )
        recomputed = {key: value.double() for key, value in recomputed.items()}
        assert recomputed.keys() == received.update.keys()
        distance = sum(float((recomputed[k] - received.update[k]).square().sum()) for k in recomputed) ** 0.5
        size = sum(float(received.update[k].square().sum()) for k in recomputed) ** 0.5
        assert size > 0
        if double:
            assert distance <= 1e-9 * size
        elif observation.kind == "gradient":
            assert distance <= 1e-4 * size
        else:
            weights = sum(float(received.state[k].square().sum()) for k in recomputed) ** 0.5
            assert distance <= TWO_STEPS * size + 2 * ULP * weights


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
