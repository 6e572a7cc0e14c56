"""When an attack stops, and what it may not stop by: sizes that have nothing to do with the victim's network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from attack_victims import mnist, observe, paper_mlp, psnr
from torch import Tensor, nn

import attacks
from attacks import NotApplicable, Observation, Reconstruction, ThreatModel
from attacks.engine import Composition, Schedule, Solution, solve
from attacks.evaluators import Evaluator, choose
from attacks.evaluators.ghost import Ghost
from attacks.objectives import Cosine, Euclidean
from attacks.pace import SETTLED
from attacks.precision import COMPUTED, floor, rounding
from attacks.priors import Prior, TotalVariation
from attacks.unknowns import Guess, Images, Noise, Setting
from defenses.client.round import ClientRound
from fedsim import models
from fedsim.answers import Outcome


class Scripted(Evaluator):
    """A data term that depends on nothing but how often it was asked; the first answer is that at the random start."""

    def __init__(self, script: Callable[[int], float], begin: float) -> None:
        self.script, self.begin, self.asked, self.data = script, begin, -1, {"row": torch.zeros(1)}

    def compare(
        self, data: Mapping[str, Tensor], guess: Guess, unknowns: Sequence[str]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        value = self.begin if self.asked < 0 else self.script(self.asked)
        self.asked += 1
        return torch.full((1,), value, dtype=torch.float64), {name: torch.zeros_like(guess[name]) for name in unknowns}


def scripted(
    script: Callable[[int], float],
    *,
    begin: float = 1.0,
    priors: Sequence[Prior] = (TotalVariation(1e-5),),
    rounding: float = 0.0,
    **schedule: object,
) -> tuple[str, int]:
    """Why and after how many evaluations a problem with this data term stops; `begin` is that at the random start."""
    start = {"images": torch.zeros(1, 1, 1, 2, 2)}
    model = nn.Linear(4, 2)
    setting = Setting(
        model=model,
        images=1,
        classes=2,
        input_shape=(1, 2, 2),
        mean=(0.5,),
        std=(0.5,),
        noise_inputs={},
        matched=(),
        round=ClientRound(model=model),
        sizes=(1,),
    )
    composition = Composition(unknowns=[Images(setting)], objective=Cosine(), priors=priors)
    lowest = torch.full((1,), rounding, dtype=torch.float64)
    solution = solve(
        composition,
        Scripted(script, begin),
        start,
        {},
        Schedule(**schedule),
        cold=start,
        floor=lowest,  # type: ignore[arg-type]
    )
    return solution.stopped[0], int(solution.iterations[0])


@pytest.mark.parametrize("patience", [1, 7, 40])
@pytest.mark.parametrize("last", [0, 5])
def test_patience_counts_the_iterations_since_the_last_improvement(patience: int, last: int) -> None:
    falling = scripted(lambda i: 0.9 ** min(i, last), patience=patience, iterations=100)
    assert falling == ("patience", last + 1 + patience)


def test_an_improvement_of_less_than_a_ten_thousandth_is_none() -> None:
    assert scripted(lambda i: (1 - 5e-5) ** min(i, 1), patience=20, iterations=100) == ("patience", 21)
    assert scripted(lambda i: (1 - 2e-4) ** i, patience=20, iterations=100) == ("budget", 100)


def test_convergence_is_a_share_of_the_start_that_is_kept() -> None:
    at = 5
    reasons = {"tolerance": 1e-3, "iterations": 400, "patience": 400}
    assert scripted(lambda i: 1.0 if i < at else 1e-3, **reasons) == ("converged", at + 1 + SETTLED)
    assert scripted(lambda i: 1.0 if i < at else 1.1e-3, **reasons) == ("budget", 400)
    halving = scripted(lambda i: 0.4 ** min(i // (SETTLED - 1), 3) * 1e-4, **reasons)  # goes on as long as it falls
    assert halving == ("converged", 3 * (SETTLED - 1) + 1 + SETTLED)


def test_where_gradients_point_alike_priors_are_made_lighter_before_anything_has_converged() -> None:
    """Without priors there is nothing to make lighter, and nothing to wait for."""
    at = 5
    alike = {"begin": 1e-3, "tolerance": 1e-3, "iterations": 400, "patience": 400}

    def script(i: int) -> float:
        return 1e-3 if i < at else 1e-6

    assert scripted(script, **alike) == ("converged", at + 1 + 2 * SETTLED)
    assert scripted(script, priors=(), **alike) == ("converged", at + 1 + SETTLED)


def test_nothing_is_sought_below_the_floor_and_tolerance_0_seeks_it_all_the_same() -> None:
    assert scripted(lambda i: 0.5**i, rounding=0.5**9, iterations=50) == ("converged", 10)
    assert scripted(lambda i: 0.5**i, rounding=0.5**9, iterations=50, tolerance=0.0) == ("budget", 50)


def test_a_loss_that_is_no_number_any_more_stops() -> None:
    assert scripted(lambda i: 1.0 if i < 3 else torch.nan, iterations=50) == ("not_finite", 4)


class Masked(Evaluator):
    """One right mask m* and one right image x*: `|m - m*|^2 + scale |x - x*|^2`, to be found by gradients."""

    def __init__(self, scale: float, images: Tensor, mask: Tensor) -> None:
        self.scale, self.data = scale, {"images": images, "mask": mask}

    def compare(
        self, data: Mapping[str, Tensor], guess: Guess, unknowns: Sequence[str]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        far, wrong = guess["images"] - data["images"], guess["noise.0"] - data["mask"]
        loss = self.scale * far.square().flatten(1).sum(1) + wrong.square().flatten(1).sum(1)
        return loss.double(), {"images": 2 * self.scale * far, "noise.0": 2 * wrong}


@pytest.mark.parametrize("scale", [1e-7, 1.0])
def test_masks_that_are_found_do_not_pass_for_an_image_that_is_not(scale: float) -> None:
    solution, images = masked(scale)
    assert solution.stopped == ["converged"] * 2
    assert (solution.guess["images"] - images).abs().max() < 1e-2
    assert int(solution.iterations.max()) < 2000


def masked(scale: float) -> tuple[Solution, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(paper_mlp(dropout=0.5, inputs=9, width=9)[3], nn.Linear(9, 2))
    setting = Setting(
        model=model,
        images=1,
        classes=2,
        input_shape=(1, 3, 3),
        mean=(0.5,),
        std=(0.5,),
        noise_inputs={"0": torch.Size((1, 9))},
        matched=(),
        round=ClientRound(model=model),
        sizes=(1,),
    )
    images = torch.rand(2, 1, 1, 3, 3, dtype=torch.float64) * 2 - 1
    masks = torch.rand(2, 1, 9, dtype=torch.float64).round()
    start = {"images": torch.randn_like(images), "noise.0": torch.rand_like(masks).round()}
    composition = Composition(
        unknowns=[Images(setting), Noise(setting)], objective=Cosine(), priors=[TotalVariation(1e-5)]
    )
    lowest = torch.zeros(2, dtype=torch.float64)
    schedule = Schedule(iterations=3000, plateau=100)
    return solve(composition, Masked(scale, images, masks), start, {}, schedule, cold=start, floor=lowest), images


def alike(count: int, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, list[Observation], list[Tensor]]:
    """Clients of a network whose gradients point alike, as those of LeNet's default weights: sigmoids that hardly move.

    Random images start at a cosine loss near 1e-3, a hundredth of which is 20 dB and no image yet.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 32), nn.Sigmoid(), nn.Linear(32, 4))
    with torch.no_grad():
        model[1].weight.mul_(0.1)
        model[3].weight.mul_(0.05)
    images = [torch.rand(1, 1, 6, 6) * 2 - 1 for _ in range(count)]
    model = model.to(dtype)
    observations = [
        observe(model, x.to(dtype), torch.tensor([i % 4]), seed=i, mean=(0.5,), std=(0.5,), classes=4)
        for i, x in enumerate(images)
    ]
    return model, observations, images


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_that_point_alike_are_told_apart(dtype: torch.dtype) -> None:
    model, observations, images = alike(2, dtype)
    first = attacks.create("inverting_gradients", iterations=1).run(observations, ThreatModel(), model)
    assert all(answer.loss < 2e-3 for answer in first)
    assert [answer.stopped for answer in first] == ["budget"] * 2
    answers = attacks.create("inverting_gradients", iterations=4000).run(observations, ThreatModel(), model)
    assert [answer.stopped for answer in answers] == ["converged"] * 2
    assert all(psnr(answer.images, x, 0.5) > 45 for answer, x in zip(answers, images))


