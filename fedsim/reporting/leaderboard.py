"""The leaderboard: how well each attack did on each model under each defense, and which attacks beat which.

Attacks are ranked among those that were granted the same, on the same model under the same defense, by their median
PSNR. An attack's rank is one more than the number of attacks that clearly beat it: whose 95 % interval lies wholly
above its own. Attacks with overlapping intervals therefore tie. Oracles (given what no real server has) and floors (the
null attacks) stand in the table without a rank.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import polars as pl
from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fedsim.reporting import formats as f
from fedsim.reporting.naming import defense_label, distinguished, is_floor
from fedsim.reporting.pages import environment
from fedsim.reporting.ranking import ranks
from fedsim.scoring.summary import RATES, summarise
from fedsim.table import SCHEMA
from fedsim.version import __version__

THREAT = [name for name in SCHEMA if name.startswith("threat_")]
_OBSERVED = ["threat_client_mode", "threat_batch_norm"]
"""Threat-model fields that are read off an observation; a client that sent none has only defaults there."""

SETTING = ["dataset", "model", "setting_params", "batch_size", "local_steps", "update_kind"]
DEFENSE = [*SETTING, "dropout", "defense", "defense_params"]
_RANKED_AMONG = [*DEFENSE, *THREAT]
ROW = [*_RANKED_AMONG, "attack", "attack_params"]

_MEDIANS = ["psnr", "ssim", "lpips", "mask_accuracy"]
_LABELS = ["setting_label", "defense_label", "attack_label"]
_INTERVALS = [name for value in (*_MEDIANS, *RATES) for name in (value, f"{value}_low", f"{value}_high")]
COLUMNS: dict[str, type[pl.DataType]] = {
    **dict.fromkeys(_LABELS, pl.String),
    "role": pl.String,  # attack | oracle | floor
    "rank": pl.Int64,
    "tied": pl.Boolean,
    **dict.fromkeys(_INTERVALS, pl.Float64),  # medians and rates, with the ends of their 95 % intervals
    "label_accuracy": pl.Float64,  # of the labels that the attack answered, each matched to its image
    "iterations": pl.Float64,  # median
    "seconds": pl.Float64,  # median, per victim
    "utility": pl.Float64,  # mean over the seeds
    "epsilon": pl.Float64,  # the largest of the seeds'
    "delta": pl.Float64,
    "n": pl.Int64,  # images scored
    "not_applicable": pl.Int64,
    "failed": pl.Int64,
    "reason": pl.String,  # the commonest one, of the failures if there are any
    "stages": pl.String,  # which stages of a cascade answered: `patch_embedding (4 images)`
    **{name: SCHEMA.get(name, pl.String) for name in ROW},
}


def build(results: pl.DataFrame) -> pl.DataFrame:
    """Summarise results into one row per dataset, model, defense, threat model and attack; columns are `COLUMNS`.

    Args:
        results: rows of `fedsim.table.SCHEMA`, of one run or of several. Work that two runs share counts once.
    """
    if results.is_empty():
        return pl.DataFrame(schema=COLUMNS)
    rows = labelled(results)
    scored = pl.col("status") == "ok"
    board = (
        rows.group_by(ROW, maintain_order=True)
        .agg(
            *(pl.col(name).first() for name in (*_LABELS, "role")),
            pl.col("label_correct").filter(scored).mean().alias("label_accuracy"),
            *(pl.col(name).filter(scored).median() for name in ("iterations", "seconds")),
            pl.col("utility").filter(pl.col("cell").is_first_distinct()).mean(),
            pl.col("epsilon").max(),
            pl.col("delta").max(),
            pl.coalesce(_commonest_reason("failed"), _commonest_reason("not_applicable")).alias("reason"),
            pl.col("stage").filter(scored).drop_nulls().alias("stages"),
        )
        .with_columns(pl.col("stages").map_elements(_counted, return_dtype=pl.String))
        .join(summarise(rows, by=ROW, values=_MEDIANS), on=ROW, how="left", nulls_equal=True, maintain_order="left")
    )
    return _ranked(board).select(pl.col(name).cast(dtype) for name, dtype in COLUMNS.items())


def _counted(stages: pl.Series) -> str | None:
    """`cut (3 images), first_linear (1 image)`, the commonest first; None where there are none."""
    counts = stages.value_counts(sort=True).sort("count", stages.name, descending=[True, False])
    return ", ".join(f"{stage} ({_images(count)})" for stage, count in counts.iter_rows()) or None


def _stage(attack: str, details: str | None) -> str | None:
    """Which other attack answered in the place of this one."""
    stage = json.loads(details or "{}").get("stage")
    return stage if isinstance(stage, str) and stage != attack else None


def _commonest_reason(status: str) -> pl.Expr:
    return pl.col("reason").filter(pl.col("status") == status).drop_nulls().mode().sort().first()


def labelled(results: pl.DataFrame) -> pl.DataFrame:
    """The results, each row once and in their order, with its role and the labels by which reports name it."""
    rows = _threat_of_failed(results).with_columns(
        setting_params=pl.col("model_params").map_elements(_without_dropout, return_dtype=pl.String)
    )
    identity = [*ROW, "cell", "seed", "round", "client", "sample"]
    rows = rows.unique(identity, keep="first", maintain_order=True)
    grants = _grants_that_vary(rows)
    return rows.with_columns(
        setting_label=_setting_labels(rows),
        defense_label=_each(rows, ["defense", "dropout"], defense_label),
        stage=_each(rows, ["attack", "details"], _stage),
        attack_label=_named(rows, "attack", "attack_params") + _each(rows, grants, partial(_grants_text, grants)),
        role=pl.when(pl.col("attack").is_in([name for name in rows["attack"].unique() if is_floor(name)]))
        .then(pl.lit("floor"))
        .when("oracle")
        .then(pl.lit("oracle"))
        .otherwise(pl.lit("attack")),
    )


def terminal(board: pl.DataFrame) -> Table:
    """The leaderboard for a terminal. 100 columns hold it all; a narrower one does without some scores."""
    page = Table.grid(padding=(0, 0))
    if board.is_empty():
        page.add_row(Text("The leaderboard is empty: there are no results yet.", style="italic"))
        return page
    columns = [column for column in _TERMINAL if board[column.needs].is_not_null().any()]
    width = max(len(str(label)) + len(_tag(role)) for label, role in board.select("attack_label", "role").iter_rows())
    for group in groups(board):
        page.add_row(Text.assemble((group.setting, "bold"), "   ", (group.defense, "bold cyan"), overflow="fold"))
        page.add_row(_GroupTable(group, columns, min(width, 36)))
        for remark in group.answered() + group.remarks():
            page.add_row(Padding(Text(remark, style="dim"), (0, 0, 0, 4)))
        page.add_row("")
    page.add_row(Text(_LEGEND, style="dim"))
    return page


_LEGEND = (
    "Medians with 95 % intervals. A rank with = is a tie: neither interval lies wholly above the other.\n"
    "oracle: was given what no real server has. floor: never looks at the update."
)


class _Column(NamedTuple):
    heading: str
    width: int
    needs: str  # the column of the board without which it is left out
    text: Callable[[dict[str, Any]], str]


_TERMINAL = [
    _Column("PSNR dB", 7, "attack", lambda row: f.decibel(row["psnr"])),
    _Column("95 %", 11, "psnr_low", lambda row: f.interval(row["psnr_low"], row["psnr_high"], 1)),
    _Column(">19 dB", 6, "leaked_psnr", lambda row: f.percent(row["leaked_psnr"])),
    _Column("SSIM", 5, "ssim", lambda row: f.number(row["ssim"], 2)),
    _Column("LPIPS", 5, "lpips", lambda row: f.number(row["lpips"], 2)),
    _Column("labels", 6, "label_accuracy", lambda row: f.percent(row["label_accuracy"])),
    _Column("masks", 5, "mask_accuracy", lambda row: f.percent(row["mask_accuracy"])),
    _Column("iter.", 6, "iterations", lambda row: f.count(row["iterations"])),
    _Column("s", 6, "seconds", lambda row: f.seconds(row["seconds"])),
    _Column("n", 4, "n", lambda row: f.count(row["n"])),
]


_FIRST_TO_GO = ("LPIPS", "labels", "iter.", "s", "masks", "SSIM")
"""The columns that a narrow terminal does without, in this order."""


@dataclass(frozen=True)
class _GroupTable:
    """The table of one group, with the columns that the terminal has room for."""

    group: Group
    columns: list[_Column]
    label_width: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns = list(self.columns)
        for heading in _FIRST_TO_GO:
            if 4 + self.label_width + sum(column.width + 1 for column in columns) > options.max_width:
                columns = [column for column in columns if column.heading != heading]
        table = Table(box=None, padding=(0, 1), collapse_padding=True, pad_edge=False, header_style="dim")
        table.add_column("", justify="right", min_width=3)
        table.add_column("attack", width=self.label_width, overflow="fold")
        for column in columns:
            table.add_column(column.heading, justify="right", min_width=column.width, no_wrap=True)
        for row in self.group.rows:
            if row["n"]:
                label = Text(str(row["attack_label"])).append(_tag(str(row["role"])), style="italic")
                cells = [Text(column.text(row)) for column in columns]
                style = "" if row["role"] == "attack" else "dim"
                table.add_row(Text(f.rank_text(row["rank"], bool(row["tied"]))), label, *cells, style=style)
        yield table


def _tag(role: str) -> str:
    return "" if role == "attack" else f" {role}"


@dataclass(frozen=True)
class Group:
    """The rows of one model under one defense, best first."""

    setting: str
    defense: str
    rows: list[dict[str, Any]]

    def answered(self) -> list[str]:
        """Who answered for the attacks that are made of others, one line for each."""
        return [f"{row['attack_label']}: answered by {row['stages']}" for row in self.rows if row["stages"]]

    def remarks(self) -> list[str]:
        """Why attacks have no score for some images or all, one line for each reason."""
        named: dict[tuple[str, str], list[str]] = {}
        for row in self.rows:
            if row["reason"] is not None:
                what = (
                    f"failed for {_images(row['failed'])}"
                    if row["failed"]
                    else (f"not applicable to {_images(row['not_applicable'])}")
                )
                named.setdefault((what, row["reason"]), []).append(row["attack_label"])
        return [f"{', '.join(sorted(names))}: {what}: {reason}" for (what, reason), names in named.items()]


def groups(board: pl.DataFrame) -> Iterator[Group]:
    for _, part in board.group_by(DEFENSE, maintain_order=True):
        yield Group(part["setting_label"][0], part["defense_label"][0], part.to_dicts())


def html(board: pl.DataFrame, *, title: str = "Attack leaderboard") -> str:
    """The leaderboard as one self-contained page."""
    template = environment().get_template("leaderboard.html.j2")
    return template.render(title=title, groups=list(groups(board)), version=__version__)


def to_json(board: pl.DataFrame) -> str:
    """`{"fedsim_version", "rows": [...]}`, one object per row of the board; what does not exist is null."""
    rows = board.with_columns(pl.selectors.float().replace([float("nan"), float("inf"), float("-inf")], None))
    return json.dumps({"fedsim_version": __version__, "rows": rows.to_dicts()}, indent=1, allow_nan=False) + "\n"


def _ranked(board: pl.DataFrame) -> pl.DataFrame:
    """Ranks and order: settings and defenses as they came, then the oracles, the attacks best first, the floors."""
    places: list[int | None] = [None] * len(board)
    tied = [False] * len(board)
    rivals = board.with_row_index("at").filter((pl.col("role") == "attack") & pl.col("psnr").is_not_null())
    for _, group in rivals.group_by(_RANKED_AMONG):
        for at, found in zip(group["at"], ranks(group.select("psnr_low", "psnr_high").rows())):
            places[at], tied[at] = found
    order = {"oracle": 0, "attack": 1, "floor": 2}
    return (
        board.with_columns(
            rank=pl.Series(places, dtype=pl.Int64),
            tied=pl.Series(tied, dtype=pl.Boolean),
            _setting=_order_of_appearance(board, SETTING),
            _defense=_order_of_appearance(board, DEFENSE),
            _role=pl.col("role").replace_strict(order, return_dtype=pl.Int64),
            _score=-pl.col("psnr"),
        )
        .sort("_setting", "_defense", "_role", "_score", nulls_last=True, maintain_order=True)
    )  # fmt: skip


def _order_of_appearance(frame: pl.DataFrame, columns: list[str]) -> pl.Series:
    """For each row the place at which its combination of values first appeared."""
    places: dict[tuple[object, ...], int] = {}
    return pl.Series([places.setdefault(key, len(places)) for key in frame.select(columns).iter_rows()], dtype=pl.Int64)


def _threat_of_failed(results: pl.DataFrame) -> pl.DataFrame:
    """Give failed rows the observed threat-model fields of the setting's other rows: they belong to the same entry."""
    seen = results.filter(pl.col("status") != "failed")
    if seen.is_empty() or len(seen) == len(results):
        return results
    on = ["dataset", "model", "defense", "attack", *(name for name in THREAT if name not in _OBSERVED)]
    known = seen.group_by(on).agg(pl.col(name).first().alias(f"{name}_seen") for name in _OBSERVED)
    joined = results.join(known, on=on, how="left", nulls_equal=True, maintain_order="left")
    failed = pl.col("status") == "failed"
    return joined.with_columns(
        pl.when(failed).then(pl.coalesce(f"{name}_seen", name)).otherwise(name).alias(name) for name in _OBSERVED
    ).select(results.columns)


