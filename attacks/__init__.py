"""Algorithms of an adversarial server. Needs torch and numpy only: no Flower, no Ray, no files.

An attack works on what a server saw, and on nothing else:

    >>> import attacks
    >>> attack = attacks.create("dropout_inversion", iterations=2000)
    >>> reconstruction = attack(observation, threat_model, model)    # doctest: +SKIP
"""

from attacks.base import Attack, NotApplicable, Reconstruction, create, get, names
from attacks.observation import LocalTraining, Observation, ThreatModel

__all__ = [
    "Attack",
    "LocalTraining",
    "NotApplicable",
    "Observation",
    "Reconstruction",
    "ThreatModel",
    "create",
    "get",
    "names",
]
