"""The picture of a run: originals above reconstructions, as one PNG for a README or a paper."""

from __future__ import annotations

import io
from dataclasses import replace
from itertools import groupby

import matplotlib as mpl
import numpy as np
import polars as pl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fedsim.reporting import formats as f
from fedsim.reporting.gallery import Panel, Pictures, Row, Tile, panels

_INK, _FAINT = "#1c1c1a", "#6f6f69"
_TILE = 0.62  # inches
_STYLE = {"font.family": "sans-serif", "font.size": 8, "text.parse_math": False}


def grid(results: pl.DataFrame, pictures: Pictures, *, victims: int = 6, columns: int = 3, dpi: int = 160) -> bytes:
    """Draw a panel for each model under each defense: the originals, and below them what each attack rebuilt.

    Args:
        results: rows of `fedsim.table.SCHEMA`.
        pictures: where the pictures of a job are.
        victims: pictures in a row, at most.
        columns: panels side by side, at most; another model begins a new line.

    Returns:
        A PNG file. Numbers below the pictures are PSNR in dB. An attack that answered none of the victims shown has no
        row.
    """
    shown = [_without_empty_rows(panel) for panel in panels(results, pictures, victims=victims)]
    with mpl.rc_context(_STYLE):
        figure = _draw(shown, columns) if shown else _say("There are no results to draw yet.")
        FigureCanvasAgg(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=dpi, facecolor="white")
    return buffer.getvalue()


def _draw(shown: list[Panel], columns: int) -> Figure:
    lines = [
        line for _, group in groupby(shown, key=lambda panel: panel.setting) for line in _chunks(list(group), columns)
    ]
    columns = max(len(line) for line in lines)
    tall, wide, label = _TILE * 1.28, _TILE * 1.06, 1.45
    width = max(len(panel.originals) for panel in shown) * wide + label + 0.2
    heights = [max(len(panel.rows) for panel in line) * tall + tall + 0.42 for line in lines]
    figure = Figure(figsize=(width * columns + 0.1, sum(heights) + 0.4))
    total_width, total_height = figure.get_size_inches()
    top = total_height - 0.1
    for line, height in zip(lines, heights):
        for place, panel in enumerate(line):
            left = place * width + 0.1
            figure.text(left / total_width, (top - 0.16) / total_height, panel.setting, color=_FAINT, va="baseline")
            figure.text(
                left / total_width, (top - 0.31) / total_height, panel.defense, color=_INK, weight="bold", va="baseline"
            )
            for at, row in enumerate([Row("original", "attack", panel.originals), *panel.rows]):
                bottom = top - 0.42 - _TILE - at * tall
                _label(figure, row, left / total_width, (bottom + _TILE / 2) / total_height)
                for column, tile in enumerate(row.tiles):
                    x = left + label + column * wide
                    box = (x / total_width, bottom / total_height, _TILE / total_width, _TILE / total_height)
                    _tile(figure, tile, box)
        top -= height
    caption = (
        "Below each picture: PSNR in dB. oracle: was given what no real server has. floor: never looks at the update."
    )
    figure.text(0.1 / total_width, 0.1 / total_height, caption, color=_FAINT, fontsize=7)
    return figure


def _chunks(members: list[Panel], size: int) -> list[list[Panel]]:
    return [members[start : start + size] for start in range(0, len(members), size)]


def _without_empty_rows(panel: Panel) -> Panel:
    return replace(panel, rows=[row for row in panel.rows if any(tile.psnr is not None for tile in row.tiles)])


def _label(figure: Figure, row: Row, x: float, y: float) -> None:
    name = row.label.replace("_", " ").replace(" (", "\n(")
    text = name if row.role == "attack" else f"{name}\n{row.role}"
    figure.text(x, y, text, color=_INK if row.role == "attack" else _FAINT, va="center", linespacing=1.3)


def _tile(figure: Figure, tile: Tile, box: tuple[float, float, float, float]) -> None:
    axes = figure.add_axes(box, xticks=[], yticks=[])
    axes.spines[:].set(color="#d9d9d4", linewidth=0.5)
    if tile.image is None:
        axes.text(0.5, 0.5, tile.why.replace(" ", "\n"), ha="center", va="center", color=_FAINT, fontsize=6)
    else:
        axes.imshow(np.broadcast_to(tile.image, (*tile.image.shape[:2], 3)), interpolation="nearest", aspect="auto")
    if tile.psnr is not None:
        axes.text(
            0.5, -0.06, f.decibel(tile.psnr), ha="center", va="top", color=_INK, fontsize=7, transform=axes.transAxes
        )


def _say(message: str) -> Figure:
    figure = Figure(figsize=(5, 1))
    figure.text(0.5, 0.5, message, ha="center", va="center", color=_FAINT)
    return figure
