"""A decoder of a data set's own kind: the second half of a variational autoencoder (Kingma and Welling, ICLR 2014).

It is trained on the test part, which no client holds: what a server has that collected images like the clients'.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedsim.data import Dataset
from fedsim.decoders.conv import ConvDecoder
from fedsim.errors import BadInput
from fedsim.random import generator_for, rng_for, seed_for, seeded_torch

FEWEST = 100
"""Images that something can be learnt from."""

LEARNING_RATE = 2e-3


class Encoder(nn.Module):
    """Images in [0, 1] (M, C, H, W) to mean and logarithm of the variance of their latents, (M, latent) each."""

    def __init__(self, input_shape: tuple[int, int, int], *, latent: int, width: int) -> None:
        super().__init__()
        channels, height, across = input_shape
        layers: list[nn.Module] = []
        for outputs in (width, 2 * width):
            layers += [nn.Conv2d(channels, outputs, 4, stride=2, padding=1), nn.ReLU()]
            channels, height, across = outputs, height // 2, across // 2
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * height * across, 2 * latent))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.layers(images).chunk(2, dim=1)
        return mean, log_variance.clamp(-10, 10)


def train(
    dataset: Dataset,
    *,
    steps: int,
    latent: int = 32,
    width: int = 32,
    batch_size: int = 64,
    beta: float = 1.0,
    seed: int = 0,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> ConvDecoder:
    """The decoder, whose latents are N(0, 1).

    Args:
        beta: weight of the divergence of the latents from that.
        report: called now and then with the steps done and the loss, nats an image.

    Raises:
        BadInput: too few images, or a value that is no number of the kind.
    """
    images = dataset.test_images
    if len(images) < FEWEST:
        message = f"data: {dataset.name} has {len(images)} images in its test part, of which alone a decoder may learn"
        raise BadInput(f"{message}; accepted: at least {FEWEST} (test_fraction)")
    shape, rng = dataset.input_shape, rng_for(seed, "decoder batches")
    with seeded_torch(seed_for(seed, "decoder weights")):
        try:
            decoder = ConvDecoder(shape, latent=latent, width=width)
            encoder = Encoder(shape, latent=latent, width=width)
        except (ValueError, RuntimeError) as error:
            raise BadInput(f"train-decoder: {error}") from None
    noise = generator_for(seed, "decoder noise")
    optimiser = torch.optim.Adam([*decoder.parameters(), *encoder.parameters()], lr=LEARNING_RATE)
    for step in range(1, steps + 1):
        for group in optimiser.param_groups:  # ends softly
            group["lr"] = LEARNING_RATE * min(1.0, 4 * (1 - (step - 1) / steps))
        batch = images[torch.from_numpy(rng.integers(len(images), size=batch_size))].float() / 255
        mean, log_variance = encoder(batch)
        latents = mean + (log_variance / 2).exp() * torch.randn(mean.shape, generator=noise)
        told = F.binary_cross_entropy(decoder(latents), batch, reduction="sum")
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum() / 2
        loss = (told + beta * divergence) / len(batch)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if step % 100 == 0 or step == steps:
            report(step, float(loss.detach()))
    return decoder.eval()
