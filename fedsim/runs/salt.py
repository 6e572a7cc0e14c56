"""A run's salt: 128 secret bits that its clients' batches, masks and noise are drawn from besides the seed.

    truth/salt      hexadecimal digits

A small seed can be guessed, and an attack that did could draw the client's batch and masks again instead of finding
them. Attacks and observations never hold the salt; keys hold its hash.
"""

from __future__ import annotations

import re
import secrets
from pathlib import Path

from fedsim.errors import BadInput
from fedsim.files import key_of
from fedsim.runs.directory import MARKER, RunDirectory

_BITS = 128
_DIGITS = _BITS // 4


def settle(path: Path, asked: bool | str, *, fresh: bool) -> str | None:
    """The salt that a run at `path` is to have; None for none. Writes nothing.

    Args:
        asked: True draws one, a string is one that was published; a run that goes on has its own in any case.
        fresh: what an earlier run left does not count.

    Raises:
        BadInput: no salt, or another than the run that is there was begun with.
    """
    wanted = _checked(asked) if isinstance(asked, str) else None
    if fresh or not (path / MARKER).exists():
        return wanted or (_drawn() if asked else None)
    run = RunDirectory(path)
    other = "choose another --out, or --fresh to begin anew"
    if not run.marker().get("salted"):
        if asked:
            raise BadInput(f"--salt: {path} holds a run without a salt; {other}")
        return None
    present = run.salt()
    if present is not None and wanted is not None and wanted != present:
        raise BadInput(f"--salt: {path} holds a run with another salt; {other}")
    return present or wanted or _drawn()  # killed before it had written its salt, and so before its first cell


def hash_of(salt: str) -> str:
    """What stands for a salt where it may be seen."""
    return key_of({"salt": salt})


def _drawn() -> str:
    return secrets.token_hex(_BITS // 8)


def _checked(salt: str) -> str:
    if not re.fullmatch(f"[0-9a-fA-F]{{{_DIGITS}}}", salt):
        raise BadInput(f"--salt {salt}: not a salt; it has {_DIGITS} hexadecimal digits, or is left out to draw one")
    return salt.lower()
