"""The leaderboard: how well each attack did on each model under each defense, and which attacks beat which.

Rows are pooled only if they differ in nothing but seed, client and sample. Attacks are ranked among those that were
granted the same, in the same setting under the same defense, by their median PSNR over every image that was attacked.
An attack's rank is one more than the number of attacks that clearly beat it: whose interval lies wholly above its own.
Attacks with overlapping intervals therefore tie. Below six clients no interval of a median has 95 %: then it is the
range, and says its level. Oracles (given what no real server has) and floors (the null attacks) stand in the table
without a rank, and so does an attack that has no rival.
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
from fedsim.reporting.naming import adapts_to, defense_label, distinguished, is_floor
from fedsim.reporting.pages import environment
from fedsim.reporting.ranking import ranks
from fedsim.reporting.settings import setting_labels
from fedsim.scoring import intervals
from fedsim.scoring.summary import RATES, answered, summarise
from fedsim.table import SCHEMA
from fedsim.version import __version__

THREAT = [name for name in SCHEMA if name.startswith("threat_")]
_OBSERVED = ["threat_client_mode", "threat_batch_norm"]
"""Threat-model fields that are read off an observation; a client that sent none has only defaults there."""

SETTING = ["setting", "dataset", "model", "setting_params", "batch_size", "local_steps", "update_kind"]
"""`setting` holds everything that can change a result; the others are parts of it that tables show."""
DEFENSE = [*SETTING, "dropout", "defense_parts"]
_RANKED_AMONG = [*DEFENSE, *THREAT]
ROW = [*_RANKED_AMONG, "attack", "attack_params"]

_MEDIANS = ["psnr", "ssim", "lpips", "mask_accuracy"]
_LABELS = ["setting_label", "defense_label", "attack_label"]
_INTERVALS = [name for value in (*_MEDIANS, *RATES) for name in (value, f"{value}_low", f"{value}_high")]
COLUMNS: dict[str, type[pl.DataType]] = {
    **dict.fromkeys(_LABELS, pl.String),
    "role": pl.String,  # attack | oracle | floor
    "baseline": pl.Boolean,  # the undefended client: no defense, and dropout at the model's own rate
    "informed": pl.Boolean,  # the attack was told of every part of the defense, and takes it into account
    "rank": pl.Int64,
    "tied": pl.Boolean,
    **dict.fromkeys(_INTERVALS, pl.Float64),  # medians and rates, with the ends of their intervals
    "level": pl.Float64,  # of the medians' intervals: 0.95, or less where there are fewer than 6 clients
    "chosen_psnr": pl.Float64,  # median PSNR on development victims, by which the strongest attack is chosen
    "label_accuracy": pl.Float64,  # of the labels that the attack inferred, each matched to its image
    "iterations": pl.Float64,  # median
    "at_budget": pl.Float64,  # share of its answers that stopped at the budget of iterations
    "seconds": pl.Float64,  # median, per victim
    "utility": pl.Float64,  # mean over the seeds
    "utility_low": pl.Float64,  # over seeds and test images
    "utility_high": pl.Float64,
    "utility_reachable": pl.Float64,  # what the undefended model reaches
    "cost_of": pl.String,  # JSON: the training that utility and epsilon are of
    "epsilon": pl.Float64,  # the largest of the seeds'
    "delta": pl.Float64,
    "n": pl.Int64,  # images attacked
    "answered": pl.Int64,  # images that there is an answer to; the others count with the floor's score
    "coverage": pl.Float64,  # answered over attacked
    "clients": pl.Int64,  # independent units
    "not_applicable": pl.Int64,
    "failed": pl.Int64,
    "reason": pl.String,  # the commonest one, of the failures if there are any
    "stages": pl.String,  # which stages of a cascade answered: `patch_embedding (4 images)`
    **{name: SCHEMA.get(name, pl.String) for name in ROW},
    "defense": pl.String,
    "defense_params": pl.String,
}


def build(results: pl.DataFrame) -> pl.DataFrame:
    """Summarise results into one row per dataset, model, defense, threat model and attack; columns are `COLUMNS`.

    Args:
        results: rows of `fedsim.table.SCHEMA`, of one run or of several. Work that two runs share counts once.
    """
    if results.is_empty():
        return pl.DataFrame(schema=COLUMNS)
    rows = labelled(results)
    reported = rows.filter(~pl.col("development"))
    answers = pl.col("answered")
    cells = pl.col("cell").is_first_distinct()
    board = (
        reported.with_columns(answered().alias("answered"))
        .group_by(ROW, maintain_order=True)
        .agg(
            *(pl.col(name).first() for name in (*_LABELS, "role", "baseline", "informed", "defense", "defense_params")),
            pl.col("label_correct").filter(answers).mean().alias("label_accuracy"),
            *(pl.col(name).filter(answers).median() for name in ("iterations", "seconds")),
            (pl.col("stopped").drop_nulls() == "budget").mean().alias("at_budget"),
            pl.col("utility").filter(cells).mean(),
            pl.col("utility").filter(cells).drop_nulls().alias("_utilities"),
            pl.col("utility_images").first(),
            pl.col("utility_reachable").filter(cells).mean(),
            pl.col("cost_of").drop_nulls().first(),
            pl.col("epsilon").max(),
            pl.col("delta").max(),
            pl.coalesce(_commonest_reason("failed"), _commonest_reason("not_applicable")).alias("reason"),
            pl.col("stage").filter(answers).drop_nulls().alias("stages"),
        )
        .with_columns(pl.col("stages").map_elements(_counted, return_dtype=pl.String))
        .join(summarise(reported, by=ROW, values=_MEDIANS), on=ROW, how="left", nulls_equal=True, maintain_order="left")
        .join(_chosen(rows), on=ROW, how="left", nulls_equal=True, maintain_order="left")
    )
    spans = [
        intervals.of_accuracy(accuracies, images)
        for accuracies, images in board.select("_utilities", "utility_images").iter_rows()
    ]
    board = board.with_columns(
        utility_low=pl.Series([low for low, _ in spans], dtype=pl.Float64),
        utility_high=pl.Series([high for _, high in spans], dtype=pl.Float64),
    )
    return _ranked(board).select(pl.col(name).cast(dtype) for name, dtype in COLUMNS.items())


def _chosen(rows: pl.DataFrame) -> pl.DataFrame:
    """Each row's median PSNR on development victims, from which no other number comes."""
    development = rows.filter("development")
    return summarise(development, by=ROW, values=["psnr"]).select(*ROW, pl.col("psnr").alias("chosen_psnr"))


