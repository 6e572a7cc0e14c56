"""Base of the attacks that optimise: what the observations of a round become before, and after, the engine has run.

A subclass states its composition; its fields are the keys that a scenario may set:

    @register("my_attack")
    @dataclass(kw_only=True, eq=False)
    class MyAttack(IterativeAttack):
        sharpness: float = 1.0

        def compose(self, setting):
            return Composition(unknowns=[Images(setting)], objective=Cosine(), priors=[...])
"""

from __future__ import annotations

import itertools
import logging
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from attacks.base import Attack, NotApplicable, Progress, Reconstruction
from attacks.engine import Composition, Schedule, Solution, Watch, solve
from attacks.evaluators import choose
from attacks.labels import infer_labels
from attacks.observation import Observation, ThreatModel
from attacks.precision import floor, rounding
from attacks.recording import VICTIMS, Recorder, both
from attacks.seeds import generator_for
from attacks.step import Layout
from attacks.unknowns import NOISE, Setting, noise_inputs, noise_of, noise_sites
from attacks.updates import (
    as_one_batch,
    attacker_copy,
    client_round,
    examples,
    mean_gradient,
    meets,
    observed_gradient,
    order_of,
    out_of_memory,
    replayed,
    trained_part,
    with_zeros,
)
from defenses.client.round import ORDER
from defenses.client.training import LocalTraining
from defenses.stochastic import stochastic_layers

log = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False)
class IterativeAttack(Attack):
    """Gradient matching by the engine, from several random starts.

    Args:
        iterations: at most this many.
        restarts: random starts per victim, and per value that can only be tried (see `attacks.unknowns`); the one with
            the lowest attack loss is the answer.
        learning_rate: at the start.
        total_variation: weight of the smoothness prior, lower where the data term starts low (see `attacks.step`).
        tolerance: a victim has converged when its data term, the loss without priors, has fallen to this share of what
            it is at a random start and has settled, or when rounding explains what is left of it; 0: never.
        plateau: iterations without improvement after which the learning rate falls by 10.
        patience: iterations without improvement after which a victim is given up.
    """

    requires: ClassVar = {
        "labels": ("known", "inferred"),
        "batch_size": ("known",),
        "aggregation": ("individual", "sum_of_*"),  # of sums, those that one larger batch would give
    }

    replays: ClassVar = True

    iterations: int = 20_000
    restarts: int = 1
    learning_rate: float = 0.1
    total_variation: float = 1e-5
    tolerance: float = 5e-6
    plateau: int = 800
    patience: int = 4_000

    def __post_init__(self) -> None:
        self.watch: Watch | None = None  # for measurements: sees every step and can change nothing
        # values by name for a victim's first start that are better than random ones: what another attack has learnt
        self.warm_start: Callable[[Observation], Mapping[str, Tensor]] = lambda observation: {}
        for key in ("iterations", "restarts", "plateau", "patience"):
            value = getattr(self, key)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{self.name}: {key} = {value!r} is not a whole number of at least 1")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"{self.name}: learning_rate = {self.learning_rate!r} is not a positive number")
        for key in ("total_variation", "tolerance"):
            if not (math.isfinite(getattr(self, key)) and getattr(self, key) >= 0):
                raise ValueError(f"{self.name}: {key} = {getattr(self, key)!r} is not a number of at least 0")

    @abstractmethod
    def compose(self, setting: Setting) -> Composition:
        """The attack: unknowns + objective + priors."""

    def known_noise(self, observation: Observation, setting: Setting) -> Mapping[str, Tensor]:
        """What this attack substitutes for the stochastic layers' draws, (B, ...) by module path: nothing."""
        return {}

    def known(self, observation: Observation, labels: Tensor | None, setting: Setting) -> dict[str, Tensor]:
        """What this attack holds fixed of one victim's guess: its labels (B,) or (B, K), and the noise it knows.

        There are no labels where the attack does not require any.
        """
        found = {**self.known_noise(observation, setting), **order_of(observation)}
        noise = {NOISE + name: value for name, value in found.items()}
        return noise if labels is None else {"labels": labels, **noise}

    def run(
        self,
        observations: Sequence[Observation],
        threat_model: ThreatModel,
        model: nn.Module,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> list[Reconstruction | NotApplicable]:
        results: dict[int, Reconstruction | NotApplicable] = {}
        groups: list[list[_Victim]] = []
        for index, observation in enumerate(observations):
            try:
                self.check(threat_model)
                victim = _Victim.of(index, observation, threat_model, model, needs_labels="labels" in self.requires)
            except NotApplicable as reason:
                results[index] = reason
                continue
            group = next((group for group in groups if group[0].like(victim)), None)
            if group is None:
                groups.append([victim])
            else:
                group.append(victim)
        for group in groups:
            results |= self._attack(group, threat_model, model, seed, progress)
        return [results[index] for index in range(len(observations))]

    def _attack(
        self, group: list[_Victim], threat_model: ThreatModel, model: nn.Module, seed: int, progress: Progress | None
    ) -> dict[int, Reconstruction | NotApplicable]:
        """All victims of a group, in halves if they do not fit into memory together."""
        try:
            return self._attack_at_once(group, threat_model, model, seed, progress)
        except RuntimeError as fault:
            if len(group) == 1 or not out_of_memory(fault):
                raise
        half = -(-len(group) // 2)
        log.warning("%s: %d victims do not fit into memory; %d at once", self.name, len(group), half)
        results: dict[int, Reconstruction | NotApplicable] = {}
        for part in (group[:half], group[half:]):
            results |= self._attack(part, threat_model, model, seed, progress)
        for result in results.values():
            if isinstance(result, Reconstruction):
                result.details.setdefault("at_once", half)
        return results

    def _attack_at_once(
        self, group: list[_Victim], threat_model: ThreatModel, model: nn.Module, seed: int, progress: Progress | None
    ) -> dict[int, Reconstruction | NotApplicable]:
        """All victims of a group and all their restarts, at once."""
        results: dict[int, Reconstruction | NotApplicable] = {}
        try:
            setting = _setting(group[0], threat_model, model)
            composition = self.compose(setting)
            tries = _tries(composition, self.restarts)
        except NotApplicable as reason:
            return {victim.index: reason for victim in group}
        known: list[dict[str, Tensor]] = []
        attacked: list[_Victim] = []
        for victim in group:
            try:
                known.append(self.known(with_zeros(victim.observation, victim.given), victim.labels, setting))
            except NotApplicable as reason:
                results[victim.index] = reason
                continue
            attacked.append(victim)
        if not attacked:
            return results

        like = next(setting.model.parameters())
        starts = [
            _start(composition, seed, victim.observation, restart, warm if restart == 0 else {})
            for victim in attacked
            for warm in [self.warm_start(victim.given)]
            for restart, _ in tries
        ]
        start = _stack(starts, like)
        repeated = _stack([{**one, **fixed} for one in known for _, fixed in tries], like)
        observed = _stack([victim.update for victim in attacked for _ in tries], like)
        layout = Layout(start, composition.unknowns)
        try:
            assert setting.round is not None
            guess = {**repeated, **layout.guess(layout.pack(start))}
            evaluator = choose(setting.round, composition.objective, observed, guess, list(start))
        except NotApplicable as reason:
            return results | {victim.index: reason for victim in attacked}
        # one for all restarts of a victim, wherever they start, so that their losses can be compared
        cold = [_start(composition, seed, victim.observation, 0, {}) for victim in attacked for _ in tries]
        roundings = [rounding(victim.observation) for victim in attacked for _ in tries]
        recorder = Recorder(
            every=self.record_every,
            iterations=self.iterations,
            problems=[
                number * len(tries) + place
                for number, victim in enumerate(attacked)
                for place in range(len(tries))
                if victim.index < VICTIMS
            ],
            mean=setting.mean,
            std=setting.std,
        )
        solution = solve(
            composition,
            evaluator,
            start,
            repeated,
            Schedule(
                iterations=self.iterations,
                learning_rate=self.learning_rate,
                plateau=self.plateau,
                patience=self.patience,
                tolerance=self.tolerance,
            ),
            cold=_stack(cold, like),
            floor=floor(composition.objective, setting.matched, observed, _stack(roundings, like)),
            compile=self.compile,
            progress=progress,
            watch=both(self.watch, recorder) if self.record_every else self.watch,
        )
        self.compile_seconds += solution.compile_seconds
        best = solution.loss.view(len(attacked), len(tries)).argmin(dim=1)
        for number, victim in enumerate(attacked):
            place = int(best[number])
            problem = number * len(tries) + place
            answer = results[victim.index] = _answer(solution, problem, victim, tries[place][1])
            if isinstance(answer, Reconstruction):
                answer.snapshots = recorder.snapshots(
                    problem, iterations=answer.iterations, curve=solution.curves[problem]
                )
        return results


@dataclass(frozen=True)
class _Victim:
    """One observation as the engine needs it: its labels found if needed, a one-step delta turned into its gradient.

    Args:
        given: the observation itself.
        observation: what of it can be matched, as `trained_part` says.
        details: what the answer is to say of the labels, where they were inferred.
    """

    index: int
    given: Observation
    observation: Observation
    images: int
    labels: Tensor | None
    details: Mapping[str, Any]
    update: Mapping[str, Tensor]
    kind: Literal["gradient", "delta"]

    @classmethod
    def of(
        cls, index: int, given: Observation, threat_model: ThreatModel, model: nn.Module, *, needs_labels: bool
    ) -> _Victim:
        images = examples(given)
        if threat_model.aggregation != "individual":
            as_one_batch(given)
        observation = trained_part(given, model)
        found = observed_gradient(observation)
        labels: Tensor | None = None
        details: dict[str, Any] = {}
        if not needs_labels:
            pass
        elif threat_model.labels == "inferred":
            gradients = mean_gradient(observation) if found is None else found
            inferred = infer_labels(model, gradients, batch_size=images, classes=observation.classes)
            labels = inferred.labels
            details = {"labels": "inferred", "label_confidence": round(inferred.confidence, 4)}
        elif observation.labels is None:
            raise NotApplicable("the observation holds no labels")
        elif len(observation.labels) != images:
            raise NotApplicable(f"the observation holds {len(observation.labels)} labels for {images} images")
        else:
            labels = observation.labels
        if found is None:
            return cls(index, given, observation, images, labels, details, observation.update, "delta")
        return cls(index, given, observation, images, labels, details, found, "gradient")

    def like(self, other: _Victim) -> bool:
        """Whether both received the same model and computed the same thing with it, so that they can run together."""
        mine, theirs = self.observation, other.observation
        return (
            (self.images, self.kind, self.update.keys()) == (other.images, other.kind, other.update.keys())
            and (mine.local, mine.batch_size, mine.defense) == (theirs.local, theirs.batch_size, theirs.defense)
            and (mine.input_shape, mine.mean, mine.std) == (theirs.input_shape, theirs.mean, theirs.std)
            and mine.state.keys() == theirs.state.keys()
            and all(v is theirs.state[n] or torch.equal(v, theirs.state[n]) for n, v in mine.state.items())
        )


def _setting(victim: _Victim, threat_model: ThreatModel, model: nn.Module) -> Setting:
    observation = victim.observation
    local = observation.local or LocalTraining()
    sizes = (victim.images,) if victim.kind == "gradient" else tuple(local.sizes(victim.images, observation.batch_size))
    example = torch.zeros(sizes[0], *observation.input_shape)
    twin = attacker_copy(model, observation.state, client_mode=threat_model.client_mode, example=example)
    trains = threat_model.client_mode == "train"
    round = client_round(observation, twin, victim.kind)
    with replayed("replayed"):
        sites = noise_sites(round, victim.images, observation.input_shape)
    layers = noise_inputs(twin, sizes[0], observation.input_shape) if trains else {}
    if threat_model.aggregation != "individual":
        _refuse_shared(twin, list(layers))
    return Setting(
        model=twin,
        images=victim.images,
        classes=observation.classes,
        input_shape=observation.input_shape,
        mean=observation.mean,
        std=observation.std,
        noise_inputs={**layers, **{name: shape for name, (_, shape) in sites.items()}},
        matched=tuple(name for name, _ in twin.named_parameters() if name in victim.update),
        round=round,
        sizes=sizes,
        defense_sites={name: site for name, (site, _) in sites.items()},
    )


def _refuse_shared(twin: nn.Module, drawing: Sequence[str]) -> None:
    """Decline a sum over clients of a model in which what is each client's own would be shared by all."""
    if (path := meets(twin)) is not None:
        raise NotApplicable(f"each client's batch has its own statistics in {path}: the sum is not of one batch")
    layers = stochastic_layers(twin)
    if shared := [path for path in drawing if "example" not in layers[path].axes]:
        raise NotApplicable(f"each client drew its own noise in {shared[0]}: the sum is not of one batch")


def _tries(composition: Composition, restarts: int) -> list[tuple[int, dict[str, Tensor]]]:
    """The problems of one victim: every restart with each of the values that can only be tried."""
    each = [unknown.alternatives() for unknown in composition.unknowns]
    found = [{name: value for part in parts for name, value in part.items()} for parts in itertools.product(*each)]
    return [(restart, fixed) for fixed in found for restart in range(restarts)]


def _start(
    composition: Composition, seed: int, observation: Observation, restart: int, warm: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    def draw(purpose: str) -> torch.Generator:
        return generator_for(seed, purpose, round=observation.round, client=observation.client, restart=restart)

    random = {name: value for unknown in composition.unknowns for name, value in unknown.start(draw).items()}
    return {name: warm.get(name, value).to(value) for name, value in random.items()}


def _stack(problems: Sequence[Mapping[str, Tensor]], like: Tensor) -> dict[str, Tensor]:
    """Tensors of N problems as (N, ...), on the device to work on; real numbers in its dtype."""
    stacked = {name: torch.stack([problem[name] for problem in problems]).to(like.device) for name in problems[0]}
    return {name: value.to(like.dtype) if value.is_floating_point() else value for name, value in stacked.items()}


def _answer(
    solution: Solution, problem: int, victim: _Victim, fixed: Mapping[str, Tensor]
) -> Reconstruction | NotApplicable:
    """What was found, and the values that were tried and found to be right."""
    if not solution.loss[problem].isfinite():
        return NotApplicable("the matching loss is not finite: the simulated update is zero or not a number")
    guess = {name: value[problem].cpu() for name, value in solution.guess.items()} | dict(fixed)
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (victim.observation.mean, victim.observation.std))
    return Reconstruction(
        images=guess["images"].clamp(-mean / std, (1 - mean) / std),  # an image, whatever the search went through
        loss=solution.loss[problem].item(),
        labels=guess["labels"].argmax(dim=-1) if "labels" in guess else victim.labels,
        noise={name: value for name, value in noise_of(guess).items() if name != ORDER} or None,
        iterations=int(solution.iterations[problem]),
        stopped=solution.stopped[problem],
        losses=solution.curves[problem],
        details={**victim.details, **({"compiled": True} if solution.compile_seconds else {})},
    )
