"""Explicit randomness: what is drawn can be recorded and replayed, and nothing else in a model is random."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call

from defenses.stochastic import (
    Dropout,
    FeatureDropout,
    Inexplicit,
    check_explicit,
    convert,
    record,
    set_stochastic,
    stochastic_layers,
)
from defenses.stochastic.attended import attended, inside
from fedsim.models import build


class UsersModel(nn.Module):
    """As users write them: torch's own dropout layers, nested."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout2d(0.3))
        self.blocks = nn.ModuleDict({"mix": nn.Sequential(nn.LazyLinear(8), nn.Tanh(), nn.Dropout(0.5, inplace=True))})
        self.sequence = nn.Dropout1d(0.2)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.blocks["mix"](self.features(x).flatten(1))
        return self.head(self.sequence(h[:, :, None])[:, :, 0])


def users_model() -> nn.Module:
    model = UsersModel()
    with torch.no_grad():
        model(torch.zeros(2, 3, 16, 16))  # gives the lazy layer its shape
    return convert(model, torch.zeros(2, 3, 16, 16))


def bundled(name: str, **keys: object) -> nn.Module:
    small = {"vit": {"depth": 2, "width": 32, "heads": 4, "mlp": 32}}
    small["vit_b16"] = {**small["vit"], "patch": 8}
    spec = {"name": name, "dropout": 0.4, **small.get(name, {}), **keys}
    return build(spec, input_shape=(3, 16, 16), classes=10, seed=3)


EVERY_MODEL = {
    "mlp": lambda: bundled("mlp"),
    "lenet": lambda: bundled("lenet"),
    "resnet18": lambda: bundled("resnet18"),
    "resnet18 group": lambda: bundled("resnet18", norm="group"),
    "vit": lambda: bundled("vit"),
    "vit_b16": lambda: bundled("vit_b16"),
    "user's": users_model,
}


