"""The engine does for many victims at once what a plain PyTorch loop does for one."""

import math
from collections.abc import Callable

import pytest
import torch
from attack_victims import observe, paper_mlp
from torch import Tensor, nn
from torch.func import functional_call

import attacks
from attacks import LocalTraining, NotApplicable, Observation, Reconstruction, ThreatModel, iterative, program
from attacks.optimisers import LBFGS, State
from attacks.pace import Schedule, slowed
from attacks.step import Step

THREAT = ThreatModel(noise="known")


def victims(
    count: int, *, dropout: float = 0.5, batch: int = 1, **fields: object
) -> tuple[nn.Module, list[Observation]]:
    torch.manual_seed(0)
    model = paper_mlp(dropout=dropout, inputs=36, width=16, classes=4).double()
    observations = []
    for client in range(count):
        generator = torch.Generator().manual_seed(client)
        images = torch.rand(batch, 1, 6, 6, dtype=torch.float64, generator=generator) * 2 - 1
        labels = torch.randint(4, (batch,), generator=generator)
        observations.append(
            observe(model, images, labels, seed=client, mean=(0.5,), std=(0.5,), classes=4, **fields)  # type: ignore[arg-type]
        )
    return model, observations


class Trace:
    """What the engine holds before every step: `at[iteration][problem][name]`."""

    def __init__(self) -> None:
        self.at: list[dict[int, dict[str, Tensor]]] = []

    def __call__(self, iteration: int, problems: Tensor, guess) -> None:  # type: ignore[no-untyped-def]
        self.at.append({p: {n: v[row].clone() for n, v in guess.items()} for row, p in enumerate(problems.tolist())})


def plain_loop(
    model: nn.Module, observation: Observation, start: dict[str, Tensor], iterations: int, plateau: int
) -> list[dict[str, Tensor]]:
    """The Dropout Inversion Attack as its paper states it, on one victim; the iterates before every step."""
    model.load_state_dict(dict(observation.state))
    model.eval()
    parameters = dict(model.named_parameters())
    images = start["images"].clone().requires_grad_()
    masks = {name.removeprefix("noise."): v.clone().requires_grad_() for name, v in start.items() if "noise" in name}
    optimiser = torch.optim.Adam([images, *masks.values()], lr=0.1)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.1, patience=plateau)
    target = torch.cat([observation.update[name].flatten() for name in parameters])
    iterates = []
    for _ in range(iterations):
        iterates.append({"images": images.detach().clone(), **{k: v.detach().clone() for k, v in masks.items()}})
        logits = functional_call(model, {f"{path}.noise": mask for path, mask in masks.items()}, (images,))
        grads = torch.autograd.grad(
            nn.functional.cross_entropy(logits, observation.labels), list(parameters.values()), create_graph=True
        )
        loss = 1 - nn.functional.cosine_similarity(torch.cat([g.flatten() for g in grads]), target, dim=0)
        loss = loss + 1e-5 * (images[..., 1:] - images[..., :-1]).abs().mean()
        loss = loss + 1e-5 * (images[..., 1:, :] - images[..., :-1, :]).abs().mean()
        for mask in masks.values():
            loss = loss + 1e-4 * ((1 - mask.mean()) - 0.5).abs()
        optimiser.zero_grad()
        loss.backward()
        images.grad.sign_()  # type: ignore[union-attr]
        optimiser.step()
        with torch.no_grad():
            images.clamp_(-1, 1)
            for mask in masks.values():
                mask.clamp_(0, 1)
        scheduler.step(loss.detach())
    return iterates


@pytest.mark.parametrize("batch", [1, 2])
def test_the_iterates_of_a_plain_loop(batch: int) -> None:
    model, observations = victims(3, batch=batch)
    attack, trace = attacks.create("dropout_inversion", iterations=50, plateau=3), Trace()
    attack.watch = trace
    attack.run(observations, THREAT, model)
    for number, observation in enumerate(observations):
        start = {name: value for name, value in trace.at[0][number].items() if name != "labels"}
        assert set(start) == {"images", "noise.3", "noise.6", "noise.9"}
        for iteration, expected in enumerate(plain_loop(model, observation, start, 50, plateau=3)):
            found = trace.at[iteration][number]
            for name, value in expected.items():
                key = name if name == "images" else f"noise.{name}"
                torch.testing.assert_close(found[key], value, rtol=0, atol=1e-8)


def test_learning_rates_fall_as_pytorchs() -> None:
    torch.manual_seed(0)
    losses = torch.rand(200, 3, dtype=torch.float64).cumsum(0).flip(0) * torch.tensor([1, 0.999, 1e-5]) + 1
    losses[60:, 0] = 1.5
    zeros = torch.zeros(3, dtype=torch.int64)
    rate = torch.full((3,), 0.1, dtype=torch.float64)
    state = {"plateau": torch.full((3,), torch.inf), "bad": zeros, "stale": zeros, "rate": rate}
    references = []
    for _ in range(3):
        optimiser = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        references.append((optimiser, torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, patience=7)))
    seen = set()
    for row in losses:
        state = slowed(state, row, Schedule(plateau=7))
        for loss, (_, scheduler) in zip(row, references):
            scheduler.step(loss)
        expected = [optimiser.param_groups[0]["lr"] for optimiser, _ in references]
        assert state["rate"].tolist() == pytest.approx(expected, rel=1e-12)
        seen.update(expected)
    assert len(seen) > 3


