"""The leaderboard of results: one row for each attack on each model under each defense, by medians."""

from __future__ import annotations

import polars as pl

from fedsim.reporting import formats as f
from fedsim.reporting.leaderboard.columns import COLUMNS, DEFENSE, MEDIANS, OF_THE_ROW, ROLES, ROW, SETTING
from fedsim.reporting.leaderboard.labels import labelled
from fedsim.reporting.leaderboard.ranking import ranked
from fedsim.scoring import intervals
from fedsim.scoring.summary import BESIDE, answered, summarise


def build(results: pl.DataFrame) -> pl.DataFrame:
    """Summarise results into one row per dataset, model, defense, threat model and attack; columns are `COLUMNS`.

    Args:
        results: rows of `fedsim.table.SCHEMA`, of one run or of several. Work that two runs share counts once.
    """
    if results.is_empty():
        return pl.DataFrame(schema=COLUMNS)
    rows = labelled(results)
    reported = rows.filter(~pl.col("development"))
    summary = summarise(reported, by=ROW, values=[*MEDIANS, *BESIDE])
    answers = pl.col("answered")
    cells = pl.col("cell").is_first_distinct()
    board = (
        reported.with_columns(answered().alias("answered"))
        .group_by(ROW, maintain_order=True)
        .agg(
            *(pl.col(name).first() for name in OF_THE_ROW),
            pl.col("label_correct").filter(answers).mean().alias("label_accuracy"),
            *(pl.col(name).filter(answers).median() for name in ("iterations", "seconds")),
            (pl.col("stopped").drop_nulls() == "budget").mean().alias("at_budget"),
            pl.col("utility").filter(cells).mean(),
            pl.col("utility").filter(cells).drop_nulls().alias("_utilities"),
            pl.col("utility").filter(cells).count().alias("utility_seeds"),
            pl.col("utility_images").first(),
            pl.col("utility_reachable").filter(cells).mean(),
            pl.col("cost_of").drop_nulls().first(),
            pl.col("epsilon").max(),
            pl.when(pl.col("epsilon_prv").is_not_null().all()).then(pl.col("epsilon_prv").max()),
            pl.col("bytes").median(),
            pl.col("delta").max(),
            pl.coalesce(_commonest_reason("failed"), _commonest_reason("not_applicable")).alias("reason"),
            pl.col("stage").filter(answers).drop_nulls().alias("stages"),
        )
        .with_columns(pl.col("stages").map_elements(_counted, return_dtype=pl.String))
        .join(summary, on=ROW, how="left", nulls_equal=True, maintain_order="left")
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
    return _in_order(ranked(_with_relative(board))).select(pl.col(name).cast(dtype) for name, dtype in COLUMNS.items())


def _with_relative(board: pl.DataFrame) -> pl.DataFrame:
    """The bytes over those of the undefended client of the same setting; null where that was not attacked."""
    plain = board.filter("baseline").group_by(SETTING).agg(pl.col("bytes").median().alias("_plain"))
    joined = board.join(plain, on=SETTING, how="left", nulls_equal=True, maintain_order="left")
    return joined.with_columns(bytes_relative=pl.col("bytes") / pl.col("_plain"))


def _chosen(rows: pl.DataFrame) -> pl.DataFrame:
    """Each row's median PSNR on development victims, from which no other number comes."""
    development = rows.filter("development")
    return summarise(development, by=ROW, values=["psnr"]).select(*ROW, pl.col("psnr").alias("chosen_psnr"))


def _counted(stages: pl.Series) -> str | None:
    """`cut (3 images), first_linear (1 image)`, the commonest first; None where there are none."""
    counts = stages.value_counts(sort=True).sort("count", stages.name, descending=[True, False])
    return ", ".join(f"{stage} ({f.images(count)})" for stage, count in counts.iter_rows()) or None


def _commonest_reason(status: str) -> pl.Expr:
    return pl.col("reason").filter(pl.col("status") == status).drop_nulls().mode().sort().first()


def _in_order(board: pl.DataFrame) -> pl.DataFrame:
    """Settings and defenses as they came; in each the oracles, the attacks best first, the floors."""
    return (
        board.with_columns(
            _setting=_order_of_appearance(board, SETTING),
            _defense=_order_of_appearance(board, DEFENSE),
            _role=pl.col("role").replace_strict(ROLES, return_dtype=pl.Int64),
            _score=-pl.col("psnr"),
        )
        .sort("_setting", "_defense", "_role", "_score", nulls_last=True, maintain_order=True)
    )  # fmt: skip


def _order_of_appearance(frame: pl.DataFrame, columns: list[str]) -> pl.Series:
    """For each row the place at which its combination of values first appeared."""
    places: dict[tuple[object, ...], int] = {}
    return pl.Series([places.setdefault(key, len(places)) for key in frame.select(columns).iter_rows()], dtype=pl.Int64)
