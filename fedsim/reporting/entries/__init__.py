"""Entries of the public leaderboard: one JSON file for each attack on each model under each defense.

An entry is one row of `fedsim.reporting.leaderboard.build`, with all that repeats it and a small picture beside it. Its
file is named after what it is about and a hash of that, so that a run submitted again replaces its own entries. Entries
come in by pull requests: whatever is read here is checked, and shown as text.

    pictures    of an entry's victims, one PNG
    parts       what an entry consists of, each checked by itself
    entry       the format: what must follow from what
    making      the entries of a run
    store       the directory of entries
"""

from fedsim.reporting.entries.entry import FORMAT, Entry
from fedsim.reporting.entries.making import entries_of, portable
from fedsim.reporting.entries.parts import Verification
from fedsim.reporting.entries.store import DIRECTORY, Collection, read, read_one, submit, write

__all__ = [
    "DIRECTORY",
    "FORMAT",
    "Collection",
    "Entry",
    "Verification",
    "entries_of",
    "portable",
    "read",
    "read_one",
    "submit",
    "write",
]
