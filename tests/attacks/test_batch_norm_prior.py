"""The batch-norm prior: what enters each layer, problem by problem, in both evaluators, train and eval mode."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import pytest
import torch
from evaluator_problems import problem
from torch import Tensor, nn

import attacks
from attacks import LocalTraining, NotApplicable, Observation, ThreatModel
from attacks.base import Reconstruction
from attacks.batch_norm import BatchNormStatistics
from attacks.evaluators import Beliefs, Evaluator, choose
from attacks.evaluators.general import General
from attacks.evaluators.ghost import Ghost
from attacks.objectives import Cosine, Distances
from attacks.twin import attacker_copy, client_round
from defenses.client.round import ClientRound, play

MODES: tuple[Literal["train", "eval"], ...] = ("train", "eval")


def net() -> nn.Module:
    """Two batch norms in float64 that have seen a few batches; images of (2, 4, 4), three classes."""
    torch.manual_seed(1)
    first = [nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.Conv2d(4, 3, 2, stride=2)]
    model = nn.Sequential(*first, nn.BatchNorm2d(3, momentum=0.3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)).double()
    for _ in range(3):
        model(torch.randn(6, 2, 4, 4, dtype=torch.float64) + 0.5)
    return model


def seen(
    model: nn.Module, images: Tensor, *, local: LocalTraining | None = None, mode: str = "train", client: int = 0
) -> Observation:
    """What a server sees of a client's round, buffers included."""
    own = copy.deepcopy(model).train(mode == "train")
    steps = local.steps if local else 1
    labels = torch.arange(len(images)) % 3
    state = {name: value.clone() for name, value in own.state_dict().items()}
    round = ClientRound(model=own, local=local or LocalTraining(), share="delta" if local else "gradient")
    played = play(round, state, images, labels, lambda site, step: torch.Generator().manual_seed(0))
    return Observation(
        state=state,
        update=played.update,
        buffers=played.buffers,
        kind="delta" if local else "gradient",
        precision="float64",
        input_shape=(2, 4, 4),
        classes=3,
        mean=(0.5, 0.5),
        std=(0.5, 0.5),
        batch_size=len(images) // steps,
        local=local or LocalTraining(),
        labels=labels,
        client=client,
    )