def _without_dropout(params: str) -> str:
    """A model's parameters without its dropout rate, which is the defense's business."""
    return json.dumps({key: value for key, value in json.loads(params).items() if key != "dropout"}, sort_keys=True)


def _named(rows: pl.DataFrame, name: str, params: str) -> pl.Series:
    pairs = list(rows.select(name, params).iter_rows())
    labels = distinguished(pairs)
    return pl.Series([labels[pair] for pair in pairs], dtype=pl.String)


def _each(rows: pl.DataFrame, columns: list[str], label: Callable[..., str | None]) -> pl.Series:
    values = rows.select(columns).iter_rows() if columns else ((),) * len(rows)
    return pl.Series([label(*row) for row in values], dtype=pl.String)


def _grants_that_vary(rows: pl.DataFrame) -> list[str]:
    """The threat-model fields that tell apart entries of one attack on one model under one defense."""
    entry = [*DEFENSE, "attack", "attack_params"]
    counts = rows.group_by(entry).agg(pl.col(THREAT).n_unique())
    return [name for name in THREAT if (counts[name] > 1).any()]


def _grants_text(fields: list[str], *values: str) -> str:
    named = (f"{field.removeprefix('threat_')} {value}" for field, value in zip(fields, values))
    return f" [{', '.join(named)}]" if fields else ""


