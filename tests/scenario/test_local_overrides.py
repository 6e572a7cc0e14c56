"""A defense that replaces keys of `federation.local` is a row beside others of the same setting."""

from __future__ import annotations

import json

import pytest

from fedsim import table
from fedsim.errors import BadInput, Caution
from fedsim.reporting import leaderboard, verdicts
from fedsim.reporting.naming import needed_for
from fedsim.runs.jobs import cell_key
from fedsim.scenario import Cell, every_cell, parse

BASE = {
    "name": "base",
    "data": {"name": "mnist"},
    "model": {"name": "mlp", "width": 8},
    "federation": {"clients": 4, "rounds": 2, "local": {"batch_size": 2, "learning_rate": 0.05}},
    "attacks": ["inverting_gradients"],
    "utility": {"rounds": 2},
    "defenses": ["none", {"name": "batch_size", "size": 6}, {"name": "local_steps", "steps": 3}],
}


def cells(**changes) -> list[Cell]:
    return every_cell(parse({**BASE, **changes}, rehearsed=False))


def test_the_client_does_what_the_defense_says_attacked_or_not():
    plain, larger, longer = (cell.work() for cell in cells())
    assert (larger.federation.local.batch_size, larger.federation.local.training.steps) == (6, 1)
    assert larger.federation.local.share == "gradient"
    assert (longer.federation.local.batch_size, longer.federation.local.training.steps) == (2, 3)
    assert longer.federation.local.share == "weights"
    assert (plain.utility.local.batch_size, plain.utility.local.steps) == (32, 1)
    assert (larger.utility.local.batch_size, larger.utility.local.steps) == (6, 1)
    assert (longer.utility.local.batch_size, longer.utility.local.steps) == (32, 3)
    assert longer.utility.local.of(longer.federation.local).share == "weights"


def test_it_is_the_work_of_a_federation_that_does_so_itself():
    _, larger, longer = cells()
    own = {**BASE["federation"]["local"], "batch_size": 6}
    [same] = cells(
        federation={**BASE["federation"], "local": own},
        defenses=["none"],
        utility={"rounds": 2, "local": {"batch_size": 6}},
    )
    assert cell_key(same) == cell_key(larger)
    assert same.setting(1) != larger.setting(1)
    own = {**BASE["federation"]["local"], "steps": 3, "share": "weights"}
    [same] = cells(federation={**BASE["federation"], "local": own}, defenses=["none"])
    assert cell_key(same) == cell_key(longer)


def test_all_of_a_federation_are_of_one_setting():
    settings = {json.dumps(cell.setting(1), sort_keys=True) for cell in cells()}
    assert len(settings) == 1
    [setting] = settings
    assert json.loads(setting)["federation"]["local"]["batch_size"] == 2
    assert json.loads(setting)["utility"]["local"]["batch_size"] == 32


def test_steps_take_the_place_of_epochs():
    federation = {**BASE["federation"], "local": {"epochs": 2, "examples": 10, "batch_size": 5, "share": "weights"}}
    [cell] = cells(federation=federation, defenses=[{"name": "local_steps", "steps": 3}])
    training = cell.local().training
    assert (training.steps, training.epochs, cell.local().examples) == (3, None, None)
    assert "batch_order" not in cell.knowable()
    [cell] = cells(federation=federation, defenses=["none"])
    assert "batch_order" in cell.knowable()


def test_others_are_deployed_on_what_it_makes_of_the_training():
    single = {**BASE["federation"], "local": {"batch_size": 1}}
    with pytest.raises(BadInput, match="mixup: an image has nothing to be mixed with"):
        cells(federation=single, defenses=["mixup"])
    [cell] = cells(federation=single, defenses=[["mixup", {"name": "batch_size", "size": 4}]])
    assert cell.local().batch_size == 4


@pytest.mark.parametrize(
    ("defense", "reason"),
    [
        ({"name": "batch_size", "size": 2}, r"defenses\[0\]\[0\]: batch_size: federation.local is so without it"),
        ({"name": "local_steps", "steps": 1}, r"defenses\[0\]\[0\]: local_steps: federation.local is so without it"),
        ({"name": "batch_size", "size": 0}, r"defenses\[0\]\[0\].size: batch_size: size = 0 is not"),
        (
            [{"name": "batch_size", "size": 4}, {"name": "batch_size", "size": 5}],
            r"defenses\[0\]: batch_size and batch_size both say what batch_size is",
        ),
    ],
)
def test_what_says_nothing_is_refused(defense, reason):
    with pytest.raises(BadInput, match=reason) as caught:
        cells(defenses=[defense])
    assert "\n" not in str(caught.value)


def test_batches_are_compared_with_what_there_is():
    described = {**BASE, "utility": None}
    with pytest.raises(BadInput, match=r"defenses\[0\]: 99999 images a batch, but there are only"):
        parse({**described, "defenses": [{"name": "batch_size", "size": 99_999}]})
    with pytest.raises(BadInput, match=r"defenses\[0\]: 999,999 steps with a batch of 2 each"):
        parse({**described, "defenses": [{"name": "local_steps", "steps": 999_999}]})
    few = {**BASE["federation"], "clients": 400, "clients_per_round": 2}
    with pytest.warns(Caution, match=r"batch_size\(size=20\): 20 images a batch, but client \d+ has only"):
        parse({**described, "federation": few, "defenses": [{"name": "batch_size", "size": 20}]})


def test_an_attacker_who_is_told_of_the_training_was_told_of_the_defense():
    assert needed_for("inverting_gradients", "batch_size") == "batch_size"
    assert needed_for("inverting_gradients", "local_steps") == "local_training"
    assert all("defense" not in cell.knowable() for cell in cells())


def test_its_rows_stand_beside_the_undefended_ones_of_the_setting():
    rows = []
    for cell, psnr, kind in zip(cells(), (40.0, 12.0, 11.0), ("gradient", "gradient", "delta")):
        for client in range(6):
            rows.append(
                {
                    "cell": cell_key(cell),
                    "seed": 0,
                    "round": 1,
                    "client": client,
                    "sample": 0,
                    "setting": json.dumps(cell.setting(1), sort_keys=True),
                    "dataset": "mnist",
                    "model": "mlp",
                    "model_params": "{}",
                    "dropout": 0.0,
                    "defense": cell.defense_label,
                    "defense_params": json.dumps(list(cell.defense)),
                    "batch_size": 2,
                    "local_steps": 1,
                    "update_kind": kind,
                    "attack": "inverting_gradients",
                    "attack_params": "{}",
                    "oracle": False,
                    "status": "ok",
                    "psnr": psnr + client,
                    "ssim": 0.5,
                    "leaked_psnr": psnr > 19,
                    "leaked_ssim": False,
                    "bit_exact": False,
                    "threat_batch_size": "known",
                    "threat_local_training": "known",
                }
            )
    board = leaderboard.build(table.frame(rows))
    assert board["setting_label"].n_unique() == 1
    found = {verdict.defense: verdict for verdict in verdicts.verdicts(board)}
    assert set(found) == {"none", "batch_size(size=6)", "local_steps(steps=3)"}
    assert all(verdict.best["informed"] for verdict in found.values())
    for name in ("batch_size(size=6)", "local_steps(steps=3)"):
        assert found[name].plain is not None
        assert found[name].plain["psnr"] == 42.5
