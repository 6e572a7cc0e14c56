"""What a client could see of a changed model: two numbers, by which attacks of malicious servers differ in stealth.

Neither proves anything. Both are of what the client has: the model that it was sent, and its own batch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

ROWS = 1024
"""At most so many rows of a layer are compared with each other."""


def disaggregation(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """By how much a single example outweighs all others in the gradient of a layer: the largest over the weights of
    linear layers and convolutions of `max_i |g_i| / sqrt(sum_j |g_j|^2 - max_i |g_i|^2)`.

    The disaggregation signal-to-noise ratio by which Garov, Dimitrov, Jovanovic and Vechev (*Hiding in Plain Sight:
    Disguising Data Stealing Attacks in Federated Learning*, ICLR 2024) find models that single out an example: after
    that paper's words, with norms squared in the sum. Infinite for a batch of one, and where all others give nothing.
    The model is in evaluation mode here, so that examples do not depend on each other.

    Args:
        images: (B, C, H, W) as the client normalises them.
        labels: (B,).
    """
    weights = [
        module.weight
        for module in model.modules()
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd) and module.weight.requires_grad
    ]
    if len(images) < 2 or not weights:
        return math.inf
    mode = model.training
    model.eval()
    squares = []
    for image, label in zip(images, labels, strict=True):
        loss = cross_entropy(model(image[None]), label[None])
        found = torch.autograd.grad(loss, weights, allow_unused=True)
        squares.append([0.0 if g is None else float(g.double().square().sum()) for g in found])
    model.train(mode)
    norms = torch.tensor(squares, dtype=torch.float64)  # (B, weights)
    most = norms.amax(0)
    others = norms.sum(0) - most
    ratio = torch.where(others > 0, most / others, torch.where(most > 0, torch.inf, 0.0))
    return float(ratio.max().sqrt())


def alike(model: nn.Module) -> float:
    """How much the units of a layer see the same: the largest over linear layers of the median, over units, of the
    largest absolute cosine between a unit's weights and another's. 1 where every unit has a double, as in an imprint.
    """
    found = 0.0
    for module in model.modules():
        if isinstance(module, nn.Linear) and 2 < module.out_features <= module.weight.numel():
            rows = normalize(module.weight.detach().double()[:ROWS], dim=1)
            cosines = (rows @ rows.T).abs()
            cosines.fill_diagonal_(0)
            found = max(found, float(cosines.amax(1).median()))
    return found
