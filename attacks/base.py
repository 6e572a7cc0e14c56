"""The contract of an attack, and the registry. Adding an attack is one file with one class:

@register("grey")
class Grey(Attack):
    '''Guess a grey image, whatever was observed.'''

    def reconstruct(self, observation, threat_model, model, *, seed):
        images = torch.zeros(observation.batch_size, *observation.input_shape)
        return Reconstruction(images=images, loss=math.nan)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal, TypeVar

from torch import Tensor, nn

from attacks.observation import Observation, ThreatModel
from attacks.threat import GRANTS
from defenses.registry import Registry

Compile = Literal["auto", "always", "never"]

Progress = Callable[[int, int, float], None]
"""Called now and then by a long attack with (iterations done, iterations at most, median attack loss now)."""


class NotApplicable(Exception):
    """This attack does not apply to this observation or threat model; the message says why, in one line."""


@dataclass(frozen=True, kw_only=True)
class Snapshots:
    """What an attack was at on its way to its answer, on the restart that gave it; in the order of the answer's images.

    Args:
        iterations: (S,) steps done before each snapshot; 0 is the random start.
        losses: (S,) the attack's loss there, as far as it was noted: there or a little before.
        images: (S, B, C, H, W) pixels, uint8.
        noise: (S, B, ...) float16 by stochastic layer; empty where the attack assumes none.
    """

    iterations: Tensor
    losses: Tensor
    images: Tensor
    noise: Mapping[str, Tensor]


@dataclass(kw_only=True)
class Reconstruction:
    """What an attack says a client's batch was.

    Its tensors are on the processor, whatever device they were found on: everybody can read them, and what one attack
    has found can be held against what another has.

    Args:
        images: (B, C, H, W) in the model's normalised units, in any order.
        loss: the attack's own loss at these images: the only quantity anything is ever selected by. NaN if it has none.
        labels: (B,) class indices, if the attack has an opinion.
        noise: the estimated noise (B, ...) by stochastic layer, in the order of `images`, if it estimated any.
        iterations: optimisation steps spent on this victim (on its best restart).
        stopped: why an attack that optimises went no further: `converged`; `patience`, without improvement for so long;
            `budget`, the iterations were used up; `not_finite`, the loss was no number any more. None for others.
        losses: the loss over the iterations, thinned, for plots.
        details: JSON-able facts, e.g. the stage that answered or a confidence.
        snapshots: what the attack was at on its way, if it was told to record.
    """

    images: Tensor
    loss: float
    labels: Tensor | None = None
    noise: Mapping[str, Tensor] | None = None
    iterations: int = 0
    stopped: str | None = None
    losses: list[tuple[int, float]] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    snapshots: Snapshots | None = None

    def __post_init__(self) -> None:
        self.images, self.labels = _here(self.images), _here(self.labels)
        if isinstance(self.noise, Mapping):
            self.noise = {path: _here(value) for path, value in self.noise.items()}


_Value = TypeVar("_Value")


def _here(value: _Value) -> _Value:
    """A tensor on the processor; what is no tensor as it is: who looks at the answer says so."""
    return value.cpu() if isinstance(value, Tensor) else value  # type: ignore[return-value]


class Attack:
    """Base of all attacks. Constructor parameters are keyword-only; they become the keys that a scenario may set.

    Class attributes:
        paper: where it was published; empty where that is nowhere else.
        exploits: what of the model and of the client's round it needs, in a few words.
        under_dropout: what it does where the client's model has dropout, in a few words.
        requires: what the threat model must grant, e.g. `{"labels": ("known", "inferred")}`; `sum_of_*` accepts the sum
            over any number of clients.
        given: what this attack is run with whatever the scenario grants, e.g. `{"noise": "known"}` for the oracle WIIG;
            the result rows show it.
        oracle: True if `given` holds something that no real server has.
        solves: True for the closed forms, which search for nothing, so that a search can start from what they find.
        floor: True for the null attacks, which stand in every comparison.
        adapts: the defenses that this attack takes into account, each with the field of the threat model that must be
            `known` for it, or None where the attack is the same with and without the defense, e.g. `{"clip": None}` of
            an attack that looks at the update's direction alone. Only such an attack is evidence for a defense.
        reads_first: whether all that it needs of an update is that of the model's first layer with parameters, so that
            it is the same whatever a defense does behind that layer (`Defense.behind`), known or not.
        replays: whether it replays every other defense that it is granted to know, what that draws left at rest.
        seeks_noise: whether it looks for what such a defense draws, too.
        looks_back: whether it is given the earlier rounds of its client as well (`Observation.earlier`).
        weighs_noise: whether it weighs entries of an update by the noise that a known defense says lies on them
            (`Defense.spread`).
        ignores: the grants (`attacks.threat.GRANTS`) that can change nothing about its answers, so that it need not run
            once with and once without.
        later: options that came after others: at their defaults a job does not name them, so that its key stays.
    """

    name: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    exploits: ClassVar[str] = ""
    under_dropout: ClassVar[str] = ""
    requires: ClassVar[Mapping[str, Sequence[str]]] = {}
    given: ClassVar[Mapping[str, str]] = {}
    oracle: ClassVar[bool] = False
    solves: ClassVar[bool] = False
    floor: ClassVar[bool] = False
    adapts: ClassVar[Mapping[str, str | None]] = {}
    reads_first: ClassVar[bool] = False
    replays: ClassVar[bool] = False
    seeks_noise: ClassVar[bool] = False
    weighs_noise: ClassVar[bool] = False
    looks_back: ClassVar[bool] = False
    ignores: ClassVar[Collection[str]] = ()
    later: ClassVar[Collection[str]] = ()

    compile: Compile = "auto"
    """Whether the engine's iterations are compiled (see `attacks.program`): how an attack is run, not what it is."""

    record_every: int = 0
    """Iterations between two snapshots of an attack that optimises (see `attacks.snapshots`); 0 records none."""

    compile_seconds: float = 0.0
    """What compiling has taken so far: no part of the time that an attack takes."""

    @classmethod
    def uses(cls) -> frozenset[str]:
        """The fields of the threat model that can change its answers."""
        return frozenset(({*GRANTS} - {*cls.ignores}) | {*cls.requires, *cls.given})

    def _whole(self, *options: str) -> None:
        """Raise ValueError unless these options are whole numbers of at least 1."""
        for key in options:
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{self.name}: {key} = {value!r} is not a whole number of at least 1")

    def _weights(self, *options: str) -> None:
        """Raise ValueError unless these options are numbers of at least 0."""
        for key in options:
            if not 0 <= getattr(self, key) < math.inf:
                raise ValueError(f"{self.name}: {key} = {getattr(self, key)!r} is not a number of at least 0")

    def _positive(self, *options: str) -> None:
        """Raise ValueError unless these options are numbers above 0."""
        for key in options:
            if not 0 < getattr(self, key) < math.inf:
                raise ValueError(f"{self.name}: {key} = {getattr(self, key)!r} is not a number above 0")

    def check(self, threat_model: ThreatModel) -> None:
        """Raise `NotApplicable` if the threat model does not grant what this attack requires."""
        for aspect, accepted in self.requires.items():
            value = getattr(threat_model, aspect)
            if not any(fnmatchcase(value, pattern) for pattern in accepted):
                raise NotApplicable(f"needs {aspect} {' or '.join(accepted)}, but the threat model says {value}")

    def reconstruct(
        self, observation: Observation, threat_model: ThreatModel, model: nn.Module, *, seed: int
    ) -> Reconstruction:
        """Attack one observation. Raises `NotApplicable`. Override this, or `run` for many victims at once."""
        raise NotImplementedError

    def run(
        self,
        observations: Sequence[Observation],
        threat_model: ThreatModel,
        model: nn.Module,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> list[Reconstruction | NotApplicable]:
        """Attack the clients of one round, who all received the same model; one answer each, in order.

        `model` is the attacker's own copy, on the device and in the dtype to work in; its weights are replaced by the
        observed state. A victim's answer does not depend on which other victims stand beside it.
        """
        results: list[Reconstruction | NotApplicable] = []
        for observation in observations:
            try:
                self.check(threat_model)
                results.append(self.reconstruct(observation, threat_model, model, seed=seed))
            except NotApplicable as reason:
                results.append(reason)
        return results

    def __call__(
        self, observation: Observation, threat_model: ThreatModel, model: nn.Module, *, seed: int = 0
    ) -> Reconstruction:
        """Attack one observation; raises `NotApplicable`."""
        [result] = self.run([observation], threat_model, model, seed=seed)
        if isinstance(result, NotApplicable):
            raise result
        return result


_registry: Registry[Attack] = Registry("attack", "attacks")
register = _registry.register
get = _registry.get
names = _registry.names
create = _registry.create
