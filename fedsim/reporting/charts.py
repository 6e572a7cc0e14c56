"""The report's charts, as plotly figures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import plotly.graph_objects as go
import polars as pl

from fedsim.reporting.chart_style import (
    FLOOR,
    colour_of,
    dash_of,
    empty_figure,
    errors,
    mark,
    mark_leak,
    safe,
    symbol_of,
    with_room_for_legend,
)
from fedsim.reporting.leaderboard import DEFENSE, SETTING, Row, rows_of, strongest
from fedsim.reporting.sweeps import Strength, frontier, of_answering, strengths, with_utility
from fedsim.runs.results import History
from fedsim.table import LEAKED_PSNR


def privacy_against_utility(board: pl.DataFrame) -> Iterator[tuple[str, go.Figure]]:
    """Per model: test accuracy under each defense against the median PSNR of the strongest attack without an oracle.

    The frontier joins the defenses that no other beats in both.
    """
    known = strongest(board).filter(pl.col("utility").is_not_null())
    places = {label: at for at, label in enumerate(board["defense_label"].unique(maintain_order=True))}
    for _, part in known.group_by(SETTING, maintain_order=True):
        figure = empty_figure("test accuracy of the global model (%)", "strongest attack, median PSNR (dB)")
        rows = with_utility(part)
        best = frontier([(utility, row["psnr"]) for utility, row in rows])
        figure.add_scatter(
            x=[100 * utility for utility, _ in best],
            y=[psnr for _, psnr in best],
            mode="lines",
            name="frontier",
            line={"color": FLOOR, "width": 1.5, "dash": "dot"},
            hoverinfo="skip",
        )
        for utility, row in rows:
            at = places[row["defense_label"]]
            figure.add_scatter(
                x=[100 * utility],
                y=[row["psnr"]],
                error_x=errors([row], colour_of(at), "utility", 100),
                error_y=errors([row], colour_of(at)),
                mode="markers",
                name=safe(row["defense_label"]),
                customdata=[safe(row["attack_label"])],
                hovertemplate="accuracy %{x:.1f} %<br>%{customdata}: %{y:.1f} dB<extra>%{fullData.name}</extra>",
                marker={"color": colour_of(at), "symbol": symbol_of(at), "size": 10},
            )
        mark_leak(figure)
        yield part["setting_label"][0], with_room_for_legend(figure)


def score_distribution(rows: pl.DataFrame) -> Iterator[tuple[str, str, go.Figure]]:
    """Per model and defense: the PSNR of every image that was attacked, a box with its points for each attack; an image
    without an answer counts with the floor's score.

    Args:
        rows: labelled results.

    Yields:
        The model, the defense and the figure.
    """
    scored = of_answering(rows).with_columns(pl.col("psnr").round(2))
    places = {label: at for at, label in enumerate(rows["attack_label"].unique(maintain_order=True))}
    furthest = dict(scored.group_by("setting_label").agg(pl.col("psnr").max()).iter_rows())
    for _, part in scored.group_by(DEFENSE, maintain_order=True):
        figure = empty_figure("PSNR of an image (dB)", "")
        lines = list(part.group_by("attack_label", "role", maintain_order=True))
        for (label, role), line in reversed(lines):  # the first one stands at the top
            colour = FLOOR if role == "floor" else colour_of(places[str(label)])
            values = line["psnr"].to_list()
            name = str(label) if role == "attack" else f"{label}, {role}"
            box = {"x": values, "boxpoints": "all"} if len(values) <= MOST_POINTS else _quartiles(values)
            figure.add_box(
                **box,
                y0=safe(name),
                name=safe(name),
                orientation="h",
                jitter=0.5,
                pointpos=0,
                marker={"color": colour, "size": 4, "opacity": 0.6},
                line={"color": colour, "width": 1.25},
                fillcolor="rgba(0,0,0,0)",
                hoveron="points" if "x" in box else "boxes",
                hovertemplate="%{x:.1f} dB<extra>%{fullData.name}</extra>",
            )
        figure.update_layout(showlegend=False, height=84 + 36 * len(lines))
        figure.update_yaxes(automargin=True, tickfont={"size": 11}, rangemode="normal")
        lowest = min(0.0, float(part["psnr"].min()))  # type: ignore[arg-type]
        figure.update_xaxes(range=[lowest, 1.04 * furthest[part["setting_label"][0]]])  # one scale for a model
        figure.add_vline(x=LEAKED_PSNR, line={"color": FLOOR, "width": 1, "dash": "dot"}, layer="below")
        yield part["setting_label"][0], part["defense_label"][0], figure


MOST_POINTS = 300
"""Images of one attack that are drawn as points; of more, the box alone."""


def _quartiles(values: list[float]) -> dict[str, Any]:
    """A box without its points; the whiskers end at the furthest value within 1.5 lengths of the box, as plotly's."""
    low, middle, high = (float(value) for value in np.percentile(values, [25, 50, 75]))
    reach = 1.5 * (high - low)
    return {
        "q1": [low],
        "median": [middle],
        "q3": [high],
        "lowerfence": [min(value for value in values if value >= low - reach)],
        "upperfence": [max(value for value in values if value <= high + reach)],
    }


