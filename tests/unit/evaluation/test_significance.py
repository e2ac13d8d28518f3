"""P-values by counting, Holm's correction by hand, and both under no difference at all."""

from __future__ import annotations

import numpy as np
import pytest
from chexseg_platform.evaluation.bootstrap import paired, resampling
from chexseg_platform.evaluation.significance import holm, p_values


def test_p_counts_the_resamples_beyond_zero() -> None:
    differences = np.full((999, 3), 0.2)
    differences[:9, 0] = -0.1
    differences[:, 1] = -differences[:, 1]
    differences[:500, 2] = np.nan
    found = p_values(differences)
    assert found.tolist() == pytest.approx([2 * 10 / 1000, 2 / 1000, 2 / 500])


def test_no_difference_is_one_and_nothing_defined_is_nan() -> None:
    differences = np.stack([np.zeros(50), np.r_[1.0, np.full(49, np.nan)]], axis=1)
    found = p_values(differences)
    assert found[0] == 1.0
    assert np.isnan(found[1])


def test_holm_by_hand() -> None:
    # Sorted .01, .02, .03, .04 times 4, 3, 2, 1; never less than the one before.
    assert holm([0.04, 0.01, None, 0.03, 0.02]) == pytest.approx([0.06, 0.04, None, 0.06, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([None]) == [None]


def test_p_agrees_with_the_interval(random_cube) -> None:
    cube = random_cube(3, runs=2, images=60, patients=40)
    absolute, _, p = paired(cube, "iou_union", resampling(cube), method="m0", reference="m1")
    for estimate, value in zip(absolute, p, strict=True):
        outside = estimate.low > 0 or estimate.high < 0
        if abs(value - 0.05) > 0.01:
            assert (value < 0.05) == outside


def test_false_alarms_are_as_rare_as_they_should_be() -> None:
    # Two methods that differ by chance alone, ten findings, 300 comparisons: after correction at
    # most 5 % of the comparisons may find anything; three standard errors more are allowed.
    rng = np.random.default_rng(11)
    alarms = 0
    for _ in range(300):
        values = rng.normal(size=(80, 10))
        draws = rng.integers(0, 80, (400, 80))
        p = p_values(values[draws].mean(axis=1))
        alarms += min(holm(p.tolist())) < 0.05
    assert alarms / 300 < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)
