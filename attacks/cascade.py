"""The strongest answer there is: algebra where it applies, optimisation for the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor, nn

from attacks.base import Attack, NotApplicable, Progress, Reconstruction, create, get, names, register
from attacks.closed_form.base import ClosedForm, Puzzle
from attacks.iterative import IterativeAttack
from attacks.observation import Observation, ThreatModel
from attacks.rivals import kept_images
from attacks.starts import beginning

FALLBACKS = ("cut", "mask_readout", "dropout_inversion")
"""What optimises where no closed form is certain: the attack that has most read off the update comes first."""


@register("cascade")
@dataclass(kw_only=True, eq=False)
class Cascade(Attack):
    """Try the closed forms, the strongest first; the first that is certain of all its images, by checks that need no
    truth, is the answer. Otherwise optimise, starting from what was learnt.

    `details["stage"]` names the attack that answered, `details["declined"]` says why the others did not.

    An image that a closed form is certain of always stands, and an approximate one is not thrown away for an optimised
    one that explains less (`attacks.rivals`). In a batch an image of a closed form competes with, and takes the place
    of, the optimised image nearest to it.

    Args:
        iterations: at most this many, of the attack that optimises.
        restarts: its random starts per victim; the first one is what was learnt, if anything was.
    """

    exploits: ClassVar[str] = "what the attack needs that answers"
    under_dropout: ClassVar[str] = (
        "that of the attack that answers: first of the closed forms, which dropout does not hinder"
    )

    adapts: ClassVar = {"dropout": "dropout_rate", "clip": None}
    replays: ClassVar = True
    seeks_noise: ClassVar = True
    ignores: ClassVar = ("noise", "auxiliary_data")

    iterations: int = 20_000
    restarts: int = 1

    def __post_init__(self) -> None:
        self._whole("iterations", "restarts")

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
        for name in FALLBACKS:
            open_ones = [index for index, trial in enumerate(trials) if trial.answer is None]
            if not open_ones:
                break
            attack = create(name, iterations=self.iterations, restarts=self.restarts)
            assert isinstance(attack, IterativeAttack)
            attack.compile, attack.record_every = self.compile, self.record_every
            seen = [observations[index] for index in open_ones]
            attack.warm_start = learnt({id(observations[index]): trials[index] for index in open_ones})
            for index, answer in zip(open_ones, attack.run(seen, threat_model, model, seed=seed, progress=progress)):
                puzzle = Puzzle.of(observations[index], threat_model, model) if trials[index].partial else None
                trials[index].note(name, answer, puzzle)
            self.compile_seconds += attack.compile_seconds
        return [trial.result() for trial in trials]


@dataclass
class Trial:
    """One victim on its way through the stages.

    Args:
        partial: the answer of the strongest closed form that was not certain of everything.
        declined: why a stage did not answer, by its name.
    """

    declined: dict[str, str]
    answer: Reconstruction | None = None
    partial: Reconstruction | None = None

    def note(self, name: str, answer: Reconstruction | NotApplicable, puzzle: Puzzle | None) -> None:
        """Take an optimised answer, or the reason why there is none. `puzzle` is there if `partial` is."""
        if isinstance(answer, NotApplicable):
            self.declined[name] = str(answer)
        elif self.partial is None or puzzle is None:
            self.answer = replace(answer, details={**answer.details, "stage": name})
        else:
            self.answer = self._better(name, answer, self.partial, puzzle)

    def _better(
        self, name: str, optimised: Reconstruction, partial: Reconstruction, puzzle: Puzzle
    ) -> Reconstruction:
        """The optimised images, with those of the closed form in the places of the ones that are worse."""
        stage = partial.details["stage"]
        kept = kept_images(partial, optimised, _closed_forms()[stage](), puzzle)
        if len(kept) == len(optimised.images):  # nothing of the optimised answer is left
            self.declined[name] = f"explains what {stage} solves no better than that does"
            return replace(partial, iterations=optimised.iterations)
        images, certain = optimised.images.clone(), [False] * len(optimised.images)
        for place, index in kept.items():
            images[place], certain[place] = partial.images[index].to(images), partial.details["certain"][index]
        facts = {**optimised.details, "stage": name, "certain": certain, "kept": {stage: len(kept)} if kept else {}}
        return replace(optimised, images=images, details=facts)

    def result(self) -> Reconstruction | NotApplicable:
        answer = self.answer or self.partial  # where nothing optimises, e.g. without labels: uncertain is all there is
        if answer is not None:
            declined = {name: reason for name, reason in self.declined.items() if name != answer.details["stage"]}
            return replace(answer, details={**answer.details, "declined": declined})
        return NotApplicable("; ".join(f"{name}: {reason}" for name, reason in self.declined.items()))


def algebra(observation: Observation, threat_model: ThreatModel, model: nn.Module, seed: int) -> Trial:
    """What the closed forms make of one victim."""
    trial = Trial({})
    for name in sorted(_closed_forms(), key=lambda name: (-_closed_forms()[name].strength, name)):
        [answer] = create(name).run([observation], threat_model, model, seed=seed)
        if isinstance(answer, NotApplicable):
            trial.declined[name] = str(answer)
        elif all(answer.details["certain"]):
            trial.answer = answer
            return trial
        else:
            trial.declined[name] = f"certain of {sum(answer.details['certain'])} of {len(answer.images)} images"
            trial.partial = trial.partial or answer
    return trial


def _closed_forms() -> Mapping[str, type[ClosedForm]]:
    return {name: cls for name in names() if issubclass(cls := get(name), ClosedForm) and not cls.looks_back}


def learnt(trials: Mapping[int, Trial]) -> Callable[[Observation], Mapping[str, Tensor]]:
    """Where to start with an observation: at the answer of a closed form that was not certain."""
    return lambda observation: beginning(trials[id(observation)].partial)
