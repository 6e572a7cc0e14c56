"""The bundled models, and a user's own by factory: shapes, sizes, seeds, second derivatives, refusals."""

from __future__ import annotations

import textwrap

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from defenses.stochastic import set_stochastic, stochastic_layers
from fedsim import models
from fedsim.errors import BadInput
from fedsim.models import build, effective_dropout
from fedsim.models.vit_b16 import ViTB16

SMALL_VIT = {"depth": 2, "width": 32, "heads": 4, "mlp": 32}


def test_the_names_and_their_keys():
    assert {name: list(models.parameters(name)) for name in models.names()} == {
        "mlp": ["width", "depth", "bias", "activation"],
        "lenet": ["init"],
        "resnet18": ["norm", "width"],
        "vit": ["patch", "depth", "width", "heads", "mlp", "token_std"],
        "vit_b16": ["patch", "depth", "width", "heads", "mlp", "token_std"],
        "efficientnet_lite0": ["weights"],
    }
    assert models.parameters("vit_b16")["mlp"].default == 3072


@pytest.mark.parametrize(
    ("spec", "input_shape", "classes", "size"),
    [
        ({"name": "mlp"}, (1, 28, 28), 10, 785 * 512 + 2 * 513 * 512 + 513 * 10),
        ({"name": "mlp", "bias": False}, (3, 32, 32), 10, 3072 * 512 + 2 * 512 * 512 + 512 * 10),
        ({"name": "lenet"}, (3, 32, 32), 100, 76 * 12 + 2 * 301 * 12 + 100 * 769),
        ({"name": "lenet"}, (1, 29, 30), 7, 26 * 12 + 2 * 301 * 12 + 7 * (12 * 64 + 1)),
        ({"name": "resnet18"}, (3, 32, 32), 10, 11_173_962),  # as customary on CIFAR
        ({"name": "resnet18"}, (3, 96, 96), 1000, 11_689_512),  # as in torchvision
        ({"name": "resnet18", "norm": "group"}, (1, 28, 28), 10, 11_173_962 - 2 * 9 * 64),
        ({"name": "vit"}, (3, 32, 32), 10, 1_615_626),
        ({"name": "vit", "patch": 8, **SMALL_VIT}, (1, 32, 16), 4, None),
    ],
)
def test_logits_and_size(spec, input_shape, classes, size):
    model = build({**spec, "dropout": 0.2}, input_shape=input_shape, classes=classes, seed=0)
    assert model.training
    assert model(torch.randn(3, *input_shape)).shape == (3, classes)
    assert model.eval()(torch.randn(1, *input_shape)).shape == (1, classes)
    assert effective_dropout(model) == 0.2
    if size is not None:
        assert sum(parameter.numel() for parameter in model.parameters()) == size


def test_vit_b16_has_the_published_size():
    with torch.device("meta"):
        model = ViTB16((3, 224, 224), 1000)
    assert sum(parameter.numel() for parameter in model.parameters()) == 86_567_656


def test_patches_are_the_images_squares_row_by_row():
    model = build({"name": "vit", **SMALL_VIT}, input_shape=(3, 8, 12), classes=2, seed=0)
    images = torch.randn(2, 3, 8, 12)
    patches = model.patches(images)
    assert patches.shape == (2, 6, 48)
    assert torch.equal(patches[1, 4].reshape(3, 4, 4), images[1, :, 4:8, 4:8])


def test_the_vit_drops_after_the_embedding_on_attention_and_after_each_projection():
    model = build({"name": "vit"}, input_shape=(3, 32, 32), classes=10, seed=0)
    layers = list(stochastic_layers(model))
    assert len(layers) == 1 + 4 * 4
    assert layers[:5] == [
        "dropout",
        "blocks.0.attention.attention_dropout",
        "blocks.0.attention.dropout",
        "blocks.0.feed_forward.dropout1",
        "blocks.0.feed_forward.dropout2",
    ]


