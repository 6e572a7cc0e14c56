"""The one source of randomness: seeds derived from a scenario's seed and from *names*, never from positions.

`seed_for(0, "batch", client=3, round=1)` is the same number whatever else the scenario holds, so adding a defense or an
attack never reseeds another, and the clients' data do not depend on the model, the defense or the attack: comparisons
are paired.

A small seed can be guessed, and then all that it draws can be drawn again. `salted` makes it one that cannot: what it
seeds is drawn from 128 secret bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

SALTED = 2**256
"""Where salted seeds begin; a scenario's are below."""

_STATE_WORDS = 624
_STATE_BYTES = slice(24, 24 + 8 * _STATE_WORDS)
"""Where torch's CPU generator, a Mersenne twister, keeps its state in what `get_state` gives: a 64-bit number each."""


def _spawn_key(purpose: str, names: dict[str, object]) -> tuple[int, ...]:
    text = "\x1f".join([purpose, *(f"{key}={value}" for key, value in sorted(names.items()))])
    digest = hashlib.sha256(text.encode()).digest()
    return tuple(int.from_bytes(digest[i : i + 4], "little") for i in range(0, 16, 4))


def sequence_for(seed: int, purpose: str, **names: object) -> np.random.SeedSequence:
    return np.random.SeedSequence(seed, spawn_key=_spawn_key(purpose, names))


def seed_for(seed: int, purpose: str, **names: object) -> int:
    """A 63-bit seed for one purpose."""
    low, high = sequence_for(seed, purpose, **names).generate_state(2, np.uint32)
    return (int(high) << 31) ^ int(low)


def rng_for(seed: int, purpose: str, **names: object) -> np.random.Generator:
    return np.random.default_rng(sequence_for(seed, purpose, **names))


def generator_for(seed: int, purpose: str, **names: object) -> torch.Generator:
    """A generator on the CPU for one purpose.

    Of what `manual_seed` is given, torch's CPU generator takes 32 bits, which can be tried one by one. A salted seed
    fills its state instead.
    """
    generator = torch.Generator().manual_seed(seed_for(seed, purpose, **names))
    if seed < SALTED:
        return generator
    words = sequence_for(seed, purpose, **names).generate_state(_STATE_WORDS, np.uint32).astype(np.uint64)
    state = generator.get_state()
    state[_STATE_BYTES] = torch.from_numpy(words.view(np.uint8))
    return generator.set_state(state)


@contextmanager
def seeded_torch(seed: int) -> Iterator[None]:
    """torch's global generators, those of GPUs among them, seeded for the block; they go on afterwards as before.

    A process that has not used its GPU is not made to: torch seeds it once it is used.
    """
    gpus = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=gpus):
        torch.manual_seed(seed)
        yield


def salted(seed: int, salt: str) -> int:
    """A seed that depends on a secret, too: it is `SALTED` or more, and nobody guesses it.

    Args:
        salt: hexadecimal digits, 128 bits of them.
    """
    digest = hashlib.sha256(f"salt\x1f{salt}\x1f{seed}".encode()).digest()
    return SALTED + int.from_bytes(digest, "little")
