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

import logging
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor, nn

from attacks.base import Attack, NotApplicable, Progress, Reconstruction
from attacks.engine import Composition, Schedule, Solution, Watch, solve
from attacks.observation import Observation, ThreatModel
from attacks.precision import floor
from attacks.problems import Known, Problems, tries_of
from attacks.replayable import out_of_memory
from attacks.search import Search, evaluator_of
from attacks.snapshots import VICTIMS, SnapshotKeeper, both
from attacks.starts import RANDOM, check_start, found_by
from attacks.unknowns import NOISE, Anew, Setting, SoftLabels
from attacks.updates import order_of, with_zeros
from attacks.victim import Victim, setting_of
from defenses.stochastic import stochastic_layers

log = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False)
class IterativeAttack(Attack):
    """Gradient matching by the engine, from several random starts.

    An attack that accepts labels `unknown` looks for them together with the images, as probabilities (DLG: Zhu, Liu,
    Han, NeurIPS 2019), of all local steps; its answer's labels are the likeliest.

    Args:
        iterations: at most this many.
        restarts: random starts per victim, and per value that can only be tried (see `attacks.unknowns`); the one with
            the lowest attack loss is the answer.
        learning_rate: at the start.
        total_variation: weight of the smoothness prior, lower where the data term starts low (see `attacks.pace`).
        tolerance: a victim has converged when its data term, the loss without priors, has fallen to this share of what
            it is at a random start and has settled, or when rounding explains what is left of it; 0: never.
        plateau: iterations without improvement after which the learning rate falls by 10.
        patience: iterations without improvement after which a victim is given up.
        start: where the first of a victim's starts lies: `random`, or what the closed form of this name makes of the
            update, right or not, as `first_linear`. Where that declines, it is random, and `details` say so.
        draws: what stands for draws of the model that are neither known nor looked for: `rest`, what the model computes
            without them; or `anew`, another draw in each iteration, of layers too that are part of an unknown defense.
        compared: `told`, of the update what a defense that is known leaves to say (`Defense.selection`), as what was
            not pruned, or the parameters before a bottleneck; or `all` that came back.
    """

    requires: ClassVar = {
        "labels": ("known", "inferred"),
        "batch_size": ("known",),
        "aggregation": ("individual", "sum_of_*"),  # of sums, those that one larger batch would give
    }

    replays: ClassVar = True
    ignores: ClassVar[tuple[str, ...]] = ("noise", "auxiliary_data")
    later: ClassVar[tuple[str, ...]] = ("start", "draws", "compared")
    estimates_rates: ClassVar = False

    iterations: int = 20_000
    restarts: int = 1
    learning_rate: float = 0.1
    total_variation: float = 1e-5
    tolerance: float = 5e-6
    plateau: int = 800
    patience: int = 4_000
    start: str = RANDOM
    draws: str = "rest"
    compared: str = "told"

    def __post_init__(self) -> None:
        self.watch: Watch | None = None  # for measurements: sees every step and can change nothing
        # values by name for a victim's first start that are better than random ones: what another attack has learnt
        self.warm_start: Callable[[Observation], Mapping[str, Tensor]] = lambda observation: {}
        self._whole("iterations", "restarts", "plateau", "patience")
        self._weights("total_variation", "tolerance")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"{self.name}: learning_rate = {self.learning_rate!r} is not a positive number")
        check_start(self.name, self.start)
        for key, words in (("draws", ("rest", "anew")), ("compared", ("told", "all"))):
            if getattr(self, key) not in words:
                raise ValueError(f"{self.name}: {key} = {getattr(self, key)!r} is neither {' nor '.join(words)}")

    @abstractmethod
    def compose(self, setting: Setting) -> Composition:
        """The attack: unknowns + objective + priors."""

    def regarded(self, victim: Victim) -> Victim:
        """What this attack takes a victim's update for: what it is."""
        return victim

    def answered(self, answer: Reconstruction, setting: Setting) -> Reconstruction:
        """What is made of the best of a victim's problems: its images, each once."""
        return answer

    def narrowed(self, setting: Setting) -> Setting:
        """The part of the client's round that this attack looks at: all of it."""
        return setting

    def learnt(self, observation: Observation, labels: Tensor | None, setting: Setting) -> Mapping[str, Tensor]:
        """What this attack reads off one victim's update of the guess that it optimises, to start from: nothing."""
        return {}

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
        read = [frozenset[str]()] * len(observations)
        return self._run(observations, threat_model, model, read=read, seed=seed, progress=progress)

    def _run(
        self,
        observations: Sequence[Observation],
        threat_model: ThreatModel,
        model: nn.Module,
        *,
        read: Sequence[frozenset[str]],
        seed: int,
        progress: Progress | None,
    ) -> list[Reconstruction | NotApplicable]:
        """As `run`, where draws of the random sites `read`, one set an observation, were read off the updates."""
        results: dict[int, Reconstruction | NotApplicable] = {}
        groups: list[list[Victim]] = []
        needs_labels = "labels" in self.requires and threat_model.labels != "unknown"
        found = found_by(self.start, observations, threat_model, model, seed=seed)
        for index, (observation, sites) in enumerate(zip(observations, read, strict=True)):
            try:
                self.check(threat_model)
                victim = Victim.of(index, observation, threat_model, model, needs_labels=needs_labels, read=sites)
                victim = self.regarded(victim.begun(found[index], self.warm_start(observation)))
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
        self, group: list[Victim], threat_model: ThreatModel, model: nn.Module, seed: int, progress: Progress | None
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
        self, group: list[Victim], threat_model: ThreatModel, model: nn.Module, seed: int, progress: Progress | None
    ) -> dict[int, Reconstruction | NotApplicable]:
        """All victims of a group and all their restarts, at once."""
        try:
            setting = self.narrowed(
                setting_of(group[0], threat_model, model, estimates_rates=self.estimates_rates)
            )
            composition = _with_labels(self.compose(setting), setting, threat_model)
            tries = tries_of(composition, self.restarts)
        except NotApplicable as reason:
            return {victim.index: reason for victim in group}
        known, results = self._known(group, setting, composition)
        if not known:
            return results
        like = next(setting.model.parameters())
        problems = Problems.of(known, tries, composition, matched=setting.matched, like=like, seed=seed)
        try:
            redraw = None
            if self.draws == "anew":
                redraw = Anew(setting, [*problems.known, *problems.start], problems.generators("draws", seed))
                problems = replace(problems, known={**problems.known, **redraw(range(len(problems)))})
            told, accounted = self.compared == "told", self._accounts(setting, problems, threat_model)
            evaluator = evaluator_of(composition, setting, problems, selects=told, compares=told and accounted)
        except NotApplicable as reason:
            return results | {victim.index: reason for victim in problems.victims}
        keeper = SnapshotKeeper(
            every=self.record_every,
            iterations=self.iterations,
            problems=problems.of_victims(lambda victim: victim.index < VICTIMS),
            mean=setting.mean,
            std=setting.std,
        )
        solution = self._solved(
            Search(
                composition=composition,
                setting=setting,
                problems=problems,
                evaluator=evaluator,
                iterations=self.iterations,
                watch=both(self.watch, keeper) if self.record_every else self.watch,
                progress=progress,
                redraw=redraw,
            )
        )
        for victim, problem, answer in problems.best(solution):
            if isinstance(answer, Reconstruction):
                curve = solution.curves[problem]
                answer.snapshots = keeper.snapshots(problem, iterations=answer.iterations, curve=curve)
                answer = self.answered(answer, setting)
            results[victim.index] = answer
        return results

    def _accounts(self, setting: Setting, problems: Problems, threat_model: ThreatModel) -> bool:
        """Whether all that was drawn is known or looked for. Only then is the simulated update the one that a known
        defense rounded, and what that leaves certain can be held against it."""
        rates = threat_model.dropout_rate == "known" or self.estimates_rates or not stochastic_layers(setting.model)
        served = {*problems.known, *problems.start}
        return rates and self.draws == "rest" and all(NOISE + name in served for name in setting.noise_inputs)

    def _known(
        self, group: list[Victim], setting: Setting, composition: Composition
    ) -> tuple[list[Known], dict[int, Reconstruction | NotApplicable]]:
        """The victims that can be attacked, with what is known of them; and why the others cannot."""
        known: list[Known] = []
        declined: dict[int, Reconstruction | NotApplicable] = {}
        for victim in group:
            whole = with_zeros(victim.observation, victim.given)
            try:
                held = self.known(whole, victim.labels, setting)
                start = {**self.learnt(whole, victim.labels, setting), **victim.start}
                taken = composition.taken(victim.observation)
            except NotApplicable as reason:
                declined[victim.index] = reason
            else:
                known.append(Known(replace(victim, start=start), held, taken))
        return known, declined

    def _solved(self, search: Search) -> Solution:
        """What the engine makes of the problems."""
        schedule = Schedule(
            iterations=search.iterations,
            learning_rate=self.learning_rate,
            plateau=self.plateau,
            patience=self.patience,
            tolerance=self.tolerance,
        )
        problems, objective = search.problems, search.composition.objective
        solution = solve(
            search.composition,
            search.evaluator,
            problems.start,
            problems.known,
            schedule,
            cold=problems.cold,
            restarts=self.restarts,
            floor=floor(objective, search.setting.matched, problems.observed, problems.roundings),
            compile=self.compile,
            progress=search.progress,
            watch=search.watch,
            redraw=search.redraw,
        )
        self.compile_seconds += solution.compile_seconds
        return solution


def _with_labels(composition: Composition, setting: Setting, threat_model: ThreatModel) -> Composition:
    """With the labels among the unknowns, where nobody knows them."""
    if threat_model.labels != "unknown" or any(unknown.owns("labels") for unknown in composition.unknowns):
        return composition
    return replace(composition, unknowns=[*composition.unknowns, SoftLabels(setting)])
