"""The picture of a run: originals above reconstructions, as a PNG for a README or as figures for a paper."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby

import matplotlib as mpl
import numpy as np
import polars as pl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fedsim.reporting import formats as f
from fedsim.reporting.gallery import Panel, Pictures, Row, Tile, panels

_INK, _FAINT = "#1c1c1a", "#6f6f69"
_STYLE = {"font.family": "sans-serif", "font.size": 8, "text.parse_math": False}
_LINE, _CHARACTER = 0.15, 0.062  # inches: a line of text, and a character of it
_HEAD, _FOOT = 0.15, 0.1  # inches above the pictures of a panel besides its titles; below the last line
_CAPTION = (
    "Below each picture: PSNR in dB. oracle: was given what no real server has. floor: never looks at the update."
)


@dataclass(frozen=True)
class Layout:
    """How pictures stand on a page; lengths in inches.

    Attributes:
        victims: pictures in a row, at most.
        columns: panels side by side, at most; another model begins a new line.
        tile: the side of a picture.
        label: the room for an attack's name.
        page: the height at which another page begins.
    """

    victims: int
    columns: int
    tile: float = 0.62
    label: float = 1.45
    page: float = float("inf")


COLUMN = Layout(victims=4, columns=1, tile=0.43, label=1.2, page=9.0)
"""One column of a two-column paper: 3.3 in."""

WIDE = Layout(victims=4, columns=2, tile=0.46, label=1.2, page=9.0)
"""Both columns: 6.9 in."""


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
    with mpl.rc_context(_STYLE):
        drawn = list(pages(results, pictures, Layout(victims, columns)))
        figure = drawn[0] if drawn else _say("There are no results to draw yet.")
        FigureCanvasAgg(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=dpi, facecolor="white")
    return buffer.getvalue()


def pages(results: pl.DataFrame, pictures: Pictures, layout: Layout) -> Iterator[Figure]:
    """The same as figures; nothing where there are no results."""
    shown = [_without_empty_rows(panel) for panel in panels(results, pictures, victims=layout.victims)]
    lines = [
        line
        for _, group in groupby(shown, key=lambda panel: panel.setting)
        for line in _chunks(list(group), layout.columns)
    ]
    if not lines:
        return
    size = _Size(layout, most_pictures=max(len(panel.originals) for panel in shown), most_panels=max(map(len, lines)))
    page: list[list[Panel]] = []
    for line in lines:
        if page and size.height([*page, line]) > layout.page:
            yield _draw(page, size)
            page = []
        page.append(line)
    yield _draw(page, size)


@dataclass(frozen=True)
class _Size:
    """Lengths in inches that follow from what is shown."""

    layout: Layout
    most_pictures: int
    most_panels: int

    @property
    def row(self) -> float:
        return self.layout.tile + 0.18

    @property
    def step(self) -> float:
        return self.layout.tile + 0.04

    @property
    def panel(self) -> float:
        return self.most_pictures * self.step + self.layout.label + 0.15

    @property
    def width(self) -> float:
        return self.panel * self.most_panels + 0.05

    def titles(self, line: list[Panel]) -> int:
        return max(len(self.setting(panel)) + len(self.defense(panel)) for panel in line)

    def setting(self, panel: Panel) -> list[str]:
        return _wrapped(panel.setting, self.panel - 0.1)

    def defense(self, panel: Panel) -> list[str]:
        return _wrapped(panel.defense, (self.panel - 0.1) / 1.12)  # bold is wider

    def line(self, line: list[Panel]) -> float:
        return (max(len(panel.rows) for panel in line) + 1) * self.row + self.titles(line) * _LINE + _HEAD

    def caption(self) -> list[str]:
        return _wrapped(_CAPTION, self.width - 0.1)

    def height(self, page: list[list[Panel]]) -> float:
        return sum(map(self.line, page)) + len(self.caption()) * _LINE + _FOOT


def _draw(page: list[list[Panel]], size: _Size) -> Figure:
    total_width, total_height = size.width, size.height(page)
    figure = Figure(figsize=(total_width, total_height))
    tile = size.layout.tile
    top = total_height - 0.05
    for line in page:
        for place, panel in enumerate(line):
            left = place * size.panel + 0.05
            setting, defense = size.setting(panel), size.defense(panel)
            at = {"x": left / total_width, "va": "top", "linespacing": 1.2}
            figure.text(y=top / total_height, s="\n".join(setting), color=_FAINT, **at)
            below = (top - len(setting) * _LINE) / total_height
            figure.text(y=below, s="\n".join(defense), color=_INK, weight="bold", **at)
            first = top - size.titles(line) * _LINE - 0.05 - tile
            for number, row in enumerate([Row("original", "attack", panel.originals), *panel.rows]):
                bottom = first - number * size.row
                label = _label(row, size.layout.label)
                figure.text(
                    left / total_width,
                    (bottom + tile / 2) / total_height,
                    label,
                    color=_INK if row.role == "attack" else _FAINT,
                    va="center",
                    linespacing=1.2,
                )
                for column, picture in enumerate(row.tiles):
                    x = left + size.layout.label + column * size.step
                    box = (x / total_width, bottom / total_height, tile / total_width, tile / total_height)
                    _tile(figure, picture, box, side=tile)
        top -= size.line(line)
    figure.text(
        0.05 / total_width, 0.05 / total_height, "\n".join(size.caption()), color=_FAINT, va="bottom", linespacing=1.2
    )
    return figure


def _chunks(members: list[Panel], size: int) -> list[list[Panel]]:
    return [members[start : start + size] for start in range(0, len(members), size)]


def _without_empty_rows(panel: Panel) -> Panel:
    return replace(panel, rows=[row for row in panel.rows if any(tile.psnr is not None for tile in row.tiles)])


def _wrapped(text: str, width: float) -> list[str]:
    return textwrap.wrap(text, int(width / _CHARACTER), break_on_hyphens=False)


def _label(row: Row, width: float) -> str:
    """The attack's name, its parameters below it."""
    name, _, params = row.label.replace("_", " ").partition(" (")
    lines = _wrapped(name, width) + (_wrapped(f"({params}", width) if params else [])
    return "\n".join(lines if row.role == "attack" else [*lines, row.role])


def _tile(figure: Figure, tile: Tile, box: tuple[float, float, float, float], *, side: float) -> None:
    axes = figure.add_axes(box, xticks=[], yticks=[])
    axes.spines[:].set(color="#d9d9d4", linewidth=0.5, visible=True)
    axes.grid(visible=False)
    if tile.image is None:
        size = 6 if side > 0.5 else 5
        axes.text(0.5, 0.5, tile.why.replace(" ", "\n"), ha="center", va="center", color=_FAINT, fontsize=size)
    else:
        axes.imshow(np.broadcast_to(tile.image, (*tile.image.shape[:2], 3)), interpolation="nearest", aspect="auto")
    if tile.psnr is not None:
        axes.text(
            0.5, -0.05, f.decibel(tile.psnr), ha="center", va="top", color=_INK, fontsize=8, transform=axes.transAxes
        )


def _say(message: str) -> Figure:
    figure = Figure(figsize=(5, 1))
    figure.text(0.5, 0.5, message, ha="center", va="center", color=_FAINT)
    return figure
