"""The columns of a leaderboard, and by which of them its rows are told apart."""

from __future__ import annotations

import polars as pl

from fedsim.scoring.summary import BESIDE, RATES
from fedsim.table import SCHEMA

THREAT = [name for name in SCHEMA if name.startswith("threat_")]
OBSERVED = ["threat_client_mode", "threat_batch_norm", "threat_aggregation"]
"""Threat-model fields that are read off an observation; a client that sent none has only defaults there."""

SETTING = ["setting", "dataset", "model", "setting_params", "batch_size", "local_steps"]
"""`setting` holds everything that can change a result; the others are parts of it that tables show."""
DEFENSE = [*SETTING, "update_kind", "dropout", "defense_parts"]
DESCRIBED = [*SETTING, "update_kind"]
GROUP = [*DEFENSE, *THREAT]
"""The rows of a group are ranked against each other."""
ROW = [*GROUP, "attack", "attack_params"]

MEDIANS = ["psnr", "ssim", "lpips", "mask_accuracy"]
_LABELS = ["setting_label", "defense_label", "attack_label"]
OF_THE_ROW = [*_LABELS, "told", "role", "letter", "beyond", "baseline", "informed", "defense", "defense_params"]
ROLES = {"oracle": 0, "attack": 1, "floor": 2}
"""In which order a table shows them."""

_INTERVALS = [name for value in (*MEDIANS, *RATES) for name in (value, f"{value}_low", f"{value}_high")]
COLUMNS: dict[str, type[pl.DataType]] = {
    **dict.fromkeys(_LABELS, pl.String),
    "told": pl.String,  # what of the threat model tells it from others of the table, in words; its label ends with it
    "role": pl.String,  # attack | oracle | floor
    "letter": pl.String,  # of the threat model, A to G, as far as the attack uses what it was told
    "beyond": pl.String,  # what of that no real server has; empty: feasible
    "baseline": pl.Boolean,  # the undefended client: no defense, and dropout at the model's own rate
    "informed": pl.Boolean,  # the attack was told of every part of the defense, and takes it into account
    "rank": pl.Int64,
    "tied": pl.Boolean,
    **dict.fromkeys(_INTERVALS, pl.Float64),  # medians and rates, with the ends of their intervals
    **dict.fromkeys(BESIDE, pl.Float64),  # medians: to the image itself and to what was made of it, where that differs
    "level": pl.Float64,  # of the medians' intervals: 0.95, or less where there are fewer than 6 clients
    "chosen_psnr": pl.Float64,  # median PSNR on development victims, by which the strongest attack is chosen
    "label_accuracy": pl.Float64,  # of the labels that the attack inferred, each matched to its image
    "iterations": pl.Float64,  # median
    "at_budget": pl.Float64,  # share of its answers that stopped at the budget of iterations
    "seconds": pl.Float64,  # median, per victim
    "utility": pl.Float64,  # mean over the seeds
    "utility_low": pl.Float64,  # over seeds and test images
    "utility_high": pl.Float64,
    "utility_seeds": pl.Int64,  # how many seeds; of one the interval is over test images alone
    "utility_reachable": pl.Float64,  # what the undefended model reaches
    "bytes": pl.Float64,  # that a client sends, median
    "bytes_relative": pl.Float64,  # over those of the undefended client in this setting
    "cost_of": pl.String,  # JSON: the training that utility and epsilon are of
    "epsilon": pl.Float64,  # the largest of the seeds'
    "epsilon_prv": pl.Float64,  # likewise; null where there is none
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
