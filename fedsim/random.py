"""The one source of randomness: seeds derived from a scenario's seed and from *names*, never from positions.

`seed_for(0, "batch", client=3, round=1)` is the same number whatever else the scenario holds, so adding a defense or an
attack never reseeds another, and the clients' data do not depend on the model, the defense or the attack: comparisons
are paired.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch


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
    return torch.Generator().manual_seed(seed_for(seed, purpose, **names))
