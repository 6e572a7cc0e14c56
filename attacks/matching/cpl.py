"""Client privacy leakage (CPL): Wei, Liu, Loper, Chow, Gursoy, Truex, Wu, *A framework for evaluating client privacy
leakages in federated learning*, ESORICS 2020 (arXiv 2004.10397).

What it adds to DLG: images begin with a pattern, which an attacker needs fewer iterations from than from noise of every
pixel; labels are read off the update, as by iDLG; and the model is to give the image its label, which steadies the
search where the gradients alone do not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from attacks.base import NotApplicable, register
from attacks.engine import Composition
from attacks.facts import Facts
from attacks.iterative import IterativeAttack
from attacks.matching.idlg import IDLG
from attacks.priors import Prior
from attacks.unknowns import Draw, Guess, Images, Setting


class Patterned(Images):
    """The batch, each image one square from N(0, 1) repeated all over it (the paper's patterned random start).

    Args:
        side: of the square, in pixels; no less than the image's: every pixel for itself.
    """

    def __init__(self, setting: Setting, *, side: int) -> None:
        super().__init__(setting, signed=False, bounded=False)
        self.side = side

    def start(self, draw: Draw) -> dict[str, Tensor]:
        count, channels, height, width = self.shape
        square = torch.randn(count, channels, self.side, self.side, generator=draw("images"))
        across, down = -(-height // self.side), -(-width // self.side)
        return {"images": square.tile(1, 1, across, down)[:, :, :height, :width].contiguous()}


class GivenLabel(Prior):
    """`weight * |softmax(f(x)) - y|^2`, the mean over the images: the model, as it was sent, tells their labels.

    Raises:
        NotApplicable: the model does not end in a linear layer of as many outputs as there are classes, or steps take
            examples again, so that those of all steps are not the batch.
    """

    def __init__(self, weight: float, setting: Setting) -> None:
        self.weight = weight
        ends = [
            (path, layer)
            for path, layer in setting.model.named_modules()
            if isinstance(layer, nn.Linear) and layer.out_features == setting.classes
        ]
        if not ends:
            raise NotApplicable(f"the model has no linear layer of {setting.classes} outputs to tell labels by")
        if sum(setting.sizes) != setting.images:
            raise NotApplicable("the labels of examples that steps take again are not compared with the model's")
        path, self.head = ends[-1]
        self.asks = (path,)

    def __call__(self, guess: Guess, facts: Facts) -> Tensor:
        labels = guess["labels"]
        [steps] = facts.entered.values()
        logits = torch.cat([self.head(entered) for entered in steps], dim=1)
        wanted = labels
        if not labels.is_floating_point():
            wanted = (labels[..., None] == torch.arange(logits.shape[-1], device=labels.device)).to(logits)
        return self.weight * (logits.softmax(-1) - wanted).square().sum(-1).mean(1)


@register("cpl")
@dataclass(kw_only=True, eq=False)
class CPL(IDLG):
    """Match the update itself, by L-BFGS, from images that begin with a pattern and that the model gives their labels:

        min_x  |g(x) - g*|^2 + agreement * |softmax(f(x)) - y|^2

    Labels are as for iDLG. Of the paper's starts the patterned random one, which it finds best.

    Args:
        pattern: the side of the square that images begin with, repeated, in pixels.
        agreement: weight of the second term.
    """

    paper: ClassVar[str] = "Wei et al., ESORICS 2020 (arXiv 2004.10397)"
    exploits: ClassVar[str] = "a model that is smooth twice over and ends in a linear layer"
    under_dropout: ClassVar[str] = "worse: takes no notice of it"

    later: ClassVar = IterativeAttack.later

    pattern: int = 4
    agreement: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        self._whole("pattern")
        self._weights("agreement")

    def compose(self, setting: Setting) -> Composition:
        priors = [GivenLabel(self.agreement, setting)] if self.agreement else []
        return replace(super().compose(setting), unknowns=[Patterned(setting, side=self.pattern)], priors=priors)
