"""Every defense must achieve what it is for. A new defense adds one line to the table."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import relatives
import torch
import torch.nn.functional as F
from played_defenses import (
    a_batch,
    an_update,
    flat,
    generator,
    named_generator,
    plain_gradient,
    played,
    private_model,
    turn,
)
from torch import Tensor, nn

import defenses
from defenses.base import Defense, Deployment, Turn
from defenses.batch.mixup import Weight
from defenses.client.round import ClientRound, Played, play
from defenses.client.site import Sampling
from defenses.stochastic import stochastic_layers

Tensors = dict[str, Tensor]


def changes_nothing(defense: Defense) -> None:
    update = an_update()
    assert defense.on_update(update, turn=turn()) == update
    assert defense.declarative
    assert not defense.model_overrides()
    assert not defense.local_overrides()


def sets_the_rate(defense: Defense) -> None:
    assert defense.model_overrides() == {"dropout": 0.3}
    assert defense.declarative


def sets_the_batch_size(defense: Defense) -> None:
    assert defense.local_overrides() == {"batch_size": 3}
    assert defense.declarative


def sets_the_steps_and_shares_weights(defense: Defense) -> None:
    assert defense.local_overrides() == {"steps": 3, "epochs": None, "examples": None, "share": "weights"}
    assert "share" not in defenses.create("local_steps", steps=1).local_overrides()
    assert defense.declarative


def bounds_the_norm(defense: Defense) -> None:
    update = an_update()
    clipped = flat(defense.on_update(update, turn=turn()))
    assert clipped.norm() == pytest.approx(1.5)
    assert F.cosine_similarity(clipped, flat(update), dim=0) == pytest.approx(1.0)
    for size in (1e-3, 1.499 / float(flat(update).norm()), 0.0):
        small = {name: value * size for name, value in update.items()}
        assert torch.equal(flat(defense.on_update(small, turn=turn())), flat(small))


def adds_noise_of_its_std(defense: Defense) -> None:
    update = an_update()
    noise = flat(defense.on_update(update, turn=turn(5))) - flat(update)
    assert noise.std() == pytest.approx(0.1, rel=0.05)
    assert abs(noise.mean()) < 0.01
    again, other = (flat(defense.on_update(update, turn=turn(s))) - flat(update) for s in (5, 6))
    assert torch.equal(noise, again)
    assert not torch.equal(noise, other)


def adds_laplace_noise_of_its_scale(defense: Defense) -> None:
    update = an_update()
    noise = flat(defense.on_update(update, turn=turn(5))) - flat(update)
    assert noise.isfinite().all()
    assert abs(noise.mean()) < 0.01
    assert noise.abs().mean() == pytest.approx(0.1, rel=0.05)
    assert noise.std() == pytest.approx(0.1 * math.sqrt(2), rel=0.05)  # of Gaussian noise of that size 0.125
    assert (noise.abs() > 0.3).float().mean() == pytest.approx(math.exp(-3), rel=0.15)
    again, other = (flat(defense.on_update(update, turn=turn(s))) - flat(update) for s in (5, 6))
    assert torch.equal(noise, again)
    assert not torch.equal(noise, other)


def keeps_a_random_share(defense: Defense) -> None:
    update = an_update()
    before = flat(update)
    sent = [defense.on_update(update, turn=turn(seed)) for seed in range(400)]
    kept = torch.stack([flat(one) != 0 for one in sent])
    assert (kept.sum(1) == 1293).all()  # a fifth of 6465, rounded up
    assert all(torch.equal(flat(one)[chosen], before[chosen]) for one, chosen in zip(sent, kept))
    often = kept.float().mean(0)
    assert float(often.std()) == pytest.approx(math.sqrt(0.2 * 0.8 / 400), rel=0.1)  # each entry alike
    assert abs(float(torch.corrcoef(torch.stack([often, before.abs()]))[0, 1])) < 0.05
    assert torch.equal(flat(defense.selection(sent[0])), kept[0])
    for entries, at_least in ((1, 1), (6, 2), (10, 2), (11, 3)):
        assert int(defense.on_update({"w": torch.ones(entries)}, turn=turn())["w"].sum()) == at_least
    at_rest = defense.on_update(update, turn=Turn(lambda name, site, x: site.rest(x)))
    torch.testing.assert_close(flat(at_rest), 0.2 * before)


def perturbs_the_first_layer_alone(defense: Defense) -> None:
    update = an_update()
    sent = defense.on_update(update, turn=turn(5))
    noise = {name: value - update[name] for name, value in sent.items()}
    assert noise["layer.weight"].std() == pytest.approx(3.0, rel=0.05)
    assert noise["layer.bias"].std() == pytest.approx(3.0, rel=0.3)
    assert noise["scale"] == 0
    assert {name: bool(mask.all()) for name, mask in defense.selection(sent).items()} == {
        "layer.weight": False,  # the other parameter is about 2
        "layer.bias": False,
        "scale": True,
    }
    faint = defenses.create("partial_perturbation", std=0.1, parameters="*.weight")
    seen = faint.on_update(update, turn=turn(5))
    assert [bool((seen[name] != update[name]).any()) for name in update] == [True, False, False]
    assert faint.selection(seen) is None  # noise of a twentieth hides nothing
    model = private_model(width=16)
    assert faint.on_model(model) is model
    with pytest.raises(ValueError, match=r"parameters = 'tail\.\*' is not a pattern .* it has hidden\.0"):
        defenses.create("partial_perturbation", parameters="tail.*").on_model(model)


def clips_and_adds_the_noise_of_a_budget(defense: Defense) -> None:
    update = an_update()
    deviation = 0.5 * math.sqrt(2 * math.log(1.25 / 1e-4)) / 0.8
    clipped = defenses.create("clip", norm=1.5).on_update(update, turn=turn())
    noise = flat(defense.on_update(update, turn=turn(5))) - flat(clipped)
    assert noise.std() == pytest.approx(deviation, rel=0.05)
    assert torch.equal(flat(defense.on_update(update, turn=turn(5))), noise + flat(clipped))


def prunes_where_the_representation_says_most(defense: Defense) -> None:
    model = private_model(width=16)
    images, labels = a_batch()
    plain = plain_gradient(model, images, labels)
    result = played(defense, defense.on_model(model), images, labels)
    says = torch.zeros(16, dtype=torch.float64)
    inside = model.get_submodule("hidden")
    for image in images:
        representation = inside(image.flatten()[None])[0].detach().abs()
        slopes = torch.autograd.functional.jacobian(lambda x: inside(x.flatten()[None])[0], image)
        says += slopes.flatten(1).norm(dim=1) / representation
    pruned = set(says.argsort()[:4].tolist())  # a quarter
    sent, expected = result.update["head.weight"], plain["head.weight"]
    assert {i for i in range(16) if not sent[:, i].any()} == pruned
    left = [i for i in range(16) if i not in pruned]
    torch.testing.assert_close(sent[:, left], expected[:, left], rtol=1e-9, atol=1e-12)
    others = plain.keys() - {"head.weight"}
    torch.testing.assert_close({n: result.update[n] for n in others}, {n: plain[n] for n in others})
    kept = defense.selection(result.update)
    assert torch.equal(kept["head.weight"][0], (says > says.sort().values[3]))
    assert all(kept[name].all() for name in others)
    for layer, named in (("hidden", "hidden.0.linear, "), ("hidden.1", "hidden.0.linear, ")):
        with pytest.raises(ValueError, match=f"^soteria: layer = '{layer}' is not a linear layer .* it has {named}"):
            defenses.create("soteria", layer=layer).on_model(model)
    deeper = defenses.create("soteria", layer="hidden.1.linear", prune=0.5)
    assert int(played(deeper, model, images, labels).update["hidden.1.linear.weight"].any(0).sum()) == 8
    with pytest.raises(ValueError, match="it can act only on the update of a client's round"):
        defense.on_update(an_update(), turn=Turn(Sampling(lambda site, step: generator()).draw))


def replaces_entries_by_noise(defense: Defense) -> None:
    update = {"w": torch.full((40_000,), 5.0)}
    source = Sampling(lambda site, step: generator(zlib.crc32(site.encode())))
    sent = defense.on_update(update, turn=Turn(source.draw))["w"]
    kept = sent > 4
    assert kept.float().mean() == pytest.approx(0.7, abs=0.01)
    torch.testing.assert_close(sent[kept], torch.full_like(sent[kept], 5 / 0.7))
    assert sent[~kept].std() == pytest.approx(0.2, rel=0.05)
    assert abs(sent[~kept].mean()) < 0.01
    assert sent.mean() == pytest.approx(5.0, rel=0.01)  # right on average
    at_rest = defense.on_update(an_update(), turn=Turn(lambda name, site, x: site.rest(x)))
    torch.testing.assert_close(at_rest, an_update())


def sends_the_least_harmful_orthogonal_update(defense: Defense) -> None:
    model = private_model(width=16)
    images, labels = a_batch()
    plain = plain_gradient(model, images, labels)
    weights = {name: value.detach().clone() for name, value in model.named_parameters()}
    result = played(defense, model, images, labels)
    losses, trials = [], []
    for trial in range(5):
        found = {}
        for name, g in plain.items():
            r = result.drawn[f":{name}:{trial}"]
            u = r - (r * g).sum() / (g * g).sum() * g
            found[name] = u * (g.norm() / u.norm())
        moved = {name: value - 0.1 * found[name] for name, value in weights.items()}
        losses.append(float(F.cross_entropy(torch.func.functional_call(model, moved, (images,)), labels)))
        trials.append(found)
    torch.testing.assert_close(result.update, trials[losses.index(min(losses))], rtol=1e-9, atol=1e-12)
    for name, g in plain.items():
        assert abs(F.cosine_similarity(flat({"": result.update[name]}), flat({"": g}), dim=0)) < 1e-12
        assert float(result.update[name].norm()) == pytest.approx(float(g.norm()))
    assert defense.on_update({"scale": torch.tensor(2.0)} | an_update(), turn=turn())["scale"] == 0
    published = defenses.create("censor", trials=1, as_published=True)
    assert torch.equal(flat(played(published, model, images, labels).update), flat(plain)) != (
        cross(model, weights, published_trial(plain), images, labels) < cross(model, weights, None, images, labels)
    )


def published_trial(plain: Tensors) -> Tensors:
    """What the published code of CENSOR makes of a gradient in a first trial."""
    found = {}
    for name, g in plain.items():
        r = torch.randn(g.shape, dtype=g.dtype, generator=generator(zlib.crc32(f":{name}:0".encode())))
        u = r / r.norm() - torch.dot((r / r.norm()).flatten(), g.flatten()) / g.norm() * g
        found[name] = u / u.norm() * g.norm()
    return found


def cross(model: nn.Module, weights: Tensors, update: Tensors | None, images: Tensor, labels: Tensor) -> float:
    moved = weights if update is None else {name: value - 0.1 * update[name] for name, value in weights.items()}
    return float(F.cross_entropy(torch.func.functional_call(model, moved, (images,)), labels))


def prunes_and_perturbs_more_rarely_each_round(defense: Defense) -> None:
    update = an_update()
    acted = []
    for rounds, chance in ((0, 1 / 1.5), (19, 1 / 11)):
        seen = 0
        for seed in range(300):
            here = replace(turn(seed), memory={":rounds": torch.tensor(float(rounds))})
            sent = defense.on_update(update, turn=here)
            assert here.memory[":rounds"] == rounds + 1
            if not torch.equal(flat(sent), flat(update)):
                seen += 1
                acted.append(sent)
        assert seen / 300 == pytest.approx(chance, abs=0.08)
    fisher = update["layer.weight"].square().mean(0)
    everything = torch.cat([fisher, update["layer.bias"].square().mean()[None], update["scale"].square()[None]])
    noisy = fisher >= everything.sort(descending=True).values[40]  # 41 of 102: four tenths, rounded up
    value, sent = update["layer.weight"], acted[0]["layer.weight"]
    large = value.abs() >= value.abs().flatten().sort(descending=True).values[1279]  # a fifth of 6400
    assert torch.equal(sent[:, ~noisy], (value * large)[:, ~noisy])
    assert torch.equal((sent != 0)[:, ~noisy], large[:, ~noisy])
    assert torch.equal(defense.selection(acted[0])["layer.weight"], large)
    assert defense.selection(update) is None  # in a round in which it did not act
    spread = defense.on_update(update, turn=with_weights(turn(11)))["layer.weight"] - value * large
    assert spread[:, noisy].std() == pytest.approx(0.8, rel=0.05)  # the variance counts for 1 at most


def with_weights(turn: Turn) -> Turn:
    """Of a client whose weights have a variance of 4, in a round in which an Outpost acts."""
    assert turn.own is not None
    weights = {name: 2 * torch.randn(value.shape, generator=generator(9)) for name, value in turn.own.weights.items()}
    drawing = lambda name, site, x: x.new_ones(()) if name.endswith(":acts") else turn.source(name, site, x)  # noqa: E731
    return replace(turn, own=replace(turn.own, weights=weights), source=drawing)


def keeps_the_largest_singular_values(defense: Defense) -> None:
    update = an_update()
    sent = defense.on_update(update, turn=turn())
    left, values, right = torch.linalg.svd(update["layer.weight"].double(), full_matrices=False)
    energies = values.square().cumsum(0) / values.square().sum()
    rank = int((energies < 0.6).sum()) + 1
    assert 1 < rank < 40
    nearest = left[:, :rank] * values[:rank] @ right[:rank]
    torch.testing.assert_close(sent["layer.weight"].double(), nearest, rtol=0, atol=1e-4)
    assert torch.equal(sent["layer.bias"], update["layer.bias"])
    kernel = torch.randn(6, 2, 3, 3, generator=generator(3))
    found = defense.on_update({"k": kernel}, turn=turn())["k"]
    assert found.shape == kernel.shape
    assert 1 <= torch.linalg.matrix_rank(found.flatten(1), rtol=1e-4) < 6
    one = {"w": torch.outer(*torch.randn(2, 8, generator=generator(4)))}
    torch.testing.assert_close(defense.on_update(one, turn=turn()), one, rtol=1e-4, atol=1e-5)


def drops_units_and_hides_which(defense: Defense) -> None:
    model = defense.on_model(private_model(width=16))
    images, labels = a_batch()
    for batch in (defense, defenses.create("training_randomness", p=0.4, std=0.0)):
        result = played(batch, model, images, labels)
        assert [tuple(mask.shape) for mask in drops(result)] == [(3, 16)] * 3
    bare, hidden = result.update, played(defense, model, images, labels).update
    covered = flat(bare) == 0
    assert torch.equal(flat(hidden)[~covered], flat(bare)[~covered])
    assert flat(hidden)[covered].std() == pytest.approx(0.01, rel=0.3)
    assert int(covered.sum()) > 20
    per_batch = defenses.create("training_randomness", p=0.4, std=0.0, per="batch")
    result = played(per_batch, per_batch.on_model(private_model(width=16)), images, labels)
    for number, mask in enumerate(drops(result)):
        assert tuple(mask.shape) == (1, 16)
        rows = result.update[f"hidden.{number}.linear.weight"].any(1)
        assert torch.equal(rows, mask[0].bool())
        assert 0 < int(rows.sum()) < 16


def drops(result: Played) -> list[Tensor]:
    return [value for name, value in result.drawn.items() if ":" not in name]


def sends_signs_of_the_mean_size(defense: Defense) -> None:
    update = an_update()
    sent = defense.on_update(update, turn=turn())
    for name, value in update.items():
        assert torch.equal(sent[name].sign(), value.sign())
        assert len(sent[name].abs().unique()) == 1
        assert float(sent[name].abs().max()) == pytest.approx(float(value.abs().mean()))
    assert not defense.on_update({"w": torch.zeros(3)}, turn=turn())["w"].any()


def rounds_to_levels_and_is_right_on_average(defense: Defense) -> None:
    update = an_update()
    sent = defense.on_update(update, turn=turn())
    steps = {name: value.norm() / 8 for name, value in update.items()}
    for name, value in sent.items():
        levels = value / steps[name]
        torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
        assert ((value - update[name]).abs() <= steps[name] * (1 + 1e-5)).all()
    many = torch.stack([flat(defense.on_update(update, turn=turn(seed))) for seed in range(400)])
    off = (many.mean(0) - flat(update))[:6400]
    assert float(off.abs().max()) < 5 * float(steps["layer.weight"]) * 0.5 / 20


def keeps_the_largest(defense: Defense) -> None:
    update = an_update()
    before, after = flat(update), flat(defense.on_update(update, turn=turn()))
    kept = after != 0
    assert len(before) == 6465
    assert int(kept.sum()) == 1293
    for entries, at_least in ((1, 1), (6, 2), (9, 2), (10, 2), (11, 3)):  # a fifth, rounded up
        few = defense.on_update({"w": 1.0 + torch.arange(entries)}, turn=turn())["w"]
        assert few.tolist() == [0.0] * (entries - at_least) + [1.0 + i for i in range(entries - at_least, entries)]
    assert torch.equal(after[kept], before[kept])
    assert before[kept].abs().min() >= before[~kept].abs().max()


def clips_each_sample_and_adds_noise(defense: Defense) -> None:
    model = defense.on_model(private_model(width=16))
    images, labels = a_batch()
    one_by_one = [plain_gradient(model, images[i : i + 1], labels[i : i + 1]) for i in range(3)]
    clipped = [flat(g) * min(1.0, 0.5 / float(flat(g).norm())) for g in one_by_one]
    assert min(float(flat(g).norm()) for g in one_by_one) > 0.5
    found = flat(played(defense, model, images, labels).update)
    noise = (found - sum(clipped) / 3) * 3
    assert noise.std() == pytest.approx(2.0 * 0.5, rel=0.05)
    assert torch.equal(found, flat(played(defense, model, images, labels).update))


def mixes_pairs(defense: Defense) -> None:
    images, labels = torch.rand(5, 1, 2, 2, generator=generator(1)), torch.tensor([0, 1, 2, 1, 0])
    seen = set()
    for seed in range(20):
        source = Sampling(lambda site, step, seed=seed: generator(seed + zlib.crc32(site.encode())))
        own = Turn(source.draw, part="mixup", classes=3)
        mixed, targets = defense.on_batch(images, labels, turn=own)
        weight, order = (source.drawn[f"mixup:{name}"] for name in ("weight", "permutation"))
        [share], seen_now = weight.tolist(), tuple(order.tolist())
        assert 0 <= share <= 1
        assert sorted(seen_now) == [0, 1, 2, 3, 4]
        for i, j in enumerate(seen_now):
            torch.testing.assert_close(mixed[i], share * images[i] + (1 - share) * images[j])
            expected = [share * (labels[i] == k) + (1 - share) * (labels[j] == k) for k in range(3)]
            torch.testing.assert_close(targets[i], torch.tensor([float(value) for value in expected]))
        seen.add(seen_now)
    assert len(seen) > 10
    assert Weight(0.2).sample(images, generator()) == Weight(0.2).sample(images, generator())
    for alpha in (0.2, 4.0):
        drawn = torch.stack([Weight(alpha).sample(images, generator(seed)) for seed in range(2000)])
        assert drawn.mean() == pytest.approx(0.5, abs=0.03)
        assert drawn.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


def cuts_a_rectangle_out_of_each_of_a_pair(defense: Defense) -> None:
    images, labels = torch.rand(5, 1, 9, 8, generator=generator(1)), torch.tensor([0, 1, 2, 1, 0])
    shares = []
    for seed in range(200):
        source = Sampling(lambda site, step, seed=seed: generator(seed + zlib.crc32(site.encode())))
        mixed, targets = defense.on_batch(images, labels, turn=Turn(source.draw, part="cutmix", classes=3))
        [own], order = source.drawn["cutmix:rectangle"], source.drawn["cutmix:permutation"].tolist()
        assert sorted(order) == [0, 1, 2, 3, 4]
        rows, columns = ((own == 0).any(dim) for dim in (1, 0))
        assert torch.equal(own == 0, rows[:, None] & columns[None, :])  # one rectangle, of zeros among ones
        assert set(own.unique().tolist()) <= {0.0, 1.0}
        for i, j in enumerate(order):
            assert torch.equal(mixed[i, 0], torch.where(own == 1, images[i, 0], images[j, 0]))
            one, other = (torch.eye(3)[labels[at]] for at in (i, j))
            torch.testing.assert_close(targets[i], own.mean() * one + (1 - own.mean()) * other)
        shares.append(float(own.mean()))
    assert 0.5 < torch.tensor(shares).mean() < 0.75  # half of the area, less what the border cuts off
    assert min(shares) < 0.3
    assert max(shares) == 1.0


def makes_images_noisy(defense: Defense) -> None:
    images, labels = torch.rand(4, 3, 20, 20, generator=generator(1)), torch.arange(4)
    noisy, same = defense.on_batch(images, labels, turn=turn(2))
    assert torch.equal(same, labels)
    assert (noisy - images).std() == pytest.approx(0.2, rel=0.05)
    assert abs((noisy - images).mean()) < 0.02


def adds_turned_copies(defense: Defense) -> None:
    images, labels = torch.rand(2, 3, 4, 4, generator=generator(1)), torch.tensor([5, 7])
    batch, targets = defense.on_batch(images, labels, turn=turn())
    assert len(batch) == 2 * defense.grows == 8
    assert targets.tolist() == [5, 7] * 4
    for place, image in enumerate(images):
        quarters = [image, *(torch.rot90(image, k, (1, 2)) for k in (1, 2, 3))]
        assert torch.equal(batch[place::2], torch.stack(quarters))
    assert torch.equal(defense.views(images, labels, turn=turn()), batch)
    flips, _ = defenses.create("oasis", add="flips").on_batch(images, labels, turn=turn())
    assert torch.equal(flips, torch.cat([images, images.flip(3), images.flip(2)]))
    both, same = defenses.create("oasis", add="rotations_and_shear").on_batch(images, F.one_hot(labels, 9), turn=turn())
    assert torch.equal(both[:8], batch)
    assert same.shape == (10, 9)
    line = torch.zeros(1, 1, 21, 21)
    line[..., 10] = 1.0
    _, sheared = defenses.create("oasis", add="shear").on_batch(line, labels[:1], turn=turn())[0]
    leaning = [float((row * torch.arange(21)).sum() / row.sum()) for row in sheared[0]]
    assert leaning == pytest.approx([10 - 0.55 * (row - 10) for row in range(21)], abs=1e-3)
    with pytest.raises(ValueError, match=r"^oasis: add = rotations is not for images of 4 x 3, which are not square$"):
        defense.on_batch(images[..., :3], labels, turn=turn())


def moves_images(defense: Defense) -> None:
    images, labels = torch.rand(300, 2, 6, 5, generator=generator(1)), torch.arange(300)
    moved, same = defense.on_batch(images, labels, turn=turn(2))
    assert same is labels
    assert torch.equal(defense.views(images, labels, turn=turn(2)), moved)
    met = set()
    framed = F.pad(images, [1] * 4, mode="replicate")
    ways = [(up, left, turned) for up in (0, 1, 2) for left in (0, 1, 2) for turned in (False, True)]
    for image, frame in zip(moved, framed):
        crops = [frame[:, up : up + 6, left : left + 5] for up, left, _ in ways]
        fits = [way for way, crop in zip(ways, crops) if torch.equal(image, crop.flip(2) if way[2] else crop)]
        assert len(fits) == 1
        met.update(fits)
    assert met == set(ways)
    resting = Turn(lambda name, site, x: site.rest(x))
    assert torch.equal(defense.on_batch(images, labels, turn=resting)[0], images)
    still = defenses.create("augmentation", shift=0, flip=False)
    assert still.refuses(Deployment(batch_size=8, clients=2, rounds=2)) == "augmentation: it neither shifts nor flips"


def conceals_by_a_sample_of_like_gradient(defense: Defense) -> None:
    """What is added to the update is a gradient of one image, unlike the client's, whose gradient is nearly its own."""
    model = private_model(width=16)
    images, labels = a_batch()
    image, label = images[:1], labels[:1]
    plain = plain_gradient(model, image, label)
    sent = played(defense, defense.on_model(model), image, label).update
    hidden = {name: 3 * value - plain[name] for name, value in sent.items()}
    first = hidden["hidden.0.linear.weight"]
    concealed = first.T @ hidden["hidden.0.linear.bias"] / hidden["hidden.0.linear.bias"].square().sum()
    torch.testing.assert_close(first, torch.outer(hidden["hidden.0.linear.bias"], concealed), rtol=1e-6, atol=1e-9)
    assert float((concealed - image.flatten()).norm()) > 0.5 * float(image.norm())
    one = defenses.create("dcs", iterations=60, mix=1.0)
    other = {name: 2 * value - plain[name] for name, value in played(one, model, image, label).update.items()}
    cosine = F.cosine_similarity(flat(other), flat(plain), dim=0)
    barely = defenses.create("dcs", iterations=1, mix=1.0)
    before = {name: 2 * value - plain[name] for name, value in played(barely, model, image, label).update.items()}
    assert cosine > F.cosine_similarity(flat(before), flat(plain), dim=0) + 0.1
    assert float(flat(sent) @ flat(plain)) > 0
    with pytest.raises(ValueError, match=r"^dcs: Conv2d has no linear layer"):
        defense.on_model(nn.Conv2d(1, 1, 1))


