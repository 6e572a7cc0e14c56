"""Attacks against defenses as one self-contained page."""

from __future__ import annotations

import polars as pl

from fedsim.reporting.crossed.prepared import sections
from fedsim.reporting.pages import environment
from fedsim.version import __version__


def html(board: pl.DataFrame, *, title: str = "Attacks against defenses", noted: str = "") -> str:
    """The tables as a page that asks the network for nothing.

    Args:
        board: of `fedsim.reporting.leaderboard.build`.
        noted: tags and notes of the runs.
    """
    template = environment().get_template("crossed.html.j2")
    return template.render(title=title, sections=list(sections(board)), version=__version__, noted=noted)
