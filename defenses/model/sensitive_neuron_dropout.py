"""Sensitive neuron dropout as a defense: a client drops the units that varied most over its last rounds."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from defenses.base import Defense, Deployment, Tensors, Turn, register
from defenses.stochastic.places import before, head
from defenses.stochastic.sensitive import SensitiveDropout


@register("sensitive_neuron_dropout")
class SensitiveNeuronDropout(Defense):
    """Drop those units e_i of what enters the last linear layer whose `Var(e_i) sum_t |e_i(t) - e_i(t-1)|` over a few
    checkpoints is the largest, until as many checkpoints later others are chosen.

    Mohammadzadeh, Guerra, Bonizzato, Rabbany, Farnadi, *Hallucination Detox: Sensitive Neuron Dropout (SeND)*, later
    *Sensitivity Dropout (SenD)*, ACL 2025 (arXiv 2410.15460), for language models; after its abstract and what others
    say of its definitions, since its text could not be read here. As there nothing is drawn: who knows the client's
    last rounds knows the mask. The server does not, but a dropped unit's gradients are zero. Ours is that checkpoints
    are rounds in which a client takes part, and that it tracks its own images of the round, at the weights that the
    server sent and with nothing dropped, for want of a set held back; of a sequence their mean and last entry, as in
    the paper.

    Args:
        share: of the units that are dropped, in [0, 1).
        window: rounds that are looked at, and for which a choice holds, at least 2; in the first ones nothing is
            dropped.
    """

    keeps_direction = True
    behind = True

    def __init__(self, *, share: float = 0.2, window: int = 3) -> None:
        if not 0 <= share < 1:
            raise ValueError(f"sensitive_neuron_dropout: share = {share} is not in [0, 1)")
        if isinstance(window, bool) or not isinstance(window, int) or window < 2:
            raise ValueError(f"sensitive_neuron_dropout: window = {window} is not a whole number of at least 2")
        self.share, self.window = share, window

    def on_model(self, model: nn.Module) -> nn.Module:
        last = head(model)
        if last is None:
            raise ValueError(
                f"sensitive_neuron_dropout: {type(model).__name__} has no linear layer to drop units before"
            )
        if any(isinstance(layer, SensitiveDropout) for layer in model.modules()):
            raise ValueError("sensitive_neuron_dropout: the last layer drops its units already; once is enough")
        layer = SensitiveDropout(self.share, self.window, f"{self.name}:mask")
        before(last, "sensitive_neuron_dropout", layer)
        return model

    def on_update(self, update: Tensors, *, turn: Turn) -> Tensors:
        """The same; what the client has seen is remembered."""
        entering = turn.client.entering(None, turn.client.images)
        own = entering.flatten(1, -2) if entering.dim() > 2 else entering[:, None]
        embedding = (own.mean(1) + own[:, -1]).mean(0, keepdim=True) / 2
        seen = torch.cat([turn.remembered("seen", embedding[:0]), embedding])[-self.window :]
        rounds = turn.remembered("rounds", embedding.new_zeros(())) + 1
        turn.remember("seen", seen)
        turn.remember("rounds", rounds)
        if float(rounds) % self.window == 0:
            turn.remember("mask", self._kept(seen))
        return dict(update)

    def refuses(self, deployment: Deployment) -> str | None:
        if deployment.rounds <= self.window:
            after = f"of {deployment.rounds} rounds none comes after it"
            return f"sensitive_neuron_dropout: window is {self.window}, and {after}"
        return None

    def surrogate(self, update: Tensors, *, turn: Turn) -> Tensors:
        return update  # who attacks one round needs no memory of it

    def _kept(self, seen: Tensor) -> Tensor:
        """0 for the most sensitive of the units seen (rounds, width), 1 for others."""
        sensitivity = seen.var(0, correction=0) * seen.diff(dim=0).abs().sum(0)
        dropped = sensitivity.topk(int(self.share * len(sensitivity))).indices
        return torch.ones_like(sensitivity).scatter(0, dropped, 0.0)