def strongest(board: pl.DataFrame, *, among: pl.Expr | None = None) -> pl.DataFrame:
    """The strongest attack in each setting under each defense; no oracle, no floor.

    It is chosen on development victims where there are any, else on the very victims that it is reported on
    (`chosen_psnr` is then null), by the median PSNR over all images that were attacked.

    Args:
        among: of which rows; all if None.
    """
    rivals = board.filter((pl.col("role") == "attack") & pl.col("psnr").is_not_null())
    rivals = rivals if among is None else rivals.filter(among)
    by = pl.coalesce("chosen_psnr", "psnr")
    return rivals.filter(by.rank("ordinal", descending=True).over(DEFENSE) == 1)


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
        setting_params=pl.col("model_params").map_elements(_without_dropout, return_dtype=pl.String),
        defense_parts=pl.col("defense_params").map_elements(parts_without_none, return_dtype=pl.String),
        setting=pl.col("setting").fill_null("{}"),
        development=pl.col("development").fill_null(value=False),
    )
    rows = rows.with_columns(baseline=pl.col("defense_parts") == "[]")
    identity = [*ROW, "seed", "round", "client", "sample"]
    rows = rows.unique(identity, keep="first", maintain_order=True)
    grants = _grants_that_vary(rows)
    return rows.with_columns(
        setting_label=_setting_labels(rows),
        defense_label=_defense_labels(rows),
        informed=pl.Series(
            [takes_into_account(row) for row in rows.select("attack", "defense_parts", *THREAT).to_dicts()]
        ),
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
    board = board.with_columns(partly=pl.when(pl.col("answered") < pl.col("n")).then(1))
    columns = [column for column in _TERMINAL if board.filter(pl.col("answered") > 0)[column.needs].is_not_null().any()]
    width = max(len(str(label)) + len(_tag(role)) for label, role in board.select("attack_label", "role").iter_rows())
    for group in groups(board):
        page.add_row(Text.assemble((group.setting, "bold"), "   ", (group.defense, "bold cyan"), overflow="fold"))
        page.add_row(_GroupTable(group, columns, min(width, 36)))
        for remark in [*group.answered(), *group.remarks(), *group.cautions()]:
            page.add_row(Padding(Text(remark, style="dim"), (0, 0, 0, 4)))
        page.add_row("")
    page.add_row(Text(_LEGEND, style="dim"))
    return page


_LEGEND = (
    "Medians over every image that was attacked; one without an answer counts with the floor's score.\n"
    "Intervals have 95 %, or are ranges where there are fewer than 6 clients; they hold for these seeds.\n"
    "A rank with = is a tie: neither interval lies wholly above the other. Without a rival there is no rank.\n"
    "oracle: was given what no real server has. floor: never looks at the update."
)


class _Column(NamedTuple):
    heading: str
    width: int
    needs: str  # the column of the board without which it is left out
    text: Callable[[dict[str, Any]], str]


_TERMINAL = [
    _Column("PSNR dB", 7, "attack", lambda row: f.decibel(row["psnr"])),
    _Column("interval", 11, "psnr_low", lambda row: f.interval(row["psnr_low"], row["psnr_high"], 1)),
    _Column(">19 dB", 6, "leaked_psnr", lambda row: f.percent(row["leaked_psnr"])),
    _Column("SSIM", 5, "ssim", lambda row: f.number(row["ssim"], 2)),
    _Column("LPIPS", 5, "lpips", lambda row: f.number(row["lpips"], 2)),
    _Column("labels", 6, "label_accuracy", lambda row: f.percent(row["label_accuracy"])),
    _Column("masks", 5, "mask_accuracy", lambda row: f.percent(row["mask_accuracy"])),
    _Column("iter.", 6, "iterations", lambda row: f.count(row["iterations"])),
    _Column("s", 6, "seconds", lambda row: f.seconds(row["seconds"])),
    _Column("answered", 8, "partly", lambda row: f"{row['answered']} of {row['n']}"),
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
            if row["answered"]:
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


    def cautions(self) -> list[str]:
        """What to mind when reading the group: ranges of few clients, attacks that stopped at their budget."""
        said = []
        few = [row for row in self.rows if row["answered"] and (row["level"] or 0) < intervals.LEVEL]
        if few:
            said.append(few_clients(few[0]["clients"], few[0]["level"]))
        for row in self.rows:
            if row["at_budget"]:
                said.append(f"{row['attack_label']}: {f.percent(row['at_budget'])} stopped at the budget of iterations")
        return said


def few_clients(clients: int, level: float | None) -> str:
    """What an interval of so few clients is."""
    if level is None:
        return "one client: no interval"
    return f"ranges of {clients} clients, which cover the median with {100 * level:g} %"


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
        if len(group) == 1:  # nobody is first of one
            continue
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


def parts_without_none(params: str) -> str:
    """A defense's parts without `none`, which is no part: verdicts read parameters, never labels."""
    return json.dumps([part for part in json.loads(params) if part["name"] != "none"], sort_keys=True)


def takes_into_account(row: dict[str, Any]) -> bool:
    """Whether the attack takes every part of the defense into account, and was told what it needs for that."""
    return all(
        (grant := adapts_to(row["attack"]).get(part["name"], False)) is not False
        and (grant is None or row[f"threat_{grant}"] == "known")
        for part in json.loads(row["defense_parts"])
    )


def _defense_labels(rows: pl.DataFrame) -> pl.Series:
    """What a defense is called: by the first label of its parameters, so that equal parameters have one name."""
    first: dict[tuple[object, ...], str] = {}
    labels = []
    for *key, label in rows.select(*DEFENSE, "defense").iter_rows():
        dropout = key[DEFENSE.index("dropout")]
        labels.append(first.setdefault(tuple(key), defense_label(label, dropout)))
    return pl.Series(labels, dtype=pl.String)


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
    """`mnist · mlp`, and what else tells the settings apart."""
    texts = [described(*values) for values in rows.select(SETTING).iter_rows()]
    labels = setting_labels(texts)
    return pl.Series([labels[text] for text in texts], dtype=pl.String)


def described(setting: str, dataset: str, model: str, params: str, batch: int, steps: int, kind: str | None) -> str:
    """The setting as JSON; the columns beside it stand in where rows were made without one."""
    block = json.loads(setting)
    if not block:
        own = json.loads(params)
        start = {key: own.pop(key) for key in ("pretrain", "checkpoint") if key in own}
        local = {"batch_size": batch, "steps": steps, "share": "weights" if kind == "delta" else kind}
        block = {"data": {"name": dataset}, "model": {"name": model, **own}, "federation": {"local": local}}
        block |= {"start": start} if start else {}
    return json.dumps(block, sort_keys=True)


def _images(number: int) -> str:
    return f"{number} image{'' if number == 1 else 's'}"