def score_against_strength(board: pl.DataFrame) -> Iterator[tuple[str, str, go.Figure]]:
    """Per model: the median PSNR of each attack over whatever sets a defense's strength and varies in this run.

    First the effective dropout rate, where nothing but dropout defends; then each numeric parameter of a defense that
    takes several values while the rest of the defense stays the same; then epsilon, where it is known.

    Yields:
        The model, what varies, and the figure.
    """
    scored = board.filter(pl.col("psnr").is_not_null())
    places = {label: at for at, label in enumerate(board["attack_label"].unique(maintain_order=True))}
    for _, part in scored.group_by(SETTING, maintain_order=True):
        undefended = strongest(part.filter("baseline"))["psnr"].max()
        for axis, values in strengths(rows_of(part)):
            figure = _strength(axis, values, places)
            if undefended is not None and axis != "dropout rate":
                mark(figure, float(undefended), "strongest attack without a defense")  # type: ignore[arg-type]
            yield part["setting_label"][0], axis, figure


def _strength(axis: str, values: Strength, places: dict[str, int]) -> go.Figure:
    figure = empty_figure(safe(axis), "median PSNR (dB)")
    lines: dict[tuple[str, str], dict[float, Row]] = {}
    for value, row in values:  # the first row of a value stands for it
        lines.setdefault((row["attack_label"], row["role"]), {}).setdefault(value, row)
    for (label, role), line in lines.items():
        xs = sorted(line)
        at = places[label]
        colour = FLOOR if role == "floor" else colour_of(at)
        figure.add_scatter(
            x=xs,
            y=[line[x]["psnr"] for x in xs],
            error_y=errors([line[x] for x in xs], colour),
            mode="lines+markers",
            name=safe(label if role == "attack" else f"{label}, {role}"),
            hovertemplate="%{x:.3g}: %{y:.1f} dB<extra>%{fullData.name}</extra>",
            line={"color": colour, "dash": dash_of(at), "width": 1.5},
            marker={"color": colour, "symbol": symbol_of(at), "size": 8},
        )
    xs = sorted({value for value, _ in values})
    far = xs[0] > 0 and xs[-1] / xs[0] >= 30
    figure.update_xaxes(type="log" if far else "linear", tickvals=xs, ticktext=[f"{x:.3g}" for x in xs])
    mark_leak(figure)
    return with_room_for_legend(figure)


def accuracy_by_round(history: list[History], settings: dict[str, str]) -> Iterator[tuple[str, go.Figure]]:
    """Per model: the global model's test accuracy after each round, the mean over the seeds, a line for each defense.

    Args:
        settings: what the report calls the setting of a cell.
    """
    lines: dict[str, dict[str, list[list[float]]]] = defaultdict(lambda: defaultdict(list))
    for cell in history:
        accuracy = [np.nan if value is None else 100 * value for value in cell.accuracy]
        if not np.isnan(accuracy).all():
            lines[settings.get(cell.cell, cell.model)][cell.defense].append(accuracy)
    for setting, by_defense in lines.items():
        figure = empty_figure("round", "test accuracy (%)")
        for at, (defense, curves) in enumerate(by_defense.items()):
            length = min(len(curve) for curve in curves)
            mean = np.mean([curve[:length] for curve in curves], axis=0)
            figure.add_scatter(
                x=list(range(length)),
                y=[None if np.isnan(value) else float(value) for value in mean],
                mode="lines+markers",
                name=safe(defense),
                hovertemplate="round %{x}: %{y:.1f} %<extra>%{fullData.name}</extra>",
                line={"color": colour_of(at), "dash": dash_of(at), "width": 1.5},
                marker={"color": colour_of(at), "symbol": symbol_of(at), "size": 7},
            )
        figure.update_xaxes(tickformat="d", dtick=1 if length <= 12 else None)
        yield setting, with_room_for_legend(figure)
