"""Matching an answer to the truth, and the scores of a client's batch."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim import table
from fedsim.scoring.matching import match
from fedsim.scoring.score import Scored, score_victim

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)


def originals(count=4, seed=0, side=12):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)


def normalised(images):
    return (images / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def score(original, reconstruction, **options) -> Scored:
    labels = options.pop("true_labels", torch.arange(len(original)))
    options = {"metrics": ["mse", "psnr", "ssim"], **options}
    return score_victim(
        original=original, reconstruction=reconstruction, mean=MEAN, std=STD, true_labels=labels, **options
    )


@settings(max_examples=40, deadline=None)
@given(count=st.integers(0, 5), answers=st.integers(0, 6), seed=st.integers(0, 1000))
def test_match_has_the_least_total_error_of_all_assignments(count, answers, seed):
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.rand(n, 1, 3, 3, generator=generator) for n in (count, answers))
    order = match(a, b)
    used = [j for j in order if j is not None]
    assert len(order) == count
    assert len(used) == len(set(used)) == min(count, answers)

    def cost(pairs):
        return sum(float((a[i] - b[j]).double().square().mean()) for i, j in pairs)

    mine = cost((i, j) for i, j in enumerate(order) if j is not None)
    if count <= answers:
        every = (cost(enumerate(chosen)) for chosen in itertools.permutations(range(answers), count))
    else:
        every = (cost((i, j) for j, i in enumerate(chosen)) for chosen in itertools.permutations(range(count), answers))
    assert mine == pytest.approx(min(every), abs=1e-9)


def test_an_exact_answer_in_another_order():
    truth = originals()
    order = [2, 0, 3, 1]
    scored = score(truth, normalised(truth)[order], labels=torch.arange(4)[order])
    assert scored.order == [1, 3, 0, 2]
    assert torch.equal(scored.reconstructions, truth)
    for row in scored.rows:
        assert all(row[flag] is True for flag in ("bit_exact", "leaked_ssim", "leaked_psnr", "label_correct"))
        assert row["psnr"] > 120
        assert row["ssim"] == pytest.approx(1)
        assert (row["lpips"], row["mask_accuracy"]) == (None, None)


def test_rows_are_columns_of_the_results_table():
    truth = originals(2)
    noise = {"layer": torch.ones(2, 5)}
    scored = score(
        truth,
        normalised(truth),
        labels=torch.arange(2),
        true_noise=noise,
        noise=noise,
        metrics=["mse", "psnr", "ssim", "lpips"],
    )
    frame = table.frame(scored.rows)
    assert frame["lpips"].to_list() == pytest.approx([0, 0], abs=1e-6)
    assert frame["mask_accuracy"].to_list() == [1, 1]


def test_the_flags_are_there_whatever_is_reported():
    truth = originals(1)
    [row] = score(truth, normalised(truth), metrics=["mse"]).rows
    assert row["leaked_ssim"] is True
    assert (row["psnr"], row["ssim"]) == (None, None)
    assert row["mse"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("step", "exact", "leaked"), [(0.4, True, True), (0.6, False, True), (35, False, False)])
def test_flags_turn_at_half_a_grey_value_and_at_19_db(step, exact, leaked):
    truth = torch.full((1, 3, 12, 12), 100, dtype=torch.uint8)
    [row] = score(truth, normalised(truth + torch.tensor(step))).rows
    assert row["bit_exact"] is exact
    assert row["leaked_psnr"] is leaked  # 35 / 255 is 17.2 dB


def test_exactly_19_db_is_not_leaked(monkeypatch):
    truth = torch.zeros(1, 3, 12, 12, dtype=torch.uint8)
    monkeypatch.setattr("fedsim.scoring.score.LEAKED_PSNR", 20.0)
    monkeypatch.setitem(
        __import__("fedsim.scoring.metrics", fromlist=["METRICS"]).METRICS, "psnr", lambda a, b: torch.tensor([20.0])
    )
    [row] = score(truth, normalised(truth)).rows
    assert row["leaked_psnr"] is False


def test_fewer_answers_than_originals():
    truth = originals(3)
    scored = score(truth, normalised(truth)[[2]], labels=torch.tensor([7]))
    assert scored.order == [None, None, 0]
    missing = scored.rows[0]
    assert (missing["psnr"], missing["mse"], missing["label_correct"]) == (None, None, None)
    assert missing["leaked_psnr"] is missing["bit_exact"] is False
    assert scored.rows[2]["bit_exact"] is True
    assert scored.rows[2]["label_correct"] is False
    assert scored.reconstructions[0].max() == 0


def test_more_answers_than_originals_and_none():
    truth = originals(2)
    surplus = torch.cat([normalised(originals(3, seed=9)), normalised(truth)])
    assert score(truth, surplus).order == [3, 4]
    none = score(truth, normalised(truth)[:0])
    assert none.order == [None, None]
    assert [row["leaked_ssim"] for row in none.rows] == [False, False]


def test_mask_accuracy_follows_the_matching_and_weighs_layers_by_size():
    truth = originals(2)
    drawn = {"a": torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1]]), "b": torch.zeros(2, 12)}
    guess = {"a": torch.tensor([[0.2, 0.4, 0.9, 0.1], [0.8, 0.7, 0.3, 0.6]]), "b": torch.full((2, 12), 0.1)}
    scored = score(truth, normalised(truth)[[1, 0]], true_noise=drawn, noise=guess)
    first, second = scored.rows
    assert json.loads(first["mask_accuracy_layers"]) == {"a": 0.75, "b": 1.0}
    assert json.loads(second["mask_accuracy_layers"]) == {"a": 0.75, "b": 1.0}
    assert first["mask_accuracy"] == pytest.approx(15 / 16)
    swapped = score(truth, normalised(truth), true_noise=drawn, noise=guess).rows[0]
    assert json.loads(swapped["mask_accuracy_layers"])["a"] == 0.25


def test_what_cannot_be_scored_is_refused_with_the_reason():
    truth = originals(2)
    broken = normalised(truth)
    broken[1, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="1 of 2 reconstructed images hold NaN or infinite pixels"):
        score(truth, broken)
    with pytest.raises(ValueError, match="reconstructed images are 3 x 8 x 8, the originals 3 x 12 x 12"):
        score(truth, normalised(originals(2, side=8)))
    with pytest.raises(ValueError, match="no such metric: fid"):
        score(truth, normalised(truth), metrics=["fid"])
    with pytest.raises(ValueError, match="noise of 'x' is 4, the client drew 3"):
        score(truth, normalised(truth), true_noise={"x": torch.ones(2, 3)}, noise={"x": torch.ones(2, 4)})


def test_masks_of_a_layer_that_drew_nothing_are_left_out():
    truth = originals(2)
    drawn, guess = {"y": torch.ones(2, 4)}, {"x": torch.ones(2, 3), "y": torch.tensor([[1.0, 1, 1, 0]] * 2)}
    scored = score(truth, normalised(truth), true_noise=drawn, noise=guess)
    assert [json.loads(row["mask_accuracy_layers"]) for row in scored.rows] == [{"y": 0.75}] * 2
    alone = score(truth, normalised(truth), true_noise=drawn, noise={"x": torch.ones(2, 3)})
    assert [row["mask_accuracy"] for row in alone.rows] == [None] * 2


def test_what_is_no_mask_has_no_mask_accuracy():
    """The weight and the permutation of mixup: rounded, 0.6 would be right for 0.9."""
    images = originals(2)
    drawn = {"weight": torch.tensor([0.9]), "permutation": torch.tensor([1, 0])}
    guess = {"weight": torch.tensor([0.6]), "permutation": torch.tensor([1.0, 0.0])}
    axes = {"weight": ("step",), "permutation": ("step", "example")}
    scored = score(images, normalised(images), true_noise=drawn, noise=guess, axes=axes)
    assert [row["mask_accuracy"] for row in scored.rows] == [None, None]
    mask = {"drop": torch.ones(2, 4)}
    scored = score(images, normalised(images), true_noise=drawn | mask, noise=guess | mask, axes=axes)
    assert [row["mask_accuracy"] for row in scored.rows] == [1.0, 1.0]


def test_an_answer_outside_the_pixel_range_is_matched_as_it_is_scored():
    """Clamped: unclamped the first answer lies nearer to the second original."""
    original = torch.tensor([[128, 0], [204, 255]], dtype=torch.uint8).view(2, 1, 1, 2).repeat(1, 1, 12, 6)
    answer = torch.tensor([[3.0, 0.4], [1.0, 0.6]]).view(2, 1, 1, 2).repeat(1, 1, 12, 6)
    labels = torch.tensor([0, 1])
    scored = score_victim(original=original, reconstruction=answer, mean=[0.0], std=[1.0], true_labels=labels)
    assert scored.order == [0, 1]
