"""A local step that is compiled by itself gives what the steps give as they are."""

from __future__ import annotations

import pytest
import torch
from attack_victims import paper_mlp
from torch import nn

import attacks
from attacks import LocalTraining, Observation, Reconstruction, ThreatModel, local_step, program
from attacks.evaluators import general
from defenses.client.optimizers.adam import Adam
from defenses.client.optimizers.sgd import SGD
from defenses.client.round import ORDER, ClientRound, play

MOMENTUM = LocalTraining(steps=3, learning_rate=0.05, optimizer=SGD(momentum=0.9, weight_decay=1e-3), proximal=0.1)
ADAM = LocalTraining(steps=2, learning_rate=0.001, optimizer=Adam(epsilon=1e-3), clip_norm=1.0)
EPOCHS = LocalTraining(epochs=2, learning_rate=0.05)
"""Of three images in batches of two: the last one of an epoch has another shape."""


@pytest.fixture(autouse=True)
def of_more_operations_than_are_compiled_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "MOST_OPERATIONS", 1150)


def clients(local: LocalTraining, count: int = 3) -> tuple[nn.Module, list[Observation]]:
    torch.manual_seed(0)
    model = paper_mlp(dropout=0.25, inputs=16, width=12, classes=3, bias=True).double()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    round = ClientRound(model=model.train(), local=local, share="delta", batch_size=2)
    number, seen = 3 if local.epochs else 2 * local.steps, []
    for client in range(count):
        generator = torch.Generator().manual_seed(client)
        images = torch.rand(number, 1, 4, 4, dtype=torch.float64, generator=generator)
        labels = torch.randint(3, (number,), generator=generator)
        played = play(round, state, images, labels, lambda name, step, g=generator: g)  # type: ignore[misc]
        seen.append(
            Observation(
                state=state,
                update=played.update,
                kind="delta",
                input_shape=(1, 4, 4),
                mean=(0.5,),
                std=(0.5,),
                classes=3,
                batch_size=2,
                examples=number,
                local=local,
                labels=labels,
                order=played.drawn.get(ORDER),
                noise={name: value for name, value in played.drawn.items() if name != ORDER},
                client=client,
            )
        )
    return model, seen


def answers(local: LocalTraining, name: str, compile: str, count: int = 3) -> list[Reconstruction]:
    model, seen = clients(local, count)
    attack = attacks.create(name, iterations=6, tolerance=0)
    attack.compile = compile  # type: ignore[assignment]
    found = attack.run(seen, ThreatModel(noise="known" if name == "well_informed" else "unknown"), model)
    assert all(isinstance(one, Reconstruction) for one in found), found
    return found  # type: ignore[return-value]


def noted(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What local steps are made into programs from now on."""
    traced: list[object] = []
    made = local_step._program
    monkeypatch.setattr(local_step, "_program", lambda *given: traced.append(given) or made(*given))
    return traced


def alike(found: list[Reconstruction], expected: list[Reconstruction]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.images, other.images, rtol=0, atol=1e-9)
        assert one.loss == pytest.approx(other.loss, rel=1e-9)


@pytest.mark.parametrize(
    ("local", "name"),
    [
        (MOMENTUM, "well_informed"),
        (ADAM, "well_informed"),
        (EPOCHS, "well_informed"),
        (EPOCHS, "dropout_inversion"),
    ],
    ids=["momentum", "adam", "epochs", "masks"],
)
def test_the_same_answers(local: LocalTraining, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda graph, **options: graph)  # the traced graph itself, run as it is
    traced = noted(monkeypatch)
    alike(answers(local, name, "always"), answers(local, name, "never"))
    assert len(traced) == (4 if local.epochs else 2)  # a step and its product, for each shape of a batch


def test_few_steps_are_compiled_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda graph, **options: graph)
    monkeypatch.setattr(program, "MOST_OPERATIONS", 7_000)
    traced = noted(monkeypatch)
    [answer] = answers(MOMENTUM, "inverting_gradients", "always", 1)
    assert "compiled" in answer.details
    assert not traced


def test_programs_of_two_problems_serve_three_and_do_not_serve_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda graph, **options: graph)
    expected = answers(MOMENTUM, "well_informed", "never")
    largest = 16 * 12  # entries of the first layer
    monkeypatch.setattr(general, "AT_ONCE", 2 * largest)
    alike(answers(MOMENTUM, "well_informed", "always"), expected)
    monkeypatch.setattr(local_step, "FEW", 1)  # one is too few for a program of two
    alike(answers(MOMENTUM, "well_informed", "always"), expected)


def test_what_is_really_compiled(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    local = LocalTraining(steps=4, learning_rate=0.05)
    traced = noted(monkeypatch)
    alike(answers(local, "inverting_gradients", "always", 1), answers(local, "inverting_gradients", "never", 1))
    assert len(traced) == 2
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_what_cannot_be_compiled_goes_on_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(graph: object, **options: object) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", refuse)
    alike(answers(MOMENTUM, "well_informed", "always"), answers(MOMENTUM, "well_informed", "never"))
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "the local steps are not compiled, and slower for it: no compiler"
    ]
