"""The law of the client's round: what a client played, replayed with what it drew, is the same to the last digits.

Tried for every model family x local training x defense and compositions x batch and step counts, in float64. Entries
within 1e-12 of a change of sign may fall on either side; no other jump (a pruning threshold, a rounding) was met here.
"""

from __future__ import annotations

import zlib
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_defense_table import TABLE
from torch import Tensor, nn

import defenses
from attacks.twin import attacker_copy
from defenses.client import schedules
from defenses.client.groups import Group
from defenses.client.optimizers import Optimizer, create
from defenses.client.optimizers import names as optimizers
from defenses.client.optimizers.adam import Adam
from defenses.client.optimizers.adamw import AdamW
from defenses.client.optimizers.sgd import SGD
from defenses.client.round import ORDER, ClientRound, Played, play, replay
from defenses.client.training import LocalTraining, freeze
from defenses.stochastic import convert

JUMP = 1e-12
"""How near to a jump an entry may be on either side of it: below that its sign is one of rounding errors."""

SHAPE, CLASSES = (1, 6, 6), 4


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(36, 9), nn.GELU(), nn.Dropout(0.4), nn.Linear(9, 7), nn.Sigmoid(), nn.Linear(7, CLASSES)
    )


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1),
        nn.GroupNorm(2, 4),
        nn.SiLU(),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Dropout2d(0.3),
        nn.Flatten(),
        nn.Linear(36, CLASSES),
    )


class Attentive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.positions = nn.Linear(6, 8), nn.Parameter(torch.randn(1, 6, 8))
        self.mix = nn.TransformerEncoderLayer(8, 2, 8, dropout=0.0, batch_first=True)
        self.drop, self.head = nn.Dropout(0.25), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.mix(self.embed(x.flatten(1, 2)) + self.positions)).mean(1))


class Explicit(nn.Module):
    """Attention whose weights and tokens can be seen."""

    tokens, attention_weights = "embed", "weights"

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.weights = nn.Linear(6, 8), nn.Softmax(-1)
        self.queries, self.head = nn.Linear(8, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x.flatten(1, 2))
        scores = (self.queries(h) @ h.transpose(1, 2))[:, None]
        return self.head((self.weights(scores)[:, 0] @ h).mean(1))


class Residual(nn.Module):
    class Block(nn.Module):
        residual_branches = ("branch",)
        expert_layers = ("branch.0", "branch.2")

        def __init__(self) -> None:
            super().__init__()
            self.branch = nn.Sequential(nn.Linear(9, 5), nn.GELU(), nn.Linear(5, 9))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.branch(x)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.blocks = nn.Linear(36, 9), nn.Sequential(self.Block(), self.Block())
        self.head = nn.Linear(9, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.first(x.flatten(1))))


MODELS = {
    "mlp": mlp,
    "convolutional": convolutional,
    "attentive": Attentive,
    "explicit": Explicit,
    "residual": Residual,
}

OPTIMIZERS = [
    create("sgd"),
    create("sgd", momentum=0.9, weight_decay=1e-2),
    create("sgd", momentum=0.8, nesterov=True),
    create("adam", epsilon=1e-3),
    create("adamw", epsilon=1e-3),
]

