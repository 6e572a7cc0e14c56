"""Data sets, one file for each source, and their division among clients.

A further source is one file with one `load` function that returns a `Dataset`, and its line in `sources.py`.
"""

from fedsim.data.dataset import Dataset
from fedsim.data.partition import partition
from fedsim.data.sources import describe, load, names

__all__ = ["Dataset", "describe", "load", "names", "partition"]