def mixes_several_under_random_signs(defense: Defense) -> None:
    """Without the signs, mixtures of the batch by weights that add up to 1, of which none is above a half."""
    images, labels = torch.rand(6, 1, 4, 5, generator=generator(1)) + 0.1, torch.tensor([0, 1, 2, 1, 0, 2])
    shares, flipped = [], []
    for seed in range(150):
        source = Sampling(lambda site, step, seed=seed: generator(seed + zlib.crc32(site.encode())))
        encoded, targets = defense.on_batch(images, labels, turn=Turn(source.draw, part="instahide", classes=3))
        found = torch.linalg.lstsq(images.flatten(1).T.double(), encoded.abs().flatten(1).T.double())
        torch.testing.assert_close(found.solution.sum(0), torch.ones(6, dtype=torch.float64), rtol=1e-4, atol=1e-4)
        assert found.solution.min() > -1e-4
        expected = found.solution.T.to(targets) @ F.one_hot(labels, 3).to(targets)
        torch.testing.assert_close(targets, expected, rtol=1e-3, atol=1e-3)
        shares.append(source.drawn["instahide:weights"])
        flipped.append((encoded < 0).float())
    weights = torch.cat(shares)
    assert weights.amax() <= 0.5
    assert weights.mean(0).tolist() == pytest.approx([1 / 3] * 3, abs=0.02)
    assert torch.stack(flipped).mean() == pytest.approx(0.5, abs=0.02)
    resting = Turn(lambda name, site, x: site.rest(x), classes=3)
    assert torch.equal(defense.on_batch(images, labels, turn=resting)[0], images)
    assert "nothing to be mixed with" in str(defense.refuses(Deployment(batch_size=1, clients=2, rounds=2)))


