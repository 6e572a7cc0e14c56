"""Epochs in an order that nobody tells: images of their own for each, and what they are made into."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import attacks
from attacks import LocalTraining, NotApplicable, Observation, Reconstruction, ThreatModel
from attacks.evaluators.general import General
from attacks.facts import Facts
from attacks.objectives import Euclidean, RelativeEuclidean
from attacks.passes import Passes, once
from attacks.priors import SameImages
from attacks.twin import attacker_copy
from attacks.unknowns import ALONG
from attacks.updates import displacement
from defenses.client.optimizers.adamw import AdamW
from defenses.client.optimizers.sgd import SGD
from defenses.client.round import ORDER, ClientRound, play, replay
from defenses.stochastic import Dropout


def net(rate: float = 0.0) -> nn.Module:
    torch.manual_seed(1)
    layers = [nn.Flatten(), nn.Linear(16, 24), nn.Sigmoid(), Dropout(rate), nn.Linear(24, 3)]
    return nn.Sequential(*layers).double()


def played(*, images: int = 5, batch: int = 2, epochs: int = 3, rate: float = 0.0, rounds: LocalTraining | None = None):
    """A client that goes through its images in epochs, and what it drew."""
    torch.manual_seed(0)
    model = net(rate)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    x, y = torch.rand(images, 1, 4, 4, dtype=torch.float64), torch.arange(images) % 3
    local = rounds or LocalTraining(epochs=epochs, learning_rate=0.05)
    round = ClientRound(model=model, local=local, share="delta", batch_size=batch)
    done = play(round, state, x, y, lambda site, step: torch.Generator().manual_seed(7 + step))
    seen = Observation(
        state=state, update=done.update, kind="delta", input_shape=(1, 4, 4), classes=3, mean=(0.0,), std=(1.0,),
        batch_size=batch, examples=images, local=local, labels=y,
    )  # fmt: skip
    return round, seen, x, y, done


@pytest.mark.parametrize(("images", "batch", "epochs"), [(5, 2, 3), (4, 4, 2), (3, 1, 1)])
@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_the_images_of_each_epoch_in_its_order_explain_the_update(images, batch, epochs, rate):
    round, seen, x, y, done = played(images=images, batch=batch, epochs=epochs, rate=rate)
    drawn = dict(done.drawn)
    order = drawn.pop(ORDER)
    assert len(order) == images * epochs
    twin = attacker_copy(net(rate), seen.state)
    apart = ClientRound(model=twin, local=Passes.of(round.local), share="delta", batch_size=batch)
    again = replay(apart, seen.state, x[order], y[order], drawn)
    for name, value in seen.update.items():
        torch.testing.assert_close(again.update[name], value, rtol=0, atol=1e-12)


def test_a_gradient_along_the_update_is_that_of_a_model_there():
    torch.manual_seed(2)
    model = net()
    problems, x, y = 2, torch.rand(2, 3, 1, 4, 4, dtype=torch.float64), torch.randint(3, (2, 3))
    observed = {n: torch.randn(problems, *p.shape, dtype=torch.float64) for n, p in model.named_parameters()}
    along = torch.tensor([[-0.3] * 4, [0.05] * 4], dtype=torch.float64)  # one for each of the four parameters
    twin = attacker_copy(model, model.state_dict())
    evaluator = General(ClientRound(model=twin), Euclidean(), observed)
    losses, slopes = evaluator({"images": x, "labels": y, ALONG: along}, ["images", ALONG])
    for problem in range(problems):

        def distance(way: float, problem: int = problem) -> float:
            there = net()
            with torch.no_grad():
                for name, parameter in there.named_parameters():
                    parameter.copy_(dict(model.named_parameters())[name] + way * observed[name][problem])
            nn.functional.cross_entropy(there(x[problem]), y[problem]).backward()
            found = {name: parameter.grad for name, parameter in there.named_parameters()}
            return float(sum((found[name] - observed[name][problem]).square().sum() for name in found))

        way, step = float(along[problem, 0]), 1e-5
        assert losses[problem].item() == pytest.approx(distance(way), rel=1e-10)
        slope = (distance(way + step) - distance(way - step)) / (2 * step)
        assert slopes[ALONG][problem].sum().item() == pytest.approx(slope, rel=1e-5)


def test_a_displacement_is_what_equal_gradients_would_do():
    _, seen, *_ = played(rounds=LocalTraining(epochs=2, learning_rate=0.05, optimizer=SGD(momentum=0.5)))
    steps, moved, velocity = 6, 0.0, 0.0  # five images in twos, twice
    for _ in range(steps):
        velocity = 0.5 * velocity + 1
        moved -= 0.05 * velocity
    assert displacement(seen) == pytest.approx(dict.fromkeys(seen.update, moved), rel=1e-12)


def test_a_relative_distance_is_the_distance_over_the_norm():
    inner, ours, theirs = (torch.rand(4, 3, dtype=torch.float64) for _ in range(3))
    expected = Euclidean()(inner, ours, theirs) / theirs.sum(1)
    torch.testing.assert_close(RelativeEuclidean()(inner, ours, theirs), expected)


def passes_of(images: Tensor, labels: Tensor, orders: list[list[int]]) -> tuple[Tensor, Tensor]:
    return torch.cat([images[order] for order in orders]), torch.cat([labels[order] for order in orders])


ORDERS = [[0, 1, 2, 3], [2, 0, 3, 1], [3, 2, 1, 0]]


@pytest.mark.parametrize("by", ["mean", "nearest"])
def test_passes_with_the_same_images_agree_in_any_order(by):
    torch.manual_seed(3)
    images, labels = torch.rand(4, 1, 3, 3), torch.tensor([0, 0, 1, 2])
    prior = SameImages(2.0, 3, by)
    together, named = passes_of(images, labels, ORDERS)
    same = {"images": together[None], "labels": named[None]}
    assert prior(same, Facts()).item() == pytest.approx(0, abs=1e-6)
    other = {"images": torch.rand(1, 12, 1, 3, 3), "labels": named[None]}
    assert prior(other, Facts()).item() > 0.01
    alone = {"images": images[None], "labels": labels[None]}
    assert SameImages(2.0, 1, by)(alone, Facts()).item() == 0


def test_the_nearest_image_is_one_of_the_same_label():
    images = torch.rand(1, 8, 1, 3, 3)
    labels = torch.tensor([[0, 1, 1, 2, 1, 0, 2, 1]])
    expected = []
    for here, there in ((0, 4), (4, 0)):  # two passes of four: each is compared with the other
        for mine, yours in ((here, there), (there, here)):
            for i in range(4):
                same = [j for j in range(4) if labels[0, mine + i] == labels[0, yours + j]]
                apart = [(images[0, mine + i] - images[0, yours + j]).square().mean() for j in same]
                expected.append(torch.stack(apart).min())
    found = SameImages(0.5, 2)({"images": images, "labels": labels}, Facts())
    assert found.item() == pytest.approx(0.5 * float(torch.stack(expected).mean()), rel=1e-5)


def test_passes_are_matched_and_averaged():
    torch.manual_seed(4)
    images, labels = torch.rand(4, 1, 3, 3), torch.tensor([0, 0, 1, 2])
    together, named = passes_of(images, labels, ORDERS)
    off = 0.01 * torch.randn_like(together)
    answer = once(Reconstruction(images=together + off, labels=named, loss=0.0), 3)
    errors = off.unflatten(0, (3, 4))
    mine = [[order.index(i) for order in ORDERS] for i in range(4)]
    expected = torch.stack([images[i] + sum(errors[e][mine[i][e]] for e in range(3)) / 3 for i in range(4)])
    torch.testing.assert_close(answer.images, expected)
    assert answer.labels.tolist() == labels.tolist()


def test_images_of_another_label_are_not_matched():
    images = torch.stack([torch.zeros(1, 2, 2), torch.ones(1, 2, 2)])
    together = torch.cat([images, images])  # the second pass has the labels the other way round
    answer = once(Reconstruction(images=together, labels=torch.tensor([0, 1, 1, 0]), loss=0.0), 2)
    torch.testing.assert_close(answer.images, torch.full((2, 1, 2, 2), 0.5))


@pytest.mark.parametrize("name", ["fedavg_inversion", "surrogate_model"])
@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_an_unknown_order_is_no_hindrance(name, rate):
    _, seen, x, *_ = played(images=4, batch=2, epochs=2, rate=rate)
    attack = attacks.create(name, iterations=5)
    answer = attack(seen, ThreatModel(), net(rate))
    assert answer.images.shape == x.shape
    assert sorted(answer.labels.tolist()) == sorted(seen.labels.tolist())
    with pytest.raises(NotApplicable, match="order in which the client's epochs"):
        attacks.create("inverting_gradients", iterations=5)(seen, ThreatModel(), net(rate))
    assert (answer.noise is not None) == bool(rate)


@pytest.mark.parametrize("name", ["fedavg_inversion", "surrogate_model"])
def test_labels_may_be_unknown(name):
    _, seen, x, *_ = played(images=4, batch=2, epochs=2)
    answer = attacks.create(name, iterations=5)(seen, ThreatModel(labels="unknown"), net())
    assert answer.images.shape == x.shape
    assert answer.labels.shape == (4,)


def test_snapshots_show_each_image_once():
    _, seen, *_ = played(images=4, batch=2, epochs=2)
    attack = attacks.create("fedavg_inversion", iterations=20)
    attack.record_every = 10
    answer = attack(seen, ThreatModel(), net())
    assert answer.snapshots.images.shape == (2, 4, 1, 4, 4)


def test_another_coupling_is_refused():
    with pytest.raises(ValueError, match="coupling = 'max' is neither nearest nor mean"):
        attacks.create("fedavg_inversion", coupling="max")


def test_one_gradient_stands_for_no_steps_of_adam():
    _, seen, *_ = played(rounds=LocalTraining(steps=5, learning_rate=0.01, optimizer=AdamW()), batch=1)
    with pytest.raises(NotApplicable, match="adamw does not add up gradients"):
        attacks.create("surrogate_model", iterations=5)(seen, ThreatModel(), net())


def test_examples_must_be_counted():
    _, seen, *_ = played()
    unknown = Observation(**{**{f: getattr(seen, f) for f in seen.__dataclass_fields__}, "examples": None})
    for name in ("fedavg_inversion", "surrogate_model"):
        with pytest.raises(NotApplicable, match="how many examples"):
            attacks.create(name, iterations=5)(unknown, ThreatModel(), net())
