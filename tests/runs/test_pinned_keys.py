"""The keys of cells, jobs and scores are a promise: a run that was begun goes on, and its entries stay what they were.

A new key of the scenario that says nothing at its default leaves every one of them as it was. Where a change is meant
to make other work of the same scenario, `python tests/runs/test_pinned_keys.py` prints what to pin instead.
"""

import pytest

from fedsim.federation import cost, start
from fedsim.files import key_of, write_json
from fedsim.observations import SUM, name_of
from fedsim.runs import jobs, results
from fedsim.runs.directory import RunDirectory
from fedsim.scenario import every_cell, load

CASES = {
    "quickstart": ("quickstart", ()),  # a sweep of the model, and a utility block
    "pretrained": ("closed-forms-deep", ()),  # a sweep of blocks, some of them pretrained
    "defenses": ("defenses", ("seeds=[0, 7]",)),
    "several steps": ("fedavg", ("federation.local.precision=float64", "victims.development=2")),
    "sums": ("secure-sum", ()),
    "epochs": (
        "smoke",
        (
            "federation.local.share=weights",
            "federation.local.epochs=2",
            "federation.local.examples=3",
            "federation.local.optimizer={name: adam, beta1: 0.8}",
            "federation.local.proximal=0.1",
            "federation.local.clip_norm=1.0",
            "federation.local.label_smoothing=0.1",
            "federation.local.trained=['layers.*']",
            "engine.record={every: 10}",
        ),
    ),
}

PINNED = {
    "quickstart": {
        "cells": "ae8740c6ab70cad3",
        "jobs": "dbb60b4dbb942103",
        "scores": "a92a7bbb42d4a885",
        "settings": "1c4d57d46d1ca57a",
        "reachable": "0ab35126701ab005",
    },
    "pretrained": {
        "cells": "966b884808876342",
        "jobs": "89dfb7d01d4e3f09",
        "scores": "a8b1cfe408da64f7",
        "settings": "5fd9528b79c7c528",
        "pretrained": "242718b776546b64",
    },
    "defenses": {
        "cells": "403438fe55d48c5d",
        "jobs": "ffa2cc8e18cfab61",
        "scores": "a74b6b4ef5af8331",
        "settings": "7df99d96841e5a53",
        "reachable": "764c4334e1f177f0",
    },
    "several steps": {
        "cells": "ed83e94d10654a71",
        "jobs": "a92a55bae109f2a1",
        "scores": "6116655d38c5874d",
        "settings": "2e45915a01bc7ebd",
    },
    "sums": {
        "cells": "eba7ca205886e926",
        "jobs": "d446a82a42ee5911",
        "scores": "78406c5ef99a97e8",
        "settings": "7b3990efb862561e",
    },
    "epochs": {
        "cells": "8116bce0ede766cd",
        "jobs": "2d732aeeb9ef7033",
        "scores": "99574ed6ba73e456",
        "settings": "61fcb2f1e3ec0e66",
    },
}


def _keys(case: str, folder: RunDirectory) -> dict[str, str]:
    """A hash of all keys of a kind, in their order."""
    name, overrides = CASES[case]
    scenario = load(name, overrides, rehearsed=False)
    cells = every_cell(scenario)
    found = []
    for cell in cells:
        seen = folder.cell(jobs.cell_key(cell)) / "observations"
        for round in cell.scenario.victims.rounds:
            for client in (SUM,) if "secure_aggregation" in cell.defense_label else range(3):
                write_json(seen / f"{name_of(round, client)}.json", {"observation": {"round": round, "client": client}})
        found += jobs.jobs_of(folder, cell)
    works = [cell.work() for cell in cells]
    keys = {
        "cells": [jobs.cell_key(cell) for cell in cells],
        "jobs": [job.key for job in found],
        "scores": [results.score_key(job, scenario) for job in found],
        "settings": [cell.setting(1) for cell in cells],
        "pretrained": [start.pretrained_file(work, folder.pretrained).stem for work in works if work.start.pretrain],
        "reachable": [cost.reachable_key(work) for work in works if work.utility],
    }
    return {kind: key_of(each) for kind, each in keys.items() if each}


@pytest.mark.parametrize("case", CASES)
def test_the_keys_of_a_scenario_are_what_they_were(case, tmp_path, monkeypatch):
    for module in (jobs, results, start, cost):
        monkeypatch.setattr(module, "__version__", "1")
    assert _keys(case, RunDirectory(tmp_path)) == PINNED[case]


if __name__ == "__main__":
    import tempfile
    from pathlib import Path

    jobs.__version__ = results.__version__ = start.__version__ = cost.__version__ = "1"  # type: ignore[misc]
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            lines = [f'        "{kind}": "{key}",' for kind, key in _keys(case, RunDirectory(Path(folder))).items()]
            print("\n".join([f'    "{case}": {{', *lines, "    },"]))