def transforms_by_a_policy(defense: Defense) -> None:
    """3-1-7: nine of twenty columns, a third of the contrast, two of twenty rows; 43-18-18: three rows, twice 39 %."""
    images, labels = torch.rand(64, 2, 20, 20, generator=generator(1)) + 0.5, torch.arange(64)
    seen, same = defense.on_batch(images, labels, turn=turn(2))
    assert same is labels
    assert torch.equal(defense.views(images, labels, turn=turn(2)), seen)

    def moved(image: Tensor, by: int, axis: int) -> Tensor:
        framed = F.pad(image, [20] * 4)
        return framed.narrow(axis, 20 + by, 20).narrow(3 - axis, 20, 20)

    def contrast(image: Tensor, factor: float) -> Tensor:
        return image.mean() + factor * (image - image.mean())

    met = set()
    for image, found in zip(images, seen):
        ways = {}
        for a in (-1, 1):
            for b in (-1, 1):
                for c in (-1, 1):
                    ways["3-1-7", a, b, c] = moved(contrast(moved(image, 9 * a, 2), 1 + b / 3), 2 * c, 1)
                    twice = contrast(contrast(moved(image, 3 * a, 1), 1 + b * 3.5 / 9), 1 + c * 3.5 / 9)
                    ways["43-18-18", a, b + c, b * c] = twice
        fits = [way for way, expected in ways.items() if torch.allclose(expected, found, atol=1e-5)]
        assert len(fits) == 1
        met.update(fits)
    assert len(met) == 8 + 2 * 3
    resting = Turn(lambda name, site, x: site.rest(x))
    assert torch.equal(defense.on_batch(images, labels, turn=resting)[0], images)