def test_a_victims_answer_does_not_depend_on_its_neighbours() -> None:
    model, observations = victims(4)
    attack = attacks.create("dropout_inversion", iterations=120, restarts=2)
    together = attack.run(observations, THREAT, model)
    backwards = attack.run(observations[::-1], THREAT, model)[::-1]
    for observation, one, other in zip(observations, together, backwards):
        alone = attack(observation, THREAT, model)
        torch.testing.assert_close(one.images, alone.images, rtol=0, atol=1e-6)
        torch.testing.assert_close(one.images, other.images, rtol=0, atol=1e-6)
        assert one.iterations == alone.iterations


def test_another_seed_starts_elsewhere() -> None:
    model, observations = victims(1)
    attack = attacks.create("inverting_gradients", iterations=5)
    first, again, other = (attack(observations[0], THREAT, model, seed=seed).images for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_finished_victims_are_frozen_at_their_own_iteration() -> None:
    model, observations = victims(4)
    attack, trace = attacks.create("well_informed", iterations=400, tolerance=1e-2), Trace()
    attack.watch = trace
    results = attack.run(observations, THREAT, model)
    finished = {number: result for number, result in enumerate(results) if result.stopped == "converged"}
    assert len({result.iterations for result in finished.values()}) > 1
    for number, result in finished.items():
        own = [present[number]["images"] for present in trace.at if number in present]
        assert any(torch.equal(result.images, images) for images in own[: result.iterations])
        assert not any(torch.equal(result.images, images) for images in own[result.iterations :])
        steps = sum(number in present for present in trace.at)
        assert result.iterations <= steps <= result.iterations + 10  # removed at the next check


def test_the_best_iterate_and_the_best_restart_have_the_lowest_loss() -> None:
    model, observations = victims(2)
    single = [
        min(loss for _, loss in r.losses)
        for r in attacks.create("inverting_gradients", iterations=60, restarts=1).run(observations, THREAT, model)
    ]
    attack = attacks.create("inverting_gradients", iterations=60, restarts=6)
    for before, result in zip(single, attack.run(observations, THREAT, model)):
        assert result.loss <= before
        assert result.loss <= min(loss for _, loss in result.losses)


def test_a_victim_that_does_not_improve_is_given_up() -> None:
    model, observations = victims(2)
    attack = attacks.create("inverting_gradients", iterations=3000, patience=40, plateau=10, tolerance=0.0)
    assert all(result.iterations < 3000 for result in attack.run(observations, THREAT, model))


def test_unusable_observations_do_not_disturb_the_others() -> None:
    model, observations = victims(3)
    name = next(iter(observations[1].update))
    broken = {**observations[1].update, name: torch.full_like(observations[1].update[name], math.inf)}
    object.__setattr__(observations[1], "update", broken)
    attack = attacks.create("inverting_gradients", iterations=20)
    results = attack.run(observations, THREAT, model)
    assert isinstance(results[1], NotApplicable)
    assert "not finite" in str(results[1])
    alone = attack(observations[2], THREAT, model)
    torch.testing.assert_close(results[2].images, alone.images, rtol=0, atol=1e-6)


def test_several_local_steps_are_unrolled() -> None:
    local = LocalTraining(steps=2, learning_rate=0.1)
    model, observations = victims(2, batch=2, local=local)
    before = attacks.create("well_informed", iterations=1).run(observations, THREAT, model)
    after = attacks.create("well_informed", iterations=300).run(observations, THREAT, model)
    for first, last in zip(before, after):
        assert last.images.shape == (2, 1, 6, 6)
        assert last.loss < 0.1 * first.loss


def test_what_is_not_granted_is_not_used() -> None:
    model, [observation] = victims(1, local=LocalTraining(steps=1))
    attack = attacks.create("inverting_gradients", iterations=2)
    for field, reason in (
        ("local", "local_training known"),
        ("batch_size", "batch_size known"),
        ("labels", "no labels"),
    ):
        kept = getattr(observation, field)
        object.__setattr__(observation, field, None)
        with pytest.raises(NotApplicable, match=reason):
            attack(observation, THREAT, model)
        object.__setattr__(observation, field, kept)
    with pytest.raises(NotApplicable, match="labels known or inferred"):
        attacks.create("mask_readout")(observation, ThreatModel(labels="unknown"), model)
    object.__setattr__(observation, "noise", None)
    with pytest.raises(NotApplicable, match="no noise of 3, 6, 9"):
        attacks.create("well_informed")(observation, THREAT, model)


def test_without_dropout_dia_is_ig() -> None:
    model, [observation] = victims(1, dropout=0.0)
    found = [
        attacks.create(name, iterations=30)(observation, THREAT, model)
        for name in ("inverting_gradients", "dropout_inversion", "well_informed")
    ]
    assert found[1].noise is None
    for other in found[1:]:
        torch.testing.assert_close(other.images, found[0].images, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "bad",
    [{"iterations": 0}, {"restarts": 1.5}, {"learning_rate": -1}, {"total_variation": math.nan}, {"drop_rate": -1}],
)
def test_bad_hyper_parameters_are_named(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"dropout_inversion: {next(iter(bad))} = "):
        attacks.create("dropout_inversion", **bad)


def test_a_compiled_program_takes_the_same_steps() -> None:
    model, observations = victims(3)
    iterates = []
    for compile in ("never", "always"):
        attack, trace = attacks.create("dropout_inversion", iterations=60, plateau=7), Trace()
        attack.watch, attack.compile = trace, compile
        results = attack.run(observations, THREAT, model)
        assert all(("compiled" in result.details) == (compile == "always") for result in results)
        assert (attack.compile_seconds > 0) == (compile == "always")
        iterates.append(trace.at)
    for plain, compiled in zip(*iterates):
        assert plain.keys() == compiled.keys()
        for problem, guess in plain.items():
            for key, value in guess.items():
                torch.testing.assert_close(compiled[problem][key], value, rtol=0, atol=1e-8)


@pytest.mark.parametrize(("cost", "most"), [(0.0, 3), (1e3, 1)])
def test_few_sizes_are_compiled_each_where_it_pays(monkeypatch: pytest.MonkeyPatch, cost: float, most: int) -> None:
    sizes = []
    monkeypatch.setattr(program, "COMPILE_SECONDS_PER_OPERATION", cost)

    def pretended(step: Step, state: State, *rest: object) -> Callable[..., State]:
        sizes.append(len(state["point"]))
        return lambda *inputs: step(*inputs)

    monkeypatch.setattr(program, "_compiled", pretended)
    model, observations = victims(9)
    attack = attacks.create("well_informed", iterations=400, tolerance=1e-2)
    expected = attack.run(observations, THREAT, model)
    attack.compile = "always"
    found = attack.run(observations, THREAT, model)
    assert len({result.iterations for result in found}) > 3
    assert min(2, most) <= len(sizes) <= most
    assert sizes[0] == 9
    for one, other in zip(expected, found):
        assert one.iterations == other.iterations
        torch.testing.assert_close(one.images, other.images, rtol=0, atol=1e-6)


def test_without_a_compiler_it_is_slower_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_compiler(*rest: object, **options: object) -> object:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", no_compiler)
    model, observations = victims(2)
    attack = attacks.create("well_informed", iterations=5)
    attack.compile = "always"
    assert isinstance(attack(observations[0], THREAT, model), Reconstruction)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "no C++ compiler" in caplog.text


def test_victims_that_do_not_fit_into_memory_are_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    model, observations = victims(5)
    attack = attacks.create("dropout_inversion", iterations=30)
    expected = attack.run(observations, THREAT, model)
    solve = iterative.solve

    def small_memory(composition, evaluator, start, *rest, **options):  # type: ignore[no-untyped-def]
        if len(start["images"]) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9999 bytes.")
        return solve(composition, evaluator, start, *rest, **options)

    monkeypatch.setattr(iterative, "solve", small_memory)
    found = attack.run(observations, THREAT, model)
    assert [result.details["at_once"] for result in found] == [2, 2, 2, 3, 3]
    for one, other in zip(expected, found):
        torch.testing.assert_close(one.images, other.images, rtol=0, atol=1e-6)


def test_the_steps_of_pytorchs_lbfgs() -> None:
    torch.manual_seed(0)
    curved = torch.rand(3, 6, dtype=torch.float64) + 0.2
    centre = torch.randn(3, 6, dtype=torch.float64)

    def loss(point: Tensor) -> Tensor:
        return (curved * (point - centre).square()).sum(-1) + 0.1 * (point - centre).pow(4).sum(-1)

    point = torch.zeros(3, 6, dtype=torch.float64)
    ours = LBFGS(memory=4)
    state = {"rate": torch.full((3,), 0.5, dtype=torch.float64), **ours.start(point)}
    references = [torch.zeros(6, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    optimisers = [torch.optim.LBFGS([r], lr=0.5, max_iter=1, history_size=4, tolerance_change=0) for r in references]
    for _ in range(12):
        at = point.clone().requires_grad_()
        [gradient] = torch.autograd.grad(loss(at).sum(), at)
        move, own = ours.move(state, gradient)
        point, state = point + move, {**state, **own}
        for problem, (reference, optimiser) in enumerate(zip(references, optimisers)):

            def closure(problem: int = problem, reference: Tensor = reference) -> Tensor:
                optimisers[problem].zero_grad()
                value = (curved[problem] * (reference - centre[problem]).square()).sum()
                value = value + 0.1 * (reference - centre[problem]).pow(4).sum()
                value.backward()
                return value

            optimiser.step(closure)
        torch.testing.assert_close(point, torch.stack([r.detach() for r in references]), rtol=0, atol=1e-10)
    assert loss(point).max() < 0.1 * loss(torch.zeros_like(point)).min()
