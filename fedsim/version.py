"""The version, which is part of every key and every row."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("fedsim-privacy")
except PackageNotFoundError:  # a source tree that nobody installed
    __version__ = "0+unknown"
