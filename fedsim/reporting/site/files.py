"""The files of a site: written, marked as ours, and removed where a former site had more."""

from __future__ import annotations

import re
from pathlib import Path

from fedsim.errors import BadInput
from fedsim.files import read_json, write_bytes, write_json, write_text
from fedsim.reporting.entries.entry import Entry
from fedsim.reporting.pages import environment
from fedsim.reporting.site.contents import pages
from fedsim.version import __version__

MARKER = "fedsim-site.json"
_OURS = re.compile(r"((pictures|entries)/)?[a-z0-9][a-z0-9._-]*")
"""Names of the files that a site has; a marker that names others is not believed."""


def write(target: Path, entries: dict[str, Entry], source: Path) -> Path:
    """Build the site in a directory; files of an earlier site that are no longer part of it are removed.

    Args:
        target: a new directory, an empty one, or an earlier site of ours.
        entries: by the stem of their files, as `fedsim.reporting.entries.read` gives them.
        source: the directory where they and their pictures lie.

    Returns:
        The index page.

    Raises:
        BadInput: the directory holds something else; nothing was written.
    """
    former = _former(target)
    templates = environment()
    files = dict(pages(entries))
    files |= {name: templates.get_template(f"site/{name}").render() for name in ("site.css", "site.js")}
    copied = {f"entries/{stem}.json" for stem in entries}
    copied |= {f"pictures/{stem}.png" for stem, entry in entries.items() if entry.picture is not None}
    present = files.keys() | copied
    _mark(target, former | present)  # first, so that a site that was left half built can be built again
    for name, content in files.items():
        write_text(target / name, content)
    for name in copied:
        write_bytes(target / name, (source / Path(name).name).read_bytes())
    for name in former - present:
        (target / name).unlink(missing_ok=True)
    _mark(target, present)
    return target / "index.html"


def _mark(target: Path, files: set[str]) -> None:
    write_json(target / MARKER, {"fedsim_version": __version__, "files": sorted(files)})


def _former(target: Path) -> set[str]:
    """The files of the site that is there already; raises BadInput if something else is."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return set()
    refused = BadInput(f"{target}: not a site of fedsim's; --site takes a new or empty directory, or an earlier site")
    try:
        files = read_json(target / MARKER)["files"]
    except (OSError, ValueError, KeyError, TypeError):
        raise refused from None
    if not isinstance(files, list):
        raise refused
    return {name for name in files if isinstance(name, str) and _OURS.fullmatch(name)}
