"""Cut reads the head of the model exactly, or declines; what it then matches is free of the head's randomness."""

import copy
from dataclasses import replace

import pytest
import torch
from attack_victims import observe, paper_mlp, psnr
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import attacks
from attacks import LocalTraining, NotApplicable, Observation, Reconstruction, ThreatModel
from attacks.evaluators import choose
from attacks.head import Reading, find_head, read_head
from attacks.matching.cut import UpstreamAndFeatures
from attacks.objectives import Cosine
from attacks.sites import noise_inputs
from attacks.twin import attacker_copy, client_round
from attacks.unknowns import NOISE, Setting
from defenses.client.optimizers.sgd import SGD
from defenses.client.round import ClientRound
from defenses.stochastic import Dropout
from defenses.stochastic.dropout import FeatureDropout
from fedsim import models

SHAPE, LARGER = (1, 8, 8), (1, 16, 16)


class Convolutional(nn.Module):
    """Two convolutions, sigmoids, dropout, a linear head."""

    def __init__(self, *, dropout: float = 0.5, bias: bool = True, width: int = 8, drop: type = Dropout) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 3, stride=2, padding=1),
            nn.Sigmoid(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.Sigmoid(),
        )
        self.drop = drop(dropout)
        self.head = nn.Linear(16 * width, 4, bias=bias)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.5, 0.5)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.drop(self.features(images)).flatten(1))


def victim(
    model: nn.Module, *, seed: int = 0, batch: int = 1, shape: tuple[int, int, int] = SHAPE, **fields: object
) -> tuple[Tensor, Observation]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(batch, *shape, generator=generator).to(next(model.parameters())) * 2 - 1
    labels = torch.randint(4, (batch,), generator=generator)
    return images, observe(model, images, labels, seed=seed, mean=(0.5,), std=(0.5,), classes=4, **fields)  # type: ignore[arg-type]


def built(name: str, shape: tuple[int, int, int] = SHAPE, **keys: object) -> nn.Module:
    return models.build({"name": name, "dropout": 0.5, **keys}, input_shape=shape, classes=4, seed=0)


def setting_of(model: nn.Module, observation: Observation) -> Setting:
    twin = attacker_copy(model, observation.state)
    shape = observation.input_shape
    drawing = noise_inputs(twin, 1, shape)
    return Setting(
        model=twin,
        images=1,
        classes=observation.classes,
        input_shape=shape,
        mean=(0.5,),
        std=(0.5,),
        noise_inputs=drawing,
        matched=tuple(observation.update),
        round=client_round(observation, twin),
        sizes=(1,),
    )


def read(model: nn.Module, observation: Observation) -> Reading:
    setting = setting_of(model, observation)
    assert observation.labels is not None
    return read_head(find_head(setting.model, setting.input_shape), observation, int(observation.labels))


def truth_at_the_head(model: nn.Module, images: Tensor, observation: Observation) -> tuple[Tensor, Tensor]:
    """What the client's head saw, and the gradient at its output, by autograd with the client's own masks."""
    twin = attacker_copy(model, observation.state)
    path = find_head(twin, observation.input_shape).weight.removesuffix("weight").rstrip(".")
    seen: list[Tensor] = []
    twin.get_submodule(path).register_forward_hook(lambda layer, inputs, output: seen.extend([inputs[0], output]))
    noise = {f"{name}.noise": value for name, value in (observation.noise or {}).items()}
    torch.func.functional_call(twin, noise, (images,))
    logits = seen[1].detach().requires_grad_()
    nn.functional.cross_entropy(logits, observation.labels).backward()
    assert logits.grad is not None
    return seen[0][0].detach(), logits.grad[0]


MODELS = {
    "convolutional": lambda: Convolutional(),
    "no bias": lambda: Convolutional(bias=False),
    "whole channels": lambda: Convolutional(drop=FeatureDropout),
    "no dropout": lambda: Convolutional(dropout=0.0),
    "lenet": lambda: built("lenet"),
    "resnet18": lambda: built("resnet18", LARGER, width=4, norm="group"),
    "resnet18, batch norm": lambda: built("resnet18", LARGER, width=4),
    "vit": lambda: built("vit", depth=1, width=16, heads=2, mlp=16),
    "mlp": lambda: paper_mlp(dropout=0.5, inputs=64, width=32, classes=4),
}


