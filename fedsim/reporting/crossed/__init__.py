"""Attacks against defenses: for each setting one table, an attack a row, a defense a column.

The numbers are the leaderboard's (`fedsim.reporting.leaderboard`): medians over every image that was attacked, with
their intervals and ranks. `prepared` lays them out once; Markdown, LaTeX and HTML only write them.
"""

from fedsim.reporting.crossed.latex import latex
from fedsim.reporting.crossed.markdown import markdown
from fedsim.reporting.crossed.page import html
from fedsim.reporting.crossed.prepared import Line, Part, Score, Section, sections

__all__ = ["Line", "Part", "Score", "Section", "html", "latex", "markdown", "sections"]