@pytest.mark.parametrize("init", ["default", "xavier"])
def test_lenets_first_gradient_gives_its_digit_away(init: str) -> None:
    model = models.build({"name": "lenet", "dropout": 0.0, "init": init}, input_shape=(1, 28, 28), classes=10, seed=0)
    images, labels = mnist(1)
    observation = observe(model, images, labels, mean=(0.13,), std=(0.31,))
    answer = attacks.create("inverting_gradients", iterations=300)(observation, ThreatModel(), model)
    assert psnr(answer.images, images, 0.31) > 30


def test_noise_is_given_up_before_the_budget() -> None:
    model, observations, _ = alike(2)
    generator = torch.Generator().manual_seed(0)
    for observation in observations:
        update = observation.update.items()
        noisy = {n: v + 0.1 * v.norm() * torch.randn(v.shape, generator=generator) for n, v in update}
        object.__setattr__(observation, "update", noisy)
    attack = attacks.create("inverting_gradients", iterations=5000, patience=300, plateau=60)
    answers = attack.run(observations, ThreatModel(), model)
    assert [answer.stopped for answer in answers] == ["patience"] * 2
    assert all(answer.iterations < 2500 for answer in answers)


def test_the_reason_is_the_best_restarts_and_goes_into_the_account() -> None:
    model, [observation], _ = alike(1)
    answer = attacks.create("inverting_gradients", iterations=3, restarts=3)(observation, ThreatModel(), model)
    assert answer.stopped == "budget"
    assert Outcome.of_answer(answer).stopped == "budget"
    guess = attacks.create("null_mean")(observation, ThreatModel(), model)
    assert guess.stopped is None
    assert Outcome.of_answer(guess).stopped is None


