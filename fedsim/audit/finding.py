"""One thing that a reply, or a canary, says of how a client was trained."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """One thing that a reply says.

    Args:
        about: a word or two.
        says: a sentence.
        wrong: it contradicts what was said of the client.
    """

    about: str
    says: str
    wrong: bool = False

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