def shows_the_weighted_mean(defense: Defense) -> None:
    updates = [{"w": torch.tensor([1.0, -2.0])}, {"w": torch.tensor([4.0, 6.0])}, {"w": torch.tensor([0.0, 1.0])}]
    seen = defense.on_aggregate(updates, [1, 2, 1])
    assert seen["w"].tolist() == [9 / 4, 11 / 4]
    assert seen["w"].dtype == torch.float32
    assert not defense.declarative
    assert defense.aggregates


def acts_on_what_the_server_applies_alone(defense: Defense) -> None:
    update = an_update()
    assert defense.on_update(update, turn=turn()) == update
    assert defense.server_alone
    assert not defense.declarative
    received = flat(defense.on_received(update))
    assert received.norm() == pytest.approx(1.5)
    assert F.cosine_similarity(received, flat(update), dim=0) == pytest.approx(1.0)
    for weights, largest in (([1], 1.0), ([8, 8, 8, 8], 1 / 4), ([1, 3], 3 / 4)):
        noise = flat(defense.on_mean(update, weights, turn=turn(5))) - flat(update)
        assert noise.std() == pytest.approx(0.2 * 1.5 * largest, rel=0.05)
    normed = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    with pytest.raises(ValueError, match=r"^central_dp: layer '1' \(BatchNorm2d\) keeps statistics"):
        defense.on_model(normed)


