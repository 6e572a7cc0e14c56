"""What each figure for a paper shows; each function returns the panels of one figure, none where there is no data."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from fedsim.random import rng_for
from fedsim.reporting.leaderboard import DEFENSE, SETTING, Row, rows_of, strongest
from fedsim.reporting.paper import curves
from fedsim.reporting.paper.axes import LABELS, label_room, psnr_axis, strength_axis, whole_decades, with_intervals
from fedsim.reporting.paper.style import FLOOR, LINE, Key, Panel, series, wrapped
from fedsim.reporting.sweeps import frontier, of_answering, strengths, with_utility
from fedsim.table import LEAKED_PSNR

Keys = dict[str, Key]
"""By the attack's label how it is drawn."""


def psnr_by_strength(board: pl.DataFrame, keys: Keys) -> list[Panel]:
    """Each attack's median PSNR with its interval over the dropout rate, and over whatever else was varied."""
    panels = []
    for _, part in board.filter(pl.col("psnr").is_not_null()).group_by(SETTING, maintain_order=True):
        for axis, values in strengths(rows_of(part)):
            lines: dict[Key, dict[float, Row]] = {}
            for value, row in values:  # the first row of a value stands for it
                lines.setdefault(keys[row["attack_label"]], {}).setdefault(value, row)

            def draw(axes: Axes, lines: dict[Key, dict[float, Row]] = lines) -> None:
                for key, line in lines.items():
                    places = sorted(line)
                    with_intervals(axes, places, [line[place] for place in places], key)
                strength_axis(axes, sorted({place for line in lines.values() for place in line}))
                psnr_axis(axes)

            title = "" if axis == "dropout rate" else axis
            label = axis.split(" of ")[0]
            panels.append(
                Panel(part["setting_label"][0], title, label, "median PSNR (dB)", draw, keys=tuple(lines), height=1.75)
            )
    return panels


def privacy_utility(board: pl.DataFrame) -> list[Panel]:
    """Test accuracy under each defense against the strongest attack's median PSNR; the frontier joins the best."""
    defenses = board["defense_label"].unique(maintain_order=True)
    keys = {label: series(label, at, dashed=False) for at, label in enumerate(defenses)}
    panels = []
    known = strongest(board).filter(pl.col("utility").is_not_null())
    for _, part in known.group_by(SETTING, maintain_order=True):
        rows = with_utility(part)
        best = frontier([(utility, row["psnr"]) for utility, row in rows])

        def draw(axes: Axes, rows: list[tuple[float, Row]] = rows, best: list[tuple[float, float]] = best) -> None:
            axes.plot([100 * utility for utility, _ in best], [psnr for _, psnr in best], color=FLOOR, lw=0.8)
            for utility, row in rows:
                with_intervals(axes, [100 * utility], [row], keys[row["defense_label"]])
                if row["utility_low"] is not None and row["utility_high"] is not None:
                    span = [100 * row["utility_low"], 100 * row["utility_high"]]
                    axes.hlines(row["psnr"], *span, color=keys[row["defense_label"]].colour, lw=0.9)
            axes.margins(x=0.08)
            psnr_axis(axes)

        used = tuple(dict.fromkeys(keys[row["defense_label"]] for _, row in rows))
        if len(best) > 1:
            used = (*used, Key("frontier", FLOOR, "", "-"))
        panels.append(
            Panel(
                part["setting_label"][0],
                "",
                "test accuracy of the global model (%)",
                "strongest attack,\nmedian PSNR (dB)",
                draw,
                keys=used,
                height=min(3.2, 1.2 + 0.12 * len(used)),  # of many defenses most lie close together
                left=0.62,
            )
        )
    return panels


def psnr_distribution(rows: pl.DataFrame, keys: Keys) -> list[Panel]:
    """The PSNR of every image that was attacked, a line of points for each attack under each defense; the bar is the
    median.

    Args:
        rows: labelled results.
    """
    scored = of_answering(rows)
    widest = float(scored["psnr"].max() or 0)  # type: ignore[arg-type]
    panels = []
    for _, part in scored.group_by(DEFENSE, maintain_order=True):
        lines = {
            keys[str(label)]: line["psnr"].to_numpy()
            for (label,), line in part.group_by("attack_label", maintain_order=True)
        }
        labels = [wrapped(key.label, LABELS) for key in lines]
        tops = np.cumsum([0.0] + [0.06 + LINE * (label.count("\n") + 1) for label in labels])

        def draw(
            axes: Axes,
            lines: dict[Key, np.ndarray] = lines,
            labels: list[str] = labels,
            tops: np.ndarray = tops,
        ) -> None:
            middles = (tops[:-1] + tops[1:]) / 2
            for (key, values), middle in zip(lines.items(), middles):
                # Points of equal PSNR are spread within the line; by a fixed draw, so that the figure is repeatable.
                spread = rng_for(0, "jitter", series=key.label).uniform(-0.05, 0.05, len(values))
                axes.plot(
                    values,
                    middle + spread,
                    linestyle="none",
                    marker=key.marker,
                    markersize=2.4,
                    color=key.colour,
                    alpha=0.55,
                    markeredgewidth=0,
                    label="_images",
                )
                axes.plot([np.median(values)] * 2, [middle - 0.08, middle + 0.08], color=key.colour, lw=1.6)
            axes.set_yticks(middles, labels, linespacing=1.05)
            axes.set_ylim(tops[-1], 0)
            axes.set_xlim(min(0.0, *(values.min() for values in lines.values())), widest * 1.03)
            axes.tick_params(axis="y", length=0)
            axes.grid(visible=False, axis="y")
            axes.axvline(LEAKED_PSNR, color=FLOOR, lw=0.8, ls=":", zorder=0.9)

        panels.append(
            Panel(
                part["setting_label"][0],
                part["defense_label"][0],
                "PSNR of an image (dB)",
                "",
                draw,
                height=float(tops[-1]),
                left=label_room(labels),
            )
        )
    return panels


