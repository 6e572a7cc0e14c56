"""DLG finds images and labels together, without being told any label."""

from collections.abc import Sequence

import pytest
import torch
from attack_victims import observe, psnr
from torch import Tensor, nn

import attacks
from attacks import LocalTraining, Observation, ThreatModel
from attacks.evaluators import choose
from attacks.objectives import Euclidean
from attacks.seeds import generator_for
from attacks.twin import simulate
from defenses.client.round import ClientRound

UNLABELLED = ThreatModel(labels="unknown")


def victim(
    labels: Sequence[int] = (2,), *, client: int = 0, local: LocalTraining | None = None
) -> tuple[nn.Module, Tensor, Observation]:
    """A small net of sigmoids in float64, images (B, 1, 8, 8) with mean and deviation 0.5, and no granted labels."""
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.Sigmoid(), nn.Conv2d(6, 6, 3, stride=2, padding=1), nn.Sigmoid(),
        nn.Flatten(), nn.Linear(96, 4),
    ).double()  # fmt: skip
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -0.5, 0.5)
    torch.manual_seed(client)
    images = torch.rand(len(labels), 1, 8, 8, dtype=torch.float64) * 2 - 1
    observation = observe(
        model, images, torch.tensor(labels), mean=(0.5,), std=(0.5,), classes=4, client=client, local=local
    )
    object.__setattr__(observation, "labels", None)
    return model, images, observation


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("label", [0, 2])
def test_image_and_label_are_found(label: int, dtype: torch.dtype) -> None:
    model, images, observation = victim([label], client=label)
    result = attacks.create("dlg", iterations=400, restarts=4)(observation, UNLABELLED, model.to(dtype))
    assert psnr(result.images, images, 0.5) >= 30
    assert result.labels.tolist() == [label]
    assert 0 <= result.loss < 1e-6


def test_in_float32_the_loss_is_the_distance_down_to_its_last_digits() -> None:
    model, images, observation = victim()
    model, images = model.float(), images.float()
    near = images + 1e-6 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    update = {name: value.float()[None] for name, value in observation.update.items()}
    guess = {"images": near[None], "labels": torch.tensor([[2]])}
    [loss], _ = choose(ClientRound(model=model), Euclidean(), update, guess, ["images"])(guess, ["images"])
    simulated = simulate(model, dict(model.state_dict()), near, guess["labels"][0])
    distance = sum((simulated[name].double() - update[name][0].double()).square().sum() for name in update)
    torch.testing.assert_close(loss, distance, rtol=1e-2, atol=0)


def test_the_steps_of_pytorchs_lbfgs_on_images_and_logits() -> None:
    model, _, observation = victim([1, 3])
    steps, iterates = 25, []
    attack = attacks.create("dlg", iterations=steps, memory=10)
    attack.watch = lambda iteration, problems, guess: iterates.append({n: v[0].clone() for n, v in guess.items()})
    attack(observation, UNLABELLED, model)

    def drawn(name: str, *shape: int) -> Tensor:
        generator = generator_for(0, name, round=observation.round, client=observation.client, restart=0)
        return torch.randn(shape, generator=generator).double().requires_grad_()

    images, logits = drawn("images", 2, 1, 8, 8), drawn("labels", 2, 4)
    optimiser = torch.optim.LBFGS([images, logits], max_iter=1, history_size=10, tolerance_grad=0, tolerance_change=0)
    parameters = list(model.parameters())

    def closure() -> Tensor:
        optimiser.zero_grad()
        entropy = -(logits.softmax(1) * model(images).log_softmax(1)).sum(1).mean()
        gradient = torch.autograd.grad(entropy, parameters, create_graph=True)
        loss = sum((g - seen).square().sum() for g, seen in zip(gradient, observation.update.values(), strict=True))
        loss.backward()
        return loss

    for iterate in iterates:
        torch.testing.assert_close(iterate["images"], images.detach(), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(iterate["labels"], logits.detach().softmax(1), rtol=1e-6, atol=1e-6)
        optimiser.step(closure)
    assert len(iterates) == steps
    assert (iterates[-1]["labels"] - iterates[0]["labels"]).abs().max() > 0.1


def test_granted_labels_are_not_used() -> None:
    model, _, observation = victim()
    attack = attacks.create("dlg", iterations=20)
    without = attack(observation, UNLABELLED, model)
    object.__setattr__(observation, "labels", torch.tensor([0]))
    for known in ("known", "inferred"):
        told = attack(observation, ThreatModel(labels=known), model)  # type: ignore[arg-type]
        assert torch.equal(told.images, without.images)
        assert torch.equal(told.labels, without.labels)


def test_it_starts_where_it_is_told() -> None:
    model, images, observation = victim()
    attack = attacks.create("dlg", iterations=30, restarts=2)
    attack.warm_start = lambda observation: {"images": images, "labels": 20 * torch.eye(4)[[2]]}
    result = attack(observation, UNLABELLED, model)
    assert psnr(result.images, images, 0.5) >= 60
    assert result.labels.tolist() == [2]
    assert result.iterations < 10


def test_its_iterations_can_be_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda graph, **options: graph)  # the traced graph itself, run as it is
    model, _, observation = victim()
    found = []
    for compile in ("never", "always"):
        attack = attacks.create("dlg", iterations=20, memory=3)
        attack.compile = compile
        found.append(attack(observation, UNLABELLED, model))
    assert "compiled" in found[1].details
    torch.testing.assert_close(found[0].images, found[1].images, rtol=0, atol=1e-8)
    assert found[0].loss == pytest.approx(found[1].loss, rel=1e-6)


def test_the_labels_of_several_local_steps() -> None:
    model, images, observation = victim([0, 1, 2, 3], local=LocalTraining(steps=2))
    first, last = (attacks.create("dlg", iterations=n)(observation, UNLABELLED, model) for n in (1, 60))
    assert last.images.shape == images.shape
    assert last.labels.shape == (4,)
    assert last.loss < 0.1 * first.loss
