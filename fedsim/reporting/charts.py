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

from fedsim.reporting.leaderboard import DEFENSE, SETTING, strongest
from fedsim.scoring.summary import counted
from fedsim.table import LEAKED_PSNR

COLOURS = ("#2f7fb8", "#d5701c", "#119e77", "#c26fa3", "#c99700", "#7b76c9")  # after Okabe and Ito
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star")
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_FLOOR = "#8a8a84"


def privacy_against_utility(board: pl.DataFrame) -> Iterator[tuple[str, go.Figure]]:
    """Per model: test accuracy under each defense against the median PSNR of the strongest attack without an oracle.

    The frontier joins the defenses that no other beats in both.
    """
    known = strongest(board).filter(pl.col("utility").is_not_null())
    places = {label: at for at, label in enumerate(board["defense_label"].unique(maintain_order=True))}
    for _, part in known.group_by(SETTING, maintain_order=True):
        figure = _figure("test accuracy of the global model (%)", "strongest attack, median PSNR (dB)")
        best = frontier([(row["utility"], row["psnr"]) for row in part.to_dicts()])
        figure.add_scatter(
            x=[100 * utility for utility, _ in best],
            y=[psnr for _, psnr in best],
            mode="lines",
            name="frontier",
            line={"color": _FLOOR, "width": 1.5, "dash": "dot"},
            hoverinfo="skip",
        )
        for row in part.to_dicts():
            at = places[row["defense_label"]]
            figure.add_scatter(
                x=[100 * row["utility"]],
                y=[row["psnr"]],
                error_x=_errors([row], _colour(at), "utility", 100),
                error_y=_errors([row], _colour(at)),
                mode="markers",
                name=_safe(row["defense_label"]),
                customdata=[_safe(row["attack_label"])],
                hovertemplate="accuracy %{x:.1f} %<br>%{customdata}: %{y:.1f} dB<extra>%{fullData.name}</extra>",
                marker={"color": _colour(at), "symbol": _symbol(at), "size": 10},
            )
        _mark_leak(figure)
        yield part["setting_label"][0], _with_room_for_legend(figure)


