"""Inverting Gradients with the masks that the update itself gives away: the oracle WIIG without the oracle.

A unit that dropout took leaves a column of zeros in the gradient of the linear layer behind it
(`attacks.closed_form.masks`), so that the masks of the dropout-inversion paper (Scheliga et al., AAAI 2023) need not be
optimised where they can be read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor, nn

from attacks.base import NotApplicable, Progress, Reconstruction, register
from attacks.closed_form.masks import Masks, read_masks
from attacks.engine import Composition
from attacks.iterative import IterativeAttack
from attacks.objectives import Cosine
from attacks.observation import Observation, ThreatModel
from attacks.priors import DropRate, Prior, TotalVariation
from attacks.twin import attacker_copy
from attacks.unknowns import Images, Noise, Setting, Unknown
from attacks.updates import local_steps, trained_part, with_zeros
from defenses.stochastic import untold


@register("mask_readout")
@dataclass(kw_only=True, eq=False)
class MaskReadout(IterativeAttack):
    """Masks r that were read are substituted; the masks m of the other layers, if any, stay unknown as in DIA:

        min_{x, m}  1 - cos(g(x, r, m), g*) + total_variation * TV(x) + drop_rate * sum_l |(1 - mean(m_l)) - p_l|

    For one image and one local step, or a batch where a site itself can tell what it drew (`Site.read`), as of a
    DropConnect mask, which is the same for all images of a step. It declines where masks were drawn and none can be
    read. Where the server does not know the dropout rate, that of a layer is the share of its units that read as
    dropped, or, of a mask that cannot be read, found as DIA finds it.

    Args:
        drop_rate: weight of the drop-rate prior on masks that could not be read.
    """

    paper: ClassVar[str] = "after Scheliga, Maeder, Seeland, AAAI 2023 (arXiv 2208.06163)"
    exploits: ClassVar[str] = "one image; linear layers behind the dropout that see one vector"
    under_dropout: ClassVar[str] = (
        "reads the masks off the zeros of the update, and looks for those that cannot be read"
    )

    estimates_rates: ClassVar = True
    adapts: ClassVar = {"dropout": "dropout_rate", "clip": None}
    seeks_noise: ClassVar = True

    drop_rate: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        self._weights("drop_rate")

    def compose(self, setting: Setting) -> Composition:
        unread = {path: shape for path, shape in setting.noise_inputs.items() if path not in setting.read}
        unknowns: list[Unknown] = [Images(setting)]
        priors: list[Prior] = [TotalVariation(self.total_variation)]
        if unread:
            unknowns.append(Noise(replace(setting, noise_inputs=unread)))
            priors.append(DropRate(self.drop_rate, setting.sites, known=setting.read))
        return Composition(unknowns=unknowns, objective=Cosine(), priors=priors)

    def known_noise(self, observation: Observation, setting: Setting) -> Mapping[str, Tensor]:
        return read_masks(setting.model, observation).read

    def reading(self, observation: Observation, threat_model: ThreatModel, model: nn.Module) -> Masks:
        """What a victim's update says of the masks.

        Raises:
            NotApplicable: it says nothing that this attack could do with.
        """
        observation = with_zeros(trained_part(observation, model), observation)
        twin = attacker_copy(model, observation.state, client_mode=threat_model.client_mode)
        if threat_model.dropout_rate == "unknown":
            untold(twin)
        masks = read_masks(twin, observation)
        if local_steps(observation) != 1 or (observation.batch_size not in (None, 1) and not masks.read):
            raise NotApplicable("it takes one image in one step, not a batch")
        sought = self.sought(twin, observation)
        missing = [reason for path, reason in masks.unread.items() if sought is None or path in sought]
        if missing and not masks.read:
            raise NotApplicable(f"no mask can be read: {missing[0]}")
        return masks

    def sought(self, twin: nn.Module, observation: Observation) -> Collection[str] | None:
        """The stochastic layers whose draws have to be found; None: all."""
        return None

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
        readings: dict[int, Masks] = {}
        for index, observation in enumerate(observations):
            try:
                self.check(threat_model)
                readings[index] = self.reading(observation, threat_model, model)
            except NotApplicable as reason:
                results[index] = reason
        seen, read = [observations[index] for index in readings], [frozenset(masks.read) for masks in readings.values()]
        answers = self._run(seen, threat_model, model, read=read, seed=seed, progress=progress)
        results |= {index: _with_masks(answer, masks) for (index, masks), answer in zip(readings.items(), answers)}
        return [results[index] for index in range(len(observations))]


def _with_masks(answer: Reconstruction | NotApplicable, masks: Masks) -> Reconstruction | NotApplicable:
    if isinstance(answer, NotApplicable):
        return answer
    if not masks.read and not masks.unread:
        return answer
    noise = {**masks.read, **(answer.noise or {})}
    return replace(
        answer,
        noise=noise or None,
        details={**answer.details, "masks_read": sorted(masks.read), "masks_unread": dict(masks.unread)},
    )
