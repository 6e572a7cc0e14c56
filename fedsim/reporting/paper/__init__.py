"""A run as static figures for a paper: PDF, SVG or PNG, the same bytes whenever they are drawn."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import polars as pl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fedsim.errors import BadInput
from fedsim.files import write_bytes
from fedsim.reporting import picture_grid
from fedsim.reporting.gallery import Pictures
from fedsim.reporting.leaderboard import build, labelled
from fedsim.reporting.paper import plots
from fedsim.reporting.paper.curves import Losses
from fedsim.reporting.paper.style import RC, Panel, pages

FORMATS = ("pdf", "svg", "png")
_DPI = 300

_NO_DATES: dict[str, dict[str, None]] = {
    "pdf": dict.fromkeys(("Creator", "Producer", "CreationDate")),
    "svg": dict.fromkeys(("Creator", "Date", "Format", "Type")),
    "png": {"Software": None},
}


@dataclass(frozen=True)
class Drawn:
    """A figure that was asked for: its files, or why there is nothing to draw."""

    name: str
    files: list[Path]
    why_not: str


def draw(
    results: pl.DataFrame, pictures: Pictures, losses: Losses, *, directory: Path, format: str, wide: bool
) -> Iterator[Drawn]:
    """Draw every figure for which there is data, into `<directory>/<name>.<format>`.

    What does not fit on a page goes on in `<name>-2.<format>`, and so on.

    Args:
        results: rows of `fedsim.table.SCHEMA`.
        pictures: where the pictures of a job are.
        losses: where the loss curves of a job are.
        format: one of `FORMATS`.
        wide: as wide as two columns (6.9 in) instead of one (3.3 in).

    Raises:
        fedsim.errors.BadInput: there is no such format.
    """
    if format not in FORMATS:
        raise BadInput(f"--format {format}: no such format; there are {', '.join(FORMATS)}")
    with mpl.rc_context(RC):
        grid = picture_grid.pages(results, pictures, picture_grid.WIDE if wide else picture_grid.COLUMN)
        yield _written("reconstructions", grid, directory, format, "there are no results yet")
        if results.is_empty():
            return
        for name, panels, why_not in _plots(results, losses):
            yield _written(name, pages(panels, wide=wide), directory, format, why_not)


def _plots(results: pl.DataFrame, losses: Losses) -> Iterator[tuple[str, list[Panel], str]]:
    """Each plot's name, its panels, and what it says if there are none."""
    board, rows = build(results), labelled(results)
    keys = plots.attack_keys(rows)
    strength = "nothing that sets a defense's strength takes two values"
    yield "psnr-by-strength", plots.psnr_by_strength(board, keys), strength
    yield "privacy-utility", plots.privacy_utility(board), "no utility was measured, or no attack scored"
    yield "psnr-distribution", plots.psnr_distribution(rows, keys), "no image was scored"
    yield "attack-loss", plots.attack_loss(rows, keys, losses), "no job kept a loss curve"
    yield "mask-accuracy", plots.mask_accuracy(rows, keys), "no attack estimated masks"


def _written(name: str, pages: Iterable[Figure], directory: Path, format: str, why_not: str) -> Drawn:
    files = []
    for number, page in enumerate(pages, start=1):
        files.append(directory / f"{name}{'' if number == 1 else f'-{number}'}.{format}")
        write_bytes(files[-1], to_bytes(page, format))
    return Drawn(name, files, "" if files else why_not)


def to_bytes(figure: Figure, format: str) -> bytes:
    """The figure as a file that holds no date and no version: the same figure gives the same bytes."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=format, dpi=_DPI, facecolor="white", metadata=_NO_DATES[format])
    return buffer.getvalue()
