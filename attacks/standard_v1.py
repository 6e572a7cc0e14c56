"""One attack to compare with: no parameters, a stated limit of computation, and never changed once it is published.

RobustBench's AutoAttack (Croce and Hein, ICML 2020) did the same for adversarial examples: a number that everybody can
cite and nobody tuned. A stronger one will be `standard_v2`, beside this one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor, nn

from attacks.base import Attack, NotApplicable, Progress, Reconstruction, create, register
from attacks.cascade import algebra, learnt
from attacks.closed_form.base import Puzzle
from attacks.closed_form.masks import read_masks
from attacks.descent import composed
from attacks.engine import Composition
from attacks.iterative import IterativeAttack
from attacks.matching.mask_readout import MaskReadout
from attacks.observation import Observation, ThreatModel
from attacks.operations import of_an_iteration, smooth
from attacks.priors import DropRate, TotalVariation
from attacks.pyramid import deep
from attacks.relaxed import Relaxed
from attacks.rivals import mismatch
from attacks.twin import attacker_copy
from attacks.unknowns import Setting
from attacks.updates import local_steps, trained_part

OPERATIONS = 2e11
"""Floating-point operations at most, for each image and each stage (`attacks.operations`)."""

LONGEST = 1_000
"""Iterations at most, of a stage: on small models the limit of operations would allow more than helps."""

WHOLE = 4
"""An iteration that compares whole gradients in float64 counts so many times."""

_COMMON = {
    "learning_rate": 0.1,
    "total_variation": 1e-5,
    "tolerance": 5e-6,
    "plateau": 100,
    "patience": 400,
    "start": "random",
    "draws": "rest",
    "compared": "told",
    "restarts": 1,
    "drop_rate": 1e-4,
}

STAGES: dict[str, dict[str, Any]] = {
    "cut": {**_COMMON, "plateau": 200},
    "readout_descent": {**_COMMON, "restarts": 2},
    "fedavg_inversion": {**_COMMON, "restarts": 2, "agreement": 1e-3, "coupling": "nearest", "memory": 50},
    "multiscale_inversion": {**_COMMON, "total_variation": 1.0, "batch_norm": 0.05},
}
"""The searches in their order, with every option that they have: a later default changes nothing here."""

DESCENTS = ("readout_descent", "fedavg_inversion")
"""Those that move by L-BFGS: for models without kinks, by whole gradients."""


@dataclass(kw_only=True, eq=False)
class ReadoutDescent(MaskReadout):
    """`mask_readout` by L-BFGS, lengths compared: masks that were read are substituted, others are looked for."""

    name: ClassVar[str] = "readout_descent"
    memory: ClassVar[int] = 50

    def compose(self, setting: Setting) -> Composition:
        unread = {path: shape for path, shape in setting.noise_inputs.items() if path not in setting.read}
        sought = replace(setting, noise_inputs=unread)
        priors = [TotalVariation(self.total_variation), DropRate(self.drop_rate, setting.sites, known=setting.read)]
        return composed(setting, Relaxed(sought, "logistic"), priors, memory=self.memory)


@register("standard_v1")
class StandardV1(Attack):
    """Try the closed forms, as `cascade` does; where none is certain of everything, search in every way that the model
    calls for, and answer what explains the update best.

    - A network of many convolutions: `multiscale_inversion`, with its pyramid, its total variation and the batch's
      statistics where they came back.
    - Any other: `cut`; L-BFGS, with the masks that can be read and without them, where the model has no kinks; and the
      Dropout Inversion Attack. The answers are compared by how much of the update's energy each leaves unexplained,
      with its own masks and those that were read. A search that has converged is the last.

    Labels, dropout rate and defense are taken as they are granted. Each search has at most 2e11 counted floating-point
    operations an image, and 1,000 iterations. The truth is never looked at, and nothing is drawn but by the seed:
    within version 1 the answer to an update and a seed stays the same on the same machine and libraries.
    """

    paper: ClassVar[str] = "in the manner of AutoAttack (Croce and Hein, ICML 2020)"
    exploits: ClassVar[str] = "what the attack needs that answers"
    under_dropout: ClassVar[str] = "closed forms first; then reads the masks, or looks for them"
    adapts: ClassVar = {"dropout": "dropout_rate", "clip": None}
    replays: ClassVar = True
    seeks_noise: ClassVar = True
    ignores: ClassVar = ("noise", "auxiliary_data", "batch_order")

    stages: ClassVar[Mapping[str, Mapping[str, Any]]] = STAGES
    whole: ClassVar[float] = WHOLE
    readout: ClassVar[type[ReadoutDescent]] = ReadoutDescent

    def run(
        self,
        observations: Sequence[Observation],
        threat_model: ThreatModel,
        model: nn.Module,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> list[Reconstruction | NotApplicable]:
        trials = [algebra(observation, threat_model, model, seed) for observation in observations]
        open_ones = [index for index, trial in enumerate(trials) if trial.answer is None]
        plans: dict[int, Plan] = {}
        for index in open_ones:
            try:
                plans[index] = plan(observations[index], threat_model, model, stages=self.stages, whole=self.whole)
            except NotApplicable as reason:
                trials[index].declined["search"] = str(reason)
        found: dict[int, dict[str, Reconstruction]] = {index: {} for index in plans}
        warm = learnt({id(observations[index]): trials[index] for index in plans})
        for name in self.stages:
            for iterations in sorted({each[name] for each in plans.values() if name in each}):
                group = [i for i, each in plans.items() if each.get(name) == iterations and not _done(found[i])]
                attack = self._stage(name, iterations)
                attack.compile, attack.record_every, attack.warm_start = self.compile, self.record_every, warm
                seen = [observations[index] for index in group]
                answers = attack.run(seen, threat_model, model, seed=seed, progress=progress) if seen else []
                for index, answer in zip(group, answers):
                    if isinstance(answer, NotApplicable):
                        trials[index].declined[name] = str(answer)
                    else:
                        found[index][name] = answer
                self.compile_seconds += attack.compile_seconds
        for index, named in found.items():
            if named:
                observation, partial = observations[index], trials[index].partial
                name, answer = best(named, observation, threat_model, model)
                trials[index].note(name, answer, Puzzle.of(observation, threat_model, model) if partial else None)
        return [trial.result() for trial in trials]

    def _stage(self, name: str, iterations: int) -> IterativeAttack:
        options = {**self.stages[name], "iterations": iterations}
        attack = self.readout(**options) if name == self.readout.name else create(name, **options)
        assert isinstance(attack, IterativeAttack)
        return attack


Plan = Mapping[str, int]
"""The iterations of each search that one victim is due, by name."""


def plan(
    observation: Observation,
    threat_model: ThreatModel,
    model: nn.Module,
    *,
    stages: Mapping[str, Mapping[str, Any]] = STAGES,
    whole: float = WHOLE,
) -> Plan:
    """Which searches the model calls for, and how long they may be: from one victim's update alone.

    Args:
        stages: a version's searches, with their options.
        whole: what an iteration that compares whole gradients counts for.

    Raises:
        NotApplicable: the model cannot be replayed, or what the client did is not granted.
    """
    local_steps(observation)
    names = list(stages)
    if deep(model):
        names = ["multiscale_inversion"]
    elif not smooth(observation, threat_model, model):
        names = [name for name in names if name not in DESCENTS]
    operations = of_an_iteration(observation, threat_model, model)

    def iterations(name: str) -> int:
        each = operations * stages[name]["restarts"] * (whole if name in DESCENTS else 1)
        return int(max(1, min(LONGEST, OPERATIONS // each)))

    return {name: iterations(name) for name in names}


def best(
    answers: Mapping[str, Reconstruction], observation: Observation, threat_model: ThreatModel, model: nn.Module
) -> tuple[str, Reconstruction]:
    """The answer that explains an update best, by the attacks' own means: never by the truth."""
    if len(answers) == 1:
        return next(iter(answers.items()))
    trained = trained_part(observation, model)
    twin = attacker_copy(model, observation.state, client_mode=threat_model.client_mode)
    masks = _read(trained, twin)

    def unexplained(name: str) -> float:
        answer = answers[name]
        own = replace(answer, noise={**masks, **(answer.noise or {})})
        return mismatch(trained, twin, answer.images, own)

    left = {name: unexplained(name) for name in answers}
    chosen = min(left, key=lambda name: (left[name], list(left).index(name)))
    return chosen, replace(answers[chosen], details={**answers[chosen].details, "unexplained": left})


def _read(observation: Observation, twin: nn.Module) -> Mapping[str, Tensor]:
    """The masks that an update of one image gives away."""
    if observation.batch_size not in (None, 1) or local_steps(observation) != 1:
        return {}
    return read_masks(twin, observation).read


def _done(answers: Mapping[str, Reconstruction]) -> bool:
    return any(answer.stopped == "converged" for answer in answers.values())
