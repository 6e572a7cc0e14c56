"""The axes of figures for a paper: their ticks, how far they reach, and medians with intervals on them."""

from __future__ import annotations

import itertools

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import Collection, LineCollection

from fedsim.reporting.leaderboard import Row
from fedsim.reporting.paper.style import CHARACTER, FAINT, FLOOR, LINE, Key
from fedsim.table import LEAKED_PSNR

LABELS = 1.35
"""Inches that labels left of the axes may take before they are broken into lines."""


def label_room(labels: list[str]) -> float:
    return 0.14 + CHARACTER * max(len(line) for label in labels for line in label.split("\n"))


def with_intervals(axes: Axes, places: list[float], rows: list[Row], key: Key) -> None:
    """Medians and the ends of their intervals."""
    middle = np.array([row["psnr"] for row in rows])
    low = np.array([row["psnr"] if row["psnr_low"] is None else row["psnr_low"] for row in rows])
    high = np.array([row["psnr"] if row["psnr_high"] is None else row["psnr_high"] for row in rows])
    axes.vlines(places, low, high, color=key.colour, lw=0.9)
    axes.plot(places, middle, color=key.colour, marker=key.marker, linestyle=key.dash, label="_medians")


def strength_axis(axes: Axes, places: list[float]) -> None:
    if places[0] > 0 and places[-1] / places[0] >= 30:
        axes.set_xscale("log")
        axes.minorticks_off()
    axes.set_xticks(places, [f"{place:.3g}" for place in places])


def psnr_axis(axes: Axes) -> None:
    """From zero, with the line above which an image counts as leaked, and its name where the least is drawn."""
    low, high = axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    side, below = min(itertools.product((1, 0), (False, True)), key=lambda place: _crowd(axes, *place))
    axes.axhline(LEAKED_PSNR, color=FLOOR, lw=0.8, ls=":", zorder=0.9)
    if not low <= LEAKED_PSNR <= high:  # words are not cut off at the axes: they would stand in another panel
        return
    axes.annotate(
        f"{LEAKED_PSNR:g} dB: leaked",
        (side, LEAKED_PSNR),
        xycoords=("axes fraction", "data"),
        xytext=(3 - 3 * side, -1.5 if below else 1.5),
        textcoords="offset points",
        ha="right" if side else "left",
        va="top" if below else "bottom",
        color=FAINT,
        zorder=0.95,  # below the data
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.4},
    )


def _crowd(axes: Axes, side: int, below: bool) -> int:
    """How much of what is drawn meets the words on the line: at its right end (1) or left (0), above it or below."""
    wide, high = (inches / size for inches, size in zip((15 * CHARACTER, LINE), _inches(axes)))
    level = axes.transAxes.inverted().transform(axes.transData.transform((0, LEAKED_PSNR)))[1]
    left, bottom = side * (1 - wide), level - below * high
    met = 0
    for drawn in [*axes.lines, *(line for bars in axes.collections for line in _segments(bars))]:
        points = drawn if isinstance(drawn, np.ndarray) else drawn.get_xydata()
        x, y = axes.transAxes.inverted().transform(axes.transData.transform(points)).T
        along = np.linspace(0, len(x) - 1, 40 * len(x))  # what lies between two points is drawn as well
        x, y = (np.interp(along, np.arange(len(x)), values) for values in (x, y))
        met += int(((x >= left) & (x <= left + wide) & (y >= bottom) & (y <= bottom + high)).sum())
    return met


def _inches(axes: Axes) -> tuple[float, float]:
    place, figure = axes.get_position(), axes.figure
    width, height = figure.get_size_inches()  # type: ignore[union-attr]
    return place.width * width, place.height * height


def _segments(bars: Collection) -> list[np.ndarray]:
    return list(bars.get_segments()) if isinstance(bars, LineCollection) else []


def whole_decades(values: list[np.ndarray]) -> tuple[float, float]:
    """The powers of ten about positive values: an axis that has a label at each end."""
    positive = np.concatenate([part[part > 0] for part in values])
    if positive.size == 0:
        return 0.1, 1.0
    low, high = np.floor(np.log10(positive.min())), np.ceil(np.log10(positive.max()))
    return float(10**low), float(10 ** max(high, low + 1))
