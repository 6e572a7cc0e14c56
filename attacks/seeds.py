"""Randomness by name: an attack's draws for one victim depend on that victim's names, never on its neighbours.

Draws are made on the CPU in float32 and moved afterwards, so that they are the same on every device.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def generator_for(seed: int, purpose: str, **names: object) -> torch.Generator:
    """A CPU generator of its own for every (seed, purpose, names)."""
    text = "\x1f".join([purpose, *(f"{key}={value}" for key, value in sorted(names.items()))])
    digest = hashlib.sha256(text.encode()).digest()
    spawn_key = tuple(int.from_bytes(digest[i : i + 4], "little") for i in range(0, 16, 4))
    low, high = np.random.SeedSequence(seed, spawn_key=spawn_key).generate_state(2, np.uint32)
    return torch.Generator().manual_seed((int(high) << 31) ^ int(low))