def frontier(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The (utility, leak) pairs that no other pair beats: more utility, or less leak, and neither worse."""
    kept: list[tuple[float, float]] = []
    for utility, leak in sorted(set(points), key=lambda point: (-point[0], point[1])):
        if not kept or leak < kept[-1][1]:
            kept.append((utility, leak))
    return kept[::-1]


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
        figure = _figure("PSNR of an image (dB)", "")
        lines = list(part.group_by("attack_label", "role", maintain_order=True))
        for (label, role), line in reversed(lines):  # the first one stands at the top
            colour = _FLOOR if role == "floor" else _colour(places[str(label)])
            values = line["psnr"].to_list()
            name = str(label) if role == "attack" else f"{label}, {role}"
            box = {"x": values, "boxpoints": "all"} if len(values) <= MOST_POINTS else _quartiles(values)
            figure.add_box(
                **box,
                y0=_safe(name),
                name=_safe(name),
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
        figure.add_vline(x=LEAKED_PSNR, line={"color": _FLOOR, "width": 1, "dash": "dot"}, layer="below")
        yield part["setting_label"][0], part["defense_label"][0], figure


def of_answering(rows: pl.DataFrame) -> pl.DataFrame:
    """Every image that was attacked, with a score, of the attacks that have answered any under a defense."""
    scored = counted(rows).filter(~pl.col("development") & pl.col("psnr").is_not_null())
    return scored.filter(pl.col("answered").any().over([*DEFENSE, "attack_label"]))


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
        for axis, values in strengths(part.to_dicts()):
            figure = _strength(axis, values, places)
            if undefended is not None and axis != "dropout rate":
                _mark(figure, float(undefended), "strongest attack without a defense")  # type: ignore[arg-type]
            yield part["setting_label"][0], axis, figure


Strength = list[tuple[float, dict[str, Any]]]
"""Rows of a board, each with the strength of its defense."""


def strengths(rows: list[dict[str, Any]]) -> Iterator[tuple[str, Strength]]:
    parts = [[part for part in json.loads(row["defense_params"]) if part["name"] != "none"] for row in rows]
    plain = [(row["dropout"] or 0.0, row) for row, own in zip(rows, parts) if {p["name"] for p in own} <= {"dropout"}]
    sweeps: dict[str, Strength] = {"dropout rate": plain}
    for row, own in zip(rows, parts):
        for at, part in enumerate(own):
            for key, value in part.items():
                if isinstance(value, int | float) and not isinstance(value, bool) and part["name"] != "dropout":
                    rest = [{k: v for k, v in p.items() if (i, k) != (at, key)} for i, p in enumerate(own)]
                    others = [_described(p) for i, p in enumerate(rest) if i != at]
                    fixed = {k: v for k, v in rest[at].items() if k != "name"}
                    where = _described({"name": part["name"], **fixed})
                    axis = f"{key} of {' + '.join([where, *others])}"
                    sweeps.setdefault(axis, []).append((float(value), row))
    private = [(row, own) for row, own in zip(rows, parts) if row["epsilon"] is not None]
    for row, own in private:
        sweeps.setdefault(f"ε of {' + '.join(p['name'] for p in own)}", []).append((row["epsilon"], row))
    for axis, values in sweeps.items():
        finite = [(value, row) for value, row in values if np.isfinite(value)]
        if len({value for value, _ in finite}) > 1:
            yield axis, finite


def _described(part: dict[str, Any]) -> str:
    params = ", ".join(f"{key}={value}" for key, value in part.items() if key != "name")
    return f"{part['name']} ({params})" if params else str(part["name"])


def _strength(axis: str, values: Strength, places: dict[str, int]) -> go.Figure:
    figure = _figure(_safe(axis), "median PSNR (dB)")
    lines: dict[tuple[str, str], dict[float, dict[str, Any]]] = {}
    for value, row in values:  # the first row of a value stands for it
        lines.setdefault((row["attack_label"], row["role"]), {}).setdefault(value, row)
    for (label, role), line in lines.items():
        xs = sorted(line)
        at = places[label]
        colour = _FLOOR if role == "floor" else _colour(at)
        figure.add_scatter(
            x=xs,
            y=[line[x]["psnr"] for x in xs],
            error_y=_errors([line[x] for x in xs], colour),
            mode="lines+markers",
            name=_safe(label if role == "attack" else f"{label}, {role}"),
            hovertemplate="%{x:.3g}: %{y:.1f} dB<extra>%{fullData.name}</extra>",
            line={"color": colour, "dash": _dash(at), "width": 1.5},
            marker={"color": colour, "symbol": _symbol(at), "size": 8},
        )
    xs = sorted({value for value, _ in values})
    far = xs[0] > 0 and xs[-1] / xs[0] >= 30
    figure.update_xaxes(type="log" if far else "linear", tickvals=xs, ticktext=[f"{x:.3g}" for x in xs])
    _mark_leak(figure)
    return _with_room_for_legend(figure)


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
        yield setting, _with_room_for_legend(figure)


def _colour(at: int) -> str:
    return COLOURS[at % len(COLOURS)]


def _symbol(at: int) -> str:
    """The next turn of the colours meets other symbols, so that 36 series stay apart."""
    return _SYMBOLS[(at + at // len(COLOURS)) % len(_SYMBOLS)]


def _dash(at: int) -> str:
    return _DASHES[(at + at // len(COLOURS)) % len(_DASHES)]


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


def _with_room_for_legend(figure: go.Figure) -> go.Figure:
    """A long legend makes the figure taller, not the plot smaller: about two entries stand in a line of it."""
    return figure.update_layout(height=360 + 10 * max(2, len(figure.data)))


def _mark_leak(figure: go.Figure) -> None:
    _mark(figure, LEAKED_PSNR, f"{LEAKED_PSNR:g} dB: counted as leaked")


def _mark(figure: go.Figure, y: float, text: str) -> None:
    figure.add_hline(y=y, line={"color": _FLOOR, "width": 1, "dash": "dot"}, layer="below")
    place = {"x": 1, "xref": "paper", "y": y, "xanchor": "right", "yanchor": "bottom"}
    figure.add_annotation(**place, text=text, showarrow=False, font={"size": 10})


def _errors(rows: list[dict[str, Any]], colour: str, name: str = "psnr", scale: float = 1) -> dict[str, Any]:
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


def _safe(text: str) -> str:
    """Plotly reads a little HTML in labels; a name is only ever text."""
    return html.escape(text, quote=False)
