"""A part of a scenario: the cells that a few words describe, and the undefended client beside them.

The cells are those of the whole scenario, so that work which is done for the one is done for the other.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedsim.errors import BadInput
from fedsim.scenario.load import parse
from fedsim.scenario.schema import Scenario, label_of


def only(scenario: Scenario, words: Sequence[str]) -> Scenario:
    """The scenario with nothing but the defenses that all the words fit, in the settings that they fit.

    A cell is described by `data, model, batch 8, pruning(keep=0.1)`; the words are parts of that.

    Raises:
        BadInput: they fit no cell.
    """
    settings = []
    for values, variant in scenario.variants:
        where = f"{variant.data.name}, {variant.model.name}, batch {variant.federation.local.batch_size}, "
        fitting = [parts for parts in variant.defenses if all(word in where + label_of(parts) for word in words)]
        if fitting:
            plain = [parts for parts in variant.defenses if label_of(parts) == "none" and parts not in fitting]
            defenses = [[part.given() for part in parts] for parts in (*plain, *fitting)]
            settings.append({**values, "defenses": defenses})
    if not settings:
        known = f"{where}{label_of(variant.defenses[0])}"
        raise BadInput(f"--only {' --only '.join(words)}: fits no cell; a cell is described by words such as {known!r}")
    narrowed = {**scenario.to_dict(), "sweep": {}, "settings": settings}
    return parse(narrowed, rehearsed=False, folder=scenario.folder)
