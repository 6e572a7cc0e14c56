"""Multi-sample dropout as a defense: a client's loss is the mean over several masks before the last layer."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from defenses.base import Defense, register
from defenses.stochastic.bottleneck import Last
from defenses.stochastic.places import before, head
from defenses.stochastic.samples import MultiSampleDropout

CHILD = "mean_of_samples"


@register("multi_sample_dropout")
class MultiSampleDropoutDefense(Defense):
    """Give the last linear layer several dropped copies of what it sees, and train on the mean of their losses (Inoue,
    arXiv 1905.09788).

    The layer's output is the mean of the copies' log-probabilities, whose cross-entropy is that mean but for their
    normalisation, which is added to the loss.

    Args:
        p: the rate at which units are dropped, in [0, 1).
        samples: copies, at least 2; one is plain dropout before the last layer.
    """

    behind = True

    def __init__(self, *, p: float = 0.5, samples: int = 8) -> None:
        if not 0 <= p < 1:
            raise ValueError(f"multi_sample_dropout: p = {p} is not in [0, 1)")
        if isinstance(samples, bool) or not isinstance(samples, int) or samples < 2:
            raise ValueError(f"multi_sample_dropout: samples = {samples} is not a whole number of at least 2")
        self.p, self.samples = p, samples

    def on_model(self, model: nn.Module) -> nn.Module:
        last = head(model)
        if last is None:
            raise ValueError(f"multi_sample_dropout: {type(model).__name__} has no linear layer to drop units before")
        if hasattr(last, CHILD):
            raise ValueError("multi_sample_dropout: the last layer has its samples already; once is enough")
        before(last, "multi_sample_dropout", MultiSampleDropout(self.p, self.samples))
        last.add_module(CHILD, Mean())
        last.register_forward_hook(_mean)
        return model

    def loss_term(self, model: nn.Module) -> Tensor | float:
        return sum((mean.normalisation for mean in model.modules() if isinstance(mean, Mean)), start=0.0)


class Mean(nn.Module):
    """Log-probabilities whose mean is taken over copies: logits (B, samples, K) -> (B, K)."""

    def __init__(self) -> None:
        super().__init__()
        self._normalisation = Last()

    def forward(self, logits: Tensor) -> Tensor:
        if logits.dim() == 2:  # nothing was drawn
            self._normalisation.value = None
            return logits
        mean = logits.log_softmax(-1).mean(1)
        self._normalisation.value = mean.logsumexp(-1).mean()
        return mean

    @property
    def normalisation(self) -> Tensor | float:
        """What the cross-entropy of the last forward pass lacks of the mean of the copies' cross-entropies."""
        last = self._normalisation.value
        return 0.0 if last is None else -last


def _mean(last: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    mean: Tensor = last.get_submodule(CHILD)(output)
    return mean