def judged(evaluator: Evaluator, guess: dict[str, Tensor], weight: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    return evaluator.judge(evaluator.data, guess, ["images"], weight)


def beliefs(twin: nn.Module, taken: Sequence[dict[str, Tensor]], **options: object) -> Beliefs:
    prior = BatchNormStatistics(0.7, twin, **{"steps": 1, "of": "running", **options})  # type: ignore[arg-type]
    return Beliefs([prior], {name: torch.stack([one[name] for one in taken]) for name in taken[0]})


def targets(problems: int) -> list[dict[str, Tensor]]:
    """Other statistics for each problem: a mix-up of problems would show."""
    generator = torch.Generator().manual_seed(5)

    def drawn(channels: int) -> Tensor:
        return torch.rand(channels, generator=generator, dtype=torch.float64) + 0.5

    one = torch.ones(1, dtype=torch.float64)
    return [
        {
            f"{path}:{what}": value
            for path, channels in (("1", 4), ("4", 3))
            for what, value in (("mean", drawn(channels)), ("variance", drawn(channels)), ("shares", one))
        }
        for _ in range(problems)
    ]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("evaluator", ["ghost", "general"])
def test_it_is_what_a_plain_loop_makes_of_each_client(mode, batch: int, evaluator: str) -> None:
    """Loss, penalty and the gradient of both together, by torch's own layers and autograd."""
    client = net().train(mode == "train")
    twin, observed, guess = problem(client, 3, batch, 0, client_mode=mode)
    taken, weight = targets(3), torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)
    asked = beliefs(twin, taken)
    round = ClientRound(model=twin)
    made = (
        Ghost(round, Cosine(), observed, guess, beliefs=asked)
        if evaluator == "ghost"
        else General(round, Cosine(), observed, beliefs=asked)
    )
    losses, penalties, slopes = judged(made, guess, weight)
    for number in range(3):
        images = guess["images"][number].clone().requires_grad_()
        entered = [images]
        for layer in client:
            entered.append(layer(entered[-1]))
        entropy = nn.functional.cross_entropy(entered[-1], guess["labels"][number])
        simulated = torch.autograd.grad(entropy, list(client.parameters()), create_graph=True)
        ours = torch.cat([value.flatten() for value in simulated])
        theirs = torch.cat([observed[name][number].flatten() for name, _ in client.named_parameters()])
        loss = 1 - nn.functional.cosine_similarity(ours, theirs, dim=0)
        penalty = torch.zeros((), dtype=torch.float64)
        for place in (1, 4):
            rows = entered[place].transpose(0, 1).flatten(1)
            penalty = penalty + (rows.mean(1) - taken[number][f"{place}:mean"]).norm()
            penalty = penalty + (rows.var(1) - taken[number][f"{place}:variance"]).norm()
        [slope] = torch.autograd.grad(loss + weight[number] * 0.7 * penalty, [images])
        torch.testing.assert_close(losses[number], loss.detach(), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(penalties[number], 0.7 * penalty.detach(), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(slopes["images"][number], slope, rtol=1e-8, atol=1e-9 * float(slope.abs().max()))


@pytest.mark.parametrize("mode", MODES)
def test_ghost_matching_serves_it(mode) -> None:
    twin, observed, guess = problem(net(), 3, 2, 0, client_mode=mode)
    asked = beliefs(twin, targets(3))
    made = choose(ClientRound(model=twin), Distances(1e-3), observed, guess, ["images"], beliefs=asked)
    assert isinstance(made, Ghost)


@pytest.mark.parametrize("share", ["gradient", "two steps"])
def test_the_true_batch_has_the_statistics_that_its_buffers_reveal(share: str) -> None:
    """Of two steps as well, whose batches meet other weights: nothing is left, of other images very much."""
    torch.manual_seed(0)
    local = LocalTraining(steps=2, learning_rate=0.5) if share == "two steps" else None
    images = torch.randn(4, 2, 4, 4, dtype=torch.float64)
    observation = seen(net(), images, local=local)
    twin = attacker_copy(net(), observation.state)
    prior = BatchNormStatistics(1.0, twin, steps=local.steps if local else 1, of="batch")
    asked = Beliefs([prior], {name: value[None] for name, value in prior.take(observation).items()})
    observed = {name: value[None] for name, value in observation.update.items()}
    round = client_round(observation, twin)
    labels = observation.labels[None]  # type: ignore[index]
    penalties = [
        float(judged(General(round, Cosine(), observed, beliefs=asked), {"images": x[None], "labels": labels},
              torch.ones(1).double())[1])
        for x in (images, images + 0.1 * torch.randn_like(images))
    ]  # fmt: skip
    assert penalties[0] < 1e-9
    assert penalties[1] > 1e-2


def reason(model: nn.Module, observation: Observation, **grants: str) -> str:
    attack = attacks.create("gradinversion", iterations=1, restarts=1)
    [answer] = attack.run([observation], ThreatModel(**grants), model)  # type: ignore[arg-type]
    assert isinstance(answer, NotApplicable)
    return str(answer)


def test_it_declines_by_name_where_there_are_no_statistics() -> None:
    images = torch.randn(2, 2, 4, 4, dtype=torch.float64)
    plain = nn.Sequential(nn.Conv2d(2, 3, 3), nn.GroupNorm(1, 3), nn.Flatten(), nn.Linear(12, 3)).double()
    assert "batch_norm running or batch, but the threat model says none" in reason(plain, seen(plain, images))
    assert "the model has no batch norm" in reason(plain, seen(plain, images), batch_norm="running")
    untracked = nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False), nn.Flatten(), nn.Linear(32, 3)).double()
    assert "keeps no running" in reason(untracked, seen(untracked, images), batch_norm="running")
    still = seen(net(), images, mode="eval")
    assert "do not say what the batch's" in reason(net(), still, batch_norm="batch", client_mode="eval")
    new = nn.Sequential(nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(32, 3)).double()
    assert "of a new model" in reason(new, seen(new, images, mode="eval"), batch_norm="running", client_mode="eval")


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm2d(2), nn.Linear(32, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(self.norm(images).sin()).flatten(1))


def test_it_declines_by_name_what_it_cannot_tell_apart() -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 2, 4, 4, dtype=torch.float64)
    twice = Twice().double()
    assert "norm saw 2 batches in 1 local steps" in reason(twice, seen(twice, images), batch_norm="batch")
    twice(images)
    assert "norm is called 2 times" in reason(twice, seen(twice, images), batch_norm="running")
    spec = {"name": "dp_sgd", "noise_multiplier": 0.1, "max_grad_norm": 1.0}
    known = replace(seen(net(), images, mode="eval"), defense=(spec,))
    assert "by itself" in reason(net(), known, batch_norm="running", client_mode="eval", defense="known")


def answers(compile: Literal["never", "always"]) -> list[Reconstruction | NotApplicable]:
    observations = []
    for client in range(2):
        torch.manual_seed(client)
        images = torch.rand(2, 2, 4, 4, dtype=torch.float64) * 2 - 1
        observations.append(seen(net(), images, client=client))
    attack = attacks.create("gradinversion", iterations=8, restarts=2, gradient=1.0, group=0.1)
    attack.compile = compile
    return attack.run(observations, ThreatModel(batch_norm="batch"), net())


def test_its_iterations_can_be_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda graph, **options: graph)  # the traced graph itself, run as it is
    for plain, compiled in zip(answers("never"), answers("always"), strict=True):
        assert isinstance(plain, Reconstruction)
        assert isinstance(compiled, Reconstruction)
        assert "compiled" in compiled.details
        torch.testing.assert_close(compiled.images, plain.images, rtol=0, atol=1e-7)
        assert compiled.loss == pytest.approx(plain.loss, rel=1e-7)
