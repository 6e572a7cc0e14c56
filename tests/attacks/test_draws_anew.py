"""What an attack does about draws that it neither knows nor looks for, and about what a known defense leaves out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import attacks
from attacks import Observation, ThreatModel
from attacks.evaluators import choose
from attacks.evaluators.general import General
from attacks.evaluators.ghost import Ghost
from attacks.objectives import Cosine
from attacks.twin import attacker_copy, client_round
from attacks.unknowns import NOISE
from defenses import compose
from defenses.client.round import ClientRound, play
from fedsim.local import generators
from fedsim.models import build

SHAPE = (1, 8, 8)
PRECODE = {"name": "precode", "size": 8, "beta": 0.1}
SITE = "head.bottleneck.code"


def built(*, resting: bool) -> nn.Module:
    spec = {"name": "mlp", "width": 24, "bias": False, "defenses": [PRECODE], "resting": resting}
    return build(spec, input_shape=SHAPE, classes=4, seed=0)


def seen(client: int = 0, *, granted: bool) -> Observation:
    model = built(resting=False)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(client)) * 2 - 1
    labels, round = torch.tensor([client % 4]), ClientRound(model=model, defense=compose([PRECODE]))
    played = play(round, state, images, labels, generators(0, client=client, round=1))
    return Observation(
        state=state,
        update=played.update,
        input_shape=SHAPE,
        classes=4,
        mean=(0.5,),
        std=(0.5,),
        labels=labels,
        client=client,
        defense=(PRECODE,) if granted else None,
    )


def run(observations: list[Observation], name: str = "inverting_gradients", **keys: object):
    attack = attacks.create(name, **keys)
    attack.compile = "never"
    noise: list[dict[str, Tensor]] = []

    def watch(iteration: int, numbers: Tensor, guess) -> None:
        noise.append({name: value.clone() for name, value in guess.items() if name.startswith(NOISE)})

    attack.watch = watch
    granted = observations[0].defense is not None
    return attack.run(observations, ThreatModel(), built(resting=not granted)), noise


@pytest.mark.parametrize("granted", [True, False])
def test_anew_is_another_draw_in_each_iteration_and_rest_is_none(granted: bool) -> None:
    [found], noise = run([seen(granted=granted)], iterations=12, draws="anew")
    draws = torch.stack([each[NOISE + SITE] for each in noise]).flatten(1)
    assert draws.shape == (12, 8)
    assert len(draws.unique(dim=0)) == 12
    assert 0.5 < float(draws.std()) < 2
    assert found.noise is None
    _, at_rest = run([seen(granted=granted)], iterations=2)
    assert at_rest == [{}, {}]


def test_one_victim_s_draws_do_not_depend_on_the_others() -> None:
    alone, noise = run([seen(1, granted=False)], iterations=5, draws="anew")
    both, together = run([seen(0, granted=False), seen(1, granted=False)], iterations=5, draws="anew")
    assert all(torch.equal(a[NOISE + SITE][0], b[NOISE + SITE][1]) for a, b in zip(noise, together))
    torch.testing.assert_close(alone[0].images, both[1].images)


def test_what_is_looked_for_is_not_drawn_anew() -> None:
    _, noise = run([seen(granted=True)], "dropout_inversion", iterations=6, draws="anew", compared="all")
    _, same = run([seen(granted=True)], "dropout_inversion", iterations=6, compared="all")
    assert all(torch.equal(a[NOISE + SITE], b[NOISE + SITE]) for a, b in zip(noise, same))


def test_all_compares_what_a_known_defense_would_leave_out() -> None:
    """The joint search fits all of the update, the draw included; what lies before the draw says nothing of it."""
    (fitted,), noise = run([seen(granted=True)], "dropout_inversion", iterations=6, compared="all")
    assert not torch.equal(noise[0][NOISE + SITE], noise[-1][NOISE + SITE])
    observation = seen(granted=True)
    other = dict(observation.update)
    other["head.weight"] = -other["head.weight"]
    object.__setattr__(observation, "update", other)
    (changed,), _ = run([observation], "dropout_inversion", iterations=6, compared="all")
    assert not torch.equal(fitted.images, changed.images)
    (told,), _ = run([seen(granted=True)], iterations=6)
    (same,), _ = run([observation], iterations=6)
    torch.testing.assert_close(told.images, same.images, rtol=0, atol=0)


@pytest.mark.parametrize("selects", [True, False])
def test_ghost_matching_serves_a_term_of_the_loss(selects: bool) -> None:
    observations = [seen(client, granted=True) for client in range(3)]
    twin = attacker_copy(built(resting=False), observations[0].state)
    round = client_round(observations[0], twin)
    observed = {name: torch.stack([each.update[name] for each in observations]) for name in observations[0].update}
    guess = {
        "images": torch.randn(3, 1, *SHAPE, generator=torch.Generator().manual_seed(4)),
        "labels": torch.stack([each.labels for each in observations]),
        NOISE + SITE: torch.randn(3, 1, 8, generator=torch.Generator().manual_seed(5)),
    }
    unknowns = ["images", NOISE + SITE]
    ghost = choose(round, Cosine(), observed, guess, unknowns, selects=selects)
    assert isinstance(ghost, Ghost)
    masks = [round.defense.selection(each.update) for each in observations]
    kept = {name: torch.stack([mask[name] for mask in masks]) for name in observed}
    general = General(round, Cosine(), observed, kept=kept if selects else None)
    (loss, slopes), (true, true_slopes) = ghost(guess, unknowns), general(guess, unknowns)
    torch.testing.assert_close(loss, true, rtol=1e-5, atol=1e-7)
    for name in unknowns:
        torch.testing.assert_close(slopes[name], true_slopes[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("key", "value"), [("draws", "fresh"), ("compared", "some")])
def test_other_words_are_refused(key: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{key} = {value!r} is neither"):
        attacks.create("inverting_gradients", **{key: value})
