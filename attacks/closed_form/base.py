"""Base of the closed forms: algebra that either solves an update or says why it cannot.

An answer of a closed form can be checked without the truth. `Reconstruction.loss` is the relative residual of the
system that was solved, and `details` says what the attack is sure of:

    stage     the attack's name
    certain   one bool an image: the checks of this closed form hold for it (rank, residual, zeros, pixel range)
    determined   one bool an image: it is what the update says, up to noise; the others only fill places
    tolerated   the share of the equations that the true image may leave unexplained, because of noise

An image that is not certain may still be a good one, e.g. from a noised update; it is never called exact.
`unexplained` compares it with what another attack has found.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor, nn

from attacks.base import Attack, NotApplicable, Reconstruction
from attacks.observation import Observation, ThreatModel
from attacks.precision import entry_rounding
from attacks.twin import attacker_copy, known_defense
from attacks.updates import examples, local_steps, trained_part
from defenses.client.optimizers import Estimate
from defenses.client.optimizers.sgd import SGD
from defenses.client.spread import Spread
from defenses.client.training import LocalTraining


@dataclass(frozen=True)
class Puzzle:
    """An observation made ready for algebra.

    Args:
        steps: of how many local steps the update is made.
        images: how many images it is made of, steps * batch size; None where that is not granted.
    """

    observation: Observation
    threat_model: ThreatModel
    given_model: nn.Module
    steps: int
    images: int | None

    @classmethod
    def of(cls, observation: Observation, threat_model: ThreatModel, model: nn.Module) -> Puzzle:
        """Raises NotApplicable for an update that cannot be used, or whose local training is not granted."""
        observation = trained_part(observation, model)
        steps = local_steps(observation)
        images = None if observation.batch_size is None else examples(observation)
        puzzle = cls(observation, threat_model, model, steps, images)
        if observation.kind == "delta" and observation.local is not None:
            _refuse(puzzle, observation.local)
        return puzzle

    @cached_property
    def model(self) -> nn.Module:
        """The attacker's copy with the observed weights, in the dtype of the update; nothing in it draws."""
        mode = self.threat_model.client_mode
        return attacker_copy(self.given_model, self.observation.state, client_mode=mode)

    @property
    def names(self) -> set[str]:
        """The parameters that the update holds: those that were trained."""
        return set(self.observation.update)

    @cached_property
    def estimates(self) -> Mapping[str, Estimate] | None:
        """What the only step of an optimizer that is not linear says of each entry of the gradients; None where the
        update is linear in them, so that its rounding is all that is lost, or where they cannot be known."""
        observation, local = self.observation, self.observation.local
        if observation.kind == "gradient" or local is None or self.steps != 1 or local.linear:
            return None
        update = {name: value.double() for name, value in observation.update.items()}
        return local.first_estimate(update, entry_rounding(observation), {name: self.weight(name) for name in update})

    @cached_property
    def spread(self) -> Spread | None:
        """How much of each entry of the gradients is noise that a defense is known to have added, and which entries
        say nothing; None: nothing is known of either."""
        observation, local = self.observation, self.observation.local
        rates = dict.fromkeys(observation.update, 1.0)
        if observation.kind == "delta" and local is not None and local.linear:
            rates = {name: _linear(local, self.steps, name)[1] for name in rates}
        defense, found = known_defense(observation), dict[float, Spread]()
        for rate in set(rates.values()):  # parameters that are trained apart have rates of their own
            own = defense.spread(observation.update, examples=self.images or 1, rate=rate)
            if own is None:
                return None
            found[rate] = own.times(1 / rate)
        return Spread.joined({name: found[rate] for name, rate in rates.items()})

    def precision(self, name: str) -> Tensor | None:
        """One over the standard deviation of each entry of a gradient, 0 where nothing is known; None: all alike."""
        return None if self.estimates is None else 1 / self.estimates[name].error

    def gradient(self, name: str) -> Tensor:
        """A parameter's gradient in float64.

        Of a weight delta of several steps, a weighted sum of the steps' gradients, each taken at its own weights: a sum
        of outer products, as one gradient is.
        """
        update = self.observation.update[name].double()
        if self.observation.kind == "gradient":
            return update
        if self.estimates is not None:
            return self.estimates[name].value
        local = self.observation.local
        assert local is not None  # or `local_steps` had declined
        kept, pushed = _linear(local, self.steps, name)
        return -(update - (kept - 1) * self.weight(name)) / pushed

    def weight(self, name: str) -> Tensor:
        """A parameter that the server sent, in float64."""
        return self.observation.state[name].double()


