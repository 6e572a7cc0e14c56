"""Models that were not written for fedsim: made by what they ask for, with one tensor of logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks import NotApplicable
from attacks.labels import infer_labels
from defenses.client.round import ClientRound, replay
from fedsim import models
from fedsim.errors import BadInput
from fedsim.models import entries

SHAPE, CLASSES = (3, 16, 16), 7


def built(name: str, *, output: str = "", **keys) -> nn.Module:
    spec = {"factory": f"test_foreign:{name}", "foreign": {"output": output}, **keys}
    return models.build(spec, input_shape=SHAPE, classes=CLASSES, seed=0)


class Plain(nn.Module):
    """Asks for nothing."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, width, 3, stride=4), nn.Linear(width * 16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.conv(x)).flatten(1))


class ByClasses(nn.Module):
    """As timm's models: with `num_classes`, and stochastic depth of their own."""

    def __init__(self, num_classes, drop_path_rate=0.1):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 4, stride=4), nn.BatchNorm2d(8)
        self.block, self.drop_path = nn.Conv2d(8, 8, 1), DropPath(drop_path_rate)
        self.head = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        return self.head((x + self.drop_path(self.block(x))).mean((2, 3)))


class DropPath(nn.Module):
    def __init__(self, drop_prob: float):
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.drop_prob:
            return x
        kept = torch.empty(len(x), *[1] * (x.dim() - 1)).bernoulli_(1 - self.drop_prob)
        return x * kept / (1 - self.drop_prob)


@dataclass
class ImageClassifierOutput:
    logits: Tensor
    hidden_states: Tensor | None = None


class Dataclassed(Plain):
    """As the models of Hugging Face."""

    def forward(self, pixel_values: Tensor) -> ImageClassifierOutput:
        return ImageClassifierOutput(super().forward(pixel_values))


class Named(NamedTuple):
    features: Tensor
    logits: Tensor


class Tupled(Plain):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, super().forward(x)


class NamedTupled(Plain):
    def forward(self, x: Tensor) -> Named:
        return Named(x, super().forward(x))


class Functional(Plain):
    """As hand-written ones: dropout as a function."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.dropout(F.relu(self.conv(x)).flatten(1), 0.5, self.training))


class Encoder(nn.Module):
    """As vit-pytorch or `nn.TransformerEncoder`: patches, positions, a class token."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Linear(48, 16)
        self.token = nn.Parameter(torch.zeros(1, 1, 16))
        self.positions = nn.Parameter(torch.randn(1, 17, 16))
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        patches = x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), self.patch(patches)], 1) + self.positions
        return self.head(self.encoder(tokens)[:, 0])


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter, self.one, self.two = nn.Linear(768, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.two.weight = self.one.weight
        self.enter.requires_grad_(False)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(F.relu(self.one(self.enter(x.flatten(1))))))


class Nested(Plain):
    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return super().forward(batch["pixel_values"])


class TwoInputs(Plain):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return super().forward(x * mask)


class Demanding(Plain):
    def __init__(self, depth):
        super().__init__()


MADE = Plain()


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("Plain", ""), ("ByClasses", ""), ("Dataclassed", "logits"), ("Tupled", "1"), ("NamedTupled", "logits"),
        ("Functional", ""), ("Encoder", ""), ("Tied", ""), ("MADE", ""),
    ],
)  # fmt: skip
def test_it_gives_logits_and_its_state_has_its_own_names(name, output):
    model = built(name, output=output)
    assert model(torch.zeros(2, *SHAPE)).shape == (2, CLASSES)
    own = {"ByClasses": lambda: ByClasses(CLASSES), "MADE": lambda: MADE}.get(name, globals()[name])()
    assert list(model.state_dict()) == list(own.state_dict())


def test_keys_reach_the_constructor():
    assert built("Plain", width=3).conv.out_channels == 3


def test_tied_and_frozen_weights_are_what_they_are():
    model = built("Tied")
    assert entries.trained(model)["two.weight"] == "one.weight"
    assert entries.frozen(model) == {"enter.weight", "enter.bias"}


def test_functional_dropout_is_a_layer_whose_rate_can_be_set():
    model = built("Functional", dropout=0.0)
    x = torch.rand(2, *SHAPE)
    model.train()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize(
    ("name", "output", "said"),
    [
        ("Nested", "", "a dict, or several inputs; give --model a function"),
        ("TwoInputs", "", "a dict, or several inputs"),
        ("Dataclassed", "", "returned a ImageClassifierOutput of logits, hidden_states, not a tensor: say by --output"),
        ("Dataclassed", "hidden_states", "of which 'hidden_states' is no tensor"),
        ("Tupled", "5", "of which '5' is no tensor"),
        ("Demanding", "", "missing a required argument: 'depth'; it takes depth"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(name, output, said):
    with pytest.raises(BadInput) as caught:
        built(name, output=output)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_loss_of_ones_own_is_what_the_client_minimises():
    model = built("Plain")
    other = models.build(
        {"factory": "test_foreign:Plain", "foreign": {"output": "", "loss": "torch.nn:MultiMarginLoss"}},
        input_shape=SHAPE, classes=CLASSES, seed=0,
    )  # fmt: skip
    assert list(model.state_dict()) == list(other.state_dict())
    x, y = torch.rand(3, *SHAPE), torch.tensor([0, 1, 2])
    round = ClientRound(model=other, share="gradient")
    update = replay(round, other.state_dict(), x, y).update
    expected = torch.autograd.grad(nn.MultiMarginLoss()(other(x), y), list(other.parameters()))
    for found, value in zip(update.values(), expected, strict=True):
        torch.testing.assert_close(found, value)
    soft = replay(round, other.state_dict(), x, F.one_hot(y, CLASSES).float()).update
    torch.testing.assert_close(soft["fc.weight"], update["fc.weight"])
    with pytest.raises(NotApplicable, match="another than the cross-entropy"):
        infer_labels(other, update, batch_size=3, classes=CLASSES)
