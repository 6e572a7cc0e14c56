"""The axes of figures for a paper: their ticks, how far they reach, and medians with intervals on them."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from fedsim.reporting.leaderboard import Row
from fedsim.reporting.paper.style import CHARACTER, FAINT, FLOOR, Key
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
    """From zero, with the line above which an image counts as leaked."""
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.axhline(LEAKED_PSNR, color=FLOOR, lw=0.8, ls=":", zorder=0.9)
    axes.annotate(
        f"{LEAKED_PSNR:g} dB: leaked",
        (1, LEAKED_PSNR),
        xycoords=("axes fraction", "data"),
        xytext=(0, 1.5),
        textcoords="offset points",
        ha="right",
        va="bottom",
        color=FAINT,
        zorder=0.95,  # below the data
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.4},
    )


def whole_decades(values: list[np.ndarray]) -> tuple[float, float]:
    """The powers of ten about positive values: an axis that has a label at each end."""
    positive = np.concatenate([part[part > 0] for part in values])
    if positive.size == 0:
        return 0.1, 1.0
    low, high = np.floor(np.log10(positive.min())), np.ceil(np.log10(positive.max()))
    return float(10**low), float(10 ** max(high, low + 1))
