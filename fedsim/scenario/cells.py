"""A cell: one combination of a scenario's axes, i.e. one federation to train and attack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import defenses
from fedsim import data, models
from fedsim.scenario.schema import Scenario

_OWN_FILES = {"npz", "folder"}


@dataclass(frozen=True)
class Cell:
    """One sweep combination, seed and defense.

    Args:
        scenario: with the sweep's values applied, and no sweep left.
        defense_label: the defense's parts with the parameters that the scenario gives, `clip(norm=1.0) + none`.
        defense: the parts in full, `{"name": ..., **parameters}`.
        sweep: the sweep's values in this cell by dotted key; empty without a sweep.
    """

    scenario: Scenario
    seed: int
    defense_label: str
    defense: tuple[dict[str, Any], ...]
    sweep: dict[str, Any]

    def model_spec(self) -> dict[str, Any]:
        """The model block with what the defense replaces in it (the dropout rate)."""
        return {**self.scenario.model.spec(), **defenses.compose(self.defense).model_overrides()}

    def start(self) -> dict[str, Any]:
        """Where the global model's first weights come from; empty for a fresh initialisation.

        `{"pretrain": {"steps", "batch_size", "learning_rate", "dropout"}}`, the rate being the model's own and not the
        defense's, so that cells that differ in their defense start from the same weights; or
        `{"checkpoint": {"path", "content"}}`.
        """
        start = self.scenario.model.start()
        if "pretrain" in start:
            return {"pretrain": {**start["pretrain"], "dropout": self.scenario.model.spec()["dropout"]}}
        if "checkpoint" in start:
            return {"checkpoint": {"path": start["checkpoint"], "content": models.fingerprint(start["checkpoint"])}}
        return {}

    def state_before(self, round: int) -> str:
        """What the global model is when it is sent in a round, as the table has it."""
        if round > 1:
            return f"round_{round - 1}"
        start = self.start()
        return "pretrained" if "pretrain" in start else "checkpoint" if "checkpoint" in start else "init"

    def working_defense(self) -> tuple[dict[str, Any], ...]:
        """The defense without the parts that only change the model block, so that equal work has an equal key."""
        return tuple(spec for spec in self.defense if not defenses.compose([spec]).declarative)

    def work(self) -> dict[str, Any]:
        """All that determines what the federation's clients send, JSON-able: no labels of the table, no attack.

        The content of the user's own files is part of it: other pixels are other work.
        """
        scenario = self.scenario
        source = scenario.data.model_dump(mode="json", exclude_none=True)
        work = {
            "data": source,
            "model": self.model_spec(),
            "federation": scenario.federation.model_dump(mode="json"),
            "defense": list(self.working_defense()),
            "seed": self.seed,
            "victims": scenario.victims.model_dump(mode="json"),
            "utility": scenario.utility.model_dump(mode="json") if scenario.utility else None,
        }
        if start := self.start():
            work["start"] = start
        if source["name"] in _OWN_FILES:
            work["content"] = data.load(source).fingerprint
        return work