@pytest.mark.parametrize("name", ["inverting_gradients", "dropout_inversion", "well_informed", "cut", "mask_readout"])
def test_every_preset_says_why_it_stopped(name: str) -> None:
    model, [observation], _ = alike(1)
    answer = attacks.create(name, iterations=20)(observation, ThreatModel(noise="known"), model)
    assert isinstance(answer, Reconstruction)
    read_off = name == "cut"  # here the first layer has a bias, and its input is the image
    assert answer.stopped == ("converged" if read_off else "budget")


def test_a_warm_start_is_measured_by_a_random_one() -> None:
    model, [observation], [image] = alike(1)
    attack = attacks.create("inverting_gradients", iterations=3000, total_variation=0.0, tolerance=1e-3)
    attack.warm_start = lambda observation: {"images": image + 1e-3}
    answer = attack(observation, ThreatModel(), model)
    assert answer.stopped == "converged"
    assert answer.iterations <= 3 * SETTLED  # and is not asked to fall as far again


@pytest.mark.parametrize("kind", ["gradient", "delta"])
@pytest.mark.parametrize("objective", [Cosine(), Euclidean()])
def test_the_floor_is_what_rounding_makes_of_the_right_guess(kind: str, objective: Cosine | Euclidean) -> None:
    torch.manual_seed(0)
    gradient = {"a": torch.randn(40, 50).double(), "b": 0.3 * torch.randn(900).double()}
    state = {name: torch.randn(value.shape).double() for name, value in gradient.items()}
    rate = 0.1
    if kind == "gradient":
        sent = {name: value.half().double() for name, value in gradient.items()}
        update = seen = sent
    else:
        update = {name: (state[name] - rate * value).half().double() - state[name] for name, value in gradient.items()}
        seen = {name: -value / rate for name, value in update.items()}
    observation = Observation(
        state=state,
        update=update,
        kind=kind,  # type: ignore[arg-type]
        precision="float16",
        input_shape=(1, 1, 1),
        classes=2,
        mean=(0.0,),
        std=(1.0,),
    )
    true, theirs = ({name: value[None] for name, value in part.items()} for part in (gradient, seen))
    products = [
        torch.stack([(one[n] * other[n]).flatten(1).sum(1) for n in true], dim=1)
        for one, other in ((true, theirs), (true, true), (theirs, theirs))
    ]
    found = floor(objective, list(true), theirs, {name: value[None] for name, value in rounding(observation).items()})
    assert found.item() == pytest.approx(objective(*products).item(), rel=0.3)


