"""How the report's charts look: their colours, symbols and dashes, axes, error bars and lines that mark a value.

The colours tell apart in every kind of colour vision, on light and dark paper; symbols and dashes say the same again.
Text and grid lines get their colours from the page's style sheet, so that they follow the theme.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from fedsim.table import LEAKED_PSNR

COLOURS = ("#2f7fb8", "#d5701c", "#119e77", "#c26fa3", "#c99700", "#7b76c9")  # after Okabe and Ito

_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star")

_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")

FLOOR = "#8a8a84"


def colour_of(at: int) -> str:
    return COLOURS[at % len(COLOURS)]


def symbol_of(at: int) -> str:
    """The next turn of the colours meets other symbols, so that 36 series stay apart."""
    return _SYMBOLS[(at + at // len(COLOURS)) % len(_SYMBOLS)]


def dash_of(at: int) -> str:
    return _DASHES[(at + at // len(COLOURS)) % len(_DASHES)]


def empty_figure(x: str, y: str) -> go.Figure:
    figure = go.Figure()
    figure.update_layout(
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        height=380,
        margin={"l": 52, "r": 16, "t": 12, "b": 48},
        font={"family": "inherit", "size": 12},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        hoverlabel={"bgcolor": "#1c1c1a", "bordercolor": "#1c1c1a", "font": {"color": "#ffffff"}},
        showlegend=True,
        xaxis={"title": {"text": x}, "zeroline": False},
        yaxis={"title": {"text": y}, "zeroline": False, "rangemode": "tozero"},
    )
    return figure


def with_room_for_legend(figure: go.Figure) -> go.Figure:
    """A long legend makes the figure taller, not the plot smaller: about two entries stand in a line of it."""
    return figure.update_layout(height=360 + 10 * max(2, len(figure.data)))


def mark_leak(figure: go.Figure) -> None:
    mark(figure, LEAKED_PSNR, f"{LEAKED_PSNR:g} dB: counted as leaked")


def mark(figure: go.Figure, y: float, text: str) -> None:
    figure.add_hline(y=y, line={"color": FLOOR, "width": 1, "dash": "dot"}, layer="below")
    place = {"x": 1, "xref": "paper", "y": y, "xanchor": "right", "yanchor": "bottom"}
    figure.add_annotation(**place, text=text, showarrow=False, font={"size": 10})


def errors(rows: Sequence[Mapping[str, Any]], colour: str, name: str = "psnr", scale: float = 1) -> dict[str, Any]:
    """Error bars that reach the ends of the intervals."""
    spans = [(row[name], row[f"{name}_low"], row[f"{name}_high"]) for row in rows]
    return {
        "type": "data",
        "symmetric": False,
        "array": [0 if high is None else scale * (high - middle) for middle, _, high in spans],
        "arrayminus": [0 if low is None else scale * (middle - low) for middle, low, _ in spans],
        "color": colour,
        "thickness": 1,
        "width": 3,
    }


def safe(text: str) -> str:
    """Plotly reads a little HTML in labels; a name is only ever text."""
    return html.escape(text, quote=False)
