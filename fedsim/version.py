"""The version, which is part of every key and every row."""

import platform
from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("fedsim-privacy")
except PackageNotFoundError:  # a source tree that nobody installed
    __version__ = "0+unknown"


def versions() -> dict[str, str]:
    """What a result depends on besides its scenario: fedsim, Python and the core packages."""
    packages = ("flwr", "ray", "torch", "opacus", "lpips", "scikit-image")
    return {"fedsim": __version__, "python": platform.python_version(), **{name: version(name) for name in packages}}
