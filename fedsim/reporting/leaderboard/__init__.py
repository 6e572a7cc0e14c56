"""The leaderboard: how well each attack did on each model under each defense, and which attacks beat which.

Rows are pooled only if they differ in nothing but seed, client and sample. Attacks are ranked among those that were
granted the same, in the same setting under the same defense, by their median PSNR over every image that was attacked.
An attack's rank is one more than the number of attacks that clearly beat it: whose interval lies wholly above its own.
Attacks with overlapping intervals therefore tie. Below six clients no interval of a median has 95 %: then it is the
range, and says its level. Oracles (given what no real server has) and floors (the null attacks) stand in the table
without a rank, and so does an attack that has no rival.
"""

from fedsim.reporting.leaderboard.board import build
from fedsim.reporting.leaderboard.columns import COLUMNS, DEFENSE, DESCRIBED, ROLES, ROW, SETTING, THREAT
from fedsim.reporting.leaderboard.labels import described, labelled, parts_without_none, takes_into_account
from fedsim.reporting.leaderboard.ranking import Span, ranked, ranks, strongest
from fedsim.reporting.leaderboard.row import Row, rows_of

__all__ = [
    "COLUMNS",
    "DEFENSE",
    "DESCRIBED",
    "ROLES",
    "ROW",
    "SETTING",
    "THREAT",
    "Row",
    "Span",
    "build",
    "described",
    "labelled",
    "parts_without_none",
    "ranked",
    "ranks",
    "rows_of",
    "strongest",
    "takes_into_account",
]