def loss_and_gradient(model: nn.Module, x: Tensor, y: Tensor, noise: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
    tensors = {**dict(model.named_parameters()), **{name: b.clone() for name, b in model.named_buffers()}}
    loss = F.cross_entropy(torch.func.functional_call(model, {**tensors, **noise}, (x,)), y)
    return loss.detach(), list(torch.autograd.grad(loss, list(model.parameters())))


@pytest.mark.parametrize("make", EVERY_MODEL.values(), ids=EVERY_MODEL)
def test_replaying_recorded_noise_gives_the_same_loss_and_gradient(make):
    torch.manual_seed(0)  # no mask of the smallest layer is all zeros or all ones
    model = make().double().train()
    x, y = torch.randn(3, 3, 16, 16, dtype=torch.float64), torch.tensor([1, 2, 3])
    with record(model) as drawn:
        loss, gradient = loss_and_gradient(model, x, y, {})
    assert drawn.keys() == stochastic_layers(model).keys()
    assert drawn
    assert all(len(draws) == 1 and 0 < draws[0].mean() < 1 for draws in drawn.values())

    set_stochastic(model, False)
    replayed, replayed_gradient = loss_and_gradient(model, x, y, {f"{path}.noise": n for path, [n] in drawn.items()})
    assert torch.equal(replayed, loss)
    torch.testing.assert_close(replayed_gradient, gradient, rtol=1e-12, atol=1e-12)
    without, _ = loss_and_gradient(model, x, y, {})
    assert not torch.isclose(without, loss)


@pytest.mark.parametrize("make", EVERY_MODEL.values(), ids=EVERY_MODEL)
def test_noise_is_never_part_of_the_state_and_recording_never_freezes_it(make):
    model = make()
    keys = set(model.state_dict())
    x = torch.randn(2, 3, 16, 16)
    with record(model) as drawn:
        model(x)
        model(x)
    model(x)
    assert set(model.state_dict()) == keys
    assert not any("noise" in key for key in keys)
    assert all(len(draws) == 2 for draws in drawn.values())
    first, second = (torch.cat([draws[i].flatten() for draws in drawn.values()]) for i in (0, 1))
    assert not torch.equal(first, second)
    assert all(layer.noise is None for layer in stochastic_layers(model).values())


def test_vmap_batches_the_noise_of_many_problems():
    model = bundled("mlp", width=16).double()
    set_stochastic(model, False)
    parameters = dict(model.named_parameters())
    x = torch.randn(4, 1, 3, 16, 16, dtype=torch.float64)
    noise = {
        f"{path}.noise": torch.bernoulli(torch.full((4, 1, 16), 0.6, dtype=torch.float64))
        for path in stochastic_layers(model)
    }

    def logits(x, noise):
        return torch.func.functional_call(model, {**parameters, **noise}, (x,))

    together = torch.func.vmap(logits)(x, noise)
    for i in range(4):
        alone = logits(x[i], {name: n[i] for name, n in noise.items()})
        torch.testing.assert_close(together[i], alone)
    assert len({tuple(logits(x[0], {k: n[i] for k, n in noise.items()})[0].tolist()) for i in range(4)}) == 4


@settings(max_examples=25, deadline=None)
@given(p=st.floats(0, 0.95), channels=st.integers(1, 5), dims=st.integers(0, 3), batch=st.integers(0, 3))
def test_dropout_keeps_the_scale_and_the_shape(p, channels, dims, batch):
    x = torch.ones(batch, channels, *([3] * dims))
    for layer in (Dropout(p), FeatureDropout(p)):
        noise = layer.sample(x)
        y = layer.inject(x, noise)
        assert y.shape == x.shape
        assert set(noise.unique().tolist()) <= {0.0, 1.0}
        torch.testing.assert_close(y, noise.expand_as(x) / (1 - p))


def test_feature_dropout_drops_whole_channels():
    y = FeatureDropout(0.5)(torch.ones(64, 8, 4, 4))
    per_channel = y.flatten(2)
    assert torch.equal(per_channel.amin(-1), per_channel.amax(-1))
    assert 0.4 < (per_channel[..., 0] == 0).float().mean() < 0.6


def test_conversion_keeps_rate_and_mode_and_leaves_no_dropout_of_torch():
    model = UsersModel()
    model.sequence.eval()
    convert(model)
    assert {path: (type(m), m.p) for path, m in stochastic_layers(model).items()} == {
        "features.3": (FeatureDropout, 0.3),
        "blocks.mix.2": (Dropout, 0.5),
        "sequence": (FeatureDropout, 0.2),
    }
    assert model.features[3].training
    assert not model.sequence.training
    assert isinstance(convert(nn.Dropout(0.1)), Dropout)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.drop, self.second = nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.second(self.drop(self.first(x))))


class Renamed(nn.Dropout2d):
    """The same under another name."""


class Overriding(nn.Dropout):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, training=True)


class Gaussian(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


class FusedAttention(nn.Module):
    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None]
        return F.scaled_dot_product_attention(x, x, x, dropout_p=self.p if self.training else 0.0)[:, 0]


class DropPath(nn.Module):
    """As timm has it; and, by the other keys, something else of its name."""

    def __init__(self, drop_prob: float, scale_by_keep: bool = True, *, whole: bool = True, off: float = 0.0) -> None:
        super().__init__()
        self.drop_prob, self.scale_by_keep, self.whole, self.off = drop_prob, scale_by_keep, whole, off

    def forward(self, x: Tensor) -> Tensor:
        if self.drop_prob == 0.0 or not self.training:
            return x
        keep = 1 - self.drop_prob + self.off
        shape = (x.shape[0],) + (1,) * (x.ndim - 1) if self.whole else x.shape
        kept = x.new_empty(shape).bernoulli_(min(1.0, keep))
        if keep > 0.0 and self.scale_by_keep:
            kept.div_(keep - self.off)
        return x * kept


class SwinDropPath(DropPath):
    """As transformers names it."""


class StochasticDepth(nn.Module):
    """As torchvision has it."""

    def __init__(self, p: float, mode: str) -> None:
        super().__init__()
        self.p, self.mode = p, mode

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return x
        size = [x.shape[0]] + [1] * (x.ndim - 1) if self.mode == "row" else [1] * x.ndim
        return x * torch.empty(size, dtype=x.dtype).bernoulli_(1 - self.p).div_(1 - self.p)


