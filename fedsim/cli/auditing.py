"""`fedsim audit`: what can be rebuilt from what a server recorded of an app that nobody here wrote."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from click.core import ParameterSource

from fedsim.cli.audit_options import by_channel, counts, defense_specs, local_training, named_values, numbers, one_of
from fedsim.cli.shell import command, err, out
from fedsim.errors import BadInput

OF_CANARIES = ("batches", "canary_steps", "run_config", "labels")
"""Parameters that say nothing without a canary."""
LEAKS = 3
"""The exit code under `--fail-on-leak`."""


@command("audit")
def audit(
    context: typer.Context,
    store: Annotated[Path, typer.Argument(help="What fedsim.Eavesdropper or fedsim.observe recorded.")],
    model: Annotated[str, typer.Option("--model", metavar="MODULE:CLASS", help="Your model: my_app.task:Net.")],
    data_shape: Annotated[str, typer.Option("--data-shape", metavar="C,H,W", help="Of one image, e.g. 3,32,32.")],
    classes: Annotated[int, typer.Option("--classes", metavar="K", help="How many classes there are.")],
    mean: Annotated[str, typer.Option(help="What pixels in [0, 1] are normalised by: their mean, by channel.")] = "0.5",
    std: Annotated[str, typer.Option(help="Their standard deviation, likewise.")] = "0.5",
    batch_size: Annotated[int | None, typer.Option("--batch-size", metavar="N", help="Images of a local step.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="The clients' learning rate.")] = None,
    optimizer: Annotated[str, typer.Option(help="sgd, adam or adamw.")] = "sgd",
    momentum: Annotated[float, typer.Option(help="Of sgd.")] = 0.0,
    weight_decay: Annotated[float, typer.Option("--weight-decay", help="Of the optimizer.")] = 0.0,
    schedule: Annotated[
        str,
        typer.Option(metavar="SPEC", help="Of the learning rate in a round: 'step: {every: 10, gamma: 0.5}'."),
    ] = "",
    groups: Annotated[
        list[str] | None,
        typer.Option("--group", metavar="SPEC", help="What is trained apart: '{parameters: [\"*.bias\"], scale: 2}'."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over a client's images in a round.")] = None,
    steps: Annotated[int | None, typer.Option(help="Local steps in a round, in place of epochs.")] = None,
    examples: Annotated[int | None, typer.Option(help="Images of a client, where its reply does not say it.")] = None,
    mode: Annotated[str, typer.Option(help="train or eval: the mode that clients train in.")] = "train",
    shared: Annotated[str, typer.Option(help="weights or gradient: what clients send.")] = "weights",
    output: Annotated[str, typer.Option(help="The field of the model's output that holds the logits.")] = "",
    loss: Annotated[
        str, typer.Option(metavar="MODULE:NAME", help="What clients minimise, where it is not the cross-entropy.")
    ] = "",
    arrays: Annotated[
        str, typer.Option(metavar="RECORD", help="The record of arrays that holds the model, where several could.")
    ] = "",
    defenses: Annotated[
        list[str] | None,
        typer.Option("--defense", metavar="SPEC", help="What clients do to updates: 'clip: {norm: 1.0}'."),
    ] = None,
    model_args: Annotated[
        list[str] | None, typer.Option("--model-arg", metavar="NAME=VALUE", help="What the model is called with.")
    ] = None,
    app_directory: Annotated[
        Path | None, typer.Option("--app", metavar="DIR", help="Your app's folder: your model is looked for there.")
    ] = None,
    canary: Annotated[
        Path | None,
        typer.Option(metavar="IMAGES", help="Let your client train on these, to score: folders by class, or .npz."),
    ] = None,
    batches: Annotated[str, typer.Option(metavar="N,N", help="Batch sizes of canaries.")] = "1,2,4,8",
    canary_steps: Annotated[
        str, typer.Option("--canary-steps", metavar="N,N", help="Numbers of steps of canaries of batch size 1.")
    ] = "1,2,4",
    run_config: Annotated[
        list[str] | None, typer.Option("--run-config", metavar="KEY=VALUE", help="Of your app, for canaries.")
    ] = None,
    try_defenses: Annotated[
        bool, typer.Option("--try-defenses/--no-defenses", help="Try defenses of the update on a rebuilt canary.")
    ] = True,
    labels: Annotated[str, typer.Option(help="inferred, or known: attacks are told a canary's labels.")] = "inferred",
    iterations: Annotated[int, typer.Option(help="Of an attack that optimises, at most.")] = 2000,
    rounds: Annotated[list[int] | None, typer.Option("--round", help="Only this round; may be repeated.")] = None,
    nodes: Annotated[list[str] | None, typer.Option("--node", help="Only this node; may be repeated.")] = None,
    replies: Annotated[int, typer.Option(min=1, help="Recorded replies to attack, the first.")] = 4,
    guess: Annotated[
        bool, typer.Option("--guess", help="Try other accounts of the training; say which explains the update best.")
    ] = False,
    to: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where to write the verdict.")] = Path("audit"),
    fail_on_leak: Annotated[bool, typer.Option("--fail-on-leak", help="Exit with code 3 if it leaks.")] = False,
) -> None:
    """Say what a server can rebuild from what your clients send: a verdict, as a page and as JSON."""
    from fedsim.audit import auditing
    from fedsim.audit.adversaries import Budget
    from fedsim.audit.canaries import Sweep
    from fedsim.audit.told import Told
    from fedsim.audit.verdict import lines
    from fedsim.paths import look_beside

    look_beside(app_directory)
    shape = numbers("--data-shape", data_shape, whole=True)
    if len(shape) != 3:
        raise BadInput(f"--data-shape {data_shape}: takes channels, height, width, as 3,32,32")
    channels, height, width = (int(side) for side in shape)
    training = local_training(lr, optimizer, momentum, weight_decay, schedule, groups or [], epochs, steps)
    told = Told(
        model=model,
        model_keys=named_values("--model-arg", model_args or []),
        output=output,
        loss=loss,
        arrays=arrays,
        defense=defense_specs(defenses or []),
        shape=(channels, height, width),
        classes=classes,
        mean=by_channel("--mean", mean, channels),
        std=by_channel("--std", std, channels),
        shared=one_of("--shared", shared, "weights", "gradient"),
        mode=one_of("--mode", mode, "train", "eval"),
        local=training if lr is not None else None,
        unrated=training,
        length_said=epochs is not None or steps is not None,
        batch_size=batch_size,
        examples=examples,
    )
    for name in OF_CANARIES if canary is None else ():
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            option = f"--{name.replace('_', '-')}"
            raise BadInput(f"{option}: also needs --canary, the images that your client trains on")
    if canary is not None and app_directory is None:
        raise BadInput("--canary: also needs --app, the folder of your Flower app")
    sweep = None
    if canary is not None and app_directory is not None:
        sweep = Sweep(
            app=app_directory,
            images=canary,
            batches=counts("--batches", batches),
            steps=counts("--canary-steps", canary_steps),
            run_config=named_values("--run-config", run_config or []),
            defenses=try_defenses,
        )
    done = auditing.audit_store(
        store,
        told,
        to,
        budget=Budget(iterations=iterations),
        rounds=rounds or (),
        nodes=nodes or (),
        replies=replies,
        labels=one_of("--labels", labels, "inferred", "known"),
        sweep=sweep,
        guess=guess,
        command=shlex.join(["fedsim", *sys.argv[1:]]),
        say=lambda line: err.print(line, style="dim", highlight=False, soft_wrap=True),
    )
    for line in lines(done.verdict):
        out.print(line, highlight=False, soft_wrap=True)
    for fault in done.faults:
        where = f"round {fault.round}, node {fault.node}"
        err.print(f"not audited: {where}: {fault.reason}", style="yellow", highlight=False, soft_wrap=True)
    out.print(f"page     {done.path / 'audit.html'}", highlight=False, soft_wrap=True)
    out.print(f"verdict  {done.path / 'verdict.json'}", highlight=False, soft_wrap=True)
    if fail_on_leak and done.verdict.leaks:
        raise typer.Exit(LEAKS)
