"""A simulator of privacy attacks on federated learning.

import fedsim

run = fedsim.run("scenarios/quickstart.yaml")
run.results           # a polars data frame, one row per reconstructed image
run.leaderboard()     # attacks ranked, per model and defense
run.report()          # writes report.html and returns its path

strategy = fedsim.Eavesdropper(FedAvg(...), store="observations/")   # in a Flower app of your own
fedsim.observe(sent, received, store="observations/")                # without Flower
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.version import __version__

if TYPE_CHECKING:
    from fedsim.api import Run, compare, results, run, verify
    from fedsim.recording.eavesdropper import Eavesdropper
    from fedsim.recording.malicious import MaliciousServer
    from fedsim.recording.observe import observe

__all__ = ["Eavesdropper", "MaliciousServer", "Run", "__version__", "compare", "observe", "results", "run", "verify"]

_HOMES = {
    "Run": "fedsim.api",
    "compare": "fedsim.api",
    "results": "fedsim.api",
    "run": "fedsim.api",
    "verify": "fedsim.api",
    "Eavesdropper": "fedsim.recording.eavesdropper",
    "MaliciousServer": "fedsim.recording.malicious",
    "observe": "fedsim.recording.observe",
}


def _check_neighbours() -> None:
    """`attacks` and `defenses` are common folder names: a user's own must not silently take the place of ours."""
    home = Path(__file__).resolve().parent.parent
    for name in ("attacks", "defenses"):  # found, not imported: each imports the other
        spec = importlib.util.find_spec(name)
        found = Path(spec.origin if spec is not None and spec.origin else name).resolve().parent
        if found.parent != home:
            raise ImportError(
                f"fedsim: a folder named {name!r} at {found.parent} hides fedsim's own package; "
                "rename it, or start Python from another directory"
            )


_check_neighbours()


def __getattr__(name: str) -> Any:
    """What runs, records and reads is loaded when it is asked for: `import fedsim` stays light."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'fedsim' has no attribute {name!r}")
