"""Batches beside what there is to draw them from: a batch that is larger than its client's data repeats images."""

from __future__ import annotations

from collections.abc import Sequence

from fedsim.errors import caution
from fedsim.scenario.checks import with_overrides
from fedsim.scenario.document import KeyPath, Problem
from fedsim.scenario.schema import Scenario, UtilityLocal, label_of, specs_of
from fedsim.scenario.training import Local

MOST_IMAGES = 1_000_000


def check_batches(scenario: Scenario, divisions: Sequence[Sequence[int]]) -> None:
    """Warn of batches that repeat images, and raise `Problem` for one that is larger than all data together.

    A reconstruction is scored against a batch's images, and one that holds an image twice is another task.

    Args:
        divisions: for each seed how many training images each client has.
    """
    batch, examples = scenario.federation.local.batch_size, sum(divisions[0])
    if batch > examples:
        message = f"{batch} images a batch, but there are only {examples} training images; accepted: 1 to {examples}"
        raise Problem(("federation", "local", "batch_size"), message)
    _held_at_once(("federation", "local", "steps"), scenario.federation.local)
    if scenario.utility is not None:
        _held_at_once(("utility", "local", "steps"), scenario.utility.local)
    fewest, client = min((size, client) for sizes in divisions for client, size in enumerate(sizes))
    _say("federation.local.batch_size", batch, fewest, f"client {client} has")
    if scenario.utility is not None:
        _say("utility.local.batch_size", scenario.utility.local.batch_size, fewest, f"client {client} has")
    for i, parts in enumerate(scenario.defenses):
        own = with_overrides(scenario.federation.local, specs_of(parts))
        if own.batch_size > examples:
            message = f"{own.batch_size} images a batch, but there are only {examples} training images"
            raise Problem(("defenses", i), f"{message}; accepted: 1 to {examples}")
        _held_at_once(("defenses", i), own)
        if own.batch_size != batch:
            _say(label_of(parts), own.batch_size, fewest, f"client {client} has")
    if (pretrain := scenario.model.start().get("pretrain")) is not None:
        _say("model.pretrain.batch_size", pretrain["batch_size"], examples, "there are")


def _held_at_once(path: KeyPath, local: Local | UtilityLocal) -> None:
    steps = local.steps or 1
    if steps * local.batch_size > MOST_IMAGES:
        message = (
            f"{steps:,} steps with a batch of {local.batch_size:,} each take more than {MOST_IMAGES:,} images, which a "
            "client holds at once in a round; take more rounds"
        )
        raise Problem(path, message)


def _say(key: str, batch: int, available: int, whose: str) -> None:
    if batch > available:
        caution(f"{key}: {batch} images a batch, but {whose} only {available}: its batches repeat images")
