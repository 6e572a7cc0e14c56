"""`--guess`: a few plausible accounts of a client's training, held against one reply.

An account that the reply contradicts is out. Of the others each is tried: an attack looks for images that explain the
update under it, for a few iterations, and says how much it explains. More images explain more, whatever is true: of
accounts with as many images the one that explains more is the likelier.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import polars as pl
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from attacks import LocalTraining
from defenses.client import optimizers
from defenses.stochastic import stochastic_layers
from fedsim.audit.adversaries import Attempt, Budget
from fedsim.audit.consistency import findings
from fedsim.audit.observing import Reply, images_of, steps_of
from fedsim.audit.told import Told
from fedsim.audit.working import Subject, work
from fedsim.runs.directory import RunDirectory

ITERATIONS = 100
MOST = 8
"""Accounts that are tried by an attack, at most."""
BATCHES = (16, 32, 64)
RATE = 0.01
"""Of SGD, where nobody says it: a cosine does not see it."""


@dataclass(frozen=True, kw_only=True)
class Guess:
    """One account of the training.

    Args:
        account: in words.
        said: it is the user's own.
        against: what the reply says against it; empty: nothing.
        explained: the cosine between the update and what was found under this account, at most 1; None: not tried.
        images: that it makes of the reply.
    """

    account: str
    said: bool
    against: tuple[str, ...]
    explained: float | None
    images: int | None


def accounts(reply: Reply, told: Told, model: nn.Module) -> list[Told]:
    """The user's own account first, then others that differ from it in optimizer, length or mode."""
    drawing = any(isinstance(one, _BatchNorm) for one in model.modules()) or bool(stochastic_layers(model))
    modes: tuple[Literal["train", "eval"], ...] = ("train", "eval") if drawing else (told.mode,)
    rate = told.local.learning_rate if told.local is not None else RATE
    kinds: list[tuple[str, float, float]] = [("sgd", 0.0, rate), ("sgd", 0.9, rate), ("adam", 0.0, 0.001)]
    lengths: list[tuple[int | None, int | None]] = []
    if reply.examples is not None:
        lengths.append((reply.examples, None))  # one step of all
        lengths += [(size, 1) for size in dict.fromkeys((told.batch_size or 32, *BATCHES)) if size < reply.examples]
    else:
        lengths.append((told.batch_size or 1, None))
    found = [told]
    for mode in modes:
        for size, epochs in lengths:
            for name, momentum, own in kinds:
                keys = {"momentum": momentum} if momentum else {}
                made = optimizers.create(name, **keys)
                local = LocalTraining(epochs=epochs, learning_rate=own, optimizer=made)
                found.append(replace(told, mode=mode, batch_size=size, local=local, length_said=True))
    distinct: dict[str, Told] = {}
    for one in found:
        distinct.setdefault(in_words(one), one)
    return list(distinct.values())


def guesses(
    directory: RunDirectory, subject: Subject, told: Told, model: nn.Module, budget: Budget, *, source: str
) -> list[Guess]:
    """All accounts, the likeliest first: those that nothing speaks against, by how much they explain."""
    found: list[tuple[Guess, Told]] = []
    for account in accounts(subject.reply, told, model):
        against = tuple(one.says for one in findings(subject.reply, account, model) if one.wrong)
        images = images_of(subject.reply, account)
        words = in_words(account)
        found.append(
            (Guess(account=words, said=account is told, against=against, explained=None, images=images), account)
        )
    fewest = min(len(guess.against) for guess, _ in found)
    rivals = [pair for pair in found if len(pair[0].against) == fewest][:MOST]
    tried = {guess.account: _explained(directory, subject, account, budget, source) for guess, account in rivals}
    every = [replace(guess, explained=tried.get(guess.account)) for guess, _ in found]
    return sorted(every, key=lambda guess: (len(guess.against), -(guess.explained or -1.0)))


def in_words(told: Told) -> str:
    """`sgd, momentum 0.9, 1 epoch in batches of 32, train mode`."""
    return ", ".join(_words(told))


def _words(told: Told) -> Iterator[str]:
    local = told.local
    if local is not None:
        spec = local.optimizer.spec()
        yield f"{spec['name']}"
        for key in ("momentum", "weight_decay"):
            if spec.get(key):
                yield f"{key.replace('_', ' ')} {spec[key]:g}"
        size = told.batch_size
        if local.epochs is not None:
            yield f"{local.epochs} epoch{'s' if local.epochs > 1 else ''} in batches of {size}"
        else:
            yield f"{local.steps} step{'s' if local.steps > 1 else ''} of {size}"
    yield f"{told.mode} mode"


def _explained(
    directory: RunDirectory, subject: Subject, account: Told, budget: Budget, source: str
) -> float | None:
    images, steps = images_of(subject.reply, account), steps_of(subject.reply, account)
    if images is None or steps is None or images > budget.images or steps > budget.steps:
        return None
    grants = {"labels": "unknown", "batch_size": "known", "local_training": "known"}
    spec = {"name": "inverting_gradients", "iterations": ITERATIONS}
    guess = replace(subject, told=account, truth=None)
    rows = work(directory, guess, Attempt("", spec, grants, "told"), source=source)
    loss = rows.filter(pl.col("status") == "ok")["attack_loss"].to_list()
    return None if not loss or loss[0] is None else 1.0 - float(loss[0])
