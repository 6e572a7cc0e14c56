"""Where an attack that optimises begins with a victim: at random, or at what a closed form has found."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from attacks.base import NotApplicable, Reconstruction, create, get, names
from attacks.observation import Observation, ThreatModel
from attacks.unknowns import NOISE

RANDOM = "random"


def check_start(attack: str, start: object) -> None:
    """Raise ValueError unless an attack can begin there."""
    forms = [name for name in names() if get(name).solves and not get(name).looks_back]
    if start != RANDOM and start not in forms:
        raise ValueError(f"{attack}: start = {start!r} is neither {RANDOM!r} nor a closed form ({', '.join(forms)})")


def found_by(
    start: str, observations: Sequence[Observation], threat_model: ThreatModel, model: nn.Module, *, seed: int
) -> list[Reconstruction | NotApplicable | None]:
    """What the closed form of that name makes of each observation; None where the start is random."""
    if start == RANDOM:
        return [None] * len(observations)
    return list(create(start).run(observations, threat_model, model, seed=seed))


def beginning(found: Reconstruction | NotApplicable | None) -> dict[str, Tensor]:
    """The parts of a guess, by name, that an answer gives: its image, and the noise that was read.

    Of a batch nothing is taken, since a closed form does not know which of its images has which label.
    """
    if not isinstance(found, Reconstruction) or len(found.images) != 1:
        return {}
    return {"images": found.images, **{NOISE + path: value for path, value in (found.noise or {}).items()}}