@pytest.mark.parametrize(
    "spec",
    [
        {"name": "mlp", "width": 32},
        {"name": "mlp", "width": 32, "activation": "relu", "bias": False},
        {"name": "lenet"},
        {"name": "resnet18"},
        {"name": "resnet18", "norm": "group"},
        {"name": "vit", **SMALL_VIT},
        {"name": "vit_b16", **SMALL_VIT, "patch": 8},
    ],
    ids=lambda spec: "-".join(str(value) for value in spec.values()),
)
def test_gradients_can_be_matched_for_many_victims_at_once(spec):
    """The gradient of a distance of gradients, with respect to images and noise, under vmap: finite, non-zero and that
    of each victim alone. Batch norm uses the batch's own statistics, as on an attacker's copy."""
    model = build({**spec, "dropout": 0.3}, input_shape=(3, 16, 16), classes=5, seed=0).double()
    set_stochastic(model, False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    victims, batch = 2, 2
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(victims, batch, 3, 16, 16, dtype=torch.float64, generator=generator)
    y = torch.randint(5, (victims, batch), generator=generator)

    shapes: dict[str, tuple[int, ...]] = {}
    handles = [
        layer.register_forward_pre_hook(lambda _, inputs, path=path: shapes.update({path: inputs[0].shape}))
        for path, layer in stochastic_layers(model).items()
    ]
    model(x[0])
    for handle in handles:
        handle.remove()
    noise = {
        f"{path}.noise": torch.rand(victims, *shape, dtype=torch.float64, generator=generator)
        for path, shape in shapes.items()
    }

    def matching(x, noise, y):
        def loss(parameters):
            return F.cross_entropy(torch.func.functional_call(model, {**parameters, **noise}, (x,)), y)

        gradient = torch.func.grad(loss)(parameters)
        return sum((1e-3 - value).square().sum() for value in gradient.values())

    step = torch.func.grad(matching, argnums=(0, 1))
    images, masks = torch.func.vmap(step)(x, noise, y)
    for i in range(victims):
        alone_images, alone_masks = step(x[i], {name: value[i] for name, value in noise.items()}, y[i])
        torch.testing.assert_close(images[i], alone_images, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close({name: value[i] for name, value in masks.items()}, alone_masks, rtol=1e-6, atol=1e-9)
    assert all(torch.isfinite(value).all() and value.abs().max() > 0 for value in [images, *masks.values()])


def test_the_seed_decides_the_weights_and_the_global_state_is_left_alone():
    def weights(seed: int) -> torch.Tensor:
        return build({"name": "mlp", "width": 8}, input_shape=(1, 4, 4), classes=3, seed=seed).head.weight

    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = weights(2**62 + 1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert torch.equal(first, weights(2**62 + 1))
    assert not torch.equal(first, weights(2))


def test_lenets_first_layer_gets_a_gradient():
    model = build({"name": "lenet"}, input_shape=(3, 32, 32), classes=10, seed=0)
    F.cross_entropy(model(torch.randn(1, 3, 32, 32)), torch.tensor([3])).backward()
    norms = {name: float(parameter.grad.norm()) for name, parameter in model.named_parameters()}
    assert norms["features.0.weight"] > 0.05 * norms["head.weight"]


@pytest.fixture
def factories(tmp_path, monkeypatch):
    """A user's module of factories, importable as `users_models`."""
    (tmp_path / "users_models.py").write_text(
        textwrap.dedent("""
        import torch
        from torch import nn
        import torch.nn.functional as F

        def good(input_shape, classes, *, width=8):
            c, h, w = input_shape
            return nn.Sequential(nn.Flatten(), nn.Linear(c * h * w, width), nn.Dropout(0.25), nn.Linear(width, classes))

        def without_dropout(input_shape, classes):
            return nn.Sequential(nn.Flatten(), nn.Linear(48, classes))

        def narrow(input_shape, classes):
            return nn.Sequential(nn.Flatten(), nn.Linear(48, classes - 1))

        def misfit(input_shape, classes):
            return nn.Sequential(nn.Flatten(), nn.Linear(47, classes))

        class Called(nn.Linear):
            def forward(self, x):
                return F.dropout(super().forward(x), 0.5, self.training)

        def called(input_shape, classes):
            return nn.Sequential(nn.Flatten(), Called(48, classes))

        class Noisy(nn.Linear):
            def forward(self, x):
                return super().forward(x) + torch.randn(1)

        def noisy(input_shape, classes):
            return nn.Sequential(nn.Flatten(), Noisy(48, classes))

        class Twice(nn.Module):
            def __init__(self, classes):
                super().__init__()
                self.head, self.drop = nn.Linear(48, classes), nn.Dropout(0.0)

            def forward(self, x):
                return self.drop(self.head(self.drop(x.flatten(1))))

        def twice(input_shape, classes):
            return Twice(classes)

        def no_module(input_shape, classes):
            return lambda images: images

        def other_signature(pixels):
            return nn.Identity()
        """)
    )
    monkeypatch.syspath_prepend(str(tmp_path))


def from_factory(spec):
    return build(spec, input_shape=(3, 4, 4), classes=5, seed=0)


@pytest.mark.usefixtures("factories")
def test_a_users_factory():
    model = from_factory({"factory": "users_models:good", "width": 6})
    assert effective_dropout(model) == 0.25
    assert list(stochastic_layers(model)) == ["2"]
    assert model[1].out_features == 6
    assert effective_dropout(from_factory({"factory": "users_models:good", "dropout": 0.75})) == 0.75
    assert effective_dropout(from_factory({"factory": "users_models:good", "dropout": None})) == 0.25
    assert effective_dropout(from_factory({"factory": "users_models:without_dropout", "dropout": 0.0})) == 0
    assert effective_dropout(from_factory({"factory": "users_models:twice"})) == 0
    assert list(stochastic_layers(from_factory({"factory": "users_models:called"}))) == ["1.functional_dropout_0"]
    assert effective_dropout(from_factory({"factory": "users_models:called", "dropout": 0.75})) == 0.75


@pytest.mark.usefixtures("factories")
@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"name": "mpl"}, "unknown model 'mpl'; did you mean 'mlp'?"),
        ({}, "either a name or a factory"),
        ({"name": "mlp", "factory": "users_models:good"}, "either a name or a factory"),
        ({"name": "mlp", "widht": 3}, "'widht' (it is called with input_shape, classes and the keys of ['width'"),
        ({"name": "mlp", "width": 0}, "model 'mlp': width = 0 is not a whole number of at least 1"),
        ({"name": "mlp", "depth": 1.5}, "depth = 1.5"),
        ({"name": "mlp", "activation": "selu"}, "activation = 'selu' is not one of gelu, relu"),
        ({"name": "lenet", "init": "zero"}, "init = 'zero' is not one of uniform, xavier, default"),
        ({"name": "resnet18", "norm": "layer"}, "norm = 'layer' is not one of batch, group"),
        ({"name": "vit", "patch": 3}, "patch = 3 does not divide images of 4 x 4 pixels"),
        ({"name": "vit", "heads": 3}, "heads = 3 does not divide width = 256"),
        ({"name": "mlp", "dropout": 1.0}, "dropout = 1.0 is not in [0, 1)"),
        ({"name": "mlp", "dropout": -0.1}, "dropout = -0.1 is not in [0, 1)"),
        ({"factory": "users_models.good"}, "write it as package.module:function"),
        ({"factory": "no_such_module:good"}, "cannot import 'no_such_module'"),
        ({"factory": "users_models:bad"}, "module 'users_models' has no function 'bad'"),
        ({"factory": "users_models:good", "depth": 1}, "unexpected keyword argument 'depth'"),
        ({"factory": "users_models:other_signature"}, "missing a required argument: 'pixels'"),
        ({"factory": "users_models:no_module"}, "returned function, not a torch.nn.Module"),
        ({"factory": "users_models:narrow"}, "returned shape (2, 4), not logits of shape (2, 5)"),
        ({"factory": "users_models:misfit"}, "tried on images of shape (2, 3, 4, 4): mat1 and mat2"),
        ({"factory": "users_models:noisy"}, "module '1' (Noisy) draws random numbers"),
        ({"factory": "users_models:without_dropout", "dropout": 0.5}, "has no dropout layer"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(f"{k}={v}" for k, v in value.items()) or "empty",
)
def test_bad_specs_are_explained_in_one_line(spec, told):
    with pytest.raises(BadInput) as refusal:
        from_factory(spec)
    assert told in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_whatever_a_users_factory_raises_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "raising_factory.py").write_text(
        "def make(input_shape, classes):\n    raise RuntimeError('no weights')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BadInput, match=r"raising_factory:make.*no weights"):
        build({"factory": "raising_factory:make"}, input_shape=(1, 8, 8), classes=2)