class ClosedForm(Attack):
    """A closed form solves one victim at a time.

    Class attributes:
        strength: a cascade tries the closed forms from the highest (least assuming) to the lowest.
        weighs: whether it can do with gradients of which each entry is known with a precision of its own.
    """

    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {"aggregation": ("individual",)}
    adapts: ClassVar[Mapping[str, str | None]] = {"clip": None}
    reads_first: ClassVar[bool] = True  # linear, whatever was dropped behind it
    ignores: ClassVar[tuple[str, ...]] = ("labels", "noise", "auxiliary_data")
    solves: ClassVar[bool] = True
    strength: ClassVar[int] = 0
    weighs: ClassVar[bool] = False

    @abstractmethod
    def solve(self, puzzle: Puzzle, *, seed: int) -> Reconstruction:
        """The answer, images in float64. Raises NotApplicable with the reason."""

    @abstractmethod
    def unexplained(self, puzzle: Puzzle, images: Tensor) -> Tensor:
        """The share of the equations that each of these images (B, C, H, W) leaves unexplained: (B,).

        The equations hold whatever was drawn behind the layer that sees the images, and whatever their labels are. So
        images are compared that come with masks, with other masks or with none. The true images leave the noise.
        """

    def reconstruct(
        self, observation: Observation, threat_model: ThreatModel, model: nn.Module, *, seed: int
    ) -> Reconstruction:
        puzzle = Puzzle.of(observation, threat_model, model)
        if puzzle.estimates is not None and not self.weighs:
            raise NotApplicable("a step of this optimizer says each entry of the gradient with a precision of its own")
        try:
            answer = self.solve(puzzle, seed=seed)
        except torch.linalg.LinAlgError as fault:  # type: ignore[attr-defined]
            raise NotApplicable(f"the linear algebra does not converge on this update: {fault}") from fault
        if not torch.isfinite(answer.images).all():
            raise NotApplicable("the solution is not finite: the update does not determine the images")
        return replace(
            answer, images=answer.images.to(_dtype(puzzle.observation)), details={"stage": self.name, **answer.details}
        )


def _dtype(observation: Observation) -> torch.dtype:
    return next(iter(observation.update.values())).dtype


def _refuse(puzzle: Puzzle, local: LocalTraining) -> None:
    """Raise NotApplicable unless the delta is a sum of multiples of the steps' gradients and of the weights sent, or of
    a single step that says something of its gradient."""
    if not local.linear and puzzle.estimates is None:
        name = next(one.name for one in local.optimizers if not isinstance(one, SGD))
        raise NotApplicable(f"{name} does not add up gradients: what it sends does not reveal them")
    if local.clip_value is not None:
        raise NotApplicable("the entries of the client's gradients were clipped: they do not reveal what they were")
    if local.linear and any(_linear(local, puzzle.steps, name)[1] == 0 for name in puzzle.names):
        raise NotApplicable("the learning rate of a parameter is zero: what changed it is not its gradient")


def _linear(local: LocalTraining, steps: int, name: str) -> tuple[float, float]:
    """Of a parameter the share of the sent weights that is in the returned ones, apart from gradients: what weight
    decay leaves; and what the gradient of a single step was multiplied by, or of several steps their largest rate.

    SGD is linear in the weights and the gradients, so this scalar recursion is the whole effect of the decay.
    """
    [part] = local.parts([name])
    optimizer = part.optimizer
    assert isinstance(optimizer, SGD)
    kept, velocity = 1.0, 0.0
    for step in range(steps):
        decay = optimizer.weight_decay * kept
        velocity = optimizer.momentum * velocity + decay
        kept -= part.rate(step) * (decay + optimizer.momentum * velocity if optimizer.nesterov else velocity)
    ahead = optimizer.momentum if optimizer.nesterov and steps == 1 else 0.0
    return kept, max(part.rate(step) for step in range(steps)) * (1 + ahead)
