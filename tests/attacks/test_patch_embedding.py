"""One image of a vision transformer's update by one linear system: exact, degraded and saying so, or declined."""

from __future__ import annotations

import copy
import math
import statistics
from dataclasses import replace
from typing import Any

import pytest
import torch
from attack_victims import observe
from hypothesis import given, settings
from hypothesis import strategies as st
from patch_victims import OwnViT, tiny_vit
from torch import Tensor, nn

import attacks
from attacks import LocalTraining, NotApplicable, Observation, Reconstruction, ThreatModel
from defenses.client.optimizers.sgd import SGD
from fedsim import data, models
from fedsim.random import rng_for

STD = 0.5


def victim(shape: tuple[int, int, int], count: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images with pixels in [0, 1], normalised with mean and deviation 0.5, and labels of four classes."""
    images = torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return images, torch.arange(count) % 4


def shallow(rate: float, shape: tuple[int, int, int], *, seed: int = 0) -> nn.Module:
    """The bundled ViT with one block, and tokens that begin as small as where ViTs are trained."""
    spec = {"name": "vit", "depth": 1, "token_std": 0.02, "dropout": rate}
    return models.build(spec, input_shape=shape, classes=4, seed=seed)


def seen(model: nn.Module, images: Tensor, labels: Tensor, **fields: Any) -> Observation:
    channels = images.shape[1]
    return observe(model, images, labels, mean=(STD,) * channels, std=(STD,) * channels, classes=4, **fields)


def solve(observation: Observation, model: nn.Module, *, ridge: float | None = None, **granted: Any) -> Reconstruction:
    attack = attacks.create("patch_embedding", ridge=ridge)
    return attack(observation, ThreatModel(**granted), copy.deepcopy(model))


def declined(observation: Observation, model: nn.Module, **granted: Any) -> str:
    with pytest.raises(NotApplicable) as caught:
        solve(observation, model, **granted)
    return str(caught.value)


def psnr(result: Reconstruction, images: Tensor) -> float:
    error = (STD * (result.images.double() - images.double())).square().mean()
    return -10 * math.log10(max(float(error), 1e-30))


def changed(observation: Observation, change: Any) -> Observation:
    """The observation with `change(name, tensor)` in place of each tensor of its update."""
    return replace(observation, update={name: change(name, value) for name, value in observation.update.items()})


@pytest.mark.parametrize("rate", [0.0, 0.25, 0.5, 0.75])
def test_the_bundled_vit_hides_nothing_at_any_rate(rate: float) -> None:
    torch.manual_seed(0)
    spec = {"name": "vit", "dropout": rate}
    model = models.build(spec, input_shape=(3, 32, 32), classes=4, seed=0)
    images, labels = victim((3, 32, 32))
    result = solve(seen(model, images, labels), model)
    assert psnr(result, images) >= 100
    assert result.details["certain"] == [True]
    assert result.details["stage"] == "patch_embedding"
    assert result.loss < 1e-5
    delta = solve(seen(model, images, labels, local=LocalTraining(learning_rate=0.1)), model)
    assert psnr(delta, images) >= (55 if rate < 0.5 else 65)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rate": 0.5},
        {"pool": "mean", "rate": 0.25},
        {"bias": False, "rate": 0.5},
        {"after": nn.LayerNorm(24)},
        {"after": nn.Sequential(nn.Dropout(0.5), nn.LayerNorm(24))},
    ],
    ids=str,
)
def test_a_users_own_vit_with_bare_positions_and_hidden_dropout(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = OwnViT(**options)
    images, labels = victim((3, 12, 8))
    result = solve(seen(model, images, labels), model)
    assert psnr(result, images) >= 100
    assert result.details["certain"] == [True]
    assert result.details["patches"] == 8


def test_images_of_8_bits_are_recognised_and_no_others() -> None:
    model = shallow(0.0, (3, 32, 32), seed=0)
    images, labels = victim((3, 32, 32))
    coarse = ((images * STD + STD) * 255).round().div(255).sub(STD).div(STD)
    least_squares, rounded = (solve(seen(model, x, labels), model) for x in (images, coarse))
    assert rounded.details["eight_bit"]
    assert psnr(rounded, coarse) > psnr(least_squares, images) + 20
    assert not least_squares.details["eight_bit"]
    almost = coarse.clone()
    almost[..., :4, :4] = images[..., :4, :4]
    result = solve(seen(model, almost, labels), model)
    assert not result.details["eight_bit"]
    assert psnr(result, almost) >= 90
    for level in (1e-5, 1e-2):
        assert not solve(noisy(seen(model, coarse, labels), level), model).details["eight_bit"]


class ShuffledViT(nn.Module):
    """Patches as (h, w, P), taken column by column and embedded by a Linear; positions as (D, N); two extra tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(20, 4)
        self.extra = nn.Parameter(torch.randn(2, 20))
        self.where = nn.Parameter(torch.randn(20, 10))
        self.project = nn.Linear(8, 20)
        self.block = nn.Sequential(nn.Linear(20, 20), nn.GELU())

    def forward(self, images: Tensor) -> Tensor:
        patches = nn.functional.pixel_unshuffle(images.transpose(2, 3), 2).permute(0, 2, 3, 1)
        tokens = torch.cat([self.project(patches).flatten(1, 2), self.extra.expand(len(images), -1, -1)], dim=1)
        tokens = self.block(tokens + self.where.T)
        return self.head((tokens * tokens).mean(1))


def test_any_arrangement_of_patches_and_positions_is_found() -> None:
    torch.manual_seed(0)
    model = ShuffledViT()
    images, labels = victim((2, 4, 8))
    result = solve(seen(model, images, labels), model)
    assert psnr(result, images) >= 100
    assert result.details["certain"] == [True]


@settings(deadline=None, max_examples=15)
@given(
    rows=st.integers(1, 3),
    columns=st.integers(2, 4),
    height=st.integers(1, 4),
    breadth=st.integers(2, 4),
    channels=st.sampled_from([1, 3]),
    width=st.sampled_from([16, 20, 28]),
    rate=st.sampled_from([0.0, 0.3, 0.6]),
    pool=st.sampled_from(["class", "mean"]),
    seed=st.integers(0, 99),
)
def test_over_shapes(
    rows: int, columns: int, height: int, breadth: int, channels: int, width: int, rate: float, pool: str, seed: int
) -> None:
    torch.manual_seed(seed)
    shape = (channels, rows * height, columns * breadth)
    model = OwnViT(shape=shape, patch=(height, breadth), width=width, rate=rate, pool=pool).double()
    images, labels = victim(shape, seed=seed)
    result = solve(seen(model, images.double(), labels, seed=seed), model)
    assert psnr(result, images) >= 150
    assert result.details["certain"] == [True]


def test_the_given_model_and_the_global_random_state_are_left_alone() -> None:
    model = OwnViT(rate=0.5)
    model.after.eval()
    images, labels = victim((3, 12, 8))
    observation = seen(model, images, labels)
    before, modes = torch.get_rng_state(), [module.training for module in model.modules()]
    attacks.create("patch_embedding")(observation, ThreatModel(), model)
    assert torch.equal(torch.get_rng_state(), before)
    assert [module.training for module in model.modules()] == modes
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_the_image_may_come_back_in_several_steps(rate: float) -> None:
    torch.manual_seed(0)
    model = tiny_vit(rate)
    images, labels = victim((1, 8, 8))
    local = LocalTraining(steps=3, learning_rate=0.1, optimizer=SGD(momentum=0.9, weight_decay=0.1))
    result = solve(seen(model, images.expand(3, -1, -1, -1), labels.expand(3), local=local), model)
    assert psnr(result, images) >= 60
    assert result.details["certain"] == [True, False, False]
    assert result.images.shape == (3, 1, 8, 8)


@pytest.mark.parametrize("rate", [0.0, 0.5])
@pytest.mark.parametrize("steps", [2, 5])
def test_different_images_in_the_steps_are_noticed(rate: float, steps: int) -> None:
    torch.manual_seed(0)
    model = tiny_vit(rate)
    images, labels = victim((1, 8, 8), steps)
    observation = seen(model, images, labels, local=LocalTraining(steps=steps, learning_rate=0.05))
    assert "different images" in declined(observation, model)


def test_what_is_certain_of_several_steps_is_one_of_their_images() -> None:
    """A large step leaves the next, of the same label, little gradient: the first image explains the update alone."""
    found = 0
    for seed in range(6):
        torch.manual_seed(seed)
        model = shallow(0.0, (3, 16, 16), seed=seed)
        images, labels = victim((3, 16, 16), 2, seed)[0], torch.zeros(2, dtype=torch.int64)
        observation = seen(model, images, labels, local=LocalTraining(steps=2, learning_rate=1.0))
        [result] = attacks.create("patch_embedding").run([observation], ThreatModel(), model)
        if isinstance(result, NotApplicable) or result.details["certain"] == [False, False]:
            continue
        found += 1
        assert result.details["certain"] == [True, False]
        assert max(psnr(result, images[:1]), psnr(result, images[1:])) >= 30
    assert found > 0


def test_a_batch_is_declined_also_when_its_size_is_not_granted() -> None:
    torch.manual_seed(0)
    model = tiny_vit(0.5)
    images, labels = victim((1, 8, 8), 2)
    observation = seen(model, images, labels)
    assert "batch of 2" in declined(observation, model)
    assert "different images" in declined(replace(observation, batch_size=None), model)
    alone = seen(model, images[:1], labels[:1])
    assert psnr(solve(replace(alone, batch_size=None), model), images[:1]) >= 100


def test_weight_decay_is_undone_when_known_and_noticed_when_not() -> None:
    torch.manual_seed(0)
    model = tiny_vit(0.5)
    images, labels = victim((1, 8, 8))
    local = LocalTraining(learning_rate=0.1, optimizer=SGD(weight_decay=0.1))
    observation = seen(model, images, labels, local=local)
    assert psnr(solve(observation, model), images) >= 90
    assert "local_training known" in declined(replace(observation, local=None), model)
    unexpected = solve(replace(observation, local=replace(local, optimizer=SGD(weight_decay=0.0))), model)
    assert unexpected.details["certain"] == [False]
    strong = seen(model, images, labels, local=replace(local, optimizer=SGD(weight_decay=10.0)))
    assert psnr(solve(strong, model), images) >= 60
    assumed = replace(strong, local=replace(local, optimizer=SGD()))
    assert "weight decay that is not known" in declined(assumed, model)


def test_an_update_of_adamw_is_noticed() -> None:
    torch.manual_seed(0)
    model = tiny_vit(0.5)
    images, labels = victim((1, 8, 8))
    client = copy.deepcopy(model).train()
    optimiser = torch.optim.AdamW(client.parameters(), lr=0.1)
    nn.functional.cross_entropy(client(images), labels).backward()
    optimiser.step()
    before = dict(model.named_parameters())
    update = {name: (p - before[name]).detach() for name, p in client.named_parameters()}
    observation = replace(seen(model, images, labels, local=LocalTraining(learning_rate=0.1)), update=update)
    assert "a step of Adam" in declined(observation, model)


def test_clipping_changes_nothing() -> None:
    torch.manual_seed(0)
    model = tiny_vit(0.5)
    images, labels = victim((1, 8, 8))
    for scale in (1e-3, 1e3):
        result = solve(changed(seen(model, images, labels), lambda _, value, s=scale: s * value), model)
        assert psnr(result, images) >= 100
        assert result.details["certain"] == [True]


def noisy(observation: Observation, level: float) -> Observation:
    generator = torch.Generator().manual_seed(0)
    total = math.sqrt(sum(float(value.square().sum()) for value in observation.update.values()))
    spread = level * total / math.sqrt(sum(value.numel() for value in observation.update.values()))
    return changed(observation, lambda _, value: value + spread * torch.randn(value.shape, generator=generator))


@pytest.mark.parametrize("rate", [0.0, 0.5])
@pytest.mark.parametrize("level", [1e-5, 1e-3, 1e-2, 1e-1])
@pytest.mark.parametrize("ridge", [0.0, None])
def test_the_error_of_a_noisy_update_is_foretold(rate: float, level: float, ridge: float | None) -> None:
    model = shallow(rate, (3, 32, 32), seed=0)
    images, labels = victim((3, 32, 32))
    result = solve(noisy(seen(model, images, labels), level), model, ridge=ridge)
    foretold = -20 * math.log10(result.details["expected_error"])
    assert abs(psnr(result, images) - foretold) < 8
    assert result.details["certain"] == [foretold >= 40]


def test_a_ridge_helps_where_the_noise_drowns_the_weak_directions_and_is_never_certain() -> None:
    model = shallow(0.0, (3, 32, 32), seed=0)
    images, labels = victim((3, 32, 32))
    images = nn.functional.interpolate(images[..., ::8, ::8], scale_factor=8.0, mode="bilinear")
    observation = seen(model, images, labels)
    plain, damped = (solve(noisy(observation, 1e-2), model, ridge=ridge) for ridge in (0.0, 0.02))
    assert psnr(damped, images) >= psnr(plain, images) + 3
    clean = solve(observation, model, ridge=1e-6)
    assert psnr(clean, images) >= 60
    assert clean.details["certain"] == [False]
    with pytest.raises(ValueError, match="negative"):
        attacks.create("patch_embedding", ridge=-1.0)


@pytest.mark.parametrize("rate", [0.0, 0.5])
@pytest.mark.parametrize("level", [1e-2, 3e-2, 1e-1, 1.0])
def test_the_noise_itself_says_which_ridge(rate: float, level: float) -> None:
    model = shallow(rate, (3, 32, 32), seed=0)
    images, labels = victim((3, 32, 32))
    images = nn.functional.interpolate(images[..., ::8, ::8], scale_factor=8.0, mode="bilinear")
    observation = noisy(seen(model, images, labels), level)
    chosen = solve(observation, model)
    ridges = [0.0, *(10 ** (k / 4) for k in range(-16, 9))]
    assert psnr(chosen, images) >= max(psnr(solve(observation, model, ridge=ridge), images) for ridge in ridges) - 1
    assert chosen.details["ridge"] > 0
    assert chosen.details["certain"] == [False]
    assert (chosen.details["noise"] > 0.5) == (chosen.details["assumed"] is not None)


PHOTOS = {0.0: {"std 1e-3": 15, "1 %": 20, "bfloat16": 45}, 0.5: {"std 1e-3": 15, "1 %": 25, "bfloat16": 55}}


@pytest.mark.parametrize("rate", PHOTOS)
def test_noisy_updates_of_photos(rate: float) -> None:
    """Medians over 8 photos through the bundled ViT as it is; the mean image has 13.7 dB."""
    photos = data.load({"name": "photos"})
    chosen = torch.from_numpy(rng_for(0, "victims").permutation(len(photos.train_images))[:8].copy())
    images, labels = photos.normalise(photos.train_images[chosen].float()), photos.train_labels[chosen]
    fields = {"mean": photos.mean, "std": photos.std, "classes": len(photos.classes)}
    spec = {"name": "vit", "dropout": rate}
    model = models.build(spec, input_shape=(3, 32, 32), classes=len(photos.classes), seed=0)
    std = torch.tensor(photos.std).view(-1, 1, 1)

    def quality(guess: Tensor, truth: Tensor) -> float:
        return -10 * math.log10(float((std * (guess - truth)).square().mean()))

    spoils = {
        "std 1e-3": lambda o: changed(o, lambda name, v: v + 1e-3 * torch.randn(v.shape)),
        "1 %": lambda o: noisy(o, 0.01),
        "bfloat16": lambda o: changed(o, lambda name, v: v.bfloat16().float()),
        "weights in float16": lambda o: changed(o, lambda name, v: _returned(o, name, v, torch.float16)),
        "weights in bfloat16": lambda o: changed(o, lambda name, v: _returned(o, name, v, torch.bfloat16)),
    }
    found: dict[str, list[float]] = {name: [] for name in spoils}
    for i, (image, label) in enumerate(zip(images, labels)):
        observation = observe(model, image[None], label[None], seed=i, **fields)
        torch.manual_seed(1000 + i)
        for name, spoil in spoils.items():
            result = solve(spoil(observation), model)
            found[name].append(quality(result.images, image))
            if name.startswith("weights"):
                assert result.details["certain"] == [False]
                assert "noise" in result.details["assumed"] or "mean image" in result.details["assumed"]
                assert found[name][-1] >= quality(torch.zeros_like(image), image) - 0.05
    for name, least in PHOTOS[rate].items():
        assert statistics.median(found[name]) >= least, name


def _returned(observation: Observation, name: str, gradient: Tensor, dtype: torch.dtype) -> Tensor:
    """The gradient as it shows in weights that were returned in this type after a step of 0.1."""
    sent = observation.state[name]
    return ((sent - 0.1 * gradient).to(dtype).float() - sent) / -0.1


def test_a_delta_rounded_to_bfloat16_is_weighted_by_its_rounding() -> None:
    """Its entries' errors are shares of their sizes, so the equations differ in precision."""
    dataset = data.load({"name": "photos"})
    model = models.build({"name": "vit", "dropout": 0.0}, input_shape=(3, 32, 32), classes=10, seed=0)
    chosen = rng_for(0, "victims").permutation(len(dataset.train_images))[:3].copy()
    photos, scores = dataset.normalise(dataset.train_images[torch.from_numpy(chosen)]), []
    for photo in photos:
        observation = observe(model, photo[None], torch.tensor([0]), mean=dataset.mean, std=dataset.std)
        rounded = {name: (-0.1 * value).bfloat16().float() for name, value in observation.update.items()}
        delta = replace(observation, update=rounded, kind="delta", local=LocalTraining(learning_rate=0.1))
        wrong = (solve(delta, model).images[0] - photo) * torch.tensor(dataset.std).view(-1, 1, 1)
        scores.append(-10 * math.log10(float(wrong.square().mean())))
    assert statistics.median(scores) >= 51, scores


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_noise_does_not_pass_several_images_off_as_one(rate: float) -> None:
    """As long as they show in it at all; the same noise on one image's update is no reason to decline."""
    for seed in range(4):
        model = shallow(rate, (3, 32, 32), seed=seed)
        images, labels = victim((3, 32, 32), 2, seed)
        two, one = (
            replace(noisy(seen(model, x, labels[: len(x)], seed=seed), 1e-2), batch_size=None)
            for x in (images, images[:1])
        )
        assert "too noisy to tell" in declined(two, model)
        assert psnr(solve(one, model), images[:1]) >= 15
        steps = seen(model, images, labels, local=LocalTraining(steps=2, learning_rate=0.05), seed=seed)
        assert "different images" in declined(noisy(steps, 1e-3), model)


def test_what_the_bias_does_not_show_is_not_noise() -> None:
    model = tiny_vit(0.5)
    observation = seen(model, *victim((1, 8, 8)))
    foreign = changed(observation, lambda n, v: v.flip(0) if n == "patch_embedding.weight" else v)
    assert "not that of one image" in declined(foreign, model)


def test_an_image_beyond_the_range_of_pixels_is_not_certain() -> None:
    torch.manual_seed(0)
    model = tiny_vit(0.5)
    images, labels = victim((1, 8, 8))
    inside, beyond = (solve(seen(model, scale * images, labels), model) for scale in (1.0, 1.2))
    assert inside.details["certain"] == [True]
    assert psnr(beyond, 1.2 * images) >= 100
    assert beyond.details["certain"] == [False]


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_pruned_update_is_never_called_certain(share: float) -> None:
    torch.manual_seed(0)
    model = tiny_vit(0.0)
    images, labels = victim((1, 8, 8))

    def prune(_: str, value: Tensor) -> Tensor:
        threshold = value.abs().flatten().kthvalue(max(1, int(share * value.numel()))).values
        return value * (value.abs() > threshold)

    [result] = attacks.create("patch_embedding").run(
        [changed(seen(model, images, labels), prune)], ThreatModel(), model
    )
    assert isinstance(result, NotApplicable) or result.details["certain"] == [False] or psnr(result, images) >= 40


def test_a_dropped_token_is_not_determined_and_the_others_are() -> None:
    torch.manual_seed(1)
    model = OwnViT(after=nn.Dropout1d(0.3))
    images, labels = victim((3, 12, 8))
    result = solve(seen(model, images, labels), model)
    missing = result.details["undetermined"]
    assert 0 < missing < 8
    assert result.details["certain"] == [False]
    exact = (result.images - images).abs() < 1e-4
    assert int(exact.sum()) == (8 - missing) * 3 * 12
    assert (result.images[~exact] == 0).all()


def test_fewer_dimensions_than_patches_are_declined() -> None:
    torch.manual_seed(0)
    images, labels = victim((3, 12, 8))
    for width in (4, 8):  # below a layer norm, 8 dimensions are 7 equations
        model = OwnViT(width=width)
        assert "dimensions" in declined(seen(model, images, labels), model)


class Averaged(nn.Module):
    """All tokens have the same gradient: the update is of the mean patch alone."""

    def __init__(self, *, first: nn.Module) -> None:
        super().__init__()
        self.project = nn.Conv2d(1, 24, 2, stride=2)
        self.where = nn.Parameter(torch.randn(1, 24, 4, 4))
        self.first = first
        self.head = nn.Linear(24, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.first(self.project(images) + self.where).mean((2, 3)))


def test_a_singular_system_is_declined_by_its_rank() -> None:
    model = Averaged(first=nn.Dropout(0.0))
    assert "rank 1," in declined(seen(model, *victim((1, 8, 8))), model)


class Sinusoidal(OwnViT):
    def __init__(self) -> None:
        super().__init__()
        fixed = torch.sin(torch.arange(9)[:, None] * torch.arange(24) / 5.0)[None]
        del self.pos_embed
        self.register_buffer("pos_embed", fixed)


def test_fixed_positions_are_declined() -> None:
    model = Sinusoidal()
    images, labels = victim((3, 12, 8))
    assert "no learned position embedding" in declined(seen(model, images, labels), model)
    frozen = OwnViT()
    frozen.pos_embed.requires_grad_(False)
    observation = seen(frozen, images, labels)
    assert "pos_embed" not in observation.update
    assert "lacks the positions, pos_embed" in declined(observation, frozen)
    zero = changed(seen(OwnViT(), images, labels), lambda name, value: value * (name != "pos_embed"))
    assert "lacks the positions, pos_embed: zero" in declined(zero, OwnViT())


def test_a_head_initialised_with_zeros_is_named() -> None:
    model = tiny_vit(0.5)
    nn.init.zeros_(model.get_parameter("head.weight"))
    assert "head initialised with zeros" in declined(seen(model, *victim((1, 8, 8))), model)


@pytest.mark.parametrize("between", [nn.Dropout(0.1), nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.3))], ids=str)
def test_dropout_before_the_positions_is_named_or_noticed(between: nn.Module) -> None:
    torch.manual_seed(0)
    model = OwnViT(between=between)
    images, labels = victim((3, 12, 8))
    observation = seen(model, images, labels)
    assert "between" in declined(observation, model)
    hidden = OwnViT()  # the same model to an attacker who is not granted the rate
    [result] = attacks.create("patch_embedding").run([observation], ThreatModel(dropout_rate="unknown"), hidden)
    assert isinstance(result, NotApplicable) or result.details["certain"] == [False]
    evaluating = seen(model, images, labels, train=False)
    assert psnr(solve(evaluating, model, client_mode="eval"), images) >= 100


