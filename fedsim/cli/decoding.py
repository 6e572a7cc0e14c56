"""A decoder for attacks with a generative prior, trained on images that no client holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsim.cli.shell import command, err, kind, out


@command("train-decoder")
def train_decoder(
    data: Annotated[str, typer.Argument(help="A data set that a scenario may name, e.g. mnist.")],
    to: Annotated[
        Path,
        typer.Option(
            "--out", metavar="FILE.safetensors", callback=kind(".safetensors"), help="Where the weights go."
        ),
    ],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A key of its block, e.g. test_fraction=0.5.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of training.")] = 3000,
    latent: Annotated[int, typer.Option(min=1, help="How many numbers an image is made of.")] = 32,
    width: Annotated[int, typer.Option(min=1, help="Channels of its last hidden layer.")] = 32,
    beta: Annotated[float, typer.Option(min=0, help="Weight of the latents' divergence from N(0, 1).")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, batches and noise.")] = 0,
) -> None:
    """Train a decoder for ggl and gias on a data set's test part, which no client holds."""
    from safetensors.torch import save

    from fedsim import data as sources
    from fedsim import decoders
    from fedsim.files import check_place, write_bytes
    from fedsim.scenario import parse

    plain = {"name": "decoder", "data": data, "attacks": []}
    described = parse(plain, [f"data.{option}" for option in overrides or []], rehearsed=False).data
    check_place(to)
    dataset = sources.load(described.model_dump(mode="json", exclude_none=True))

    def report(step: int, loss: float) -> None:
        if step % 500 == 0 or step == steps:
            err.print(f"step {step} of {steps}: {loss:.1f} nats an image", highlight=False)

    decoder = decoders.train(dataset, steps=steps, latent=latent, width=width, beta=beta, seed=seed, report=report)
    write_bytes(to, save({name: value.contiguous() for name, value in decoder.state_dict().items()}))
    block = f"{{name: conv, latent: {latent}, width: {width}, checkpoint: {to}}}"
    out.print(f"{to}: from {len(dataset.test_images)} images that no client holds", highlight=False, soft_wrap=True)
    out.print(f"attacks: [{{name: gias, decoder: {block}}}]", highlight=False, soft_wrap=True)
