"""The defense evaluation report: one HTML file that holds everything and asks the network for nothing."""

from __future__ import annotations

import io
import json
from importlib.resources import files
from typing import Any, TypeVar

import numpy as np
import plotly.graph_objects as go
import polars as pl
from markupsafe import Markup
from ruamel.yaml import YAML

from fedsim.reporting import charts, prose
from fedsim.reporting import formats as f
from fedsim.reporting.advice import advise
from fedsim.reporting.diagram import diagrams
from fedsim.reporting.gallery import Panel, Pictures, panels
from fedsim.reporting.leaderboard import build, labelled
from fedsim.reporting.leaderboard.views import Section, few_clients, sections
from fedsim.reporting.naming import spoken
from fedsim.reporting.pages import environment
from fedsim.reporting.sentences import sentences
from fedsim.reporting.strips import strip
from fedsim.reporting.verdicts import Verdict, of_another_form, verdicts
from fedsim.runs.reading import Missing
from fedsim.runs.results import History
from fedsim.scoring import intervals

VICTIMS = 8
"""Pictures in a row, at most; and victims of a panel, unless every one is asked for."""

FOLDED = 12
"""Above so many models and defenses, the long sections are folded by model."""


def html(
    results: pl.DataFrame,
    pictures: Pictures,
    *,
    scenario: dict[str, Any],
    history: list[History],
    command: str,
    versions: dict[str, str],
    missing: Missing | None = None,
    every_victim: bool = False,
    noted: str = "",
) -> str:
    """The report as one self-contained page.

    Args:
        results: rows of `fedsim.table.SCHEMA`; may be empty.
        pictures: where a job's pictures are; a job without pictures leaves gaps.
        scenario: the scenario as plain data.
        history: how the cells' global models learnt.
        command: what repeats the run.
        versions: of fedsim, of Python and of the packages that matter.
        missing: what the run has not done yet; nothing if None.
        every_victim: show the pictures of all victims, not of eight.
        noted: the run's tags and note.
    """
    board = build(results)
    rows = labelled(results) if len(results) else results
    settings = dict(rows.select("cell", "setting_label").iter_rows()) if len(results) else {}
    judged = verdicts(board)
    general, exceptions = prose.threat_model(board)
    by_round = list(charts.accuracy_by_round(history, settings))
    shown = list(sections(board))
    return environment().get_template("report.html.j2").render(
        scenario=scenario,
        noted=noted,
        headline=prose.headline(scenario.get("description") or scenario["name"]),
        empty=results.is_empty(),
        missing_work=missing,
        advice=advise(board, judged),
        answer=prose.answer(judged, failed=int(board["failed"].sum())),
        judged=judged,
        sentences=sentences(board, judged),
        few=_few(board),
        seeds_of_utility=_seeds_of_utility(judged),
        other_forms=list(dict.fromkeys(filter(None, (of_another_form(verdict.best) for verdict in judged)))),
        threats=general,
        exceptions=exceptions,
        drawings=diagrams(prose.knowledge(board), _update_kinds(results)) if len(results) else (),
        panels=_by_setting(list(panels(rows, pictures, victims=None if every_victim else VICTIMS))),
        victims=VICTIMS,
        every_victim=every_victim,
        strip=strip,
        sections=_by_setting(shown),
        folded=len(shown) > FOLDED,
        missing=_missing(board),
        privacy=list(charts.privacy_against_utility(board)),
        accounted=_accounted(board, history),
        strengths=list(charts.score_against_strength(board)),
        distributions=_distributions(rows),
        most_points=charts.MOST_POINTS,
        masks=_mask_accuracy(rows, board),
        by_round=by_round,
        attacks=_parameters(results),
        counts=dict(results["status"].value_counts(sort=True).iter_rows()) if len(results) else {},
        seeds=sorted(results["seed"].unique()),
        devices=sorted(results["device"].drop_nulls().unique()),
        scenario_text=_yaml(scenario),
        command=command,
        versions=versions,
        plotly=_script(_plotly()) if len(results) else None,
        figure_json=_figure_json,
    )  # fmt: skip


Member = TypeVar("Member", Panel, Section)


def _by_setting(members: list[Member]) -> dict[str, list[Member]]:
    """Panels or sections of the leaderboard by their model, in their order."""
    found: dict[str, list[Member]] = {}
    for member in members:
        found.setdefault(member.setting, []).append(member)
    return found


def _distributions(rows: pl.DataFrame) -> dict[str, list[tuple[str, go.Figure]]]:
    found: dict[str, list[tuple[str, go.Figure]]] = {}
    for setting, defense, figure in charts.score_distribution(rows) if len(rows) else ():
        found.setdefault(setting, []).append((defense, figure))
    return found