def drops_weights(defense: Defense) -> None:
    plain, model = private_model("lenet"), defense.on_model(private_model("lenet"))
    assert list(model.state_dict()) == list(plain.state_dict())
    images, labels = a_batch()
    result = played(defense, model, images, labels)
    assert list(result.drawn) == ["features.0", "features.2", "features.4", "head"]
    masks = {name: value[0] for name, value in result.drawn.items()}
    assert flat(masks).mean() == pytest.approx(0.7, abs=0.02)
    state = {**plain.state_dict()}
    plain.load_state_dict(state | {f"{n}.weight": state[f"{n}.weight"] * mask / 0.7 for n, mask in masks.items()})
    expected = plain_gradient(plain, images, labels)
    expected |= {f"{name}.weight": expected[f"{name}.weight"] * mask / 0.7 for name, mask in masks.items()}
    torch.testing.assert_close(result.update, expected, rtol=1e-9, atol=1e-12)
    model.eval()
    torch.testing.assert_close(model(images), private_model("lenet").eval()(images))


def drops_branches(defense: Defense) -> None:
    keys = {"depth": 2, "width": 16, "heads": 2, "mlp": 16}
    plain, model = private_model("vit", **keys), defense.on_model(private_model("vit", **keys))
    assert list(model.state_dict()) == list(plain.state_dict())
    images, labels = a_batch()
    sites = [f"blocks.{i}.{branch}.stochastic_depth" for i in (0, 1) for branch in ("attention", "feed_forward")]
    assert [stochastic_layers(model)[site].p for site in sites] == [0.25, 0.25, 0.5, 0.5]
    met = set()
    for seed in range(4):
        state = {name: value.clone() for name, value in model.state_dict().items()}
        round = ClientRound(model=model, defense=defense)
        result = play(round, state, images, labels, partial(named_generator, str(seed)))
        assert list(result.drawn) == sites
        for site, bit in result.drawn.items():
            branch = site.removesuffix("stochastic_depth")
            gradients = [value for name, value in result.update.items() if name.startswith(branch)]
            assert all(bool(value.any()) == bool(bit) for value in gradients)
            met.add(bool(bit))
    assert met == {True, False}
    torch.testing.assert_close(model.eval()(images), plain.eval()(images))
    assert set(stochastic_layers(defense.on_model(private_model("resnet18", width=4)))) >= {
        f"stages.{stage}.{block}.norm2.stochastic_depth" for stage in range(4) for block in range(2)
    }
    with pytest.raises(ValueError, match="MLP has no residual block"):
        defense.on_model(private_model(width=16))