def test_the_floor_of_float32_is_far_below_a_thousandth_of_its_last_digit() -> None:
    torch.manual_seed(0)
    update = {"a": torch.randn(1, 100)}
    none = {"a": torch.zeros(1, dtype=torch.float64)}
    eps = torch.finfo(torch.float32).eps
    assert floor(Cosine(), ["a"], update, none).item() == pytest.approx((COMPUTED * eps) ** 2 / 2, rel=1e-3)


def test_the_cosine_of_float32_gradients_is_exact() -> None:
    """As a difference of sums in float32 it is wrong by 1e-7 to 1e-6, and the general evaluator served instead."""
    model, observations, images = alike(3, torch.float32)
    exact = alike(3)
    start = torch.randn(3, 1, 1, 6, 6)
    losses = []
    for network, seen, dtype in ((model, observations, torch.float32), (exact[0], exact[1], torch.float64)):
        network.eval()
        updates = {name: torch.stack([one.update[name] for one in seen]) for name in seen[0].update}
        guess = {"images": start.to(dtype), "labels": torch.stack([one.labels for one in seen])}
        evaluator = choose(ClientRound(model=network), Cosine(), updates, guess, ["images"])
        assert isinstance(evaluator, Ghost)
        true = {**guess, "images": torch.stack(images).to(dtype)}
        losses.append((evaluator(guess, ["images"])[0], evaluator(true, ["images"])[0]))
    (random, right), (random_exact, _) = losses
    torch.testing.assert_close(random, random_exact, rtol=1e-3, atol=0)
    assert right.abs().max() < 1e-11


def test_random_starts_are_those_of_the_paper() -> None:
    """Images from N(0, 1), each mask from the layer's own Bernoulli(1 - p); independent between layers and clients."""
    torch.manual_seed(0)
    model = nn.Sequential(*paper_mlp(dropout=0.25, inputs=2500, width=600, classes=4))
    observations = [
        observe(model, torch.rand(1, 1, 50, 50), torch.tensor([0]), seed=i, mean=(0.5,), std=(0.1,), classes=4)
        for i in range(2)
    ]
    seen: list[dict[str, Tensor]] = []
    attack = attacks.create("dropout_inversion", iterations=1)
    attack.watch = lambda iteration, problems, guess: seen.append(dict(guess))
    attack.run(observations, ThreatModel(), model)
    [start] = seen
    images = start["images"].flatten(1)
    assert images.mean(1).abs().max() < 4 / 50
    assert (images.std(1) - 1).abs().max() < 4 / 50 / 2**0.5
    for side, share in ((0.5, 0.3829), (1.0, 0.6827), (2.0, 0.9545)):
        assert ((images.abs() < side).float().mean(1) - share).abs().max() < 4 * 0.5 / 50
    assert abs(float(torch.corrcoef(images)[0, 1])) < 4 / 50
    masks = torch.cat([value.flatten(1) for name, value in start.items() if name.startswith("noise.")], dim=0)
    assert masks.shape == (6, 600)
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    assert (masks.mean(1) - 0.75).abs().max() < 4 * (0.75 * 0.25 / 600) ** 0.5
    assert (torch.corrcoef(masks) - torch.eye(6)).abs().max() < 4.5 / 600**0.5


def test_an_update_of_nothing_finite_is_not_an_answer() -> None:
    model, [observation], _ = alike(1)
    object.__setattr__(observation, "update", {n: v * torch.inf for n, v in observation.update.items()})
    [answer] = attacks.create("inverting_gradients", iterations=3).run([observation], ThreatModel(), model)
    assert isinstance(answer, NotApplicable)
