"""Who wins on the public leaderboard, and who has no place to win."""

import json

import numpy as np
import polars as pl
import pytest
from made_up_run import SCENARIO, make_pictures, row

from fedsim import table
from fedsim.reporting import entries, site
from fedsim.reporting.entries.parts import Verification
from fedsim.reporting.site.board import board_of

MARKER = {"name": SCENARIO["name"], "scenario": SCENARIO, "command": "fedsim run made-up"}
NONE, CLIP, NOISE, PRUNE = (
    [{"name": "none"}],
    [{"name": "clip", "norm": 1.0}],
    [{"name": "gaussian_noise", "std": 0.01}],
    [{"name": "prune", "keep": 0.1}],
)


def victims(defense, centre, *, attack="dropout_inversion", clients=8, spread=0.5, **values):
    """Rows of clients whose scores lie evenly about a median."""
    label = " + ".join(part["name"] for part in defense)
    common = {"attack": attack, "defense": label, "defense_params": json.dumps(defense), **values}
    offsets = np.linspace(-spread, spread, clients)
    return [row(**{**common, "client": i, "psnr": centre + offset}) for i, offset in enumerate(offsets)]


def board_of_rows(*groups):
    found = entries.entries_of(table.frame([one for group in groups for one in group]), make_pictures, MARKER)
    return board_of({entry.stem: entry for entry, _ in found})


def said(board):
    return {one.strongest.entry.defense.label: (one.rank, one.tied, one.against_none) for one in board.defenses}


def test_defenses_are_ranked_if_they_are_better_than_none_and_tied_among_themselves():
    board = board_of_rows(victims(NONE, 60), victims(CLIP, 12), victims(NOISE, 12.2), victims(PRUNE, 16))
    assert said(board) == {
        "none": (None, False, "undefended"),
        "clip": (1, True, ""),
        "gaussian_noise": (1, True, ""),
        "prune": (3, False, ""),
    }


def test_a_defense_that_is_tied_with_none_or_leaks_most_images_has_no_rank():
    tied = victims(CLIP, 58, spread=10)
    board = board_of_rows(
        victims(NONE, 60), tied, victims(NOISE, 30), victims(PRUNE, 70), victims([*CLIP, *NOISE], 25)
    )
    assert said(board) == {
        "none": (None, False, "undefended"),
        "clip + gaussian_noise": (None, False, "lower than none"),
        "gaussian_noise": (None, False, "lower than none"),
        "clip": (None, False, "tied with none"),
        "prune": (None, False, "higher than none"),
    }
    assert {one.verdict.in_words for one in board.defenses} == {"most images rebuilt"}


def test_nobody_is_first_of_one():
    assert said(board_of_rows(victims(CLIP, 12))) == {"clip": (None, False, "")}
    assert said(board_of_rows(victims(NONE, 60), victims(CLIP, 12)))["clip"] == (None, False, "lower than none")
    board = board_of_rows(victims(NONE, 60), victims(CLIP, 12))
    assert [attack.rank for attack in board.attacks] == [None, None]


def test_where_nothing_was_rebuilt_without_a_defense_there_is_nothing_to_tell():
    board = board_of_rows(victims(NONE, 15), victims(CLIP, 10), victims(NOISE, 11))
    assert {standing for _, _, standing in said(board).values()} == {"undefended", "nothing to tell"}
    clip = next(one for one in board.defenses if one.strongest.entry.defense.label == "clip")
    assert any("did not rebuild most of the undefended client's images" in why for why in clip.verdict.objections)
    assert not clip.verdict.recommended


@pytest.mark.parametrize(("clients", "by_range"), [(4, True), (6, False)])
def test_few_clients_are_ranked_by_range_and_nothing_is_recommended(clients, by_range, tmp_path):
    board = board_of_rows(*(victims(parts, at, clients=clients) for parts, at in ((NONE, 60), (CLIP, 10), (NOISE, 14))))
    ranked = {one.strongest.entry.defense.label: (one.rank, one.by_range) for one in board.defenses}
    assert ranked == {"none": (None, False), "clip": (1, by_range), "gaussian_noise": (2, by_range)}
    assert {one.strongest.range_level for one in board.defenses} == {0.875 if by_range else None}
    clip = board.defenses[1]
    assert clip.verdict.recommended is not by_range  # inversion by the direction alone is the same under clipping


def test_attacks_by_range_say_so():
    few = board_of_rows(victims(NONE, 60, clients=4), victims(NONE, 20, clients=4, attack="dlg"))
    assert [(one.rank, one.by_range) for one in few.attacks] == [(1, True), (2, True)]


def test_what_an_entry_calls_itself_decides_nothing():
    """A defense that is labelled `none` is one; an attack that only says it was told of the defense was not."""
    disguised = [{**one, "defense": "none"} for one in victims(NOISE, 12)]
    board = board_of_rows(victims(NONE, 60), disguised, victims(CLIP, 12.0))
    assert [one.verdict.baseline for one in board.defenses] == [True, False, False]
    noise = next(one for one in board.defenses if one.strongest.entry.defense.parts == NOISE)
    assert "no attack that takes it into account was tried" in noise.verdict.objections


