"""What the relatives of dropout must achieve: each against a computation of its own, written out by hand."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from defenses import compose
from defenses.base import Defense, Deployment
from defenses.client.round import ClientRound, Played, play
from defenses.client.training import LocalTraining
from defenses.stochastic import begin, convert, record, stochastic_layers
from fedsim.local import Local, train
from fedsim.models import build

CLASSES, SIDE = 10, 16

KEYS = {
    "mlp": {"width": 16},
    "lenet": {},
    "resnet18": {"width": 4, "norm": "group"},
    "vit": {"depth": 2, "width": 16, "heads": 2, "mlp": 16},
}


def model(name: str, *, dropout: float = 0.0) -> nn.Module:
    spec = {"name": name, "dropout": dropout, **KEYS[name]}
    return build(spec, input_shape=(3, SIDE, SIDE), classes=CLASSES, seed=0).double()


def batch(size: int = 3) -> tuple[Tensor, Tensor]:
    images = torch.randn(size, 3, SIDE, SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return images, torch.arange(size) % CLASSES


def step(defense: Defense, model: nn.Module, images: Tensor, labels: Tensor, seed: int = 0) -> Played:
    """One step of a client that shares its gradient."""

    def draw(site: str, step: int) -> torch.Generator:
        return torch.Generator().manual_seed(zlib.crc32(f"{seed} {site} {step}".encode()))

    state = {name: value.clone() for name, value in model.state_dict().items()}
    return play(ClientRound(model=model, defense=defense, classes=CLASSES), state, images, labels, draw)


def gradient(model: nn.Module, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    named = dict(model.named_parameters())
    return dict(zip(named, torch.autograd.grad(F.cross_entropy(logits, labels), list(named.values()))))


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    torch.testing.assert_close(dict(found), dict(expected), rtol=1e-9, atol=1e-12)


def drops_channels(defense: Defense) -> None:
    plain, changed = model("lenet"), defense.on_model(model("lenet"))
    images, labels = batch()
    played = step(defense, changed, images, labels)
    assert {name: tuple(value.shape) for name, value in played.drawn.items()} == {
        "features.2.spatial_dropout": (3, 12, 1, 1),
        "features.4.spatial_dropout": (3, 12, 1, 1),
    }
    first, second, third = (plain.get_submodule(f"features.{i}") for i in (0, 2, 4))
    masks = list(played.drawn.values())
    h = first(images).sigmoid() * masks[0] / 0.7
    h = second(h).sigmoid() * masks[1] / 0.7
    logits = plain.get_submodule("head")(third(h).sigmoid().flatten(1))
    assert_same(played.update, gradient(plain, logits, labels))
    assert len(defense.on_model(model("resnet18")).state_dict()) == len(model("resnet18").state_dict())
    for name in ("mlp", "vit"):
        with pytest.raises(ValueError, match=r"^spatial_dropout: .* has no convolution but one"):
            defense.on_model(model(name))


def multiplies_units(defense: Defense) -> None:
    plain, changed = model("mlp"), defense.on_model(model("mlp"))
    images, labels = batch()
    played = step(defense, changed, images, labels)
    assert {name: tuple(value.shape) for name, value in played.drawn.items()} == {
        f"hidden.{i}.dropout.gaussian_dropout": (3, 16) for i in range(3)
    }
    h = images.flatten(1)
    for i, factors in enumerate(played.drawn.values()):
        h = F.gelu(plain.get_submodule(f"hidden.{i}.linear")(h)) * factors
    assert_same(played.update, gradient(plain, plain.get_submodule("head")(h), labels))
    channels = defense.on_model(convert(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout2d(0.5)))).double()
    with record(channels) as drawn:
        channels(images)
    assert [tuple(each.shape) for [each] in drawn.values()] == [(3, 4, 1, 1)] * 2
    with pytest.raises(ValueError, match=r"^gaussian_dropout: Linear has no dropout layer; put nn.Dropout"):
        defense.on_model(nn.Linear(3, 4))


def dropblock_mean(p: float, block: int) -> float:
    """The share of entries that is kept before the second and the third convolution of `lenet`, by counting squares."""
    kept = []
    for channels, side in ((12, SIDE // 2), (12, SIDE // 4)):
        square = min(block, side)
        corners = range(side - square + 1)
        rate = p * side**2 / (square * len(corners)) ** 2
        covering = [sum(corner <= at < corner + square for corner in corners) for at in range(side)]
        kept += channels * [(1 - rate) ** (down * across) for down in covering for across in covering]
    return sum(kept) / len(kept)


def drops_squares(defense: Defense) -> None:
    plain, changed = model("lenet"), defense.on_model(model("lenet"))
    images, labels = batch()
    played = step(defense, changed, images, labels)
    assert {name: tuple(value.shape) for name, value in played.drawn.items()} == {
        "features.2.dropblock": (3, 12, 8, 8),
        "features.4.dropblock": (3, 12, 4, 4),
    }
    first, second, third = (plain.get_submodule(f"features.{i}") for i in (0, 2, 4))
    masks = list(played.drawn.values())
    for mask in masks:
        dropped = 1 - mask
        squares = (F.avg_pool2d(dropped, 2, stride=1) == 1).double()
        assert torch.equal(F.max_pool2d(F.pad(squares, (1, 1, 1, 1)), 2, stride=1), dropped)
    scaled = [mask * mask[0].numel() / mask.sum((1, 2, 3), keepdim=True) for mask in masks]
    h = first(images).sigmoid() * scaled[0]
    h = second(h).sigmoid() * scaled[1]
    logits = plain.get_submodule("head")(third(h).sigmoid().flatten(1))
    assert_same(played.update, gradient(plain, logits, labels))
    large = type(defense)(p=0.5, block=99).on_model(model("lenet"))  # type: ignore[call-arg]
    for mask in step(defense, large, images, labels).drawn.values():
        assert torch.equal(mask.amin((2, 3)), mask.amax((2, 3)))
    rising = type(defense)(p=0.3, rising=4).on_model(model("lenet"))  # type: ignore[call-arg]
    for number, rate in ((1, 0.075), (2, 0.15), (4, 0.3), (9, 0.3)):
        layers = stochastic_layers(begin(rising, number)).values()
        assert [layer.p for layer in layers if layer.added] == [pytest.approx(rate)] * 2
    with pytest.raises(ValueError, match=r"^dropblock: MLP has no nn.Conv2d but one that sees the image"):
        defense.on_model(model("mlp"))


class Torchvision(nn.Module):
    """A basic block as torchvision names it: without a shortcut of its own it has None."""

    def __init__(self, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 3, 3, padding=1), nn.GroupNorm(1, 3)
        self.conv2, self.bn2 = nn.Conv2d(3, 3, 3, padding=1), nn.GroupNorm(1, 3)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + shortcut)


def skips_blocks(defense: Defense) -> None:
    images, labels = batch()
    met = set()
    for seed in range(6):
        changed = defense.on_model(model("vit"))
        played = step(defense, changed, images, labels, seed=seed)
        bits = [bool(value) for value in played.drawn.values()]
        assert list(played.drawn) == ["blocks.0.layerdrop", "blocks.1.layerdrop"]
        plain = model("vit")
        for number, stays in enumerate(bits):
            if not stays:
                plain.get_submodule("blocks")[number].forward = lambda tokens: tokens
        logits, named = plain(images), dict(plain.named_parameters())
        loss = F.cross_entropy(logits, labels)
        expected = torch.autograd.grad(loss, list(named.values()), allow_unused=True, materialize_grads=True)
        assert_same(played.update, dict(zip(named, expected)))
        met |= set(bits)
    assert met == {True, False}
    per_example = type(defense)(p=0.5, per="example").on_model(model("vit"))  # type: ignore[call-arg]
    assert all(value.shape == (3,) for value in step(defense, per_example, images, labels).drawn.values())
    sites = stochastic_layers(defense.on_model(model("resnet18")))
    assert [path for path in sites if path.endswith("layerdrop")] == [
        f"stages.{place}.layerdrop" for place in ("0.0", "0.1", "1.1", "2.1", "3.1")
    ]
    usual = nn.Sequential(Torchvision(None), Torchvision(nn.Conv2d(3, 3, 1)))
    assert list(stochastic_layers(defense.on_model(usual))) == ["0.layerdrop"]
    with pytest.raises(ValueError, match=r"^layerdrop: a block changes the shape, \(3, 4\) to \(3, 2\)$"):
        defense.on_model(Halving())(torch.ones(3, 4))
    with pytest.raises(ValueError, match=r"^layerdrop: MLP has no residual block that is known and keeps its shape"):
        defense.on_model(model("mlp"))


class Halving(nn.Module):
    """A block that says that it is residual and does not keep its shape."""

    residual_branches = ("branch",)

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.branch(x) + x[:, :2]


class Given(nn.Module):
    """In the place of a module: a function of its input."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def attends_to_fewer(defense: Defense) -> None:
    images, labels = batch()
    make, tokens = type(defense), (SIDE // 4) ** 2 + 1
    shapes = {"weights": (tokens, tokens), "keys": (1, tokens), "heads": (1, 1)}
    for drop, scale in [(drop, scale) for scale in ("rate", "rows") for drop in shapes]:
        own = make(p=0.3, drop=drop, scale=scale)  # type: ignore[call-arg]
        played = step(own, own.on_model(model("vit")), images, labels)
        assert {name: tuple(value.shape) for name, value in played.drawn.items()} == {
            f"blocks.{i}.attention.attention_dropout.attention_drop": (3, 2, *shapes[drop]) for i in (0, 1)
        }
        plain = model("vit")
        for i, mask in enumerate(played.drawn.values()):
            by_rate = lambda weights, mask=mask: weights * mask / 0.7  # noqa: E731
            of_scores = lambda weights, mask=mask: (weights.log() + mask.log()).softmax(-1)  # noqa: E731
            of_heads = lambda weights, mask=mask: 2 * weights * mask / mask.sum(1, keepdim=True).clamp(1)  # noqa: E731
            attention = plain.get_submodule(f"blocks.{i}.attention")
            by_what_is_left = of_heads if drop == "heads" else of_scores
            attention.attention_dropout = Given(by_rate if scale == "rate" else by_what_is_left)
        assert_same(played.update, gradient(plain, plain(images), labels))
    for drop in shapes:
        nobody = make(p=0.99, drop=drop, scale="rows")  # type: ignore[call-arg]
        left = step(nobody, nobody.on_model(model("vit")), images, labels).update
        assert all(value.isfinite().all() for value in left.values())
    with pytest.raises(ValueError, match=r"^attention_drop: MLP has no attention that shows its weights; write it"):
        defense.on_model(model("mlp"))
    with pytest.raises(ValueError, match=r"Layer computes them inside of 'self_attn'; write it with"):
        defense.on_model(nn.TransformerEncoderLayer(4, 2, 4))


class Fused(nn.Module):
    """Attention that goes past its own dropout layer."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.attn_drop = nn.Linear(4, 4), nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.head(x)[:, None]
        return F.scaled_dot_product_attention(mixed, mixed, mixed, dropout_p=self.attn_drop.p)[:, 0]


def takes_tokens_out(defense: Defense) -> None:
    changed = defense.on_model(model("vit"))
    images, labels = batch()
    played = step(defense, changed, images, labels)
    [(site, mask)] = played.drawn.items()
    assert (site, mask.shape) == ("positions.token_dropout", (3, 16))
    assert mask.sum(1).tolist() == [11.0] * 3
    plain, positions = model("vit"), model("vit").get_submodule("positions")
    named = dict(plain.named_parameters())
    left = torch.cat([torch.ones(3, 1, dtype=torch.bool), mask == 1], dim=1)

    def shortened(tokens: Tensor) -> Tensor:
        placed = tokens + named["positions.embedding"]
        return torch.stack([one[kept] for one, kept in zip(placed, left)])

    positions.forward = shortened
    plain._modules["positions"] = positions
    found = torch.autograd.grad(F.cross_entropy(plain(images), labels), list(named.values()))
    assert_same(played.update, dict(zip(named, found)))
    layer = changed.get_submodule(site)
    assert [layer.kept(tokens) for tokens in (2, 3, 11)] == [1, 1, 7]
    with pytest.raises(ValueError, match=r"^token_dropout: MLP has no tokens that are known; give it an attribute"):
        defense.on_model(model("mlp"))


def averages_losses(defense: Defense) -> None:
    images, labels = batch()
    soft = torch.rand(3, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).softmax(1)
    for targets, smoothing in ((labels, 0.0), (labels, 0.2), (soft, 0.0)):
        plain, changed = model("mlp"), defense.on_model(model("mlp"))
        state = {name: value.clone() for name, value in changed.state_dict().items()}
        round = ClientRound(
            model=changed, defense=defense, classes=CLASSES, local=LocalTraining(label_smoothing=smoothing)
        )
        played = play(round, state, images, targets, lambda site, step: torch.Generator().manual_seed(0))
        [(site, masks)] = played.drawn.items()
        assert (site, masks.shape) == ("head.multi_sample_dropout", (3, 4, 16))
        hidden, last = plain.get_submodule("hidden")(images.flatten(1)), plain.get_submodule("head")
        losses = [
            F.cross_entropy(last(hidden * masks[:, i] / 0.7), targets, label_smoothing=smoothing) for i in range(4)
        ]
        loss, named = torch.stack(losses).mean(), dict(plain.named_parameters())
        torch.testing.assert_close(played.loss, loss.detach())
        assert_same(played.update, dict(zip(named, torch.autograd.grad(loss, list(named.values())))))
    beside = compose([{"name": "precode", "size": 4}, {"name": defense.name, "p": 0.3, "samples": 4}])
    assert set(step(beside, beside.on_model(model("mlp")), images, labels).drawn) == {
        "head.bottleneck.code",
        "head.multi_sample_dropout",
    }
    with pytest.raises(ValueError, match=r"^multi_sample_dropout: Flatten has no linear layer"):
        defense.on_model(nn.Flatten())


def changes_with_the_round(defense: Defense) -> None:
    make, images, labels = type(defense), *batch()
    expected = {"early": [0.4, 0.4, 0.0, 0.0], "late": [0.0, 0.0, 0.4, 0.4], "linear": [0.4, 0.2, 0.0, 0.0]}
    for when, rates in expected.items():
        own = make(p=0.4, when=when, until=2)  # type: ignore[call-arg]
        for number, rate in enumerate(rates, start=1):
            client = own.on_model(model("mlp"))
            local = Local(batch_size=3)
            result = train(client, images, labels, local=local, defense=own, seed=0, client=0, round=number).played
            places = {f"hidden.{i}.dropout.scheduled_dropout" for i in range(3)}
            assert result.drawn.keys() == (places if rate else set())
            assert [client.get_submodule(place).p for place in places] == [pytest.approx(rate)] * 3
            plain, h = model("mlp"), images.flatten(1)
            for i in range(3):
                h = F.gelu(plain.get_submodule(f"hidden.{i}.linear")(h))
                h = h * result.drawn.get(f"hidden.{i}.dropout.scheduled_dropout", 1.0) / (1 - rate)
            assert_same(result.update, gradient(plain, plain.get_submodule("head")(h), labels))
    deployment = Deployment(batch_size=1, clients=2, rounds=2)
    assert make(when="early", until=2).refuses(deployment) is None  # type: ignore[call-arg]
    assert make(when="late", until=1).refuses(deployment) is None  # type: ignore[call-arg]
    refusal = make(when="late", until=2).refuses(deployment)  # type: ignore[call-arg]
    assert refusal == "scheduled_dropout: until is 2, and of 2 rounds none comes after it"
    with pytest.raises(ValueError, match=r"^scheduled_dropout: Linear has no dropout layer; put nn.Dropout"):
        defense.on_model(nn.Linear(3, 4))


def learns_rates(defense: Defense) -> None:
    images, labels = batch()
    changed = defense.on_model(model("mlp"))
    for i, site in enumerate(("hidden.1.linear", "hidden.2.linear", "head")):
        changed.get_parameter(f"{site}.concrete_dropout.logit").data.fill_(-1.0 + 0.5 * i)
    played = step(defense, changed, images, labels)
    assert {name: tuple(value.shape) for name, value in played.drawn.items()} == {
        f"{site}.concrete_dropout": (3, 16) for site in ("hidden.1.linear", "hidden.2.linear", "head")
    }
    named = {name: value.detach().clone().requires_grad_() for name, value in changed.named_parameters()}
    h, extra = images.flatten(1), torch.zeros((), dtype=torch.float64)
    for i, layer in enumerate(("hidden.0.linear", "hidden.1.linear", "hidden.2.linear", "head")):
        if i:
            rate, u = named[f"{layer}.concrete_dropout.logit"].sigmoid(), played.drawn[f"{layer}.concrete_dropout"]
            odds = rate.log() - (1 - rate).log() + u.log() - (1 - u).log()
            h = h * (1 - (odds / 0.2).sigmoid()) / (1 - rate)
            entropy = -(rate * rate.log() + (1 - rate) * (1 - rate).log())
            extra = extra + 0.01 * named[f"{layer}.weight"].square().sum() / (1 - rate) - 0.001 * 16 * entropy
        h = F.linear(h, named[f"{layer}.weight"], named[f"{layer}.bias"])
        h = h if layer == "head" else F.gelu(h)
    loss = F.cross_entropy(h, labels) + extra
    torch.testing.assert_close(played.loss, loss.detach())
    assert_same(played.update, dict(zip(named, torch.autograd.grad(loss, list(named.values())))))
    assert defense.adds_parameters
    start = defense.on_model(model("mlp")).get_parameter("head.concrete_dropout.logit").detach()
    assert float(start.sigmoid()) == pytest.approx(0.3)
    assert len(added_to(defense.on_model(model("vit")))) == 9
    assert list(added_to(defense.on_model(model("lenet")))) == ["head.concrete_dropout"]
    with pytest.raises(ValueError, match=r"^concrete_dropout: Linear has no linear layer but what sees the image"):
        defense.on_model(nn.Linear(3, 4))


def added_to(model: nn.Module) -> list[str]:
    return [path for path, layer in stochastic_layers(model).items() if layer.added]


def trains_adapters(defense: Defense) -> None:
    images, labels = batch()
    changed = defense.on_model(model("mlp"))
    places = [f"hidden.{i}.linear" for i in range(3)] + ["head"]
    for place in places:
        up = changed.get_parameter(f"{place}.lora.up.weight")
        assert not up.any()
        up.data.normal_(generator=torch.Generator().manual_seed(0))
    plain = dict(model("mlp").named_parameters())
    played = step(defense, changed, images, labels)
    assert list(played.update) == [f"{place}.lora.{side}.weight" for place in places for side in ("down", "up")]
    named = {name: changed.get_parameter(name).detach().clone().requires_grad_() for name in played.update}
    h = images.flatten(1)
    for place in places:
        mask = played.drawn[f"{place}.lora.dropout"]
        assert mask.shape == h.shape
        low = 4.0 / 2 * named[f"{place}.lora.up.weight"] @ named[f"{place}.lora.down.weight"]
        h = F.linear(h, plain[f"{place}.weight"], plain[f"{place}.bias"]) + F.linear(h * mask / 0.7, low)
        h = h if place == "head" else F.gelu(h)
    loss = F.cross_entropy(h, labels)
    assert_same(played.update, dict(zip(named, torch.autograd.grad(loss, list(named.values())))))
    assert all(torch.equal(changed.get_parameter(name), value) for name, value in plain.items())
    assert (defense.adds_parameters, defense.pretrains) == (True, False)
    with pytest.raises(ValueError, match=r"^lora_dropout: Flatten has no linear layer"):
        defense.on_model(nn.Flatten())


def ends_vectors(defense: Defense) -> None:
    plain, changed = model("mlp"), defense.on_model(model("mlp"))
    images, labels = batch()
    lengths = []
    for seed in range(200):
        mask = changed.get_submodule("head.nested_dropout").sample(
            torch.ones(50, 16), torch.Generator().manual_seed(seed)
        )
        assert torch.equal(mask, mask.sort(dim=1, descending=True).values)
        lengths += mask.sum(1).int().tolist()
    for length, chance in ((1, 0.1), (2, 0.09), (16, 0.9**15)):
        assert lengths.count(length) / len(lengths) == pytest.approx(chance, abs=0.012)
    played = step(defense, changed, images, labels)
    [(site, mask)] = played.drawn.items()
    assert (site, mask.shape) == ("head.nested_dropout", (3, 16))
    logits = plain.get_submodule("head")(plain.get_submodule("hidden")(images.flatten(1)) * mask)
    assert_same(played.update, gradient(plain, logits, labels))
    risen = torch.tensor([[0.5, 2.0, 0.2, 0.7, -1.0]])
    found = changed.get_submodule("head.nested_dropout").project(risen)
    torch.testing.assert_close(found, torch.tensor([[1.0, 1.0, 0.45, 0.45, 0.0]]))
    with pytest.raises(ValueError, match=r"^nested_dropout: Flatten has no linear layer"):
        defense.on_model(nn.Flatten())


def mixes_weights(defense: Defense) -> None:
    """Two steps of SGD: in the first all weights are those that were sent, in the second some are put back."""
    images, labels = batch(4)
    plain, changed = model("mlp"), defense.on_model(model("mlp"))
    assert list(changed.state_dict()) == list(plain.state_dict())
    state = {name: value + 0.01 for name, value in plain.state_dict().items()}
    local = LocalTraining(steps=2, learning_rate=0.5)
    round = ClientRound(model=changed, defense=defense, local=local, share="delta")
    played = play(round, state, images, labels, lambda site, step: torch.Generator().manual_seed(step))
    masks = played.drawn
    assert [value.shape for value in masks.values()] == [(2, 16, 768), (2, 16, 16), (2, 16, 16), (2, 10, 16)]
    weights = dict(state)
    for number in range(2):
        at = {name: value.clone().requires_grad_() for name, value in weights.items()}
        used = dict(at)
        for site, mask in masks.items():
            name = f"{site}.weight"
            used[name] = state[name] + mask[number] * (at[name] - state[name]) / 0.7
        logits = torch.func.functional_call(plain, used, (images[2 * number : 2 * number + 2],))
        loss = F.cross_entropy(logits, labels[2 * number : 2 * number + 2])
        slopes = torch.autograd.grad(loss, list(at.values()))
        weights = {name: value.detach() - 0.5 * slope for (name, value), slope in zip(at.items(), slopes)}
    assert_same(played.update, {name: value - state[name] for name, value in weights.items()})
    drawn = step(defense, defense.on_model(model("lenet")), images, labels).drawn
    assert list(drawn) == ["features.0", "features.2", "features.4", "head"]
    with pytest.raises(ValueError, match=r"^mixout: Flatten has no nn.Linear or nn.Conv2d"):
        defense.on_model(nn.Flatten())


def routes_to_experts(defense: Defense) -> None:
    plain, changed = model("vit"), defense.on_model(model("vit"))
    images, labels = batch()
    played = step(defense, changed, images, labels)
    tokens = (SIDE // 4) ** 2 + 1
    assert {name: tuple(value.shape) for name, value in played.drawn.items()} == {
        f"blocks.{i}.feed_forward.linear2.smoe_dropout": (3, tokens, 4) for i in (0, 1)
    }
    for active, seen in ((2, played.update), (4, None)):
        for i, block in enumerate(plain.get_submodule("blocks")):
            layer = changed.get_submodule(f"blocks.{i}.feed_forward.linear2.smoe_dropout")
            router = [layer.router_weight, layer.router_bias]
            block.feed_forward = Mixture(block.feed_forward if seen else block.feed_forward.dense, router, active)
        if seen is None:  # in evaluation mode all experts are passed
            torch.testing.assert_close(changed.eval()(images), plain.eval()(images))
            continue
        found = {name.replace("dense.", ""): value for name, value in gradient(plain, plain(images), labels).items()}
        assert_same(seen, found)
    for mask in played.drawn.values():
        assert torch.equal(mask.sum(-1), torch.full((3, tokens), 2.0, dtype=torch.float64))
    last = changed.get_submodule("blocks.0.feed_forward.linear2.smoe_dropout")
    assert [begin(changed, number) and last.chosen for number in (1, 2, 3, 4, 5, 9)] == [2, 3, 3, 4, 4, 4]
    assert last.idle
    other = defense.on_model(model("vit")).get_buffer("blocks.0.feed_forward.linear2.smoe_dropout.router_weight")
    assert not torch.equal(other, last.router_weight)
    assert float(other.abs().max()) == pytest.approx(16**-0.5, rel=0.1)
    assert len(added_to(defense.on_model(model("mlp")))) == 3
    for other_names in (("fc1", "fc2"), ("linear1", "linear2")):
        block = nn.Module()
        for name, sizes in zip(other_names, ((6, 8), (8, 6))):
            block.add_module(name, nn.Linear(*sizes))
        assert len(added_to(defense.on_model(block))) == 1
    with pytest.raises(ValueError, match=r"^smoe_dropout: experts = 5 does not divide the 16 units of blocks.0.feed_f"):
        type(defense)(experts=5, least=1).on_model(model("vit"))  # type: ignore[call-arg]
    with pytest.raises(ValueError, match=r"^smoe_dropout: LeNet has no feed-forward layers that are known; give its"):
        defense.on_model(model("lenet"))


class Mixture(nn.Module):
    """A feed-forward layer as single experts, of which each token passes some, one after the other."""

    def __init__(self, dense: nn.Module, router: list[Tensor], active: int) -> None:
        super().__init__()
        self.dense, self.router, self.active = dense, router, active

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.dense.linear1, self.dense.linear2
        best = F.linear(x, *self.router).topk(self.active, dim=-1)
        out = second.bias.expand(x.shape)
        for weight, expert in zip(best.values.softmax(-1).unbind(-1), best.indices.unbind(-1)):
            for number in range(4):
                units = slice(4 * number, 4 * number + 4)
                own = F.linear(F.gelu(F.linear(x, first.weight[units], first.bias[units])), second.weight[:, units])
                out = out + own * (weight * (expert == number))[..., None]
        return out


def drops_what_varied(defense: Defense) -> None:
    images, labels = batch()
    entered, memory, drawn = [], {}, []
    for number in range(1, 8):
        changed = begin(defense.on_model(model("mlp")), number)
        state = {name: value + 0.03 * number**2 for name, value in model("mlp").state_dict().items()}
        plain = model("mlp")
        plain.load_state_dict(state)
        own = images + number
        entered.append(plain.get_submodule("hidden")(own.flatten(1)).mean(0).detach())
        round = ClientRound(model=changed, defense=compose([{"name": defense.name, "share": 0.25, "window": 3}]))
        played = play(round, state, own, labels, lambda site, step: torch.Generator().manual_seed(0), memory)
        memory = played.memory
        drawn.append(played.drawn.get("head.sensitive_neuron_dropout"))
        mask = 1.0 if drawn[-1] is None else drawn[-1]
        logits = plain.get_submodule("head")(plain.get_submodule("hidden")(own.flatten(1)) * mask)
        assert_same(played.update, gradient(plain, logits, labels))
    assert drawn[:3] == [None] * 3
    for chosen, window in ((drawn[3:6], entered[:3]), (drawn[6:], entered[3:6])):
        seen = torch.stack(window)
        says = ((seen - seen.mean(0)) ** 2).mean(0) * ((seen[1] - seen[0]).abs() + (seen[2] - seen[1]).abs())
        expected = (says < says.sort().values[12]).double()
        assert all(torch.equal(mask, expected) for mask in chosen)
    late = begin(defense.on_model(model("vit")), 4)  # a client that took part too rarely to have chosen anything
    assert step(defense, late, images, labels).drawn["head.sensitive_neuron_dropout"].eq(1).all()
    last, after = (Deployment(batch_size=1, clients=1, rounds=rounds) for rounds in (3, 4))
    assert defense.refuses(last) == "sensitive_neuron_dropout: window is 3, and of 3 rounds none comes after it"
    assert defense.refuses(after) is None
    with pytest.raises(ValueError, match=r"^sensitive_neuron_dropout: Flatten has no linear layer"):
        defense.on_model(nn.Flatten())
