"""Surrogate Model Extension (SME): Zhu, Yao, Blaschko, *Surrogate Model Extension (SME): A Fast and Accurate Weight
Update Attack on Federated Learning*, ICML 2023 (arXiv 2306.00127)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from attacks.base import register
from attacks.descent import composed
from attacks.engine import Composition
from attacks.matching.several_steps import SeveralSteps
from attacks.observation import Observation, ThreatModel
from attacks.passes import epochs_of, repeated
from attacks.priors import DropRate, TotalVariation
from attacks.problems import Problems
from attacks.relaxed import Relaxed
from attacks.unknowns import ALONG, Draw, Setting, Unknown
from attacks.updates import displacement
from attacks.victim import Victim


class OnTheLine(Unknown):
    """Where on the line between the weights that were sent (0) and those that came back (1) a gradient is taken, the
    sigmoid of any number.

    Args:
        reach: of the matched parameters, as `Setting` has it.
        like: a tensor on the device and in the dtype to work in.
    """

    def __init__(self, reach: Sequence[float], like: Tensor) -> None:
        self.reach = torch.tensor(reach).to(like)

    def owns(self, name: str) -> bool:
        return name == ALONG

    def start(self, draw: Draw) -> dict[str, Tensor]:
        return {ALONG: torch.zeros(1)}

    def value(self, name: str, free: Tensor) -> Tensor:
        return self.reach * free.sigmoid()

    def direction(self, gradient: Tensor) -> Tensor:
        return gradient

    def project(self, name: str, value: Tensor) -> Tensor:
        return value


def _line(setting: Setting) -> list[Unknown]:
    """The unknown place on the line, where there is one."""
    if setting.reach is None:
        return []
    return [OnTheLine([setting.reach[name] for name in setting.matched], next(setting.model.parameters()))]


@register("surrogate_model")
@dataclass(kw_only=True, eq=False)
class SurrogateModel(SeveralSteps):
    """Match the direction in which several steps moved the weights from w_0 to w_T by one gradient of all the client's
    examples, at a point on the way that is looked for too:

        min_{x, m, s}  d(g(x, m; w_0 + s (w_T - w_0)), g*) + total_variation * TV(x)
                       + drop_rate * sum_l |(1 - mean(m_l)) - p_l|

    where g* is the mean of the steps' gradients as the change of the weights has it, and d the square of the relative
    distance. An iteration costs one step's, however many the client took, and nothing depends on their order. That one
    gradient stands for many is true only as far as the steps are alike: of small ones. Whatever the model draws is a
    further unknown m, as in the Dropout Inversion Attack (Scheliga et al., AAAI 2023), one draw for each example in
    each epoch; the paper has none. Masks are sigmoids of numbers without bounds, and the search is by L-BFGS; only
    where draws have to be put back into a set of their own after each step it is by Adam, and d one minus the cosine.

    Args:
        drop_rate: weight of the drop-rate prior.
        memory: how many past steps L-BFGS estimates the curvature from.
    """

    paper: ClassVar[str] = "Zhu, Yao, Blaschko, ICML 2023 (arXiv 2306.00127)"
    exploits: ClassVar[str] = "several local steps"
    under_dropout: ClassVar[str] = "looks for one mask an image and epoch with the images"
    def regarded(self, victim: Victim) -> Victim:
        """The mean gradient of its steps, as far as they are alike."""
        if victim.kind == "gradient":
            return victim
        reach = displacement(victim.observation)
        mean = {name: value / reach[name] for name, value in victim.update.items()}
        seen = replace(victim.observation, kind="gradient", update=mean)
        return repeated(victim, epochs_of(victim), kind="gradient", observation=seen, update=mean, reach=reach)

    def narrowed(self, setting: Setting) -> Setting:
        """Each image once, where nothing is drawn for it."""
        if setting.noise_inputs or setting.passes == 1:
            return setting
        images = setting.images // setting.passes
        return replace(setting, images=images, sizes=(images,), passes=1)

    def compose(self, setting: Setting) -> Composition:
        return composed(
            setting,
            Relaxed(setting, "logistic"),
            [TotalVariation(self.total_variation), DropRate(self.drop_rate, setting.sites)],
            memory=self.memory,
            others=_line(setting),
        )

    def known(self, observation: Observation, labels: Tensor | None, setting: Setting) -> dict[str, Tensor]:
        return super().known(observation, None if labels is None else labels[: setting.images], setting)

    def _accounts(self, setting: Setting, problems: Problems, threat_model: ThreatModel) -> bool:
        """What a defense rounded is the sum of the steps, of which this gradient is no more than an estimate."""
        return super()._accounts(setting, problems, threat_model) and setting.reach is None
