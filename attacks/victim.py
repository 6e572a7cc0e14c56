"""A victim of an attack that optimises: what of its observation can be matched, and the setting that this makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from attacks.base import NotApplicable, Reconstruction
from attacks.labels import infer_labels
from attacks.observation import Observation, ThreatModel
from attacks.replayable import replayed
from attacks.sites import noise_inputs, noise_sites
from attacks.starts import beginning
from attacks.twin import attacker_copy, client_round, meets
from attacks.unknowns import Setting
from attacks.updates import as_one_batch, examples, mean_gradient, observed_gradient, trained_part
from defenses.client.training import LocalTraining
from defenses.stochastic import stochastic_layers, untold


@dataclass(frozen=True)
class Victim:
    """One observation as the engine needs it: its labels found if needed, a one-step delta turned into its gradient.

    Args:
        given: the observation itself.
        observation: what of it can be matched, as `trained_part` says.
        details: what the answer is to say of the labels, where they were inferred.
        read: the random sites whose draws its update gives away, so that nothing has to look for them.
        start: values by name, of the guess, for its first start that are better than random ones.
        passes: how often each example is among the images, one pass over all after the other.
        reach: where its gradient is taken for that of several steps, how many times it each parameter moved by.
    """

    index: int
    given: Observation
    observation: Observation
    images: int
    labels: Tensor | None
    details: Mapping[str, Any]
    update: Mapping[str, Tensor]
    kind: Literal["gradient", "delta"]
    read: frozenset[str]
    start: Mapping[str, Tensor] = field(default_factory=dict)
    passes: int = 1
    reach: Mapping[str, float] | None = None

    @classmethod
    def of(
        cls,
        index: int,
        given: Observation,
        threat_model: ThreatModel,
        model: nn.Module,
        *,
        needs_labels: bool,
        read: frozenset[str],
    ) -> Victim:
        images = examples(given)
        if threat_model.aggregation != "individual":
            as_one_batch(given)
        observation = trained_part(given, model)
        found = observed_gradient(observation)
        labels: Tensor | None = None
        details: dict[str, Any] = {}
        if needs_labels:
            labels, details = _labels(observation, found, threat_model, model, images=images)
        return cls(
            index=index,
            given=given,
            observation=observation,
            images=images,
            labels=labels,
            details=details,
            update=observation.update if found is None else found,
            kind="delta" if found is None else "gradient",
            read=read,
        )

    def begun(self, found: Reconstruction | NotApplicable | None, learnt: Mapping[str, Tensor]) -> Victim:
        """The same victim, whose first start is what was found, and what was learnt otherwise.

        Args:
            found: the answer of a closed form; None if none was asked.
        """
        start = {**beginning(found), **learnt}
        if found is None:
            return replace(self, start=start)
        if isinstance(found, NotApplicable):
            began = f"random: {found}"
        else:
            began = found.details["stage"] if "images" in start else "random: of a batch it is not known which is which"
        return replace(self, start=start, details={**self.details, "start": began})

    def like(self, other: Victim) -> bool:
        """Whether both received the same model and computed the same thing with it, so that they can run together."""
        mine, theirs = self.observation, other.observation
        return (
            (self.images, self.kind, self.read) == (other.images, other.kind, other.read)
            and (self.passes, self.reach) == (other.passes, other.reach)
            and self.update.keys() == other.update.keys()
            and (mine.local, mine.batch_size, mine.defense) == (theirs.local, theirs.batch_size, theirs.defense)
            and (mine.input_shape, mine.mean, mine.std) == (theirs.input_shape, theirs.mean, theirs.std)
            and mine.state.keys() == theirs.state.keys()
            and all(v is theirs.state[n] or torch.equal(v, theirs.state[n]) for n, v in mine.state.items())
        )


def _labels(
    observation: Observation,
    found: Mapping[str, Tensor] | None,
    threat_model: ThreatModel,
    model: nn.Module,
    *,
    images: int,
) -> tuple[Tensor, dict[str, Any]]:
    """A victim's labels, granted or inferred from its gradient, and what the answer is to say of them."""
    if threat_model.labels == "inferred":
        gradients = mean_gradient(observation) if found is None else found
        inferred = infer_labels(
            attacker_copy(model, observation.state, client_mode=threat_model.client_mode),
            gradients,
            batch_size=images,
            classes=observation.classes,
            input_shape=observation.input_shape,
        )
        confidence = round(inferred.confidence, 4)
        return inferred.labels, {
            "labels": "inferred", "label_method": inferred.method, "label_confidence": confidence
        }  # fmt: skip
    if observation.labels is None:
        raise NotApplicable("the observation holds no labels")
    if len(observation.labels) != images:
        raise NotApplicable(f"the observation holds {len(observation.labels)} labels for {images} images")
    return observation.labels, {}


def setting_of(
    victim: Victim, threat_model: ThreatModel, model: nn.Module, *, estimates_rates: bool = False
) -> Setting:
    """What a victim and all that are like it share.

    Args:
        estimates_rates: whether dropout whose rate is not granted draws masks of a rate that is to be found.

    Raises:
        NotApplicable: a model that cannot be replayed, or a sum that no single batch has.
    """
    observation = victim.observation
    local = observation.local or LocalTraining()
    sizes = (victim.images,) if victim.kind == "gradient" else tuple(local.sizes(victim.images, observation.batch_size))
    example = torch.zeros(sizes[0], *observation.input_shape)
    twin = attacker_copy(model, observation.state, client_mode=threat_model.client_mode, example=example)
    if estimates_rates and threat_model.dropout_rate == "unknown":
        untold(twin)
    trains = threat_model.client_mode == "train"
    round = client_round(observation, twin, victim.kind)
    with replayed("replayed"):
        sites = noise_sites(round, victim.images, observation.input_shape)
    entering = sizes[0] * round.defense.grows
    layers = noise_inputs(twin, entering, observation.input_shape) if trains else {}
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
        read=victim.read,
        batch_norm=threat_model.batch_norm,
        passes=victim.passes,
        reach=victim.reach,
        placed=threat_model.labels != "inferred",
    )


def _refuse_shared(twin: nn.Module, drawing: Sequence[str]) -> None:
    """Decline a sum over clients of a model in which what is each client's own would be shared by all."""
    if (path := meets(twin)) is not None:
        raise NotApplicable(f"each client's batch has its own statistics in {path}: the sum is not of one batch")
    layers = stochastic_layers(twin)
    if shared := [path for path in drawing if "example" not in layers[path].axes]:
        raise NotApplicable(f"each client drew its own noise in {shared[0]}: the sum is not of one batch")
