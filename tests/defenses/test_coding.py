"""How long an update is: what is counted can really be written down in as many bits, and read again."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from played_defenses import a_batch, played, private_model

import defenses
from defenses.coding import bits_of


def a_tensor(entries: int = 5000, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(entries, generator=torch.Generator().manual_seed(1), dtype=dtype)


@pytest.mark.parametrize(("dtype", "width"), [(torch.float32, 32), (torch.float64, 64)])
def test_what_has_neither_zeros_nor_repetitions_is_sent_as_it_is(dtype, width):
    value = a_tensor(dtype=dtype)
    assert bits_of({"w": value.view(50, 100)}) == 5000 * width == 8 * len(value.numpy().tobytes())
    assert bits_of({"w": value, "b": value[:7]}) == 5007 * width
    assert bits_of({}) == 0


@pytest.mark.parametrize("zeros", [0, 1, 2000, 4500, 4999, 5000])
def test_zeros_are_not_sent_but_for_their_places(zeros):
    value = a_tensor()
    value[torch.randperm(5000, generator=torch.Generator().manual_seed(2))[:zeros]] = 0
    kept = value != 0
    written = np.packbits(kept.numpy()).tobytes() + value[kept].numpy().tobytes()
    places = [np.flatnonzero(which).astype(np.uint32).tobytes() for which in (kept, ~kept)]
    by_place = [place + value[kept].numpy().tobytes() for place in places]
    shortest = min(len(value.numpy().tobytes()), len(written), *map(len, by_place))
    assert bits_of({"w": value}) == 8 * shortest
    read = torch.zeros(5000)
    read[torch.from_numpy(np.unpackbits(np.frombuffer(written[:625], np.uint8)).astype(bool))] = torch.frombuffer(
        bytearray(written[625:]) or bytearray(4), dtype=torch.float32
    )[: 5000 - zeros]
    assert torch.equal(read, value)


@pytest.mark.parametrize(("values", "each"), [(2, 1), (3, 2), (4, 2), (5, 3), (256, 8)])
def test_few_values_are_sent_by_their_number(values, each):
    kinds = torch.linspace(1, 2, values)
    value = kinds[torch.arange(6400) % values]
    assert len(value.unique()) == values
    assert bits_of({"w": value}) == 6400 * each + 32 * values
    one_of_each = torch.linspace(1, 2, 6400)
    assert bits_of({"w": one_of_each}) == 6400 * 32


def test_many_values_of_a_large_tensor_are_found_as_well():
    value = torch.linspace(1, 2, 1000).repeat(300)
    assert bits_of({"w": value}) == 300_000 * 10 + 32 * 1000


UPDATE = {"w": a_tensor(6400).view(80, 80), "b": a_tensor(80)}
DENSE = 32 * 6480


def sent(*parts):
    defense = defenses.compose(list(parts))
    played = defense.on_update(dict(UPDATE), turn=defenses.base.Turn(_draw))
    return defense.bits(played) / DENSE


def _draw(name, site, x):
    return site.sample(x, torch.Generator().manual_seed(len(name)))


PRUNED, SPARSE = {"name": "pruning", "keep": 0.1}, {"name": "random_sparsification", "keep": 0.1}
SIGN, NOISE, LOW = {"name": "sign"}, {"name": "gaussian_noise"}, {"name": "svdefense", "energy": 0.1}


def test_what_the_defenses_that_compress_are_worth():
    assert sent() == sent(NOISE) == sent({"name": "clip"}) == 1
    assert sent(PRUNED) == pytest.approx(0.1 + 1 / 32, abs=0.001)
    assert sent(SPARSE) == pytest.approx(0.1, abs=0.001)  # its places are a seed
    assert sent(SIGN) == pytest.approx(1 / 32, abs=0.001)
    few, many = (sent({"name": "quantization", "levels": levels}) for levels in (16, 1000))
    assert few == pytest.approx((1 + 16 / 80 * math.sqrt(2 / math.pi)) / 32, abs=0.005)  # most are 0, others 1 or -1
    assert 6 / 32 < many < 8 / 32  # an entry is about 1000 / 80 levels


def test_of_a_composition_the_last_that_changes_the_update_decides():
    assert sent(NOISE, PRUNED) == sent(PRUNED)
    assert sent(PRUNED, NOISE) == sent(SIGN, NOISE) == sent(LOW, NOISE) == 1
    assert sent(SIGN, {"name": "clip"}) == sent(SIGN)
    assert sent(PRUNED, SIGN) == pytest.approx(1.1 / 32, abs=0.001)
    assert sent(LOW, {"name": "dropout"}) == sent(LOW) < 0.2
    assert sent(SPARSE, NOISE) == 1


def test_singular_vectors_are_sent_where_they_are_shorter():
    update = {"w": a_tensor(6400).view(80, 80), "b": a_tensor(80)}
    defense = defenses.create("svdefense", energy=0.1)
    kept = defense.on_update(update, turn=defenses.base.Turn(_draw))
    u, s, v = torch.linalg.svd(kept["w"])
    rank = int((s > 1e-4 * s[0]).sum())
    assert 0 < rank < 10
    torch.testing.assert_close((u[:, :rank] * s[:rank]) @ v[:rank], kept["w"], rtol=1e-4, atol=1e-5)
    assert defense.bits(kept) == 32 * (rank * (80 + 80) + 80)
    whole = defenses.create("svdefense", energy=1.0)
    assert whole.bits(whole.on_update(update, turn=defenses.base.Turn(_draw))) == DENSE


def test_behind_masks_no_zero_shows():
    masked = {"name": "secure_aggregation"}
    assert sent(PRUNED, masked) == sent(masked, SIGN) == sent(masked) == 1


@pytest.mark.parametrize("name", defenses.names())
def test_no_defense_needs_more_bits_than_its_entries(name):
    defense = defenses.compose([{"name": name}])
    model = private_model("vit", depth=1, width=16, heads=2, mlp=16)
    try:
        model = defense.on_model(model)
    except ValueError:
        model = defense.on_model(private_model("lenet"))
    images, labels = a_batch()
    update = played(defense, model, images, F.one_hot(labels, 10).double()).update
    assert 0 < defense.bits(update) <= sum(8 * value.element_size() * value.numel() for value in update.values())
