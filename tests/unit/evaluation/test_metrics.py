from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from chexseg_platform.evaluation.counts import CountCube
from chexseg_platform.evaluation.metrics import (
    METRICS,
    SHORT,
    TITLES,
    images_behind,
    iou,
    mean_defined,
    score,
)
from hypothesis import given, settings
from hypothesis import strategies as st

Maker = Callable[..., CountCube]

# One finding, five images: overlapping, missed, false alarm, both empty, overlapping.
TRUTH = np.array([[10], [8], [0], [0], [4]])
PREDICTION = np.array([[10], [0], [6], [0], [2]])
BOTH = np.array([[5], [0], [0], [0], [2]])


@pytest.mark.parametrize(
    ("metric", "value", "images"),
    [
        ("iou_present", (5 / 15 + 2 / 4) / 2, 2),
        ("iou_union", (5 / 15 + 2 / 4) / 4, 4),
        ("iou_pooled", 7 / (15 + 8 + 6 + 4), 4),
        ("dice_present", (10 / 20 + 4 / 6) / 2, 2),
        ("dice_union", (10 / 20 + 4 / 6) / 4, 4),
        ("dice_pooled", 14 / 40, 4),
    ],
)
def test_values_by_hand(cube_of: Maker, metric: str, value: float, images: int) -> None:
    cube = cube_of(TRUTH, PREDICTION, BOTH)
    assert score(cube, metric)[0, 0] == pytest.approx(value, abs=1e-15)
    assert images_behind(cube, metric)[0, 0] == images


def test_images_that_nobody_read_count_nowhere(cube_of: Maker) -> None:
    known = np.array([[True], [True], [True], [True], [False]])
    cube = cube_of(TRUTH, PREDICTION, BOTH, known=known)
    assert score(cube, "iou_present")[0, 0] == pytest.approx(5 / 15)
    assert score(cube, "iou_pooled")[0, 0] == pytest.approx(5 / 29)
    assert images_behind(cube, "iou_union")[0, 0] == 3


@pytest.mark.parametrize("metric", list(METRICS))
def test_nothing_to_average_is_nan_and_not_zero(cube_of: Maker, metric: str) -> None:
    empty = np.zeros((3, 1), int)
    assert np.isnan(score(cube_of(empty, empty, empty), metric)).all()
    assert images_behind(cube_of(empty, empty, empty), metric)[0, 0] == 0


def test_a_prediction_of_nothing_is_nan_in_a_and_zero_in_b_and_c(cube_of: Maker) -> None:
    cube = cube_of(TRUTH, np.zeros_like(TRUTH), np.zeros_like(TRUTH))
    assert np.isnan(score(cube, "iou_present")[0, 0])
    assert score(cube, "iou_union")[0, 0] == 0
    assert score(cube, "iou_pooled")[0, 0] == 0


@pytest.mark.parametrize("metric", list(METRICS))
def test_false_alarms_on_a_finding_that_nobody_has_make_no_zero(
    cube_of: Maker, metric: str
) -> None:
    empty = np.zeros((3, 1), int)
    cube = cube_of(empty, empty + 5, empty)
    assert np.isnan(score(cube, metric)).all()


def test_mean_leaves_undefined_out() -> None:
    values = np.array([[0.2, np.nan, 0.4], [np.nan] * 3])
    mean = mean_defined(values, axis=1)
    assert mean[0] == pytest.approx(0.3)
    assert np.isnan(mean[1])


def test_hit_rate_counts_only_hits_and_misses(cube_of: Maker) -> None:
    cube = cube_of(TRUTH, PREDICTION, BOTH)
    cube.hit[0, :, 0] = [1, 0, np.nan, np.nan, 1]
    assert score(cube, "hit_rate")[0, 0] == pytest.approx(2 / 3)
    assert images_behind(cube, "hit_rate")[0, 0] == 3


def test_precision_recall_specificity_by_hand(cube_of: Maker) -> None:
    # Of 100 pixels: 10 true and 20 predicted with 5 in both; nothing predicted; a false alarm.
    truth, prediction, both = np.array([[10, 40, 0], [20, 0, 30], [5, 0, 0]])[..., None]
    cube = replace(cube_of(truth, prediction, both), pixels=np.full(3, 100))
    assert score(cube, "precision")[0, 0] == pytest.approx((5 / 20 + 0) / 2)
    assert score(cube, "recall")[0, 0] == pytest.approx((5 / 10 + 0) / 2)
    assert score(cube, "specificity")[0, 0] == pytest.approx((75 / 90 + 60 / 60 + 70 / 100) / 3)
    assert images_behind(cube, "precision")[0, 0] == images_behind(cube, "recall")[0, 0] == 2


def test_a_truth_that_covers_the_image_has_no_specificity(cube_of: Maker) -> None:
    full = np.array([[50]])
    cube = replace(cube_of(full, full, full), pixels=np.array([50]))
    assert np.isnan(score(cube, "specificity")[0, 0])


def test_distances_are_averaged_where_they_were_measured(cube_of: Maker) -> None:
    cube = cube_of(TRUTH, PREDICTION, BOTH)
    cube.hd95[0, :2, 0] = [3.0, 5.0]
    there = (TRUTH[:2, 0] > 0) & (PREDICTION[:2, 0] > 0)
    assert score(cube, "hd95")[0, 0] == np.array([3.0, 5.0])[there].mean()


def test_unread_images_have_no_iou(cube_of: Maker) -> None:
    known = np.ones((1, *TRUTH.shape), bool)
    known[0, 0] = False
    assert np.isnan(iou(cube_of(TRUTH, PREDICTION, BOTH, known=known))[0, 0]).all()


def test_every_metric_has_its_words() -> None:
    assert set(METRICS) == set(TITLES) == set(SHORT)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_what_holds_for_any_counts(random_cube: Maker, seed: int) -> None:
    cube = random_cube(seed)
    a, b, c = (score(cube, name) for name in ("iou_present", "iou_union", "iou_pooled"))
    both = ~np.isnan(a)
    # B adds images of IoU 0 to those of A.
    assert (a[both] >= b[both] - 1e-12).all()
    for values in (a, b, c):
        defined = values[~np.isnan(values)]
        assert ((defined >= 0) & (defined <= 1)).all()
    # Pooled Dice and IoU are one number in two forms; per image they are only ordered.
    pooled = score(cube, "dice_pooled")
    np.testing.assert_allclose(pooled, 2 * c / (1 + c))
    assert (score(cube, "dice_present")[both] >= a[both] - 1e-12).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), metric=st.sampled_from(sorted(METRICS)))
def test_the_order_of_images_does_not_matter(random_cube: Maker, seed: int, metric: str) -> None:
    cube = random_cube(seed)
    order = np.random.default_rng(seed).permutation(len(cube.image_ids))
    arrays = ("truth", "prediction", "intersection", "hit", "hd95", "known")
    turned = replace(
        cube,
        image_ids=tuple(cube.image_ids[index] for index in order),
        patients=tuple(cube.patients[index] for index in order),
        pixels=cube.pixels[order],
        **{name: getattr(cube, name)[:, order] for name in arrays},
    )
    np.testing.assert_allclose(score(turned, metric), score(cube, metric), atol=1e-12)


def test_one_image_makes_all_three_equal(cube_of: Maker) -> None:
    cube = cube_of(TRUTH[:1], PREDICTION[:1], BOTH[:1])
    values = {score(cube, name)[0, 0] for name in ("iou_present", "iou_union", "iou_pooled")}
    assert values == {5 / 15}