def draws_before_the_head(defense: Defense) -> None:
    model = defense.on_model(private_model(width=16))
    assert defense.adds_parameters
    assert model.state_dict().keys() > private_model(width=16).state_dict().keys()
    images, labels = a_batch()
    result = played(defense, model, images, labels)
    [(site, drawn)] = result.drawn.items()
    assert (site, drawn.shape) == ("head.bottleneck.code", (3, 8))
    box, hidden = model.get_submodule("head.bottleneck"), model.get_submodule("hidden")(images.flatten(1))
    mu, log_variance = box.encoder(hidden).chunk(2, dim=1)
    decoded = box.decoder(mu + drawn * (log_variance / 2).exp())
    logits = F.linear(decoded, model.get_parameter("head.weight"), model.get_parameter("head.bias"))
    own, unit = (torch.distributions.Normal(*pair) for pair in ((mu, (log_variance / 2).exp()), (0.0, 1.0)))
    divergence = torch.distributions.kl_divergence(own, unit).sum(1).mean()
    loss = F.cross_entropy(logits, labels) + 0.5 * divergence
    named = dict(model.named_parameters())
    expected = torch.autograd.grad(loss, list(named.values()))
    torch.testing.assert_close(list(result.update.values()), list(expected), rtol=1e-9, atol=1e-12)
    kept = defense.selection(result.update)
    assert kept is not None
    left_out = {name for name, mask in kept.items() if not mask.any()}
    assert left_out == {"head.weight", "head.bias", "head.bottleneck.decoder.weight", "head.bottleneck.decoder.bias"}
    with pytest.raises(ValueError, match="Flatten has no linear layer"):
        defense.on_model(nn.Flatten())


def draws_behind_the_first_convolution(defense: Defense) -> None:
    model = defense.on_model(private_model("lenet"))
    assert defense.adds_parameters
    assert model.state_dict().keys() > private_model("lenet").state_dict().keys()
    images, labels = a_batch()
    result = played(defense, model, images, labels)
    [(site, drawn)] = result.drawn.items()
    assert (site, drawn.shape) == ("features.1.cvb.code", (3, 6, 8, 8))
    box = model.get_submodule("features.1.cvb")
    seen = torch.sigmoid(model.get_submodule("features.0")(images))
    mu, said = F.conv2d(seen, box.encoder.weight, padding=2).chunk(2, dim=1)
    assert box.encoder.weight.shape == (12, 12, 5, 5)
    sigma = F.softplus(said.clamp(-5, 5))
    decoded = F.conv2d(mu + drawn * sigma, box.decoder.weight)
    logits = model.get_submodule("head")(model.get_submodule("features")[2:](decoded).flatten(1))
    own, unit = (torch.distributions.Normal(*pair) for pair in ((mu, sigma), (0.0, 1.0)))
    divergence = torch.distributions.kl_divergence(own, unit).sum(1).mean()
    named = dict(model.named_parameters())
    expected = torch.autograd.grad(F.cross_entropy(logits, labels) + 0.5 * divergence, list(named.values()))
    torch.testing.assert_close(list(result.update.values()), list(expected), rtol=1e-9, atol=1e-12)
    kept = defense.selection(result.update)
    assert {name for name, mask in kept.items() if mask.all()} == {
        "features.0.weight", "features.0.bias", "features.1.cvb.encoder.weight",
    }  # fmt: skip
    assert sum(bool(mask.any()) for mask in kept.values()) == 3
    assert defense.selection({"head.weight": torch.zeros(2)}) is None
    residual = defense.on_model(private_model("resnet18", width=4, norm="group"))
    assert list(stochastic_layers(residual)) == ["stem.2.cvb.code", "dropout"]
    assert residual.get_submodule("stem.2.cvb.decoder").weight.shape == (4, 8, 1, 1)  # 8 of fewer than 8
    with pytest.raises(ValueError, match="MLP has no two convolutions"):
        defense.on_model(private_model(width=16))


@dataclass
class Row:
    """What is demanded of a defense, here and of the client's round (`test_clients_round.py`).

    Args:
        parameters: with which it is tried.
        outcome: what it must achieve with them.
        refused: the values that it must refuse, one at a time.
        models: those of `MODELS` of `test_clients_round.py` that it can handle, where it is not all of them.
    """

    parameters: dict[str, Any]
    outcome: Callable[[Defense], None]
    refused: list[dict[str, Any]]
    models: Sequence[str] = ()