SMALL = {
    "batch_size": {"size": 2},
    "local_steps": {"steps": 2},
    "clip": {"norm": 0.3},
    "gaussian_noise": {"std": 0.01},
    "laplace_noise": {"scale": 0.01},
    "soteria": {"prune": 0.4},
    "gradient_dropout": {"p": 0.3, "std": 0.01},
    "censor": {"trials": 3},
    "dcs": {"iterations": 2},
    "outpost": {"prune": 0.5},
    "training_randomness": {"p": 0.3, "std": 0.01, "per": "batch"},
    "local_dp": {"clipping_norm": 0.3, "sensitivity": 0.01},
    "partial_perturbation": {"std": 0.01},
    "pruning": {"keep": 0.3},
    "random_sparsification": {"keep": 0.3},
    "quantization": {"levels": 4},
    "dp_sgd": {"noise_multiplier": 0.5, "max_grad_norm": 0.2},
    "mixup": {"alpha": 0.7},
    "cutmix": {"alpha": 0.7},
    "input_noise": {"std": 0.1},
    "instahide": {"k": 3, "most": 0.7},
    "oasis": {"add": "rotations_and_shear"},
    "central_dp": {"clipping_norm": 0.3},
    "precode": {"size": 6, "beta": 0.1},
    "cvb": {"kernel": 3, "beta": 0.1},
    "spatial_dropout": {"p": 0.4},
    "gaussian_dropout": {"p": 0.4},
    "dropblock": {"p": 0.4, "block": 2},
    "layerdrop": {"p": 0.5},
    "attention_drop": {"p": 0.4, "drop": "keys", "scale": "rows"},
    "token_dropout": {"p": 0.4, "first": 0},
    "scheduled_dropout": {"p": 0.4},
    "concrete_dropout": {"p": 0.4, "decay": 0.01, "entropy": 0.01},
    "lora_dropout": {"p": 0.4, "rank": 3},
    "nested_dropout": {"p": 0.2},
    "smoe_dropout": {"experts": 5, "least": 2},
    "sensitive_neuron_dropout": {"share": 0.3, "window": 2},
    "multi_sample_dropout": {"p": 0.4, "samples": 3},
}
"""Other parameters than in the defenses' own table, for models as small as these."""

DEFENSES = {name: SMALL.get(name, row.parameters) for name, row in TABLE.items()}
"""Every defense, with parameters under which it does something."""

ONLY = {name: row.models for name, row in TABLE.items() if row.models}
"""The models that a defense can handle, where it is not all of them."""

SCHEDULES = [
    schedules.create("listed", factors=(0.0, 1.0, 0.3)),
    schedules.create("step", every=1, gamma=0.5),
    schedules.create("cosine", steps=4, least=0.01),
    schedules.create("linear", steps=2, start=0.2),
]
"""Every schedule: a new one adds a line."""

GROUPS = [
    (Group(parameters=("*bias",), scale=0.5, optimizer=create("sgd", momentum=0.5)),),
    (
        Group(parameters=("*head*", "*6*"), scale=10.0),
        Group(parameters=("*weight",), optimizer=create("sgd", weight_decay=0.1), schedule=SCHEDULES[1]),
    ),
    (Group(parameters=("*bias",), optimizer=create("adam", epsilon=1e-3)),),
]

local_trainings = st.builds(
    LocalTraining,
    steps=st.integers(1, 3),
    epochs=st.sampled_from([None, None, 1, 2]),
    learning_rate=st.sampled_from([0.01, 0.3]),
    schedule=st.sampled_from([None, *SCHEDULES]),
    optimizer=st.sampled_from(OPTIMIZERS),
    groups=st.sampled_from([(), (), *GROUPS]),
    clip_norm=st.sampled_from([None, None, 0.1]),
    clip_value=st.sampled_from([None, None, 0.01]),
    proximal=st.sampled_from([0.0, 0.5]),
    label_smoothing=st.sampled_from([0.0, 0.1]),
    trained=st.sampled_from([(), ("*weight",)]),
)


def generators(seed: int):
    return lambda site, step: torch.Generator().manual_seed(zlib.crc32(f"{seed} {site} {step}".encode()))


