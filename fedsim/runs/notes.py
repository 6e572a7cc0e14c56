"""What a user says of a run: tags and a note. They change nothing, and a run that goes on keeps them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from fedsim.errors import BadInput
from fedsim.files import write_json
from fedsim.runs.directory import RunDirectory

FILE = "notes.json"
_LONGEST_TAG = 40


class Notes(BaseModel):
    """The tags of a run, in the order in which they were given, and a note."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    tags: tuple[str, ...] = ()
    note: str = ""

    def __bool__(self) -> bool:
        return bool(self.tags or self.note)

    @property
    def line(self) -> str:
        """`baseline, paper: with the new schedule`."""
        return ": ".join(part for part in (", ".join(self.tags), self.note) if part)


def read(run: Path) -> Notes:
    """Those of a run directory; none where nobody wrote any. Raises BadInput where their file is damaged."""
    path = run / FILE
    try:
        return Notes.model_validate_json(path.read_bytes(), strict=False)
    except FileNotFoundError:
        return Notes()
    except (ValidationError, OSError):
        raise BadInput(f"{path}: damaged; it should hold tags and a note as JSON: delete it") from None


def write(run: Path, *, note: str | None = None, add: Sequence[str] = (), remove: Sequence[str] = ()) -> Notes:
    """Change what is said of a run, and return it.

    Args:
        note: takes the place of the note; None leaves it.
        add, remove: tags.

    Raises:
        BadInput: the directory is no run, a tag is none, or one that is to be removed is not there.
    """
    RunDirectory(run).marker()
    before = read(run)
    for tag in add:
        if not tag.strip() or len(tag) > _LONGEST_TAG or not tag.isprintable() or "," in tag:
            raise BadInput(f"--tag {json.dumps(tag)}: takes up to {_LONGEST_TAG} printable characters, no comma")
    for tag in remove:
        if tag not in before.tags:
            raise BadInput(f"--untag {tag}: the run has no such tag; it has {', '.join(before.tags) or 'none'}")
    tags = tuple(dict.fromkeys(tag for tag in (*before.tags, *add) if tag not in remove))
    after = Notes(tags=tags, note=before.note if note is None else " ".join(note.split()))
    write_json(run / FILE, after.model_dump())
    return after