@pytest.mark.parametrize("name", MODELS)
def test_features_and_delta_are_exact(name: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().double()
    shape = LARGER if name.startswith("resnet") else SHAPE  # whose last stage has one pixel at 8 x 8
    images, observation = victim(model, shape=shape, precision="float64")
    reading = read(model, observation)
    features, delta = truth_at_the_head(model, images, observation)
    torch.testing.assert_close(reading.features, features, rtol=1e-7, atol=1e-7 * float(features.abs().max()))
    torch.testing.assert_close(reading.delta, delta, rtol=1e-7, atol=1e-9)


@settings(deadline=None, max_examples=15)
@given(
    width=st.integers(2, 12),
    dropout=st.sampled_from([0.0, 0.25, 0.5, 0.75]),
    bias=st.booleans(),
    seed=st.integers(0, 1000),
    scale=st.sampled_from([1.0, 1e-3, 100.0]),
)
@example(width=11, dropout=0.5, bias=True, seed=265, scale=1.0)  # a confident prediction: its delta has lost digits
@example(width=11, dropout=0.5, bias=True, seed=265, scale=100.0)
def test_a_float32_update_of_any_scale_is_read_to_its_precision(width, dropout, bias, seed, scale) -> None:
    torch.manual_seed(seed)
    model = Convolutional(dropout=dropout, bias=bias, width=width)
    images, observation = victim(model, seed=seed)
    clipped = replace(observation, update={name: scale * value for name, value in observation.update.items()})
    features, delta = truth_at_the_head(model, images, observation)
    try:
        reading = read(model, clipped)
    except NotApplicable:  # without a bias the length of h may be beyond float32: said, not guessed
        assert not bias
        return
    tolerance = 1e-4 if bias else 2e-2
    tolerance += 4 * torch.finfo(torch.float32).eps / float(delta.norm())  # the client's softmax - 1 in float32
    assert (reading.features - features).norm() <= tolerance * features.norm()
    assert (reading.delta - scale * delta).norm() <= tolerance * scale * delta.norm()


def test_with_the_truth_in_its_place_the_loss_and_its_slope_vanish() -> None:
    torch.manual_seed(0)
    model = Convolutional().double()
    images, observation = victim(model, precision="float64")
    attack = attacks.create("cut")
    setting = attack.narrowed(setting_of(model, observation))  # type: ignore[attr-defined]
    known = attack.known(observation, observation.labels, setting)  # type: ignore[attr-defined]
    guess = {"images": images[None], **{name: value[None] for name, value in known.items()}}
    observed = {name: observation.update[name][None] for name in setting.matched}
    evaluator = choose(ClientRound(model=setting.model), attack.compose(setting).objective, observed, guess, ["images"])  # type: ignore[attr-defined]
    loss, gradients = evaluator(guess, ["images"])
    assert abs(float(loss)) < 1e-12
    assert float(gradients["images"].abs().max()) < 1e-6
    moved, slopes = evaluator({**guess, "images": guess["images"] + 0.1}, ["images"])
    assert float(moved) > 1e-6
    assert float(slopes["images"].abs().max()) > 0


@pytest.mark.parametrize("bias", [False, True])
def test_the_loss_is_one_minus_cosine_before_the_head_and_half_the_features_squared_distance(bias: bool) -> None:
    torch.manual_seed(0)
    ours, theirs = ([torch.randn(n, dtype=torch.float64) for n in (5, 7, 6, 3)[: 3 + bias]] for _ in range(2))
    pairs = ((ours, theirs), (ours, ours), (theirs, theirs))
    sums = [torch.stack([a @ b for a, b in zip(x, y)])[None] for x, y in pairs]
    before = torch.cosine_similarity(torch.cat(ours[:2]), torch.cat(theirs[:2]), dim=0)
    features = (ours[2] - theirs[2]).square().sum() / theirs[2].square().sum()
    loss = UpstreamAndFeatures([0, 1], 2)(*sums)
    torch.testing.assert_close(loss, (1 - before + features / 2)[None])


def test_the_linear_loss_has_the_client_s_gradient() -> None:
    """Labels that add up to zero turn cross-entropy into `<delta, logits>`: at the truth, the same gradient."""
    torch.manual_seed(1)
    model = Convolutional().double()
    images, observation = victim(model, precision="float64")
    attack = attacks.create("cut")
    setting = attack.narrowed(setting_of(model, observation))  # type: ignore[attr-defined]
    known = attack.known(observation, observation.labels, setting)  # type: ignore[attr-defined]
    guess = {"images": images[None], **{name: value[None] for name, value in known.items()}}
    observed = {name: observation.update[name][None] for name in setting.matched}
    loss, _ = choose(ClientRound(model=setting.model), Cosine(), observed, guess, ["images"])(guess, ["images"])
    assert abs(float(loss)) < 1e-12
    assert torch.equal(known[NOISE + "drop"], observation.noise["drop"])  # type: ignore[index]


@pytest.mark.parametrize("make", [Convolutional, lambda: Convolutional(drop=FeatureDropout)])
def test_it_reaches_the_oracle_s_quality(make) -> None:
    torch.manual_seed(3)
    model = make()
    images, observation = victim(model)
    threat_model = ThreatModel(noise="known")
    oracle = attacks.create("well_informed", iterations=500)(observation, threat_model, model)
    result = attacks.create("cut", iterations=500)(observation, ThreatModel(), model)
    blind = attacks.create("inverting_gradients", iterations=500)(observation, ThreatModel(), model)
    assert psnr(result.images, images, 0.5) >= min(40, psnr(oracle.images, images, 0.5) - 3)
    assert psnr(result.images, images, 0.5) >= psnr(blind.images, images, 0.5) + 10


def delta_of(model: nn.Module, seed: int = 0, **local: float) -> tuple[Tensor, Observation]:
    return victim(model, seed=seed, local=LocalTraining(**local))  # type: ignore[arg-type]


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_a_weight_delta_of_one_step_is_read(decay: float) -> None:
    torch.manual_seed(0)
    model = Convolutional()
    images, observation = delta_of(model, learning_rate=0.1, optimizer=SGD(weight_decay=decay))
    reading = read(model, observation)
    features, _ = truth_at_the_head(model, images, observation)
    assert (reading.features - features).norm() <= 1e-3 * features.norm()
    result = attacks.create("cut", iterations=300)(observation, ThreatModel(), model)
    assert psnr(result.images, images, 0.5) >= 25
    assert torch.equal(result.noise["drop"], observation.noise["drop"])  # type: ignore[index]


def test_clipping_only_rescales() -> None:
    torch.manual_seed(0)
    model = Convolutional()
    images, observation = victim(model)
    clipped = replace(observation, update={name: 0.01 * value for name, value in observation.update.items()})
    result = attacks.create("cut", iterations=300)(clipped, ThreatModel(), model)
    assert psnr(result.images, images, 0.5) >= 30


def changed(observation: Observation, change) -> Observation:  # type: ignore[no-untyped-def]
    return replace(
        observation, update={name: change(name, value.clone()) for name, value in observation.update.items()}
    )


def noised(name: str, value: Tensor) -> Tensor:
    return value + 1e-3 * value.norm() * torch.randn(value.shape, generator=torch.Generator().manual_seed(0))


def pruned(name: str, value: Tensor) -> Tensor:
    return value.where(value.abs() > value.abs().median(), torch.zeros(()))


def headless(name: str, value: Tensor) -> Tensor:
    return torch.zeros_like(value) if name.startswith("head") else value


def body_less(name: str, value: Tensor) -> Tensor:
    return value if name.startswith("head") else torch.zeros_like(value)


def infinite(name: str, value: Tensor) -> Tensor:
    return value * torch.inf


def filled(name: str, value: Tensor) -> Tensor:
    """A rank-one head gradient without zeros: somebody wrote into the columns that dropout had left empty."""
    if name != "head.weight":
        return value
    empty = (value == 0).all(0)
    return value + torch.outer(value[:, ~empty][:, 0], empty.float())


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (noised, "noise or pruning|no mask can be read"),
        (pruned, "noise or pruning"),
        (headless, "lacks the head's weight|no mask can be read: the update's head.weight is zero"),
        (body_less, "lacks all that lies before the head"),
        (infinite, "not finite"),
    ],
)
def test_an_update_that_hides_the_head_is_declined(change, reason: str, dropout: float) -> None:
    torch.manual_seed(0)
    model = Convolutional(dropout=dropout)
    _, observation = victim(model)
    with pytest.raises(NotApplicable, match=reason):
        attacks.create("cut")(changed(observation, change), ThreatModel(), model)