class TwicePaths(nn.Module):
    """One layer for both branches, as older vision transformers have it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.path = nn.Linear(4, 4), nn.Linear(4, 4), DropPath(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.path(self.first(x))
        return x + self.path(self.second(x))


def shared() -> nn.Module:
    drop = nn.Dropout(0.5)
    return nn.Sequential(nn.Linear(4, 4), drop, nn.Linear(4, 4), drop)


def attention(p: float) -> nn.Module:
    return nn.Sequential(nn.Identity(), nn.TransformerEncoderLayer(4, 2, 8, dropout=p, batch_first=True))


REFUSED = {
    "noise in a forward": (lambda: nn.Sequential(nn.Linear(4, 4), Gaussian()), "'1' (Gaussian)"),
    "an overridden forward": (
        lambda: nn.Sequential(Overriding(0.5)),
        "'0' (Overriding) overrides the forward of nn.Dropout",
    ),
    "registered twice": (shared, "'3' (Dropout) is the same layer as '1'"),
    "recurrent": (lambda: nn.Sequential(nn.LSTM(4, 4, num_layers=2, dropout=0.2)), "'0' (LSTM)"),
    "a path that is no path": (lambda: nn.Sequential(DropPath(0.5, whole=False)), "'0' (DropPath) does not drop whole"),
    "another rate than it names": (lambda: nn.Sequential(DropPath(0.5, off=0.2)), "'0' (DropPath) does not drop whole"),
    "no path is left": (lambda: nn.Sequential(DropPath(1.0)), "'0' (DropPath) does not drop whole"),
    "random slopes": (lambda: nn.Sequential(nn.RReLU()), "'0' (RReLU)"),
    "everything dropped": (lambda: nn.Sequential(nn.Dropout(1.0)), "'0' (Dropout)"),
}


@pytest.mark.parametrize(("make", "named"), REFUSED.values(), ids=REFUSED)
def test_randomness_that_cannot_be_made_explicit_is_refused_by_name(make, named):
    with pytest.raises(Inexplicit) as refusal:
        convert(make(), torch.randn(2, 3, 4))
    assert named in str(refusal.value)
    assert "\n" not in str(refusal.value)


ACCEPTED = {
    "called twice": (Twice, (2, 4), ["drop.0", "drop.1"]),
    "a path taken twice": (TwicePaths, (2, 4), ["path.0", "path.1"]),
    "fused attention": (lambda: FusedAttention(0.5), (2, 3, 4), ["functional_dropout_0"]),
    "multi-head attention": (
        lambda: attention(0.5),
        (2, 3, 4),
        ["1.self_attn.functional_dropout_0", "1.dropout", "1.dropout1", "1.dropout2"],
    ),
}


@pytest.mark.parametrize(("make", "shape", "sites"), ACCEPTED.values(), ids=ACCEPTED)
def test_each_draw_of_a_pass_is_a_site_and_their_noise_is_all_that_is_random(make, shape, sites):
    own = make()
    model = convert(copy.deepcopy(own), torch.randn(shape))
    assert sorted(stochastic_layers(model)) == sorted(sites)
    x = torch.randn(shape)
    assert torch.allclose(model.eval()(x), own.eval()(x), atol=1e-6)
    with record(model.train()) as drawn:
        out = model(x)
    assert {path: len(masks) for path, masks in drawn.items()} == dict.fromkeys(sites, 1)
    noise = {f"{path}.noise": mask for path, [mask] in drawn.items()}
    twin = set_stochastic(copy.deepcopy(model), False)
    assert torch.equal(functional_call(twin, noise, (x,)), out)
    assert torch.equal(functional_call(twin, noise, (x,)), out)  # the second pass begins with the first call again
    other = {path: 1 - mask for path, mask in noise.items()}
    assert not torch.allclose(functional_call(twin, other, (x,)), out)
    assert convert(model, x) is model


def test_what_attention_drops_is_what_torch_drops():
    """On average over many draws, and exactly where nothing is dropped, under every kind of mask."""
    torch.manual_seed(1)
    q, k, v = torch.randn(3, 2, 4, 5, 8, dtype=torch.float64)
    masks = [
        {},
        {"is_causal": True},
        {"attn_mask": torch.ones(5, 5, dtype=torch.bool).tril()},
        {"attn_mask": torch.randn(5, 5, dtype=torch.float64), "scale": 0.3},
    ]
    for keys in masks:
        torch.testing.assert_close(
            attended(lambda weights: weights, (q, k, v), {**keys, "dropout_p": 0.5}),
            F.scaled_dot_product_attention(q, k, v, **keys),
        )
    grouped = attended(lambda weights: weights, (q, k[:, :2], v[:, :2]), {"enable_gqa": True, "dropout_p": 0.5})
    torch.testing.assert_close(grouped, F.scaled_dot_product_attention(q, k[:, :2], v[:, :2], enable_gqa=True))
    drop = Dropout(0.3)
    torch.manual_seed(0)
    ours = torch.stack([attended(drop, (q, k, v), {"dropout_p": 0.3}) for _ in range(3000)])
    theirs = torch.stack([F.scaled_dot_product_attention(q, k, v, dropout_p=0.3) for _ in range(3000)])
    assert (ours.mean(0) - theirs.mean(0)).abs().max() < 0.15
    assert (ours.std(0) - theirs.std(0)).abs().max() < 0.1


def test_torch_is_as_it_was_where_attention_raises():
    own = F.dropout, F.scaled_dot_product_attention
    with pytest.raises(ValueError, match="no handler"):
        inside(lambda *rest: (_ for _ in ()).throw(ValueError("no handler")), *_multi_head())
    assert (F.dropout, F.scaled_dot_product_attention) == own


def _multi_head():
    """What `nn.MultiheadAttention` calls `F.multi_head_attention_forward` with."""
    seen = []
    layer = nn.MultiheadAttention(4, 2, dropout=0.1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "multi_head_attention_forward", lambda *given, **named: seen.append((given, named)) or (0, 0))
        layer(*[torch.randn(3, 2, 4)] * 3, need_weights=False)
    return seen[0]


def test_a_subclass_that_computes_the_same_is_converted():
    model = convert(nn.Sequential(nn.Conv2d(1, 2, 3), Renamed(0.5)), torch.randn(2, 1, 5, 5))
    assert type(model[1]) is FeatureDropout
    assert model[1].p == 0.5


def test_a_layer_that_draws_nothing_may_stand_and_be_called_anywhere():
    model = Twice()
    model.again, model.drop.p = model.drop, 0.0
    convert(model, torch.randn(2, 4))
    assert isinstance(model.drop, Dropout)
    assert model.again is model.drop
    model.drop.p = 0.5  # the rate is set: now it would draw twice
    with pytest.raises(Inexplicit, match="is called 2 times"):
        check_explicit(model, torch.randn(2, 4))


@pytest.mark.parametrize("make", [lambda: attention(0.0), lambda: FusedAttention(0.0)])
def test_what_draws_nothing_is_accepted(make):
    model = make()
    assert convert(model, torch.randn(2, 3, 4)) is model


def test_the_probe_changes_neither_the_model_nor_the_random_state():
    model = UsersModel()
    with torch.no_grad():
        model(torch.zeros(2, 3, 16, 16))
    model.features[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    state = torch.get_rng_state()
    convert(model, torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), state)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [m.training for m in model.modules()] == modes
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_refused_model_is_left_without_hooks():
    model = nn.Sequential(nn.Linear(4, 4), Gaussian()).eval()
    with pytest.raises(Inexplicit):
        convert(model, torch.randn(2, 4))
    assert not any(m._forward_hooks or m._forward_pre_hooks or m.training for m in model.modules())


def test_the_penalty_is_zero_at_the_rate_and_grows_away_from_it():
    layer = Dropout(0.25)
    at_rate = torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    penalties = [float(layer.penalty(at_rate * scale)) for scale in (1.0, 0.5, 0.0)]
    assert penalties[0] == 0
    assert all(a < b for a, b in pairwise(penalties))
    assert layer.project(torch.tensor([-1.0, 0.3, 2.0])).tolist() == pytest.approx([0.0, 0.3, 1.0])


def same_behind(dropped: Tensor, dimensions: int) -> bool:
    """Whether all entries that share their places in the first dimensions are alike."""
    flat = dropped.reshape(*dropped.shape[:dimensions], -1)
    return torch.equal(flat, flat[..., :1].expand_as(flat))


@pytest.mark.parametrize("sides", [(60, 6), (60, 6, 5), (60, 6, 5, 4), (60, 6, 5, 4, 3)], ids=len)
@pytest.mark.parametrize(
    "kind", [nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout]
)
@pytest.mark.filterwarnings("ignore")
def test_what_is_dropped_at_once_is_what_torch_drops(kind, sides):
    """Also where torch takes a batch for one example, and drops whole examples of it."""
    if kind is nn.Dropout1d and len(sides) > 3:
        return  # torch refuses it
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs, ours = (layer(torch.ones(sides)) for layer in (kind(0.5), convert(kind(0.5))))
    at_once = []
    for dropped in (theirs == theirs.max(), ours == ours.max()):
        assert float(dropped.float().mean()) == pytest.approx(0.5, abs=0.2)
        whole = [d for d in range(1, len(sides) + 1) if same_behind(dropped, d)]
        at_once.append(whole[0])
    assert at_once[0] == at_once[1]


@pytest.mark.parametrize("kind", [nn.AlphaDropout, nn.FeatureAlphaDropout])
def test_alpha_dropout_is_that_of_torch(kind):
    """The same values of units that pass and of units that are dropped; mean and variance stay."""
    x = torch.randn(2000, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    layer = convert(kind(0.3))
    with torch.random.fork_rng(), record(layer) as drawn:
        torch.manual_seed(0)
        theirs, ours = kind(0.3)(torch.ones_like(x)).unique(), layer(torch.ones_like(x))
    torch.testing.assert_close(ours.unique(), theirs)
    [mask] = drawn[""]
    assert mask.shape == (x.shape if kind is nn.AlphaDropout else (2000, 6, 1))
    assert float(mask.mean()) == pytest.approx(0.7, abs=0.02)
    moved = layer.inject(x, layer.sample(x, torch.Generator().manual_seed(1)))
    assert float(moved.mean()) == pytest.approx(0, abs=0.05)
    assert float(moved.var()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("make", "shape", "kept"),
    [
        (lambda: DropPath(0.25), (3,), 1 / 0.75),
        (lambda: SwinDropPath(0.25), (3,), 1 / 0.75),
        (lambda: DropPath(0.25, scale_by_keep=False), (3,), 1.0),
        (lambda: StochasticDepth(0.25, "row"), (3,), 1 / 0.75),
        (lambda: StochasticDepth(0.25, "batch"), (), 1 / 0.75),
    ],
)
def test_stochastic_depth_of_others_is_converted(make, shape, kept):
    model = convert(nn.Sequential(nn.Linear(4, 4), make()), torch.randn(2, 4))
    layer, x = model[1], torch.randn(3, 4)
    with record(model) as drawn:
        found = model(x)
    [bits] = drawn["1"]
    assert bits.shape == shape
    torch.testing.assert_close(found, model[0](x) * bits.reshape(*shape, *[1] * (2 - len(shape))) * kept)
    draws = torch.stack([layer.sample(x, torch.Generator().manual_seed(seed)) for seed in range(2000)])
    assert float(draws.mean()) == pytest.approx(0.75, abs=0.05)
    assert torch.equal(model.eval()(x), model[0](x))
    assert layer.read({"1.weight": x}, "1", x.shape) is None
    assert convert(nn.Sequential(DropPath(0.0), StochasticDepth(0.0, "row"))) is not None

