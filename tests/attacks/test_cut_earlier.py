"""Cut reads the earliest linear layer that all passes through, whatever is drawn, added or scaled behind it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from attack_victims import observe, paper_mlp, psnr
from torch import Tensor, nn

import attacks
from attacks import NotApplicable, Observation, ThreatModel
from attacks.head import find_cut, read_head
from attacks.twin import attacker_copy
from defenses import compose
from defenses.client.round import ClientRound, play
from fedsim.local import generators
from fedsim.models import build

SHAPE = (1, 8, 8)
PRECODE = {"name": "precode", "size": 8, "beta": 0.1}


def seen(model: nn.Module, specs: list[dict], batch: int = 1) -> tuple[Tensor, Observation]:
    """A client's images, and what the server sees of its gradient; the defenses are not granted."""
    images = torch.rand(batch, *SHAPE, generator=torch.Generator().manual_seed(1)).to(next(model.parameters())) * 2 - 1
    state = {name: value.clone() for name, value in model.state_dict().items()}
    labels = torch.arange(batch) + 2
    round = ClientRound(model=model, defense=compose(specs))
    played = play(round, state, images, labels, generators(0, client=0, round=1))
    return images, Observation(
        state=state, update=played.update, input_shape=SHAPE, classes=4, mean=(0.5,), std=(0.5,), labels=labels
    )


def built(name: str, *, resting: bool = False, **keys: object) -> nn.Module:
    spec = {"name": name, "dropout": 0.0, "defenses": [PRECODE], "resting": resting, **keys}
    return build(spec, input_shape=SHAPE, classes=4, seed=0)


class Residual(nn.Module):
    """A linear layer with bias in a branch that may be gone around, then another one that may not, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch, self.neck, self.head = (
            nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.Linear(64, 64), nn.Linear(64, 16), nn.Linear(16, 4)
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images).sigmoid().flatten(1)
        return self.head(self.neck(x + self.branch(x).tanh()).tanh())


def place(model: nn.Module, trained: set[str] | None = None, term=lambda model: 0.0) -> tuple[str, bool, bool]:
    twin = attacker_copy(model, model.state_dict())
    cut = find_cut(twin, SHAPE, trained or {name for name, _ in model.named_parameters()}, term)
    return cut.head.weight, cut.head.last, cut.untouched


def test_where_a_model_is_cut() -> None:
    assert place(Residual()) == ("neck.weight", False, False)
    assert place(Residual(), {"stem.weight", "neck.weight", "head.weight", "head.bias"}) == ("head.weight", True, False)
    assert place(paper_mlp(dropout=0.5, inputs=64, width=8, classes=4, bias=True)) == ("1.weight", False, True)
    assert place(paper_mlp(dropout=0.5, inputs=64, width=8, classes=4)) == ("10.weight", True, False)
    assert place(built("lenet")) == ("head.bottleneck.encoder.weight", False, False)


def test_a_term_of_the_loss_that_goes_around_a_layer_forbids_to_cut_there() -> None:
    kept: list[Tensor] = []
    model = Residual()

    def features(module: nn.Module) -> Tensor:
        return kept[-1].sum()

    twin = attacker_copy(model, model.state_dict())
    twin.stem.register_forward_hook(lambda layer, inputs, output: kept.append(output))
    names = {name for name, _ in model.named_parameters()}
    assert find_cut(twin, SHAPE, names, features).head.last
    assert not find_cut(twin, SHAPE, names, lambda module: 0.0).head.last


@pytest.mark.parametrize("granted", [True, False])
def test_the_encoder_gives_its_input_and_its_delta_exactly(granted: bool) -> None:
    client = built("lenet").double()
    images, observation = seen(client, [PRECODE])
    twin = attacker_copy(built("lenet", resting=not granted).double(), observation.state)
    term = compose([PRECODE] if granted else []).loss_term
    cut = find_cut(twin, SHAPE, observation.update.keys(), term)
    reading = read_head(cut.head, observation, int(observation.labels))
    assert cut.sites == ("dropout",)
    torch.testing.assert_close(reading.features, twin.features(images).flatten(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(reading.delta, observation.update["head.bottleneck.encoder.bias"], rtol=1e-9, atol=0)


def test_a_bottleneck_hides_nothing_of_a_convolutional_network() -> None:
    images, observation = seen(built("lenet"), [PRECODE])
    found = []
    for granted in (True, False):
        attack = attacks.create("cut", iterations=120)
        attack.compile = "never"
        told = replace(observation, defense=(PRECODE,) if granted else None)
        found.append(attack(told, ThreatModel(), built("lenet", resting=not granted)))
    torch.testing.assert_close(found[0].images, found[1].images)
    assert psnr(found[0].images, images, 0.5) > 25


def test_where_the_layer_sees_the_image_there_is_nothing_to_search_for() -> None:
    images, observation = seen(built("mlp", width=16), [PRECODE])
    found = attacks.create("cut", iterations=20)(observation, ThreatModel(), built("mlp", width=16, resting=True))
    assert psnr(found.images, images, 0.5) > 100
    assert found.stopped == "converged"


def test_label_smoothing_is_in_the_delta_and_not_added_again() -> None:
    class Smoothed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.Linear(128, 4)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.body(images).sigmoid().flatten(1))

    torch.manual_seed(0)
    model = Smoothed()
    local = attacks.LocalTraining(label_smoothing=0.5)
    images = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    state, labels = {name: value.clone() for name, value in model.state_dict().items()}, torch.tensor([2])
    played = play(ClientRound(model=model, local=local), state, images, labels, generators(0, client=0, round=1))
    observation = Observation(
        state=state, update=played.update, input_shape=SHAPE, classes=4, mean=(0.5,), std=(0.5,), labels=labels,
        local=local,
    )  # fmt: skip
    attack = attacks.create("cut", iterations=150)
    attack.compile = "never"
    assert psnr(attack(observation, ThreatModel(), model).images, images, 0.5) > 25


def test_signs_are_no_delta() -> None:
    torch.manual_seed(0)
    model = paper_mlp(dropout=0.0, inputs=64, width=16, classes=4, bias=True)
    _, observation = seen(model, [{"name": "sign"}])
    with pytest.raises(NotApplicable, match="they are signs"):
        attacks.create("cut")(observation, ThreatModel(), model)


def test_an_optimizer_that_keeps_its_gradient_to_itself_is_declined() -> None:
    from defenses.client.optimizers.adamw import AdamW

    model = paper_mlp(dropout=0.0, inputs=64, width=16, classes=4, bias=True)
    images = torch.rand(1, *SHAPE) * 2 - 1
    observation = replace(observe(model, images, torch.tensor([1]), classes=4), kind="delta")
    observation = replace(observation, local=attacks.LocalTraining(optimizer=AdamW()))
    with pytest.raises(NotApplicable, match="does not reveal the gradient"):
        attacks.create("cut")(observation, ThreatModel(), model)
