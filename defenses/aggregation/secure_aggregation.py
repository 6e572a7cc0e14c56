"""The server learns the sum of the clients' updates and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from defenses.aggregation.mean import weighted_mean
from defenses.base import Defense, Deployment, Tensors, register


@register("secure_aggregation")
class SecureAggregation(Defense):
    """Let the server see the weighted mean of a round's updates, and that of no client.

    Bonawitz et al., *Practical Secure Aggregation for Privacy-Preserving Machine Learning*, CCS 2017: the clients mask
    their updates so that the masks cancel in the sum. The protocol itself is not run; what it lets the server see is.
    What a client sends is not changed, and neither is the training: federated averaging needs no more than the mean.
    """

    def on_aggregate(self, updates: Sequence[Tensors], weights: Sequence[float]) -> Tensors:
        return weighted_mean(updates, weights)

    def bits(self, update: Tensors) -> int:
        """Of every entry, for behind the masks no zero shows; what the protocol sends besides is not counted."""
        return sum(8 * value.element_size() * value.numel() for value in update.values())

    def refuses(self, deployment: Deployment) -> str | None:
        if deployment.clients < 2:
            return "secure_aggregation: the sum over one client is its update; it needs 2 or more clients a round"
        return None
