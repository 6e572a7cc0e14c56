"""A scenario's attacks with every parameter."""

from __future__ import annotations

import inspect

import attacks
from attacks.malicious import MaliciousAttack
from defenses.registry import parameters
from fedsim.scenario.work import Spec


def filled(spec: Spec) -> Spec:
    """With every parameter; those that came later than others say nothing where they are as by default, so that the
    keys of older runs stay what they were."""
    attack = attacks.get(spec["name"])
    accepted = parameters(attack)
    defaults = {key: p.default for key, p in accepted.items() if p.default is not inspect.Parameter.empty}
    filled = {**defaults, **spec}
    return {key: value for key, value in filled.items() if key not in attack.later or value != defaults[key]}


def is_malicious(spec: Spec) -> bool:
    """Whether an attack is one of a server that changes the model, so that it has federations of its own."""
    return issubclass(attacks.get(spec["name"]), MaliciousAttack)
