"""A cell: one combination of a scenario's axes, i.e. one federation to train and attack."""

from __future__ import annotations

import copy
import itertools
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import attacks
import defenses
from attacks.threat import GRANTS
from fedsim import data, models
from fedsim.local import Local
from fedsim.paths import look_beside
from fedsim.scenario.filled import filled, is_malicious
from fedsim.scenario.schema import Scenario, label_of, specs_of
from fedsim.scenario.work import CentralTraining, Checkpoint, Federation, Start, Utility, Victims, Work

_OWN_FILES = {"npz", "folder"}

_NO_SETTING = ("seed", "salt", "victims", "defense", "malicious")
"""Parts of a cell's work that tell rows of one setting apart: who was attacked, by what, and under which defense."""

_HOW_COMPUTED = ("compile", "device", "gpus", "record")
"""Keys of the engine that change no result beyond its last digits."""


@dataclass(frozen=True)
class Cell:
    """One sweep combination, seed and defense.

    Args:
        scenario: with the sweep's values applied, and no sweep left.
        defense_label: the defense's parts with the parameters that the scenario gives, `clip(norm=1.0) + none`.
        defense: the parts in full, `{"name": ..., **parameters}`.
        sweep: the sweep's values in this cell by dotted key; empty without a sweep.
        salt: the hash of what the run's clients are salted with; empty where they are not.
        malicious: the attack whose server changes the model that it sends, in full; None: it is honest.
    """

    scenario: Scenario
    seed: int
    defense_label: str
    defense: tuple[dict[str, Any], ...]
    sweep: dict[str, Any]
    salt: str = ""
    malicious: dict[str, Any] | None = None

    @property
    def label(self) -> str:
        """The defense, and what a malicious server does."""
        return self.defense_label + (f", server: {self.malicious['name']}" if self.malicious else "")

    def model_spec(self) -> dict[str, Any]:
        """The model block with what the defense replaces in it (the dropout rate)."""
        return {**self.scenario.model.spec(), **defenses.compose(self.defense).model_overrides()}

    def start(self) -> Start:
        """Where the global model's first weights come from; the dropout rate is the model's own and not the defense's,
        so that cells that differ in their defense start from the same weights."""
        start = self.scenario.model.start()
        if "pretrain" in start:
            return Start(pretrain=CentralTraining(**start["pretrain"], dropout=self._own_dropout()))
        if "checkpoint" in start:
            path = start["checkpoint"]
            return Start(checkpoint=Checkpoint(path=path, content=models.fingerprint(path)))
        return Start()

    def utility(self) -> Utility | None:
        """The `utility` block, what it leaves open filled in from `federation.local` and the model's own dropout, with
        what the defense replaces in it."""
        if self.scenario.utility is None:
            return None
        block = self.scenario.utility.model_dump(mode="json")
        local = self.scenario.federation.local
        attacked = {"steps": local.steps, "learning_rate": local.learning_rate}
        block["local"] |= {key: value for key, value in attacked.items() if block["local"][key] is None}
        overrides = defenses.compose(self.defense).local_overrides()
        block["local"] |= {key: value for key, value in overrides.items() if key in block["local"]}
        if block["reachable"] is not None:
            block["reachable"]["dropout"] = self._own_dropout()
        return Utility.from_dict(block)

    def local(self) -> Local:
        """What clients do in an attacked round, with what the defense replaces in it."""
        return Local.from_dict(self._federation()["local"])

    def _federation(self) -> dict[str, Any]:
        plain = self.scenario.federation.model_dump(mode="json", exclude={"deadline"})  # it changes no result
        return {**plain, "local": {**plain["local"], **defenses.compose(self.defense).local_overrides()}}

    def _own_dropout(self) -> float | None:
        return self.scenario.model.spec()["dropout"]

    def state_before(self, round: int) -> str:
        """What the global model is when it is sent in a round, as the table has it."""
        if round > 1:
            return f"round_{round - 1}"
        start = self.start()
        return "pretrained" if start.pretrain else "checkpoint" if start.checkpoint else "init"

    def working_defense(self) -> tuple[dict[str, Any], ...]:
        """The defense without the parts that only change the model block, so that equal work has an equal key."""
        return tuple(spec for spec in self.defense if not defenses.compose([spec]).declarative)

    def knowable(self) -> set[str]:
        """The grants that there is something to know of here: not the defense of a client that has none."""
        nothing = {
            "defense": all(defenses.compose([spec]).server_alone for spec in self.working_defense()),
            "dropout_rate": self.model_spec().get("dropout") == 0,
            "batch_order": self.local().training.epochs is None,
        }
        return {name for name in GRANTS if not nothing.get(name)}

    def work(self) -> Work:
        """All that determines what the federation's clients send: no labels of the table, no attack.

        The content of the user's own files is part of it: other pixels are other work.
        """
        scenario = self.scenario
        source = scenario.data.model_dump(mode="json", exclude_none=True)
        factory = scenario.model.spec().get("factory")
        if factory is not None:
            look_beside(scenario.folder)
        return Work(
            data=source,
            model=self.model_spec(),
            federation=Federation.from_dict(self._federation()),
            defense=self.working_defense(),
            seed=self.seed,
            victims=Victims(**scenario.victims.model_dump()),
            utility=self.utility(),
            salt=self.salt,
            start=self.start(),
            content=data.load(source).fingerprint if source["name"] in _OWN_FILES else None,
            source=None if factory is None else models.source(factory),
            malicious=self.malicious,
        )

    def setting(self, round: int) -> dict[str, Any]:
        """What rows must have in common to be pooled: all that can change a result, JSON-able, except the defense, the
        seed, which clients are attacked, and the attack.

        It is the work less what is named above, so that a new key of the scenario parts settings by itself. A file
        counts by its name and content; the dropout rate is the model's own, and local training the federation's,
        not what the defense made of them.
        """
        work = {key: value for key, value in copy.deepcopy(self.work().to_dict()).items() if key not in _NO_SETTING}
        work["model"] = self.scenario.model.spec()
        local = Local.from_dict(self.scenario.federation.local.model_dump(mode="json"))
        work["federation"]["local"] = local.to_dict()
        work["federation"].pop("resources")
        if (plain := replace(self, defense=()).utility()) is not None:
            work["utility"] = asdict(plain)
        for block in (work["data"], work.get("start", {}).get("checkpoint", {})):
            if "path" in block:
                block["path"] = Path(block["path"]).name
        engine = self.scenario.engine.model_dump(mode="json")
        work["engine"] = {key: value for key, value in engine.items() if key not in _HOW_COMPUTED}
        if any(attacks.get(spec["name"]).looks_back for spec in self.scenario.attack_specs()):
            work["seen_before"] = [other for other in self.scenario.victims.rounds if other < round]
        return {**work, "round": round}


def every_cell(scenario: Scenario) -> list[Cell]:
    """Every combination of a scenario's axes, nested in this order: sweep, seed, defense, what the server does."""
    return [
        Cell(
            scenario=variant,
            seed=seed,
            defense_label=label_of(parts),
            defense=specs_of(parts),
            sweep=values,
            malicious=server,
        )
        for values, variant in scenario.variants
        for seed, parts, server in itertools.product(variant.seeds, variant.defenses, servers(variant))
    ]


def servers(scenario: Scenario) -> list[dict[str, Any] | None]:
    """The servers of a scenario without a sweep: an honest one, and one for each attack that changes the model."""
    return [None, *(dict(filled(spec)) for spec in scenario.attack_specs() if is_malicious(spec))]