def attack_loss(rows: pl.DataFrame, keys: Keys, losses: curves.Losses) -> list[Panel]:
    """The attacks' own loss over the iterations: the median over the victims, and between the quartiles a band.

    Attacks minimise different losses; a lower curve is not a better picture.

    Args:
        rows: labelled results.
    """
    panels = []
    for _, part in rows.filter(pl.col("status") == "ok").group_by(DEFENSE, maintain_order=True):
        found = {
            keys[str(label)]: curves.of_rows(line, losses)
            for (label,), line in part.group_by("attack_label", maintain_order=True)
        }
        lines = {key: curve for key, curve in found.items() if curve is not None}
        if not lines:
            continue

        def draw(axes: Axes, lines: dict[Key, curves.Quartiles] = lines) -> None:
            for key, (iterations, (low, middle, high)) in lines.items():
                axes.plot(iterations, middle, color=key.colour, linestyle=key.dash)
                axes.fill_between(iterations, low, high, color=key.colour, alpha=0.18, linewidth=0)
            axes.set_yscale("log")
            axes.set_ylim(*whole_decades([values for _, values in lines.values()]))
            axes.yaxis.set_major_locator(LogLocator(numticks=5))
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.set_xlim(0, max(iterations[-1] for iterations, _ in lines.values()))

        shown = tuple(Key(key.label, key.colour, "", key.dash) for key in lines)
        panels.append(
            Panel(
                part["setting_label"][0],
                part["defense_label"][0],
                "iteration",
                "attack loss",
                draw,
                keys=shown,
                height=1.4,
                left=0.74,
            )
        )
    return panels


def mask_accuracy(rows: pl.DataFrame, keys: Keys) -> list[Panel]:
    """The share of a layer's mask entries that an attack estimated rightly, the mean over the victims, by layer.

    Args:
        rows: labelled results.
    """
    estimated = rows.filter((pl.col("status") == "ok") & pl.col("mask_accuracy_layers").is_not_null())
    panels = []
    for _, part in estimated.group_by(DEFENSE, maintain_order=True):
        means = {
            keys[str(label)]: _mean_by_layer(line["mask_accuracy_layers"])
            for (label,), line in part.group_by("attack_label", maintain_order=True)
        }
        layers = list(dict.fromkeys(layer for by_layer in means.values() for layer in by_layer))
        if not layers:
            continue

        def draw(axes: Axes, means: dict[Key, dict[str, float]] = means, layers: list[str] = layers) -> None:
            for key, by_layer in means.items():
                places = [layers.index(layer) for layer in by_layer]
                values = [100 * value for value in by_layer.values()]
                axes.plot(values, places, linestyle="none", marker=key.marker, color=key.colour, label="_layers")
            axes.set_yticks(range(len(layers)), [wrapped(layer, LABELS) for layer in layers])
            axes.set_ylim(len(layers) - 0.5, -0.5)
            axes.set_xlim(min(50.0, axes.get_xlim()[0]), 101)
            axes.tick_params(axis="y", length=0)

        shown = tuple(Key(key.label, key.colour, key.marker, "none") for key in means)
        labels = [wrapped(layer, LABELS) for layer in layers]
        height = sum(0.06 + LINE * (label.count("\n") + 1) for label in labels)
        panels.append(
            Panel(
                part["setting_label"][0],
                part["defense_label"][0],
                "mask accuracy (%)",
                "",
                draw,
                keys=shown,
                height=max(height, 0.35),
                left=label_room(labels),
            )
        )
    return panels


def attack_keys(rows: pl.DataFrame) -> Keys:
    """How each attack of the labelled results is drawn, in all figures alike."""
    pairs = rows.select("attack_label", "role").unique("attack_label", maintain_order=True)
    return {label: series(label, at, role=role) for at, (label, role) in enumerate(pairs.iter_rows())}


def _mean_by_layer(texts: pl.Series) -> dict[str, float]:
    by_layer: dict[str, list[float]] = {}
    for text in texts:
        for layer, accuracy in json.loads(text).items():
            by_layer.setdefault(layer, []).append(accuracy)
    return {layer: float(np.mean(values)) for layer, values in by_layer.items()}
