"""The pages of the studies: runs a study, as far as it has not been run, and writes its tables into its page.

    python docs/studies.py study-defenses               # docs/defenses.md
    python docs/studies.py is-anything-stochastic       # docs/stochastic.md
    python docs/studies.py study-defenses --victims 16  # the full size
    python docs/studies.py attacks-mnist                # docs/attacks-mnist.md; attacks-photos likewise

A study that was interrupted goes on where it was; `--written` writes what there is without running anything. A part of
a study (`fedsim run study-defenses --only lenet --out OUT`, then `--written --out OUT --keep`) writes its own tables
and leaves the page's others.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import fedsim
from fedsim.reporting import crossed, evidence, leaderboard
from fedsim.scenario import load

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "study-defenses": "defenses.md",
    "is-anything-stochastic": "stochastic.md",
    "attacks-mnist": "attacks-mnist.md",
    "attacks-photos": "attacks-photos.md",
}
OF_ATTACKS = ("attacks-mnist", "attacks-photos")
"""Those that compare attacks; the others compare defenses."""

BELOW = "<!-- below: written by docs/studies.py -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", choices=list(PAGES))
    parser.add_argument("--victims", type=int, help="clients of each cell; the study's own number if not given")
    parser.add_argument("--out", type=Path, help="run directory; runs/<study> if not given")
    parser.add_argument("--written", action="store_true", help="run nothing, write what there is")
    parser.add_argument("--keep", action="store_true", help="leave tables of settings that this run has not")
    arguments = parser.parse_args()
    out = arguments.out or ROOT / "runs" / arguments.study
    if arguments.written:
        run = fedsim.Run(out)
    else:
        run = fedsim.run(load(arguments.study, sized(arguments.study, arguments.victims)), out=out)
    page = ROOT / "docs" / PAGES[arguments.study]
    head, marker, before = page.read_text().partition(BELOW)
    if not marker:
        raise SystemExit(f"{page}: the line {BELOW} is not in it")
    if arguments.study in OF_ATTACKS:
        tables = crossed.markdown(leaderboard.build(run.results))
    else:
        tables = evidence.markdown(evidence.evidence(run.results))
    if arguments.keep:
        tables = with_those_of(before, tables)
    page.write_text(f"{head}{marker}\n\n{tables}")


def with_those_of(before: str, written: str) -> str:
    """What was written, in the place of the tables of the same headings, and after the others of the page."""
    tables = by_heading(before)
    tables.update(by_heading(written))
    return "\n\n".join(tables.values()) + "\n"


def by_heading(tables: str) -> dict[str, str]:
    """Each table with its heading and remarks, by the heading."""
    parts = [part.strip() for part in re.split(r"^(?=### )", tables, flags=re.MULTILINE)]
    return {part.splitlines()[0]: part for part in parts if part}


def sized(study: str, victims: int | None) -> list[str]:
    """The options that give each cell of a study so many clients; settings have numbers of their own."""
    if victims is None:
        return []
    settings = load(study, rehearsed=False).settings
    places = ["", *(f"settings.{at}." for at, own in enumerate(settings) if "victims.clients" in own)]
    return [f"{place}{key}.clients={victims}" for place in places for key in ("federation", "victims")]


if __name__ == "__main__":
    main()