WITH_DROPOUT = ["mlp", "convolutional", "attentive"]
"""The models that have a dropout layer."""

NO_RATES: list[dict[str, Any]] = [{"p": 1.0}, {"p": -0.1}, {"p": math.nan}]

TABLE = {
    "none": Row({}, changes_nothing, []),
    "dropout": Row({"p": 0.3}, sets_the_rate, [{"p": 1.0}, {"p": -0.1}, {"p": math.nan}]),
    "batch_size": Row({"size": 3}, sets_the_batch_size, [{"size": 0}, {"size": 1.5}, {"size": True}]),
    "local_steps": Row({"steps": 3}, sets_the_steps_and_shares_weights, [{"steps": 0}, {"steps": 1.5}]),
    "clip": Row({"norm": 1.5}, bounds_the_norm, [{"norm": 0}, {"norm": -1.0}, {"norm": math.inf}]),
    "gaussian_noise": Row({"std": 0.1}, adds_noise_of_its_std, [{"std": -1e-3}, {"std": math.nan}]),
    "laplace_noise": Row({"scale": 0.1}, adds_laplace_noise_of_its_scale, [{"scale": -1e-3}, {"scale": math.nan}]),
    "random_sparsification": Row({"keep": 0.2}, keeps_a_random_share, [{"keep": 0}, {"keep": 1.1}]),
    "partial_perturbation": Row({"std": 3.0}, perturbs_the_first_layer_alone, [{"std": -1e-3}, {"std": math.nan}]),
    "local_dp": Row(
        {"clipping_norm": 1.5, "sensitivity": 0.5, "epsilon": 0.8, "delta": 1e-4},
        clips_and_adds_the_noise_of_a_budget,
        [{"clipping_norm": 0}, {"sensitivity": -1.0}, {"epsilon": 0}, {"delta": 0}, {"delta": 1}],
    ),
    "soteria": Row({"prune": 0.25}, prunes_where_the_representation_says_most, [{"prune": 1.0}, {"prune": -0.1}]),
    "gradient_dropout": Row(
        {"p": 0.3, "std": 0.2}, replaces_entries_by_noise, [{"p": 1.0}, {"p": -0.1}, {"std": -1.0}, {"std": math.nan}]
    ),
    "censor": Row({"trials": 5}, sends_the_least_harmful_orthogonal_update, [{"trials": 0}]),
    "outpost": Row(
        {"decay": 0.5},
        prunes_and_perturbs_more_rarely_each_round,
        [{"decay": -0.1}, {"share": 0}, {"share": 1.1}, {"prune": 1.0}, {"noise": -1.0}, {"noise": math.nan}],
    ),
    "svdefense": Row({"energy": 0.6}, keeps_the_largest_singular_values, [{"energy": 0}, {"energy": 1.1}]),
    "training_randomness": Row(
        {"p": 0.4, "std": 0.01},
        drops_units_and_hides_which,
        [{"p": 1.0}, {"p": -0.1}, {"std": -1.0}, {"std": math.nan}, {"per": "channel"}],
        models=WITH_DROPOUT,
    ),
    "sign": Row({}, sends_signs_of_the_mean_size, []),
    "quantization": Row({"levels": 8}, rounds_to_levels_and_is_right_on_average, [{"levels": 0}]),
    "pruning": Row({"keep": 0.2}, keeps_the_largest, [{"keep": 0}, {"keep": 1.1}]),
    "dp_sgd": Row(
        {"noise_multiplier": 2.0, "max_grad_norm": 0.5},
        clips_each_sample_and_adds_noise,
        [{"noise_multiplier": -1.0}, {"max_grad_norm": 0}, {"delta": 0}, {"delta": 1}],
    ),
    "cutmix": Row({"alpha": 1.0}, cuts_a_rectangle_out_of_each_of_a_pair, [{"alpha": 0}, {"alpha": math.nan}]),
    "dcs": Row(
        {"iterations": 60},
        conceals_by_a_sample_of_like_gradient,
        [{"iterations": 0}, {"learning_rate": 0}, {"mix": 1.5}, {"apart": -1}, {"alike": math.inf}],
    ),
    "instahide": Row(
        {"k": 3, "most": 0.5}, mixes_several_under_random_signs, [{"k": 0}, {"k": 1.5}, {"most": 0.25}, {"most": 1.1}]
    ),
    "ats": Row({}, transforms_by_a_policy, [{"policy": "3-1-2"}, {"policy": ""}, {"policy": "3-1+7"}]),
    "input_noise": Row({"std": 0.2}, makes_images_noisy, [{"std": -0.1}, {"std": math.inf}]),
    "oasis": Row({"add": "rotations"}, adds_turned_copies, [{"add": "colours"}]),
    "augmentation": Row({"shift": 1}, moves_images, [{"shift": -1}, {"shift": 1.5}]),
    "mixup": Row({"alpha": 0.5}, mixes_pairs, [{"alpha": 0}, {"alpha": -1.0}, {"alpha": math.inf}]),
    "secure_aggregation": Row({}, shows_the_weighted_mean, []),
    "central_dp": Row(
        {"noise_multiplier": 0.2, "clipping_norm": 1.5},
        acts_on_what_the_server_applies_alone,
        [{"noise_multiplier": -1.0}, {"noise_multiplier": math.nan}, {"clipping_norm": 0}, {"delta": 0}, {"delta": 1}],
    ),
    "stochastic_depth": Row(
        {"p": 0.5}, drops_branches, [{"p": 1.0}, {"p": -0.1}, {"p": math.nan}, {"per": "channel"}], models=["residual"]
    ),
    "precode": Row({"size": 8, "beta": 0.5}, draws_before_the_head, [{"size": 0}, {"beta": -0.1}, {"beta": math.nan}]),
    "cvb": Row(
        {"beta": 0.5},
        draws_behind_the_first_convolution,
        [{"size": 0}, {"kernel": 4}, {"kernel": 0}, {"beta": -0.1}, {"beta": math.nan}],
        models=["convolutional"],
    ),
    "dropconnect": Row({"p": 0.3}, drops_weights, NO_RATES),
    "spatial_dropout": Row({"p": 0.3}, relatives.drops_channels, NO_RATES, models=["convolutional"]),
    "gaussian_dropout": Row({"p": 0.3}, relatives.multiplies_units, NO_RATES, models=WITH_DROPOUT),
    "dropblock": Row(
        {"p": 0.3, "block": 2}, relatives.drops_squares, [*NO_RATES, {"block": 0}, {"block": 1.5}, {"rising": -1}],
        models=["convolutional"],
    ),
    "attention_drop": Row(
        {"p": 0.3}, relatives.attends_to_fewer, [*NO_RATES, {"drop": "queries"}, {"scale": "columns"}],
        models=["explicit"],
    ),
    "token_dropout": Row(
        {"p": 0.3}, relatives.takes_tokens_out, [*NO_RATES, {"first": -1}, {"first": 0.5}], models=["explicit"]
    ),
    "scheduled_dropout": Row(
        {"p": 0.3, "until": 2}, relatives.changes_with_the_round, [*NO_RATES, {"when": "never"}, {"until": 0}],
        models=WITH_DROPOUT,
    ),
    "concrete_dropout": Row(
        {"p": 0.3, "temperature": 0.2, "decay": 0.01, "entropy": 0.001},
        relatives.learns_rates,
        [*NO_RATES, {"p": 0.0}, {"temperature": 0.0}, {"decay": -1.0}, {"entropy": math.nan}],
        models=["mlp", "convolutional", "attentive", "explicit", "residual"],
    ),
    "lora_dropout": Row(
        {"p": 0.3, "rank": 2, "alpha": 4.0}, relatives.trains_adapters, [*NO_RATES, {"rank": 0}, {"alpha": 0.0}]
    ),
    "nested_dropout": Row({"p": 0.1}, relatives.ends_vectors, NO_RATES),
    "mixout": Row({"p": 0.3}, relatives.mixes_weights, NO_RATES),
    "multi_sample_dropout": Row(
        {"p": 0.3, "samples": 4}, relatives.averages_losses, [*NO_RATES, {"samples": 1}, {"samples": 2.5}]
    ),
    "smoe_dropout": Row(
        {"experts": 4, "least": 2, "rising": 4},
        relatives.routes_to_experts,
        [{"experts": 1}, {"experts": 2.5}, {"least": 0}, {"least": 17}, {"rising": -1}],
        models=["residual"],
    ),
    "sensitive_neuron_dropout": Row(
        {"share": 0.25, "window": 3},
        relatives.drops_what_varied,
        [{"share": 1.0}, {"share": -0.1}, {"share": math.nan}, {"window": 1}, {"window": 2.5}],
    ),
    "layerdrop": Row({"p": 0.4}, relatives.skips_blocks, [*NO_RATES, {"per": "channel"}], models=["residual"]),
}


