"""Dropout-equipped models by name, or the user's own by factory; every one has only explicit randomness.

>>> model = build({"name": "mlp", "width": 64, "dropout": 0.5}, input_shape=(1, 28, 28), classes=10, seed=0)
>>> effective_dropout(model)
0.5
"""

from fedsim.models.build import MODELS, build, effective_dropout, malicious_attack, names, parameters
from fedsim.models.checkpoint import fingerprint, restore
from fedsim.models.factory import source

__all__ = [
    "MODELS",
    "build",
    "effective_dropout",
    "fingerprint",
    "malicious_attack",
    "names",
    "parameters",
    "restore",
    "source",
]