def _setting_labels(rows: pl.DataFrame) -> pl.Series:
    """`mnist · mlp`, with the model's parameters and the local training where settings differ in them.

    A model that was trained before the federation always says so: `mnist · mlp · pretrained`.
    """
    params = [json.loads(text) for text in rows["setting_params"]]
    own = pl.Series([json.dumps({k: v for k, v in block.items() if k not in _STARTS}) for block in params])
    models = _named(rows.with_columns(own_params=own), "model", "own_params")
    parts = [rows["dataset"], models]
    starts = [_start(block) for block in params]
    if any(name != "init" for name, _ in starts):
        labels = distinguished(starts)
        parts.append(pl.Series([labels[start] for start in starts], dtype=pl.String))
    for column, unit in (("batch_size", "batch"), ("local_steps", "steps")):
        if rows[column].n_unique() > 1 or (rows[column].drop_nulls() > 1).any():
            parts.append(pl.Series([f"{unit} {value}" for value in rows[column]], dtype=pl.String))
    if rows["update_kind"].drop_nulls().n_unique() > 1:
        shared = {"gradient": "gradients", "delta": "weights", None: "unknown updates"}
        parts.append(pl.Series([shared[kind] for kind in rows["update_kind"]], dtype=pl.String))
    return pl.Series([" · ".join(values) for values in zip(*parts)], dtype=pl.String)


_STARTS = ("pretrain", "checkpoint")
"""Keys of a row's model parameters that say where the model's first weights came from."""


def _start(params: dict[str, Any]) -> tuple[str, str]:
    """What to call the first weights, and JSON of what tells them from others of that name."""
    if "pretrain" in params:
        return "pretrained", json.dumps(params["pretrain"])
    if "checkpoint" in params:
        return f"checkpoint {params['checkpoint']['file']}", json.dumps({"content": params["checkpoint"]["content"]})
    return "init", "{}"


def _images(number: int) -> str:
    return f"{number} image{'' if number == 1 else 's'}"
