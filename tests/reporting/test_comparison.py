"""Two runs or two attacks, victim by victim."""

from __future__ import annotations

import json

import numpy as np
import pytest
from made_up_run import row, unscored
from scipy.stats import wilcoxon

from fedsim import table
from fedsim.errors import BadInput
from fedsim.reporting.comparison import Side, compare


def pictures(job, *, salt=0):
    """Eight originals that depend on nothing but the client, or on the salt of a run, too."""
    draws = (np.random.default_rng([client, salt]) for client in range(8))
    originals = np.stack([draw.integers(0, 255, (2, 2, 1), "uint8") for draw in draws])
    return originals, originals


def scored(psnr, *, by=lambda client: 0.0, **values):
    """Eight clients whose images are of very different difficulty: 10, 20, ... dB."""
    return [
        row(client=c, psnr=psnr + 10.0 * c + by(c), job="job", picture=c, **values) for c in range(8)
    ]  # fmt: skip


def side(rows, name="a", attack=None, salt=0):
    return Side(name, table.frame(rows), lambda job: pictures(job, salt=salt), attack)


def test_what_differs_between_images_is_no_part_of_the_difference():
    better = scored(10.0, by=lambda client: 0.5 + 0.01 * client)
    [found] = compare(side(scored(10.0)), side(better, "b")).differences
    assert found.median == pytest.approx(0.535)
    assert (found.low, found.high) == pytest.approx((0.5, 0.57))
    assert found.level == 0.95
    assert found.p == pytest.approx(2 * 0.5**8)
    assert found.in_words == "B is better"
    # Wilcoxon's test, which assumes more, says the same of differences of one sign
    assert found.p == pytest.approx(wilcoxon([0.5 + 0.01 * c for c in range(8)]).pvalue)


def test_no_difference_is_the_same_and_has_no_p():
    [found] = compare(side(scored(10.0)), side(scored(10.0), "b")).differences
    assert (found.median, found.p, found.in_words) == (0.0, None, "the same")


def test_differences_of_both_signs_are_not_told_apart():
    mixed = scored(10.0, by=lambda client: 3.0 if client % 2 else -3.0)
    [found] = compare(side(scored(10.0)), side(mixed, "b")).differences
    assert (found.ahead, found.behind, found.p, found.in_words) == (4, 4, 1.0, "not told apart")


def test_p_values_are_corrected_for_their_number():
    a = [row for name in ("x", "y", "z") for row in scored(10.0, defense=name)]
    b = [row for name in ("x", "y", "z") for row in scored(12.0, defense=name)]
    assert [each.p for each in compare(side(a), side(b, "b")).differences] == pytest.approx([3 * 2 * 0.5**8] * 3)


def test_what_is_clear_alone_and_not_among_many_says_so():
    names = ("v", "w", "x", "y", "z", "u", "t")
    a = [row for name in names for row in scored(10.0, defense=name)]
    b = [row for name in names for row in scored(12.0, defense=name)]
    [found, *_] = compare(side(a), side(b, "b")).differences
    assert (found.alone, found.p) == pytest.approx((2 * 0.5**8, 7 * 2 * 0.5**8))
    assert found.in_words == "B is ahead, were it the only comparison"


def test_two_attacks_of_one_run_and_what_they_were_told():
    told = scored(30.0, attack="well_informed", threat_noise="known")
    rows = scored(10.0) + told
    found = compare(side(rows, attack="inverting_gradients"), side(rows, "b", attack="well_informed"))
    assert found.differing == ['threat_model.noise: "unknown" against "known"']
    [one] = found.differences
    assert (one.attack, one.median) == ("inverting_gradients, well_informed", 20.0)


def test_an_image_without_an_answer_counts_with_the_floors_score():
    floor = scored(0.0, attack="null_mean")
    declined = [unscored(client=c, status="not_applicable", reason="no head") for c in range(8)]
    found = compare(side(scored(10.0) + floor), side(declined + floor, "b"))
    assert found.differences[0].median == -10.0
    assert "could not be seen" in found.remarks[0]  # there is no picture of an image that nobody answered


def test_images_of_another_salt_are_no_pairs():
    with pytest.raises(BadInput, match=r"no victim in common: 8 images left out: other images in A than in B"):
        compare(side(scored(10.0)), side(scored(10.0), "b", salt=1))


def test_parameters_and_settings_that_differ_are_said():
    setting = json.dumps({"federation": {"local": {"learning_rate": 0.1}}})
    other = json.dumps({"federation": {"local": {"learning_rate": 0.2}}})
    a = scored(10.0, setting=setting, attack_params='{"iterations": 10}')
    b = scored(10.0, setting=other, attack_params='{"iterations": 20}')
    assert compare(side(a), side(b, "b")).differing == [
        "federation.local.learning_rate: 0.1 against 0.2",
        "inverting_gradients.iterations: 10 against 20",
    ]


def test_variants_of_an_attack_are_paired_with_their_like():
    variants = scored(5.0, attack_params='{"iterations": 10}') + scored(9.0, attack_params='{"iterations": 20}')
    found = compare(side(variants), side(variants, "b"))
    assert [each.in_words for each in found.differences] == ["the same", "the same"]
    with pytest.raises(BadInput, match="several parameters"):
        compare(side(variants + scored(1.0, attack="dlg"), attack="dlg"), side(variants, "b", "inverting_gradients"))


def test_images_of_one_sum_are_one_unit():
    summed = [{**each, "threat_aggregation": "sum of 8"} for each in scored(10.0)]
    [found] = compare(side(summed), side([{**each, "psnr": 50.0} for each in summed], "b")).differences
    assert (found.clients, found.low, found.in_words) == (1, None, "too few clients")


def test_the_command_names_what_is_missing(fedsim, tmp_path):
    code, _, said = fedsim("compare", tmp_path)
    assert code == 2
    assert "of one run, two attacks" in said