def test_the_table_has_every_defense():
    assert defenses.names() == sorted(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_it_achieves_its_outcome(name):
    TABLE[name].outcome(defenses.create(name, **TABLE[name].parameters))


@pytest.mark.parametrize("name", TABLE)
def test_it_keeps_names_shapes_and_types_and_spares_its_input(name):
    update = an_update()
    copy = {key: value.clone() for key, value in update.items()}
    result = defenses.create(name, **TABLE[name].parameters).on_update(update, turn=turn())
    assert [(k, v.shape, v.dtype) for k, v in result.items()] == [(k, v.shape, v.dtype) for k, v in copy.items()]
    assert all(torch.equal(update[key], copy[key]) for key in copy)


@pytest.mark.parametrize("name", TABLE)
def test_it_says_whether_the_state_that_is_sent_has_more_than_the_model(name):
    defense = defenses.create(name, **TABLE[name].parameters)
    more = False
    for kind in relatives.KEYS:
        plain = relatives.model(kind)
        before = set(plain.state_dict())
        try:
            more |= set(defense.on_model(plain).state_dict()) != before
        except ValueError:
            continue  # a model that it refuses
    assert more == defense.adds_parameters


@pytest.mark.parametrize(
    ("name", "parameters"), [(name, parameters) for name, row in TABLE.items() for parameters in row.refused]
)
def test_values_out_of_range_are_refused_in_one_line(name, parameters):
    [(key, value)] = parameters.items()
    with pytest.raises(ValueError, match=f"^{name}: {key} = {re.escape(str(value))} is not [^\n]+$"):
        defenses.create(name, **parameters)


def test_a_composition_applies_its_parts_in_order():
    specs = [{"name": "clip", "norm": 1.0}, {"name": "pruning", "keep": 0.1}, {"name": "dropout", "p": 0.2}]
    composed = defenses.compose(specs)
    update = an_update()
    step = update
    for spec in specs[:2]:
        step = defenses.compose([spec]).on_update(step, turn=turn())
    assert torch.equal(flat(composed.on_update(update, turn=turn())), flat(step))
    assert composed.model_overrides() == {"dropout": 0.2}
    assert not composed.declarative
    with pytest.raises(ValueError, match="dp_sgd and dp_sgd"):
        defenses.compose([{"name": "dp_sgd"}, {"name": "dp_sgd"}])


@pytest.mark.parametrize("size", [0.5, 5.0])
def test_clip_can_be_differentiated_through_and_mapped(size):
    """An attacker that knows the defense replays it under torch.func, many victims at once."""
    clip, own = defenses.create("clip", norm=1.0), turn()

    def first(value: Tensor) -> Tensor:
        return clip.on_update({"a": value, "b": value[:1]}, turn=own)["a"][0]

    values = torch.tensor([[3.0, 4.0], [0.6, 0.8]], dtype=torch.float64) * size
    found = torch.func.vmap(torch.func.grad(first))(values)
    step = 1e-6 * torch.eye(2, dtype=torch.float64)
    expected = [[float(first(value + h) - first(value - h)) / 2e-6 for h in step] for value in values]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-8)


def test_defenses_and_the_contracts_of_attacks_need_only_torch():
    """They import, and build every defense, in a process where the simulator's dependencies are blocked."""
    code = """
import sys
for blocked in ("flwr", "ray", "opacus", "pydantic", "ruamel", "fedsim"):
    sys.modules[blocked] = None
import attacks.base, attacks.observation, defenses, defenses.stochastic
assert [defenses.create(name).name for name in defenses.names()] == defenses.names()
print("alone")
"""
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "alone", result.stderr


