"""The report's charts, as plotly figures.

The colours tell apart in every kind of colour vision, on light and dark paper; symbols and dashes say the same again.
Text and grid lines get their colours from the page's style sheet, so that they follow the theme.
"""

from __future__ import annotations

import html
import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import plotly.graph_objects as go
import polars as pl

from fedsim.reporting.leaderboard import SETTING
from fedsim.table import LEAKED_PSNR

_COLOURS = ("#2f7fb8", "#d5701c", "#119e77", "#c26fa3", "#c99700", "#7b76c9")  # after Okabe and Ito
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star")
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_FLOOR = "#8a8a84"


def privacy_against_utility(board: pl.DataFrame) -> Iterator[tuple[str, go.Figure]]:
    """Per model: test accuracy under each defense against the median PSNR of the strongest attack without an oracle."""
    known = strongest(board).filter(pl.col("utility").is_not_null())
    places = {label: at for at, label in enumerate(board["defense_label"].unique(maintain_order=True))}
    for _, part in known.group_by(SETTING, maintain_order=True):
        figure = _figure("test accuracy of the global model (%)", "strongest attack, median PSNR (dB)")
        for row in part.to_dicts():
            at = places[row["defense_label"]]
            figure.add_scatter(
                x=[100 * row["utility"]],
                y=[row["psnr"]],
                error_y=_errors([row], _colour(at)),
                mode="markers",
                name=_safe(row["defense_label"]),
                customdata=[_safe(row["attack_label"])],
                hovertemplate="accuracy %{x:.1f} %<br>%{customdata}: %{y:.1f} dB<extra>%{fullData.name}</extra>",
                marker={"color": _colour(at), "symbol": _symbol(at), "size": 10},
            )
        _mark_leak(figure)
        yield part["setting_label"][0], figure


def score_against_dropout(board: pl.DataFrame) -> Iterator[tuple[str, go.Figure]]:
    """Per model: the median PSNR of each attack over the effective dropout rate, where nothing but dropout defends."""
    parts = {text: {part["name"] for part in json.loads(text)} for text in board["defense_params"].unique()}
    only_dropout = [text for text, names in parts.items() if names <= {"none", "dropout"}]
    plain = board.filter(pl.col("defense_params").is_in(only_dropout) & pl.col("psnr").is_not_null())
    plain = plain.unique(["attack_label", "setting_label", "dropout"], keep="first", maintain_order=True)
    for _, part in plain.group_by(SETTING, maintain_order=True):
        if part["dropout"].n_unique() < 2:
            continue
        figure = _figure("dropout rate", "median PSNR (dB)")
        for at, ((label, role), line) in enumerate(part.group_by("attack_label", "role", maintain_order=True)):
            rows = line.sort("dropout").to_dicts()
            colour = _FLOOR if role == "floor" else _colour(at)
            figure.add_scatter(
                x=[row["dropout"] for row in rows],
                y=[row["psnr"] for row in rows],
                error_y=_errors(rows, colour),
                mode="lines+markers",
                name=_safe(label if role == "attack" else f"{label}, {role}"),
                hovertemplate="p = %{x:.2g}: %{y:.1f} dB<extra>%{fullData.name}</extra>",
                line={"color": colour, "dash": _dash(at), "width": 1.5},
                marker={"color": colour, "symbol": _symbol(at), "size": 8},
            )
        figure.update_xaxes(tickvals=sorted(part["dropout"].unique()))
        _mark_leak(figure)
        yield part["setting_label"][0], figure


def accuracy_by_round(history: list[dict[str, Any]], settings: dict[str, str]) -> Iterator[tuple[str, go.Figure]]:
    """Per model: the global model's test accuracy after each round, the mean over the seeds, a line for each defense.

    Args:
        history: per cell its `cell`, `model`, `defense` and `accuracy`, before the first round and after each.
        settings: what the report calls the setting of a cell.
    """
    lines: dict[str, dict[str, list[list[float]]]] = defaultdict(lambda: defaultdict(list))
    for cell in history:
        accuracy = [np.nan if value is None else 100 * value for value in cell["accuracy"]]
        if not np.isnan(accuracy).all():
            lines[settings.get(cell["cell"], cell["model"])][cell["defense"]].append(accuracy)
    for setting, by_defense in lines.items():
        figure = _figure("round", "test accuracy (%)")
        for at, (defense, curves) in enumerate(by_defense.items()):
            length = min(len(curve) for curve in curves)
            mean = np.mean([curve[:length] for curve in curves], axis=0)
            figure.add_scatter(
                x=list(range(length)),
                y=[None if np.isnan(value) else float(value) for value in mean],
                mode="lines+markers",
                name=_safe(defense),
                hovertemplate="round %{x}: %{y:.1f} %<extra>%{fullData.name}</extra>",
                line={"color": _colour(at), "dash": _dash(at), "width": 1.5},
                marker={"color": _colour(at), "symbol": _symbol(at), "size": 7},
            )
        figure.update_xaxes(tickformat="d", dtick=1 if length <= 12 else None)
        yield setting, figure


def strongest(board: pl.DataFrame) -> pl.DataFrame:
    """The attack with the highest median PSNR in each setting under each defense; no oracle, no floor."""
    scored = board.filter((pl.col("role") == "attack") & pl.col("psnr").is_not_null())
    group = [*SETTING, "defense", "defense_params", "dropout"]
    return scored.filter(pl.col("psnr").rank("ordinal", descending=True).over(group) == 1)


def _colour(at: int) -> str:
    return _COLOURS[at % len(_COLOURS)]


def _symbol(at: int) -> str:
    """The next turn of the colours meets other symbols, so that 36 series stay apart."""
    return _SYMBOLS[(at + at // len(_COLOURS)) % len(_SYMBOLS)]


def _dash(at: int) -> str:
    return _DASHES[(at + at // len(_COLOURS)) % len(_DASHES)]


def _figure(x: str, y: str) -> go.Figure:
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


def _mark_leak(figure: go.Figure) -> None:
    figure.add_hline(y=LEAKED_PSNR, line={"color": _FLOOR, "width": 1, "dash": "dot"}, layer="below")
    text = f"{LEAKED_PSNR:g} dB: counted as leaked"
    figure.add_annotation(
        x=1,
        xref="paper",
        y=LEAKED_PSNR,
        text=text,
        showarrow=False,
        xanchor="right",
        yanchor="bottom",
        font={"size": 10},
    )


def _errors(rows: list[dict[str, Any]], colour: str) -> dict[str, Any]:
    """Error bars that reach the ends of the 95 % intervals."""
    spans = [(row["psnr"], row["psnr_low"], row["psnr_high"]) for row in rows]
    return {
        "type": "data",
        "symmetric": False,
        "array": [0 if high is None else high - middle for middle, _, high in spans],
        "arrayminus": [0 if low is None else middle - low for middle, low, _ in spans],
        "color": colour,
        "thickness": 1,
        "width": 3,
    }


def _safe(text: str) -> str:
    """Plotly reads a little HTML in labels; a name is only ever text."""
    return html.escape(text, quote=False)