class Scaled(nn.Module):
    def forward(self, tokens: Tensor) -> Tensor:
        return 3 * tokens


@pytest.mark.parametrize("between", [nn.LayerNorm(24), nn.Linear(24, 24), nn.GELU(), Scaled()], ids=str)
def test_tokens_that_are_no_plain_sum_are_declined(between: nn.Module) -> None:
    torch.manual_seed(0)
    model = OwnViT(between=between)
    assert "plainly added" in declined(seen(model, *victim((3, 12, 8))), model)


class Overlapping(nn.Module):
    """Convolutional stem of any kind, learned positions."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 24, **options)
        self.where = nn.Parameter(torch.randn(self.stem(torch.zeros(1, 1, 8, 8)).shape[1:]))
        self.head = nn.Linear(24, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head((self.stem(images) + self.where).square().mean((2, 3)))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"kernel_size": 4, "stride": 2}, "overlap"),
        ({"kernel_size": 2, "stride": 2, "padding": 1}, "pads"),
        ({"kernel_size": 3, "stride": 3}, "tile"),
        ({"kernel_size": 8, "stride": 8}, "one vector"),
    ],
)
def test_stems_that_are_no_patches_are_declined(options: dict[str, Any], reason: str) -> None:
    model = Overlapping(**options)
    assert reason in declined(seen(model, *victim((1, 8, 8))), model)


@pytest.mark.parametrize("name", ["mlp", "lenet"])
def test_other_models_are_declined(name: str) -> None:
    model = models.build({"name": name, "dropout": 0.5}, input_shape=(3, 32, 32), classes=4, seed=0)
    assert "first layer" in declined(seen(model, *victim((3, 32, 32))), model)


def test_unusable_updates_are_declined() -> None:
    model = tiny_vit(0.5)
    observation = seen(model, *victim((1, 8, 8)))
    broken = {
        "not finite": changed(observation, lambda _, value: value * math.nan),
        "is zero": changed(observation, lambda _, value: value * 0),
        "shape": changed(observation, lambda _, value: value[..., :1]),
        "lacks the patch embedding": replace(observation, update={"head.bias": observation.update["head.bias"]}),
    }
    for reason, bad in broken.items():
        assert reason in declined(bad, model)


def test_half_precision_weights_are_degraded_and_said_so() -> None:
    torch.manual_seed(0)
    model = tiny_vit(0.5)
    images, labels = victim((1, 8, 8))
    observation = seen(model, images, labels, local=LocalTraining(learning_rate=0.1))
    state = observation.state

    def rounded(name: str, value: Tensor) -> Tensor:
        return (state[name] + value).bfloat16().float() - state[name]

    result = solve(changed(observation, rounded), model)
    foretold = -20 * math.log10(result.details["expected_error"])
    assert abs(psnr(result, images) - foretold) < 8
    assert result.details["certain"] == [foretold >= 40]
