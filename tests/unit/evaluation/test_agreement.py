from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from chexseg_platform.evaluation.agreement import gap_closed, reaches
from chexseg_platform.evaluation.bootstrap import Estimate, Resampling, resampling
from chexseg_platform.evaluation.counts import CountCube

Maker = Callable[..., CountCube]
RUNS = (("ours", 0), ("weak", 0), ("readers", 0))
ROLES = {"method": "ours", "weak": "weak", "readers": "readers"}


def pooled_cube(cube_of: Maker, shares: list[list[list[int]]]) -> CountCube:
    """Masks of 100 pixels on both sides whose union is 100: prediction inside the truth."""
    both = np.array(shares)
    return cube_of(np.full(both.shape, 100), both, both, runs=RUNS)


def test_published_share_by_hand(cube_of: Maker) -> None:
    # The published gains imply radiologists at 2.28 × weak and CheXseg at 1.731 × weak.
    shares = [[[69], [69]], [[40], [40]], [[91], [91]]]
    cube = pooled_cube(cube_of, shares)
    found = gap_closed(cube, "iou_pooled", resampling(cube), **ROLES)
    assert found.value == pytest.approx(29 / 51)
    assert (found.low, found.high) == (pytest.approx(29 / 51), pytest.approx(29 / 51))


def test_interval_is_that_of_the_shares(cube_of: Maker) -> None:
    shares = [[[60], [30]], [[40], [10]], [[90], [80]]]
    cube = pooled_cube(cube_of, shares)
    weights = np.array([[1.0, 1], [2, 0], [0, 2]])
    draws = Resampling("image", np.array([0, 1]), weights, 0)
    found = gap_closed(cube, "iou_pooled", draws, **ROLES)
    assert found.value == pytest.approx((45 - 25) / (85 - 25))
    ends = np.percentile([20 / 50, 20 / 70], [2.5, 97.5])
    np.testing.assert_allclose([found.low, found.high], ends)


def test_no_gap_no_share(cube_of: Maker) -> None:
    cube = pooled_cube(cube_of, [[[60], [60]], [[90], [90]], [[80], [80]]])
    found = gap_closed(cube, "iou_pooled", resampling(cube), **ROLES)
    assert np.isnan(found.value)
    assert found.low is None


def test_findings_that_one_of_the_three_lacks_are_left_out(cube_of: Maker) -> None:
    # In A, the weak method has no image of the second finding.
    shares = [[[60, 1], [60, 1]], [[40, 0], [40, 0]], [[90, 1], [90, 1]]]
    cube = pooled_cube(cube_of, shares)
    found = gap_closed(cube, "iou_present", resampling(cube), **ROLES)
    assert found.value == pytest.approx(20 / 50)


def test_three_readings_of_reaching() -> None:
    readers = Estimate(0.50, 0.40, 0.60)
    near, far = Estimate(0.45, 0.39, 0.51), Estimate(0.36, 0.31, 0.41)
    below, touching = Estimate(-0.14, -0.2, -0.08), Estimate(-0.05, -0.11, 0.0)
    assert reaches(near, readers, below, "mean")
    assert not reaches(far, readers, below, "mean")
    assert reaches(far, readers, below, "interval")
    assert not reaches(near, readers, below, "paired")
    assert reaches(near, readers, touching, "paired")


def test_nothing_is_reached_without_an_interval() -> None:
    alone, readers = Estimate(0.9), Estimate(0.5, 0.4, 0.6)
    for how in ("mean", "interval", "paired"):
        assert not reaches(alone, readers, Estimate(0.4), how)
    assert not reaches(readers, Estimate(float("nan")), Estimate(float("nan")), "mean")
    # Readers with a value and no interval: one image, that they and the method missed.
    for how in ("mean", "interval", "paired"):
        assert not reaches(Estimate(0.0, 0.0, 0.0), Estimate(0.0), Estimate(0.0), how)


def test_a_gap_that_is_not_sure_has_no_interval(cube_of: Callable[..., CountCube]) -> None:
    # Readers and the weak method overlap the truth alike but for chance.
    rng = np.random.default_rng(3)
    truth = np.full((40, 1), 1000)
    both = rng.integers(300, 700, (3, 40, 1))
    runs = (("mix", 0), ("pseudo only", 0), ("radiologists", 0))
    cube = cube_of(truth, truth, both, runs=runs)
    found = gap_closed(
        cube, "iou_union", resampling(cube), method="mix", weak="pseudo only",
        readers="radiologists",
    )  # fmt: skip
    assert (found.low, found.high) == (None, None)
