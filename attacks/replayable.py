"""Anybody's model, called: what it raises, in one line, is a reason not to attack it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from attacks.base import NotApplicable
from defenses.stochastic import Inexplicit


@contextmanager
def replayed(what: str) -> Iterator[None]:
    """Around the calls of anybody's model: what it raises is a reason not to attack it.

    Raises:
        NotApplicable: any other error, with its first line; but memory that ran out is no property of the model.
    """
    try:
        yield
    except NotApplicable:
        raise
    except Inexplicit as reason:
        raise NotApplicable(str(reason)) from reason
    except Exception as fault:
        if out_of_memory(fault):
            raise
        first = next(iter(str(fault).strip().splitlines()), type(fault).__name__)
        known = next((why for words, why in _KNOWN.items() if words in str(fault)), first[:200])
        raise NotApplicable(f"the model cannot be {what}: {known}") from fault


_KNOWN = {
    "data-dependent control flow": "its forward pass looks at values (.item(), or a branch on them)",
    "saved tensor hooks": "it uses gradient checkpointing, or other hooks on saved tensors",
    "setup_context staticmethod": "it uses an autograd.Function without setup_context, as reentrant checkpointing does",
    "use_reentrant=True": "it uses reentrant gradient checkpointing",
}
"""Long messages of torch, by some of their words, in short."""


def out_of_memory(fault: Exception) -> bool:
    """CUDA has an exception for it; the processor's allocator has only words."""
    return isinstance(fault, torch.OutOfMemoryError) or "can't allocate memory" in str(fault)