def columns_pruned(name: str, value: Tensor) -> Tensor:
    """As Soteria sends it: every other column of the head is zero."""
    return value * (torch.arange(value.shape[1]) % 2) if name == "head.weight" else value


def test_whoever_is_told_that_columns_were_pruned_matches_those_that_are_left() -> None:
    torch.manual_seed(0)
    model = Convolutional(dropout=0.0)
    images, observation = victim(model)
    sent = changed(observation, columns_pruned)
    attack = attacks.create("cut", iterations=600)
    told = replace(sent, defense=({"name": "soteria"},))
    assert psnr(attack(told, ThreatModel(defense="known"), model).images, images, 0.5) > 35
    assert psnr(attack(sent, ThreatModel(), model).images, images, 0.5) < 20


def test_zeros_that_are_not_dropout_s_are_not_read() -> None:
    model = Convolutional()
    _, observation = victim(model)
    with pytest.raises(NotApplicable, match="no mask can be read: 0 of 128 units"):
        attacks.create("cut")(changed(observation, filled), ThreatModel(), model)


class Pooled(nn.Module):
    """No linear layer at all: class scores are pooled convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Sigmoid(), nn.Conv2d(8, 4, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images).mean((2, 3))


class PerToken(nn.Module):
    """A linear layer on every token; its outputs are pooled."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Conv2d(1, 8, 4, stride=4), nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.embed(images).flatten(2).transpose(1, 2).tanh()).mean(1)


