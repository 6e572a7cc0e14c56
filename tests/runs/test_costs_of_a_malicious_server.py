"""What a defense costs is what it costs where the server is honest; a changed model's own numbers are no cost."""

from __future__ import annotations

from fedsim.files import write_json
from fedsim.runs.directory import RunDirectory
from fedsim.runs.jobs import cell_key
from fedsim.runs.results import assemble, history
from fedsim.scenario import every_cell, parse


def test_rows_of_a_changed_model_have_the_costs_of_the_honest_one(tmp_path):
    scenario = parse(
        {
            "name": "changed",
            "attacks": ["inverting_gradients", "imprint"],
            "federation": {"clients": 2},
            "defenses": ["none"],
        },
        rehearsed=False,
    )
    directory = RunDirectory(tmp_path)
    for cell, length, accuracy in zip(every_cell(scenario), (100, 170), (0.1, 0.2), strict=True):
        summary = {
            "faults": [{"round": 1, "client": client, "reason": "lost"} for client in (0, 1)],
            "lengths": [{"round": 1, "client": client, "bytes": length + client} for client in (0, 1)],
            "accuracy": [accuracy, accuracy],
            "accounting_note": "",
            "utility": 0.9 if cell.malicious is None else None,
        }
        write_json(directory.cell(cell_key(cell)) / "cell.json", summary)
    rows = assemble(directory, scenario)
    imprinted = rows.filter(rows["attack"] == "imprint").sort("client")
    assert imprinted["bytes"].to_list() == [100, 101]
    assert imprinted["utility"].to_list() == [0.9, 0.9]
    assert set(imprinted["cell"]) == {cell_key(every_cell(scenario)[1])}
    told = rows.with_columns(threat_server=rows["attack"].replace_strict({"imprint": "malicious"}, default="passive"))
    assert [one.accuracy for one in history(directory, told)] == [[0.1, 0.1]]
