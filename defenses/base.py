"""The contract of a defense: a few hooks into a client's round, each optional, and the registry.

A client's round (`defenses.client.round`) runs the hooks in this order:

    model_overrides        before anything is built: keys of the scenario's `model` block that it replaces
    local_overrides        likewise: keys of its `federation.local` block
    on_model               once, wherever the model is built: by the client, the server and the attacker
    on_batch               per local step: the images and labels that are trained on
    loss_term              per local step: what is added to the loss
    gradient               per local step: the gradient from those of the examples (DP-SGD); at most one of a
                           composition may replace the plain one
    on_update              once: what leaves the client (the gradient, or the weight delta)

and after all clients of a round

    on_aggregate           what the server sees of their updates: one in place of all
    on_received            what the server, having seen it, takes of a client's update into the mean
    on_mean                what the server applies in place of that mean

Each of the client's is a function of its input and of what it draws: `turn.draw(name, site, x)` gives the noise of a
random site (see `defenses.client.site`), drawn where the client plays, given where an attacker replays. `on_update` may
also look at the client itself, `turn.client`: its weights, its examples, its loss at other weights. The same functions
are the attacker's picture of the defense, as far as the threat model grants it to know the defense:

    surrogate              in place of `on_update`, where its own derivative is zero
    selection              what of the observed update still says anything: entries, or spaces of a matrix
    spread                 how much noise lies on each of them, whatever was drawn
    compare                how well a simulated update explains the observed one, in place of an attack's objective
    keeps_direction        that `on_update` does no more, on average, than scale the update

Where a defense would do nothing at all, as deployed, it says so (`refuses`), so that nobody takes it for one that was
tried.

Adding a defense is one file with one class:

    @register("round_to")
    class RoundTo(Defense):
        '''Round every entry of the update to a multiple of `step`.'''

        def __init__(self, *, step: float = 1e-3) -> None:
            self.step = step

        def on_update(self, update, *, turn):
            return {name: (value / self.step).round() * self.step for name, value in update.items()}

        def surrogate(self, update, *, turn):
            return update  # rounding has no derivative
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from defenses.client.kept import Kept
from defenses.client.spread import Spread
from defenses.coding import bits_of
from defenses.registry import Registry
from defenses.turn import Memory, Tensors, Turn

__all__ = [
    "Accounting",
    "Defense",
    "Deployment",
    "Memory",
    "PerExample",
    "Tensors",
    "Turn",
    "create",
    "get",
    "names",
    "register",
]

PerExample = Callable[[], tuple[Tensors, Tensor]]
"""The gradients (B, ...) of the examples of a batch by parameter name, and their losses (B,)."""

_registry: Registry[Defense]


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """Where a defense is to act: the images of a local step, the clients of a round, and the rounds that it goes on."""

    batch_size: int
    clients: int
    rounds: int


@dataclass(frozen=True)
class Accounting:
    """A differential-privacy guarantee: (epsilon, delta), and the assumption it was computed under.

    `epsilon_prv` is of the same mechanism, by a tighter accountant, of the privacy loss itself; None if there is none.
    """

    epsilon: float
    delta: float
    note: str = ""
    epsilon_prv: float | None = None


class Defense:
    """Base of all defenses: every hook does nothing until a subclass overrides it.

    Constructor parameters are keyword-only; they become the keys that a scenario may set. Bad values raise ValueError.

    Class attributes:
        checks_model: `on_model` refuses some models, and changes none.
        adds_parameters: `on_model` adds parameters or buffers, which the server sends with the model's own.
        pretrains: a model that is trained before the federation has them then already; else they are added to it after.
        told_by: the field of the threat model that tells an attacker of it.
        shows: whether what `on_batch` makes of an image still shows that image (turned, shifted), so that whoever
            rebuilds it has rebuilt the image.
        one_to_one: `on_batch` makes each of its images of one example, and of each example one image.
        beyond_replay: whoever replays it does not find the images by that, as where what is trained on does not show
            them: only an attack that names the defense (`attacks.Attack.adapts`) takes it into account.
        behind: of a client's round it changes no more than the model (and the loss) behind the first layer that has
            parameters: what that layer sees stays, and so does how its gradient follows from this and from what comes
            back to it. Who reads nothing else need not know of it (`attacks.Attack.reads_first`).
        draws: whether any hook but `on_model` draws at a structural site: what an attacker may look for.
        keeps_direction: on average over its additive noise `on_update` multiplies the update by a positive number, and
            does nothing else; an attacker then compares directions, and need not replay it.
    """

    name: ClassVar[str] = ""
    adds_parameters: ClassVar[bool] = False
    pretrains: ClassVar[bool] = True
    checks_model: ClassVar[bool] = False
    told_by: ClassVar[str] = "defense"
    shows: ClassVar[bool] = False
    one_to_one: ClassVar[bool] = False
    beyond_replay: ClassVar[bool] = False
    behind: ClassVar[bool] = False
    draws: ClassVar[bool] = False
    keeps_direction: ClassVar[bool] = False

    def model_overrides(self) -> dict[str, Any]:
        """Keys of the scenario's model block that this defense replaces, e.g. `{"dropout": 0.5}`."""
        return {}

    def local_overrides(self) -> dict[str, Any]:
        """Keys of the scenario's `federation.local` block that this defense replaces, e.g. `{"batch_size": 8}`.

        They are a client's in the attacked rounds and in the unattacked training alike.
        """
        return {}

    def on_model(self, model: nn.Module) -> nn.Module:
        """The model, changed or replaced. Raises ValueError naming a module that it cannot handle.

        New parameters are initialised from torch's global generator, which whoever builds the model has seeded.
        """
        return model

    def on_batch(self, images: Tensor, labels: Tensor, *, turn: Turn) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) in normalised units and labels, (B,) or (B, K), as they will be trained on.

        They may be `grows` times as many: of image i of the batch those at the places i, i + B, i + 2 B...
        """
        return images, labels

    @property
    def grows(self) -> int:
        """How many images `on_batch` makes of one."""
        return 1

    def views(self, images: Tensor, labels: Tensor, *, turn: Turn) -> Tensor:
        """The images as `on_batch` shows them, if it does (`shows`): what scoring takes for the image as well."""
        return self.on_batch(images, labels, turn=turn)[0] if self.shows else images

    def loss_term(self, model: nn.Module) -> Tensor | float:
        """What is added to the loss, given the model after its forward pass."""
        return 0.0

    def gradient(self, per_example: PerExample, *, turn: Turn) -> tuple[Tensors, Tensor]:
        """The gradient of one local step by parameter name, in place of the plain one, and the loss."""
        raise NotImplementedError

    def on_update(self, update: Tensors, *, turn: Turn) -> Tensors:
        """What leaves the client: tensors by parameter name, same names and shapes."""
        return update

    def surrogate(self, update: Tensors, *, turn: Turn) -> Tensors:
        """A differentiable picture of `on_update`, for attacks that know the defense: the function itself."""
        return self.on_update(update, turn=turn)

    def selection(self, observed: Mapping[str, Tensor]) -> Mapping[str, Kept] | None:
        """What of an observed update still says anything, by parameter name: a mask (bool) of entries, or the spaces of
        a matrix (`defenses.client.kept`); None: all of it."""
        return None

    def spread(self, observed: Mapping[str, Tensor], *, examples: int, rate: float) -> Spread | None:
        """How much of each entry of an observed update is noise, for attacks that weigh entries by it; None: nothing
        that is zero on average was added, or nobody can say how much.

        Args:
            observed: by parameter name, in units of the update.
            examples: of the client's step.
            rate: what a gradient is multiplied by in the update; 1 where gradients are shared.
        """
        return None

    def compare(self, simulated: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> Tensor:
        """How badly a simulated update explains an observed one, where what was sent leaves certain more than how near
        it is: in place of the objective of an attack that knows the defense. Differentiable in `simulated`, which has
        not passed `on_update`; 0-dim float64, about 1 of chance. Of tensors alone, so that it can be traced.

        Args:
            simulated: by parameter name; where gradients are compared that a weight delta reveals, gradients.
            observed: likewise.
        """
        raise NotImplementedError

    def bits(self, update: Tensors) -> int:
        """How many bits its update takes to send; one that knows a shorter code than `defenses.coding` says so."""
        return bits_of(update)

    def on_aggregate(self, updates: Sequence[Tensors], weights: Sequence[float]) -> Tensors:
        """What the server sees of a round, in place of the update of each client.

        Args:
            updates: of the clients, by parameter name.
            weights: of the clients in the mean, such as their numbers of examples.
        """
        raise NotImplementedError

    def on_received(self, update: Tensors) -> Tensors:
        """What the server takes of a client's update into the mean of a round. It has seen the update already."""
        return update

    def on_mean(self, mean: Tensors, weights: Sequence[float], *, turn: Turn) -> Tensors:
        """What the server applies to the global model in place of the mean of a round's updates.

        Args:
            mean: by parameter name, of what clients send (gradients, or changes of weights).
            weights: of the clients in it, such as their numbers of examples.
        """
        return mean

    def refuses(self, deployment: Deployment) -> str | None:
        """Why it would leave everything as it is there, in one line; None: it acts."""
        return None

    def accounting(self, *, updates: int, steps: int, batch_size: int, examples: int) -> Accounting | None:
        """The privacy that a client has spent, if the defense accounts for any.

        Args:
            updates: how many it has sent: the rounds that it took part in.
            steps: local steps of all these rounds together.
            batch_size: examples of a step.
            examples: that the client has; a client with fewer than `batch_size` takes them again.
        """
        return None

    @property
    def replaces_gradient(self) -> bool:
        return type(self).gradient is not Defense.gradient

    @property
    def changes_model(self) -> bool:
        return type(self).on_model is not Defense.on_model

    @property
    def changes_batch(self) -> bool:
        return type(self).on_batch is not Defense.on_batch

    @property
    def changes_loss(self) -> bool:
        return type(self).loss_term is not Defense.loss_term

    @property
    def changes_update(self) -> bool:
        return type(self).on_update is not Defense.on_update

    @property
    def aggregates(self) -> bool:
        """Whether the server sees one update of a round, and that of no client."""
        return type(self).on_aggregate is not Defense.on_aggregate

    @property
    def changes_mean(self) -> bool:
        """Whether the server applies something else than the mean of what it received."""
        return self._overrides("on_received", "on_mean")

    @property
    def takes_single_updates(self) -> bool:
        """Whether the server needs each client's update for it."""
        return self._overrides("on_received")

    @property
    def server_alone(self) -> bool:
        """Whether it acts only once the server has seen all that there is to see: it keeps nothing from the server, and
        there is nothing of it that an attacker there would have to know."""
        seen = [hook for hook in _HOOKS if not (hook == "on_model" and self.checks_model)]
        return self.changes_mean and not self._overrides(*seen)

    @classmethod
    def _overrides(cls, *hooks: str) -> bool:
        return any(getattr(cls, hook) is not getattr(Defense, hook) for hook in hooks)

    @property
    def selects(self) -> bool:
        """Whether it says what of an update to look at."""
        return type(self).selection is not Defense.selection

    @property
    def selects_only(self) -> bool:
        """Whether what it lets through of an update is, to a factor, as it was."""
        return self.selects

    @property
    def compares(self) -> bool:
        """Whether it says how updates are to be compared."""
        return type(self).compare is not Defense.compare

    @property
    def spreads(self) -> bool:
        """Whether it says how much noise lies on each entry."""
        return type(self).spread is not Defense.spread

    @property
    def declarative(self) -> bool:
        """True where the defense is wholly expressed by its overrides (or is `none`)."""
        return not self._overrides(*_HOOKS, "on_received", "on_mean")


_HOOKS = ("on_model", "on_batch", "loss_term", "gradient", "on_update", "on_aggregate")
"""What can change what the server sees."""


_registry = Registry("defense", "defenses")
register = _registry.register
get = _registry.get
names = _registry.names
create = _registry.create
