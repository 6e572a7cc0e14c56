"""A small page that shows how far a run is: rewritten every two seconds, it reloads itself, also from disk.

It needs no server and nothing running beside the run. It says when it was written, so that a killed run is recognised:
the page then stands still, and says so.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from urllib.parse import quote

from fedsim.files import write_text
from fedsim.reporting.pages import environment
from fedsim.runs.progress import ENDED, Facts, Stage, View, clock, loss_text, psnr_text
from fedsim.version import __version__

EVERY_SECONDS = 2.0
STALE_SECONDS = 60
"""A page as old as this belongs to a run that was killed, or to a machine that was suspended."""
UNDER_WAY = 12

HEADLINES: dict[Stage, str] = {
    "starting": "starting",
    "training": "training the clients",
    "attacking": "attacking what the server saw",
    "finished": "finished",
    "interrupted": "interrupted; what is finished is kept, the same command goes on from there",
    "stopped": "stopped by an error; what is finished is kept, the terminal says what went wrong",
}


class LivePage(View):
    """Writes the page at `path` while the run goes on, and a last time at its end.

    Args:
        report: the report's path, which the page links once the run is finished.
    """

    def __init__(self, path: Path, *, report: Path) -> None:
        self._path, self._report = path, report
        self._written = -EVERY_SECONDS
        self._stage: Stage | None = None

    def show(self, facts: Facts) -> None:
        now = time.monotonic()
        if facts.stage != self._stage or now - self._written >= EVERY_SECONDS:
            self._written, self._stage = now, facts.stage
            write_text(self._path, html(facts, report=os.path.relpath(self._report, self._path.parent)))


def html(facts: Facts, *, report: str) -> str:
    """The page, of now; `report` is the report's path seen from the page."""
    written = time.time()
    return (
        environment()
        .get_template("live.html.j2")
        .render(
            facts=facts,
            headline=HEADLINES[facts.stage],
            ended=facts.stage in ENDED,
            clock=clock,
            loss=loss_text,
            psnr=psnr_text,
            most=UNDER_WAY,
            report=quote(report) if facts.stage == "finished" else "",
            written=written,
            written_text=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(written)),
            stale=STALE_SECONDS,
            every=int(EVERY_SECONDS),
            version=__version__,
        )
    )
