"""Intervals cover as often as they say: shown by simulation, for scores of one kind and of two."""

from __future__ import annotations

import numpy as np
import pytest

from fedsim.scoring import intervals

TRIALS = 4000


def normal(rng, units):
    return rng.normal(25, 6, units), 25.0


def bimodal(rng, units):
    """8 or 40 dB, as where an attack either works or does not: 40 dB for 60 % of the clients."""
    up = rng.random(units) < 0.6
    return np.where(up, 40, 8) + rng.normal(0, 1, units), 40 - 0.96742  # the median: the 1/6 quantile of the upper mode


@pytest.mark.parametrize("units", [6, 8, 16, 64])
@pytest.mark.parametrize("scores", [normal, bimodal])
def test_the_interval_of_a_median_covers_95_percent(scores, units):
    rng = np.random.default_rng(units)
    covered = 0
    for _ in range(TRIALS):
        values, truth = scores(rng, units)
        low, high = intervals.of_median(values)
        covered += low <= truth <= high
    assert intervals.level(units) == 0.95
    assert covered / TRIALS >= 0.95 - 3 * (0.05 * 0.95 / TRIALS) ** 0.5
    assert covered / TRIALS <= 0.996  # and it is no wider than 6 or 8 order statistics make it


@pytest.mark.parametrize(("units", "level"), [(2, 0.5), (3, 0.75), (4, 0.875), (5, 0.9375)])
def test_below_six_units_the_range_says_what_it_covers(units, level):
    rng = np.random.default_rng(units)
    spans = [(intervals.of_median(values), values) for values in rng.normal(0, 1, (TRIALS, units))]
    assert all(span == (values.min(), values.max()) for span, values in spans)
    covered = sum(low <= 0 <= high for (low, high), _ in spans) / TRIALS
    assert intervals.level(units) == level
    assert covered == pytest.approx(level, abs=4 * (level * (1 - level) / TRIALS) ** 0.5)


def test_one_unit_has_no_interval():
    assert intervals.of_median([30.0]) == (None, None)
    assert intervals.level(1) is None


@pytest.mark.parametrize("units", [4, 8, 16, 64])
def test_the_interval_of_a_rate_covers_95_percent_where_the_images_of_a_client_are_alike(units):
    """Batches of 8: all images of a client leak or none, or each for itself."""
    rng = np.random.default_rng(units)
    for shares in (rng.binomial(1, 0.3, (TRIALS, units)), rng.binomial(8, 0.3, (TRIALS, units)) / 8):
        spans = [intervals.of_share(round(float(total), 9), units) for total in shares.sum(1)]
        assert sum(low <= 0.3 <= high for low, high in spans) / TRIALS >= 0.95 - 0.01


def test_the_interval_of_an_accuracy_covers_seeds_and_test_images():
    rng = np.random.default_rng(0)
    for seeds, spread in ((1, 0.0), (3, 0.02), (5, 0.02)):
        covered = 0
        for _ in range(TRIALS):
            drawn = rng.normal(0, spread, seeds) if spread else np.zeros(1)
            shared = rng.binomial(500, 0.9) / 500 - 0.9  # the test images are the same for all seeds
            low, high = intervals.of_accuracy((0.9 + shared + drawn).tolist(), 500)
            covered += low <= 0.9 <= high
        assert covered / TRIALS >= 0.95 - 0.01, (seeds, covered / TRIALS)


def test_an_interval_of_an_accuracy_is_as_wide_as_its_two_errors():
    """No wider: of seeds by Student's t (4.302653 with two degrees of freedom), of test images by the binomial."""
    seeds, images = 4.302653 * 0.02 / 3**0.5, 1.96 * (0.9 * 0.1 / 500) ** 0.5
    low, high = intervals.of_accuracy([0.9, 0.9, 0.9], 500)
    assert (0.9 - low, high - 0.9) == pytest.approx((images, images))
    low, high = intervals.of_accuracy([0.88, 0.9, 0.92], None)
    assert (0.9 - low, high - 0.9) == pytest.approx((seeds, seeds))
    low, high = intervals.of_accuracy([0.88, 0.9, 0.92], 500)
    assert (0.9 - low, high - 0.9) == pytest.approx(((seeds**2 + images**2) ** 0.5,) * 2)


def test_an_accuracy_of_unknown_size_and_one_seed_has_no_interval():
    assert intervals.of_accuracy([0.9], None) == (None, None)
    assert intervals.of_accuracy([], 500) == (None, None)
    low, high = intervals.of_accuracy([0.9, 0.92], None)
    assert low < 0.91 < high