def test_a_strangers_labels_have_a_bearable_length():
    [(entry, _)] = entries.entries_of(table.frame(victims(NONE, 60)), make_pictures, MARKER)
    own = {"data": {"name": "mnist"}, "model": {"name": "mlp"}, "federation": {"local": {"batch_size": 1, "steps": 1}}}
    both = (
        entry.setting.model_copy(update={"conditions": conditions}) for conditions in (own, {**own, "x": "y" * 9000})
    )
    board = board_of({f"entry-{at}": entry.model_copy(update={"setting": one}) for at, one in enumerate(both)})
    assert len({attack.group for attack in board.attacks}) == 2
    assert max(len(attack.heading) for attack in board.attacks) < 200


def test_defenses_count_by_the_attacker_who_knew_them_and_who_did_not():
    told = victims(CLIP, 40, threat_defense="known")
    board = board_of_rows(victims(NONE, 60), victims(CLIP, 12, threat_defense="unknown", attack="dlg"), told)
    assert len({one.group for one in board.defenses}) == 1
    clip = next(one for one in board.defenses if one.strongest.entry.defense.label == "clip")
    assert clip.strongest.entry.threat_model["defense"] == "known"
    assert clip.tried == 2


def test_a_sum_over_clients_is_what_the_defense_lets_a_server_see():
    """It stands beside the undefended client; its eight images come from one answer, so that it needs as many seeds."""
    secure = [{"name": "secure_aggregation"}]
    summed = {"threat_aggregation": "sum_of_8"}
    alone = board_of_rows(victims(NONE, 60), victims(secure, 12, **summed))
    assert len({one.group for one in alone.defenses}) == 1
    [entry] = [one.strongest.entry for one in alone.defenses if one.strongest.entry.defense.label != "none"]
    assert entry.victims.clients == 1
    assert entry.scores.level is None
    seeds = [victims(secure, 12, seed=seed, **summed) for seed in range(6)]
    several = board_of_rows(*(victims(NONE, 60, seed=seed) for seed in range(6)), *seeds)
    [entry] = [one.strongest.entry for one in several.defenses if one.strongest.entry.defense.label != "none"]
    assert (entry.victims.clients, entry.victims.attacked) == (6, 48)


def test_the_page_shows_verdicts_objections_ranges_and_verifications(tmp_path):
    results = table.frame([*victims(NONE, 60, clients=4), *victims(NOISE, 12, clients=4)])
    made = {entry.stem: entry for entry, _ in entries.entries_of(results, make_pictures, MARKER)}
    verified = [
        Verification(date="2030-01-02", outcome=outcome, victims=3, fedsim_version="9", environment={})
        for outcome in ("agrees", "agrees", "other environment")
    ]
    made = {stem: entry.model_copy(update={"verified": verified}) for stem, entry in made.items()}
    page = dict(site.pages(made))["index.html"]
    for text in (
        "none rebuilt by the attacks tried",
        "4 clients are too few for an interval",
        "no attack that takes it into account was tried",
        "range, 87.5 %",
        "lower than none",
        "by range",
        '<td class="text">agrees 2, other environment 1</td>',  # of the attack
        "verified: agrees 2, other environment 1",  # of the defense's strongest attack
        "agrees on 2030-01-02, 3 victims, fedsim 9",
    ):
        assert text in page
    assert ' best"' not in page


def test_only_a_recommended_defense_is_set_apart(tmp_path):
    results = table.frame([*victims(NONE, 60), *victims(CLIP, 12), *victims(NOISE, 10)])
    made = {entry.stem: entry for entry, _ in entries.entries_of(results, make_pictures, MARKER)}
    page = dict(site.pages(made))["index.html"]
    best = [stem for stem in made if f'<tr class="attack resists best" data-stem="{stem}">' in page]
    assert [made[stem].defense.label for stem in best] == ["clip"]


def test_development_victims_choose_the_strongest_and_are_in_no_number():
    def rows(attack, development, reported):
        early = victims(NONE, development, attack=attack, clients=6, development=True)
        late = [{**one, "client": one["client"] + 6} for one in victims(NONE, reported, attack=attack, clients=6)]
        return [*early, *late]

    board = board_of_rows(rows("dlg", 50, 20), rows("cut", 40, 30))
    [one] = board.defenses
    assert one.strongest.attack_name == "dlg"
    assert {value.client for value in one.strongest.entry.victims.values} == set(range(6, 12))
    assert one.strongest.entry.scores.chosen_psnr == pytest.approx(50)


def test_a_failed_attack_is_an_entry_and_speaks_against_the_defense():
    failed = [
        {**one, "status": "failed", "reason": "out of memory", "psnr": None, "leaked_psnr": None, "observed": True}
        for one in victims(CLIP, 12, attack="dlg")
    ]
    board = board_of_rows(victims(NONE, 60), victims(CLIP, 12), failed)
    assert any(row.attack_name == "dlg" and row.entry.scores.psnr is None for row in board.attacks)
    clip = next(one for one in board.defenses if one.strongest.entry.defense.label == "clip")
    assert "8 attacks have failed" in clip.verdict.objections
    assert pl.DataFrame([{"rank": row.rank} for row in board.attacks])["rank"].null_count() == 3