class Tempered(Convolutional):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) / 2


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Pooled, "no linear layer"),
        (PerToken, "more than one vector"),
        (lambda: Tempered(bias=False), "not the output"),
        (lambda: nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 4)), "no layer with parameters lies"),
    ],
)
def test_a_model_without_a_linear_head_is_declined(make, reason: str) -> None:
    model = make()
    _, observation = victim(model)
    with pytest.raises(NotApplicable, match=reason):
        attacks.create("cut")(observation, ThreatModel(), model)


def test_a_batch_and_several_steps_are_declined() -> None:
    model = Convolutional()
    for observation in (victim(model, batch=2)[1], victim(model, batch=2, local=LocalTraining(steps=2))[1]):
        with pytest.raises(NotApplicable, match="not of a batch"):
            attacks.create("cut")(observation, ThreatModel(), model)


def test_a_zero_head_and_a_missing_layer_are_declined() -> None:
    model = Convolutional()
    zero = copy.deepcopy(model)
    nn.init.zeros_(zero.head.weight)
    with pytest.raises(NotApplicable, match="below a head initialised with zeros"):
        attacks.create("cut")(victim(zero)[1], ThreatModel(), zero)
    _, observation = victim(model)
    update = {name: value for name, value in observation.update.items() if name != "head.weight"}
    with pytest.raises(NotApplicable, match=r"lacks .*head\.weight"):
        attacks.create("cut")(replace(observation, update=update), ThreatModel(), model)


def test_another_loss_is_declined() -> None:
    """The delta of a squared error does not add up to zero."""
    torch.manual_seed(0)
    model = Convolutional()
    images, observation = victim(model)
    model(images).sub(torch.eye(4)[:1]).square().sum().backward()
    update = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    with pytest.raises(NotApplicable, match="no softmax cross-entropy"):
        attacks.create("cut")(replace(observation, update=update), ThreatModel(), model)


def test_it_needs_no_label_where_it_may_infer_one_and_no_neighbour() -> None:
    torch.manual_seed(0)
    model = Convolutional()
    observations = [victim(model, seed=seed)[1] for seed in range(3)]
    observations[1] = changed(observations[1], noised)
    hidden = [replace(observation, labels=None) for observation in observations]
    attack = attacks.create("cut", iterations=20)
    results = attack.run(hidden, ThreatModel(labels="inferred"), model)
    assert isinstance(results[1], NotApplicable)
    for observation, result in zip(observations[::2], results[::2]):
        alone = attack(observation, ThreatModel(), model)
        assert isinstance(result, Reconstruction)
        assert torch.equal(result.labels, observation.labels)  # type: ignore[arg-type]
        torch.testing.assert_close(result.images, alone.images, rtol=1e-3, atol=1e-3)