def build(make, parts: list[dict], seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return defenses.compose(parts).on_model(convert(make()).double())


def client(make, local: LocalTraining, parts: list[dict], *, batch: int, share: str, mode: str) -> ClientRound:
    model = freeze(build(make, parts), local.trained).train(mode == "train")
    return ClientRound(
        model=model, local=local, defense=defenses.compose(parts), share=share, batch_size=batch, classes=CLASSES
    )


def both(round: ClientRound, *, examples: int, memory=None, mode: str = "train") -> tuple[Played, Played]:
    """What a client plays on random images, and the attacker's replay of what it drew."""
    state = {name: value.detach().clone() for name, value in round.model.state_dict().items()}
    images = torch.rand(examples, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(examples) % CLASSES
    trained = {name for name, value in round.model.named_parameters() if value.requires_grad}
    twin = attacker_copy(round.model, state, client_mode=mode)
    played = play(round, state, images, labels, generators(3), memory)
    sent = {name: value for name, value in state.items() if name in trained}
    return played, replay(replace(round, model=twin), sent, images, labels, played.drawn, memory)


def assert_same(played: Played, replayed: Played) -> None:
    assert played.update.keys() == replayed.update.keys()
    for name, value in played.update.items():
        torch.testing.assert_close(replayed.update[name], value, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(replayed.loss, played.loss, rtol=1e-9, atol=1e-12)
    assert played.memory.keys() == replayed.memory.keys()
    for name, value in played.memory.items():
        torch.testing.assert_close(replayed.memory[name], value, rtol=1e-9, atol=1e-12)


def test_the_tables_are_complete() -> None:
    assert set(SMALL) < set(DEFENSES) == set(defenses.names())
    assert {optimizer.name for optimizer in OPTIMIZERS} == set(optimizers())
    assert {schedule.name for schedule in SCHEDULES} == set(schedules.names())
    assert {"sgd", "adam", "adamw"} <= set(TORCH)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(
    model=st.sampled_from(sorted(MODELS)),
    local=local_trainings,
    parts=st.lists(st.sampled_from(sorted(DEFENSES)), max_size=3, unique=True),
    batch=st.integers(1, 3),
    examples=st.integers(2, 5),
    mode=st.sampled_from(["train", "train", "eval"]),
)
def test_replay_of_what_play_drew_is_play(model, local, parts, batch, examples, mode) -> None:
    parts = sorted(parts, key=lambda name: name == "sign")  # what it sends is tied: no pruning of that is determined
    described = [{"name": name, **DEFENSES[name]} for name in parts if model in ONLY.get(name, MODELS)]
    count = examples if local.epochs is not None else local.steps * batch
    played, replayed = both(
        client(MODELS[model], local, described, batch=batch, share="delta", mode=mode), examples=count, mode=mode
    )
    if "sign" in parts:
        without = client(MODELS[model], local, described[:-1], batch=batch, share="delta", mode=mode)
        unsigned, _ = both(without, examples=count, mode=mode)
        for name, value in unsigned.update.items():  # as of the bias of an attention's keys, whose gradient is zero
            played.update[name][value.abs() <= JUMP] = replayed.update[name][value.abs() <= JUMP] = 0
    assert_same(played, replayed)


@pytest.mark.parametrize(
    ("model", "name"), [(model, name) for name in sorted(DEFENSES) for model in sorted(ONLY.get(name, MODELS))]
)
def test_a_shared_gradient_too(model, name) -> None:
    parts = [{"name": name, **DEFENSES[name]}]
    local = LocalTraining(clip_norm=0.5, label_smoothing=0.1)
    played, replayed = both(client(MODELS[model], local, parts, batch=3, share="gradient", mode="train"), examples=3)
    assert_same(played, replayed)
    assert any(bool(value.any()) for value in played.update.values()), "nothing is left: give it others in SMALL"


TIED = {("sign", "pruning")}
"""In that order: all entries that the first sends of a tensor are of one size, and no one is among the largest."""

REFUSED = {
    ("dp_sgd", "dp_sgd"): "only one defense of a composition may replace the gradient",
    ("quantization", "quantization"): "only one defense of a composition may say how updates are compared",
    ("central_dp", "secure_aggregation"): "central_dp takes single updates, of which the server .* has the sum alone",
    ("secure_aggregation", "central_dp"): "central_dp takes single updates, of which the server .* has the sum alone",
    ("batch_size", "batch_size"): "both say what batch_size is",
    ("local_steps", "local_steps"): "both say what steps is",
    ("cvb", "cvb"): "once is enough",
    ("dropconnect", "dropconnect"): "has no nn.Linear or nn.Conv2d",
    ("dropconnect", "mixout"): "has no nn.Linear or nn.Conv2d",
    ("mixout", "dropconnect"): "has no nn.Linear or nn.Conv2d",
    ("mixout", "mixout"): "has no nn.Linear or nn.Conv2d",
    ("multi_sample_dropout", "multi_sample_dropout"): "once is enough",
    ("concrete_dropout", "concrete_dropout"): "once is enough",
    ("lora_dropout", "lora_dropout"): "once is enough",
    ("sensitive_neuron_dropout", "sensitive_neuron_dropout"): "once is enough",
    ("multi_sample_dropout", "precode"): "the bottleneck takes one vector",
}


@pytest.mark.parametrize("first", sorted(DEFENSES))
def test_every_two_together(first) -> None:
    """In either order a pair is a composition like others, or it is refused in a sentence."""
    for second in sorted(DEFENSES):
        parts = [{"name": name, **DEFENSES[name]} for name in (first, second)]
        mine, both_can = {*ONLY.get(first, MODELS)}, {*ONLY.get(first, MODELS)} & {*ONLY.get(second, MODELS)}
        refused = REFUSED.get((first, second)) if both_can else f"^{second}: "
        model = MODELS[min(both_can or mine)]
        if (first, second) in TIED:
            continue
        with pytest.raises(ValueError, match=refused) if refused else nullcontext():
            round = client(model, LocalTraining(), parts, batch=2, share="gradient", mode="train")
            played, replayed = both(round, examples=2)
            assert_same(played, replayed)
            assert all(value.isfinite().all() for value in played.update.values()), (first, second)


def test_each_example_has_a_depth_of_its_own_or_not() -> None:
    for per, shape in (("batch", (2,)), ("example", (6,))):
        parts = [{"name": "stochastic_depth", "p": 0.5, "per": per}]
        round = client(Residual, LocalTraining(steps=2), parts, batch=3, share="delta", mode="train")
        played, replayed = both(round, examples=6)
        assert [value.shape for value in played.drawn.values()] == [shape] * 2
        assert_same(played, replayed)


def test_each_site_draws_by_its_own_name() -> None:
    """Adding a defense never reseeds another, nor the masks."""
    alone, beside = (
        both(client(mlp, LocalTraining(), parts, batch=2, share="gradient", mode="train"), examples=2)[0]
        for parts in (
            [{"name": "gaussian_noise", "std": 0.1}],
            [{"name": "dp_sgd"}, {"name": "clip"}, {"name": "gaussian_noise", "std": 0.1}],
        )
    )
    assert alone.drawn.keys() < beside.drawn.keys()
    assert all(torch.equal(value, beside.drawn[name]) for name, value in alone.drawn.items())


def test_error_feedback_remembers_what_was_not_sent() -> None:
    parts = [{"name": "pruning", "keep": 0.2, "error_feedback": True}]
    round = client(mlp, LocalTraining(), parts, batch=2, share="delta", mode="eval")
    first, _ = both(round, examples=2, mode="eval")
    assert any(value.any() for value in first.memory.values())
    round = client(mlp, LocalTraining(), parts, batch=2, share="delta", mode="eval")
    second, again = both(round, examples=2, memory=first.memory, mode="eval")
    assert_same(second, again)
    whole = client(mlp, LocalTraining(), [], batch=2, share="delta", mode="eval")
    plain, _ = both(whole, examples=2, mode="eval")
    for name, value in plain.update.items():
        sent, kept = first.update[name], first.memory[f"pruning:{name}"]
        torch.testing.assert_close(sent + kept, value)
        torch.testing.assert_close(second.update[name] + second.memory[f"pruning:{name}"], value + kept)


OF_TORCH = {name.lower(): kind for name, kind in vars(torch.optim).items() if isinstance(kind, type)}
TORCH = {name: OF_TORCH[name] for name in optimizers() if name in OF_TORCH}
"""The optimizers that torch has, too, by the same name but for capitals."""


@pytest.mark.parametrize("optimizer", [one for one in OPTIMIZERS if one.name in TORCH], ids=str)
def test_optimizers_are_those_of_torch(optimizer) -> None:
    spec = optimizer.spec()
    name = spec.pop("name")
    if "beta1" in spec:
        spec["betas"] = (spec.pop("beta1"), spec.pop("beta2"))
    if "epsilon" in spec:
        spec["eps"] = spec.pop("epsilon")
    weights = {"a": torch.randn(5, dtype=torch.float64), "b": torch.randn(2, 3, dtype=torch.float64)}
    theirs = {key: value.clone().requires_grad_() for key, value in weights.items()}
    reference, state = TORCH[name](list(theirs.values()), lr=0.1, **spec), optimizer.init(weights)
    for step in range(4):
        gradient = {key: torch.cos((step + 1) * value) for key, value in weights.items()}
        gradient["a"] = gradient["a"] * torch.tensor([1.0, 0, 1, 0, 1], dtype=torch.float64)
        change, state = optimizer.update(gradient, state, weights, 0.1)
        weights = {key: value + change[key] for key, value in weights.items()}
        for key, value in theirs.items():
            value.grad = gradient[key].clone()
        reference.step()
        for key, value in theirs.items():
            torch.testing.assert_close(weights[key], value.detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_a_gradient_that_a_first_step_reveals_is_the_gradient(optimizer) -> None:
    weights = {"a": torch.randn(5, dtype=torch.float64), "b": torch.randn(2, 3, dtype=torch.float64)}
    gradient = {key: torch.cos(value) for key, value in weights.items()}
    change, _ = optimizer.update(gradient, optimizer.init(weights), weights, 0.1)
    found = optimizer.first_gradient(change, weights, 0.1)
    assert (found is not None) == (type(optimizer).first_gradient is not Optimizer.first_gradient)
    for key, value in (found or {}).items():
        torch.testing.assert_close(value, gradient[key], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (SGD, {"momentum": 1.0}),
        (SGD, {"weight_decay": -1.0}),
        (Adam, {"beta1": 1.0}),
        (Adam, {"epsilon": 0.0}),
        (AdamW, {"beta2": -0.1}),
    ],
)
def test_values_out_of_range_are_refused_by_name(kind, values) -> None:
    [(key, value)] = values.items()
    with pytest.raises(ValueError, match=f"^{kind.name}: {key} = {value} is not "):
        kind(**values)


def test_units_that_were_dropped_leave_adam_differentiable() -> None:
    """Their gradients are zero, and so is the root of their mean square, whose derivative would be infinite."""
    local = LocalTraining(steps=2, optimizer=Adam(), learning_rate=0.01)
    round = client(mlp, local, [], batch=1, share="delta", mode="train")
    played, _ = both(round, examples=2)
    assert any((value == 0).any() for value in played.update.values())
    state = dict(round.model.state_dict())
    twin = attacker_copy(build(mlp, []), state)
    images = torch.rand(2, *SHAPE, dtype=torch.float64).requires_grad_()
    again = replay(replace(round, model=twin), state, images, torch.tensor([0, 1]), played.drawn)
    [slope] = torch.autograd.grad(sum(value.square().sum() for value in again.update.values()), [images])
    assert slope.isfinite().all()
    assert slope.any()


def test_epochs_take_every_example_once_and_the_last_batch_may_be_smaller() -> None:
    local = LocalTraining(epochs=2, learning_rate=0.1)
    round = client(mlp, local, [], batch=2, share="delta", mode="train")
    played, replayed = both(round, examples=5)
    order = played.drawn[ORDER].view(2, 5)
    assert all(sorted(one.tolist()) == list(range(5)) for one in order)
    assert not torch.equal(order[0], order[1])
    assert local.sizes(5, 2) == [2, 2, 1, 2, 2, 1]
    assert [len(mask) for name, mask in played.drawn.items() if name != ORDER] == [10]
    assert_same(played, replayed)


def test_a_model_that_cannot_be_replayed_trains() -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = mlp()

        def forward(self, x: Tensor) -> Tensor:
            return torch.utils.checkpoint.checkpoint(self.inner, x, use_reentrant=False)

    found = [
        both_of.update
        for make in (mlp, Checkpointed)
        for both_of in [
            play(
                client(make, LocalTraining(steps=2), [], batch=1, share="delta", mode="eval"),
                build(make, []).state_dict(),
                torch.ones(2, *SHAPE, dtype=torch.float64),
                torch.tensor([0, 1]),
                generators(0),
            )
        ]
    ]
    torch.testing.assert_close(list(found[0].values()), list(found[1].values()))
