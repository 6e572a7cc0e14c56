"""Attacks on a device that is not the processor: tensors are made where the model lies, and steps wait for nothing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from pretended_device import DEVICE, PretendedDevice
from test_attack_table import TABLE, Target, seen
from torch import nn

from attacks import Reconstruction, iterative, standard_v1
from attacks.engine import CHECK_EVERY, solve
from attacks.iterative import IterativeAttack
from fedsim import observations

STEPS = 3

QUICK = ("inverting_gradients", "trap_weights", "patch_embedding", "april", "fidel", "null_mean", "null_random")
"""Attacks whose first line of the table is tried in the gate; the others are slow."""


def _first_of_quick(target: Target) -> bool:
    return target.attack.name in QUICK and target is next(t for t in TABLE if t.attack.name == target.attack.name)


def _marked(target: Target) -> Any:
    marks = [] if _first_of_quick(target) else [pytest.mark.slow]
    return pytest.param(target, marks=marks, id=f"{TABLE.index(target)} {target}")


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standard_v1, "LONGEST", STEPS)


def _counted(device: PretendedDevice, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """For each search that the engine is asked for, how often there had been a wait before each of its steps."""
    searches: list[list[int]] = []

    def counting(*given: Any, watch: Any = None, **named: Any) -> Any:
        searches.append([])
        return solve(*given, watch=lambda *_: searches[-1].append(device.waits.total()), **named)

    monkeypatch.setattr(iterative, "solve", counting)
    return searches


@pytest.mark.parametrize("target", [_marked(target) for target in TABLE])
def test_an_attack_works_where_its_model_lies_and_its_steps_wait_for_nothing(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images, threat_model, observation = seen(target, target.batch)
    attack = copy.copy(target.attack)
    if hasattr(attack, "iterations"):
        attack.iterations = min(attack.iterations, STEPS)
    attack.compile = "never"
    with PretendedDevice() as device:
        searches = _counted(device, monkeypatch)
        there = copy.deepcopy(model).to(DEVICE)
        answer = attack(observations.to(observation, DEVICE, torch.float32), threat_model, there)
    assert answer.images.shape[1:] == images.shape[1:]
    tensors = [answer.images, answer.labels, *(answer.noise or {}).values()]
    assert all(tensor is None or tensor.device.type == "cpu" for tensor in tensors)
    if isinstance(attack, IterativeAttack):
        assert sum(map(len, searches)) >= STEPS
    for waited in searches:
        assert waited == waited[:1] * len(waited)  # what it waits for before and after is no step's
    assert STEPS < CHECK_EVERY


def test_an_answer_is_on_the_processor() -> None:
    with PretendedDevice():
        there = torch.ones(1, 2, device=DEVICE)
        answer = Reconstruction(images=there.view(1, 1, 1, 2), loss=0.0, labels=there[0].long(), noise={"a": there})
    assert answer.labels is not None
    assert answer.noise is not None
    assert {value.device.type for value in (answer.images, answer.labels, answer.noise["a"])} == {"cpu"}


@pytest.fixture
def layer() -> nn.Module:
    return nn.Linear(4, 2)


def test_the_pretended_device_refuses_what_an_accelerator_refuses(layer: nn.Module) -> None:
    with PretendedDevice():
        x = torch.ones(3, 4, device=DEVICE)
        there = copy.deepcopy(layer).to(DEVICE)
        assert there(x).device == DEVICE
        with pytest.raises(RuntimeError, match="lies on the processor"):
            there(torch.ones(3, 4))
        with pytest.raises(RuntimeError, match="lies on the processor"):
            torch.stack([x[0, 0], torch.tensor(1.0)])
        with pytest.raises(RuntimeError, match="a generator of the cpu draws"):
            torch.randn(3, device=DEVICE, generator=torch.Generator())
        with pytest.raises(TypeError, match="is no array"):
            x.numpy()
        assert (x + torch.tensor(1.0)).device == DEVICE  # a single number may lie anywhere


def test_what_is_computed_there_is_what_is_computed_here(layer: nn.Module) -> None:
    x = torch.randn(3, 4)
    layer(x).square().sum().backward()
    with PretendedDevice():
        there = copy.deepcopy(layer).to(DEVICE)
        there.zero_grad()
        there(x.to(DEVICE)).square().sum().backward()
        found = there.weight.grad.cpu()
    assert torch.equal(found, layer.weight.grad)


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x[0].item(),
        lambda x: bool((x > 0).any()),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x[x > 0],
        lambda x: x[[0, 2]],
        lambda x: x.nonzero(),
        lambda x: torch.zeros(3).copy_(x),
        lambda x: torch.equal(x, x + 1),
    ],
)
def test_the_pretended_device_counts_what_is_waited_for(wait: Any) -> None:
    with PretendedDevice() as device:
        x = torch.arange(3.0, device=DEVICE)
        y = torch.where(x > 0, x, -x).sum()
        assert (y.device, device.waits.total()) == (DEVICE, 0)
        wait(x)
        assert device.waits.total() >= 1
