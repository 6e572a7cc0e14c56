"""Attacks against defenses as LaTeX, for a paper: needs `\\usepackage{booktabs}` and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator

import polars as pl

from fedsim.reporting.crossed.prepared import Score, Section, sections
from fedsim.version import __version__

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "·": r"$\cdot$",
    "†": r"$^\dagger$",
    "–": "--",
    "∞": r"$\infty$",
    "ε": r"$\varepsilon$",
    **{letter: f"\\{letter}" for letter in "&%$#_"},
}

_BREAK = r" \\ "

_ONE_COLUMN = 4
"""Columns that one column of a two-column paper holds; a wider table goes over both."""


def latex(board: pl.DataFrame, *, noted: str = "") -> str:
    """One `table` for each setting. Oracles, attacks of each threat model and floors stand between rules.

    Args:
        board: of `fedsim.reporting.leaderboard.build`.
        noted: tags and notes of the runs; in a comment.
    """
    head = [f"% fedsim {__version__}; \\usepackage{{booktabs}}", *([f"% {' '.join(noted.split())}"] if noted else [])]
    tables = ["\n".join(_table(section, number)) for number, section in enumerate(sections(board), start=1)]
    return "\n\n".join(["\n".join(head), *tables]) + "\n"


def _table(section: Section, number: int) -> Iterator[str]:
    columns = len(section.defenses) + 1
    kind = "table*" if columns > _ONE_COLUMN else "table"
    yield f"\\begin{{{kind}}}[t]"
    yield r"  \centering\small\setlength{\tabcolsep}{4pt}"
    caption = " ".join([f"{section.setting}.", section.note, *section.remarks])
    yield f"  \\caption{{{escaped(caption)}}}"
    yield f"  \\label{{tab:attacks-{number}}}"
    yield f"  \\begin{{tabular}}{{@{{}}l{'c' * len(section.defenses)}@{{}}}}"
    yield r"    \toprule"
    yield f"    {' & '.join(['attack', *map(_heading, section.defenses)])} \\\\"
    for part in section.parts:
        yield r"    \midrule"
        yield f"    \\multicolumn{{{columns}}}{{@{{}}l}}{{\\textit{{{escaped(part.heading)}}}}} \\\\"
        for line in part.lines:
            yield f"    {' & '.join([escaped(line.attack), *map(_score, line.scores)])} \\\\"
    yield r"    \bottomrule"
    yield r"  \end{tabular}"
    yield f"\\end{{{kind}}}"


def _heading(defense: str) -> str:
    """A defense's parts, its composition and its parameters each on a line of its own: columns stay narrow."""
    lines = [escaped(line) for line in re.sub(r"(?<=\w)(?=\()| (?=\+ )", "\n", defense).split("\n")]
    return lines[0] if len(lines) == 1 else rf"\shortstack{{{_BREAK.join(lines)}}}"


def _score(score: Score) -> str:
    said = f"\\textbf{{{escaped(score.median)}}}" if score.best else escaped(score.median)
    said += f" {{\\footnotesize({escaped(score.interval)})}}" if score.interval else ""
    said += r"$^\dagger$" if score.at_budget else ""
    return f"{said} {{\\footnotesize{{}}{escaped(score.beside)}}}" if score.beside else said


def escaped(text: str) -> str:
    """Text that TeX prints as it is; a character that an 8-bit font lacks becomes a question mark."""
    text = " ".join(text.split())
    known = (letter if re.match(r"[\x20-\x7e\xa1-\xff]", letter) else "?" for letter in text)
    return "".join(_SPECIAL.get(letter, plain) for letter, plain in zip(text, known))
