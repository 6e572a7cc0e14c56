"""How a figure for a paper looks: the width of a column, 8 pt text, nothing that is not data.

Colours are those of the report; markers and dashes say the same again, for print without colour and for every kind of
colour vision. Figures are laid out in inches, so that text has one size in all of them whatever they hold.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fedsim.reporting.chart_style import COLOURS

COLUMN, WIDE = 3.3, 6.9
"""Inches: one column of a two-column paper, and both."""

PAGE = 9.0
"""Inches: what does not fit on a page of this height goes on in a second file."""

INK, FAINT, RULE = "#1c1c1a", "#6f6f69", "#e2e2dd"
FLOOR = "#8a8a84"
_MARKERS = ("o", "s", "D", "^", "X", "*")
_DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (4, 1.5, 1, 1.5)), (0, (7, 1.5)), (0, (7, 1.5, 1, 1.5)))

RC = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
    "font.size": 8,
    "text.parse_math": False,  # a name is text, whatever it holds
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.labelsize": 8,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.5,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.1,
    "lines.markersize": 4,
    "pdf.fonttype": 42,  # TrueType, embedded: what journals ask for
    "svg.fonttype": "path",
    "svg.hashsalt": "fedsim",  # the same figure gives the same bytes
}

LINE, CHARACTER = 0.15, 0.064
"""Inches: the height of a line of text and the width of a character, at 8 pt."""

_BOLD = 1.15  # how much wider bold text is

_TITLE, _BELOW, _RIGHT = 0.06, 0.42, 0.12  # under a title; for ticks and a label below axes; right of axes


@dataclass(frozen=True)
class Key:
    """A series: what it is called and how it is told apart."""

    label: str
    colour: str
    marker: str
    dash: str | tuple[int, tuple[float, ...]]

    def handle(self) -> Line2D:
        return Line2D([], [], color=self.colour, marker=self.marker, linestyle=self.dash, label=self.label)


def series(label: str, at: int, *, role: str = "attack", dashed: bool = True) -> Key:
    """The `at`-th series. Each turn of the colours meets other markers, so that 36 series stay apart."""
    turn = at + at // len(_MARKERS)
    return Key(
        label if role == "attack" else f"{label}, {role}",
        FLOOR if role == "floor" else COLOURS[at % len(COLOURS)],
        _MARKERS[turn % len(_MARKERS)],
        _DASHES[turn % len(_DASHES)] if dashed else "none",
    )


@dataclass(frozen=True)
class Panel:
    """One pair of axes: under which heading and title it stands, how much room it takes, and what draws it."""

    heading: str
    title: str
    x: str
    y: str
    draw: Callable[[Axes], None]
    keys: tuple[Key, ...] = ()
    height: float = 1.55  # of the axes, in inches
    left: float = 0.5  # room for the labels left of the axes


@dataclass(frozen=True)
class _Line:
    """Panels side by side."""

    heading: str  # said again on each page
    panels: list[Panel]

    def height(self, width: float, *, headed: bool) -> float:
        titles = max(_lines(panel.title, width / _BOLD) for panel in self.panels)
        heading = _lines(self.heading, width) if headed else 0
        return (titles + heading) * LINE + _TITLE + max(panel.height for panel in self.panels) + _BELOW


def pages(panels: Sequence[Panel], *, wide: bool) -> Iterator[Figure]:
    """The panels as figures no higher than a page: one below the other, or two side by side. Legends stand below."""
    columns = 2 if wide and len(panels) > 1 else 1
    width = (WIDE if wide else COLUMN) / columns
    lines = [
        _Line(heading, members[start : start + columns])
        for heading, members in ((text, list(part)) for text, part in groupby(panels, lambda panel: panel.heading))
        for start in range(0, len(members), columns)
    ]
    page: list[_Line] = []
    for line in lines:
        if page and _height([*page, line], width, columns) > PAGE:
            yield _draw(page, width, columns)
            page = []
        page.append(line)
    if page:
        yield _draw(page, width, columns)


def _headed(page: list[_Line]) -> list[bool]:
    return [at == 0 or page[at - 1].heading != line.heading for at, line in enumerate(page)]


def _keys(page: list[_Line]) -> list[Key]:
    return list(dict.fromkeys(key for line in page for panel in line.panels for key in panel.keys))


def _height(page: list[_Line], width: float, columns: int) -> float:
    rows = sum(line.height(width, headed=headed) for line, headed in zip(page, _headed(page)))
    return rows + _legend_height(_keys(page), width * columns)


def _draw(page: list[_Line], width: float, columns: int) -> Figure:
    total = width * columns
    height = _height(page, width, columns)
    figure = Figure(figsize=(total, height))
    top = height
    for line, headed in zip(page, _headed(page)):
        bottom = top - line.height(width, headed=headed)
        if headed:
            text = wrapped(line.heading, width)
            figure.text(0.02 / total, top / height, text, color=FAINT, va="top", linespacing=1.2)
            top -= _lines(line.heading, width) * LINE
        room = max(_lines(panel.title, width / _BOLD) for panel in line.panels) * LINE + _TITLE
        for place, panel in enumerate(line.panels):
            left = place * width
            figure.text(
                (left + 0.02) / total,
                top / height,
                wrapped(panel.title, width / _BOLD),
                weight="bold",
                va="top",
                linespacing=1.2,
            )
            axes = figure.add_axes(
                (
                    (left + panel.left) / total,
                    (top - room - panel.height) / height,
                    (width - panel.left - _RIGHT) / total,
                    panel.height / height,
                )
            )
            axes.set_xlabel(panel.x, labelpad=2)
            axes.set_ylabel(panel.y, labelpad=3)
            panel.draw(axes)
        top = bottom
    keys = _keys(page)
    if keys:
        _legend(figure, keys, total)
    return figure


def _legend_columns(keys: list[Key], width: float) -> int:
    longest = max(len(key.label) for key in keys) * CHARACTER + 0.42
    return max(1, min(len(keys), int(width / longest)))


def _legend_height(keys: list[Key], width: float) -> float:
    if not keys:
        return 0.0
    columns = _legend_columns(keys, width)
    rows = -(-len(keys) // columns) if columns > 1 else sum(_lines(key.label, width - 0.42) for key in keys)
    return rows * LINE + 0.06


def _legend(figure: Figure, keys: list[Key], width: float) -> None:
    figure.legend(
        [key.handle() for key in keys],
        [wrapped(key.label, width - 0.42) for key in keys],
        loc="lower left",
        bbox_to_anchor=(0, 0),
        ncols=_legend_columns(keys, width),
        frameon=False,
        borderpad=0.1,
        borderaxespad=0.1,
        handlelength=2.6,
        handletextpad=0.6,
        columnspacing=1.2,
        labelspacing=0.3,
    )


def wrapped(text: str, width: float) -> str:
    """The text in lines that fit into so many inches, at 8 pt."""
    return "\n".join(textwrap.wrap(text, max(8, int(width / CHARACTER)), break_on_hyphens=False))


def _lines(text: str, width: float) -> int:
    return wrapped(text, width).count("\n") + 1 if text else 0