def _update_kinds(results: pl.DataFrame) -> list[str]:
    return sorted(results["update_kind"].drop_nulls().unique())


def _plotly() -> str:
    """plotly.js with few chart types, these among them: a third of the library, which takes a browser 2 s to start."""
    return files("fedsim").joinpath("assets/plotly-cartesian.min.js").read_text(encoding="utf-8")


def _script(source: str) -> Markup:
    """A library as text that may stand in a script element."""
    return Markup(source.replace("</script", "<\\/script"))


def _figure_json(figure: go.Figure) -> Markup:
    """A figure as JSON that may stand inside a script element: no `<` can end the element early."""
    return Markup(figure.to_json().replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _missing(board: pl.DataFrame) -> list[tuple[str, list[str]]]:
    """What did not apply or failed and why, each with the models and defenses where that was so."""
    places: dict[str, list[str]] = {}
    for section in sections(board):
        for remark in section.remarks():
            places.setdefault(remark, []).append(f"{section.setting}, {section.defense}")
    return list(places.items())


def _accounted(board: pl.DataFrame, history: list[History]) -> list[dict[str, Any]]:
    """The differential-privacy guarantees, with the assumption that each was computed under."""
    notes = {cell.defense: cell.accounting_note for cell in history}
    entries = board.filter(pl.col("epsilon").is_not_null()).unique(
        ["setting_label", "defense_label"], maintain_order=True
    )
    return [
        row | {"note": notes.get(row["defense"], ""), "similar": _similar(board, row)} for row in entries.to_dicts()
    ]


def _similar(board: pl.DataFrame, under: dict[str, Any]) -> str:
    """How many images an attack rebuilt to an SSIM of 0.6, and which attack: the one that did so with most of them."""
    here = board.filter(
        (pl.col("setting_label") == under["setting_label"])
        & (pl.col("defense_label") == under["defense_label"])
        & (pl.col("role") != "floor")
        & pl.col("leaked_ssim").is_not_null()
    )
    if here.is_empty():
        return f.NONE
    most = here.sort("leaked_ssim", descending=True, maintain_order=True).row(0, named=True)
    if not most["leaked_ssim"]:
        return f"none of {f.images(most['n'])}"
    return f"{round(most['leaked_ssim'] * most['n'])} of {f.images(most['n'])}, by {spoken(most['attack_label'])}"


def _few(board: pl.DataFrame) -> list[str]:
    """What intervals of fewer than six clients are, once for each number of clients."""
    few = board.filter((pl.col("answered") > 0) & (pl.col("level").fill_null(0.0) < intervals.LEVEL))
    return [few_clients(*row) for row in few.select("clients", "level").unique(maintain_order=True).iter_rows()]


def _seeds_of_utility(judged: list[Verdict]) -> str:
    """Over what the intervals of test accuracies are; nothing where there is no accuracy."""
    seeds = sorted({verdict.best["utility_seeds"] for verdict in judged if verdict.best["utility"] is not None})
    if not seeds:
        return ""
    if seeds == [1]:
        return "Intervals of test accuracy are over test images alone: it was measured with one seed."
    number = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    alone = "; with one seed over test images alone" if seeds[0] == 1 else ""
    return f"Intervals of test accuracy are over seeds ({number}) and test images{alone}."


def _mask_accuracy(rows: pl.DataFrame, board: pl.DataFrame) -> list[dict[str, Any]]:
    """The mean accuracy of the estimated masks by layer, for each attack that estimated any."""
    if board.is_empty():
        return []
    found = []
    for row in board.filter(pl.col("mask_accuracy").is_not_null()).to_dicts():
        own = rows.filter(
            (pl.col("setting_label") == row["setting_label"])
            & (pl.col("defense_label") == row["defense_label"])
            & (pl.col("attack_label") == row["attack_label"])
        )
        by_layer: dict[str, list[float]] = {}
        for text in own["mask_accuracy_layers"].drop_nulls():
            for layer, accuracy in json.loads(text).items():
                by_layer.setdefault(layer, []).append(accuracy)
        guess = max(row["dropout"], 1 - row["dropout"]) if row["dropout"] else None
        layers = {layer: float(np.mean(values)) for layer, values in by_layer.items()}
        found.append(row | {"layers": layers, "guess": guess})
    return found


def _parameters(results: pl.DataFrame) -> list[tuple[str, dict[str, Any]]]:
    """Each attack with the parameters it ran with."""
    pairs = results.select("attack", "attack_params").unique(maintain_order=True).iter_rows()
    return [(name, json.loads(params)) for name, params in pairs]


def _yaml(scenario: dict[str, Any]) -> str:
    stream = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.representer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # the scenario's own order
    yaml.dump(scenario, stream)
    return stream.getvalue()
