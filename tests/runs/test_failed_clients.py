"""A client that failed has a row for each image that it would have trained on."""

from __future__ import annotations

import pytest

from fedsim.federation.plan import Plan
from fedsim.files import write_json
from fedsim.runs.directory import RunDirectory
from fedsim.runs.jobs import cell_key
from fedsim.runs.results import assemble
from fedsim.scenario import every_cell, parse


@pytest.mark.parametrize(
    ("local", "images"),
    [
        ({"share": "gradient", "batch_size": 3}, [3, 3]),
        ({"share": "weights", "batch_size": 3, "steps": 2}, [6, 6]),
        ({"share": "weights", "batch_size": 2, "epochs": 3, "examples": 5}, [5, 5]),
        ({"share": "weights", "batch_size": 2, "epochs": 1}, None),
    ],
    ids=str,
)
def test_of_steps_their_batches_and_of_epochs_their_examples(local, images, tmp_path):
    scenario = parse(
        {
            "name": "failed",
            "data": {"name": "mnist", "partition": {"kind": "dirichlet", "alpha": 0.5}},
            "model": {"name": "mlp", "dropout": 0},
            "attacks": ["inverting_gradients"],
            "federation": {"clients": 90, "local": local},
            "victims": {"rounds": [1], "clients": 2},
        },
        rehearsed=False,
    )
    [cell] = every_cell(scenario)
    directory = RunDirectory(tmp_path)
    write_json(directory.cell_error(cell_key(cell)), {"reason": "no memory"})
    if images is None:
        images = [len(own) for own in Plan(cell.work()).partition()[:2]]
        assert images[0] != images[1]
    rows = assemble(directory, scenario)
    assert set(rows["status"]) == {"failed"}
    for attack in set(rows["attack"]):
        own = rows.filter(rows["attack"] == attack)
        assert [own.filter(own["client"] == client)["sample"].to_list() for client in (0, 1)] == [
            list(range(count)) for count in images
        ]
