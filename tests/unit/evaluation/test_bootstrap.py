from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from chexseg_platform.evaluation.bootstrap import (
    BadResampling,
    Resampling,
    difference,
    estimates,
    interval,
    paired,
    replicates,
    resampling,
    support,
    weights_of,
    with_mean,
)
from chexseg_platform.evaluation.counts import CountCube
from chexseg_platform.evaluation.metrics import score
from hypothesis import given, settings
from hypothesis import strategies as st

Maker = Callable[..., CountCube]
IOUS = ("iou_present", "iou_union", "iou_pooled")


def slow_metric(cube: CountCube, run: int, finding: int, images: list[int], metric: str) -> float:
    """One metric of one list of images, an image at a time, as it would be explained."""
    values, both_sum, union_sum = [], 0, 0
    if not (cube.truth[:, images, finding] > 0).any():
        return float("nan")
    for image in images:
        place = (run, image, finding)
        truth, predicted = int(cube.truth[place]), int(cube.prediction[place])
        both = int(cube.intersection[place])
        union = truth + predicted - both
        both_sum, union_sum = both_sum + both, union_sum + union
        counted = truth > 0 and predicted > 0 if metric == "iou_present" else union > 0
        if counted:
            values.append(both / union)
    if metric == "iou_pooled":
        return both_sum / union_sum if union_sum else float("nan")
    return sum(values) / len(values) if values else float("nan")


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), by=st.sampled_from(["patient", "image"]))
def test_equals_a_loop_over_the_same_draws(random_cube: Maker, seed: int, by: str) -> None:
    cube = random_cube(seed, runs=2)
    names = cube.patients if by == "patient" else cube.image_ids
    clusters = list(dict.fromkeys(names))
    draws = np.random.default_rng(seed).integers(0, len(clusters), (20, len(clusters)))
    mine = resampling(cube, cluster=by, resamples=20, seed=seed)
    assert (mine.weights[1:] == weights_of(draws, len(clusters))).all()
    for metric in IOUS:
        values = replicates(cube, metric, mine)
        for resample, drawn in enumerate(draws):
            images = [
                image
                for code in drawn
                for image in range(len(names))
                if names[image] == clusters[code]
            ]
            expected = [
                [slow_metric(cube, run, finding, images, metric) for finding in range(3)]
                for run in range(2)
            ]
            np.testing.assert_allclose(values[resample + 1], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("metric", IOUS)
def test_first_row_is_the_data(random_cube: Maker, metric: str) -> None:
    cube = random_cube(3)
    values = replicates(cube, metric, resampling(cube, resamples=10))
    np.testing.assert_allclose(values[0], score(cube, metric), atol=1e-12)


def test_weights_count_draws() -> None:
    weights = weights_of(np.array([[0, 2, 2], [1, 1, 1]]), 3)
    assert weights.tolist() == [[1, 0, 2], [0, 3, 0]]


def test_same_seed_same_draws_and_another_seed_others(random_cube: Maker) -> None:
    cube = random_cube(0)
    first, again = resampling(cube, seed=4), resampling(cube, seed=4)
    assert (first.weights == again.weights).all()
    assert (first.weights != resampling(cube, seed=5).weights).any()
    assert (first.weights.sum(axis=1) == first.clusters).all()


def test_a_patient_is_drawn_with_all_images(cube_of: Maker) -> None:
    truth = np.array([[10], [10], [10]])
    cube = cube_of(truth, truth, np.array([[10], [0], [5]]), patients=("p", "p", "q"))
    draws = Resampling("patient", np.array([0, 0, 1]), np.array([[1.0, 1], [2, 0], [0, 2]]), 0)
    pooled = replicates(cube, "iou_pooled", draws)[:, 0, 0]
    np.testing.assert_allclose(pooled, [15 / 45, 10 / 30, 5 / 15])
    present = replicates(cube, "iou_present", draws)[:, 0, 0]
    np.testing.assert_allclose(present, [(1 + 0 + 1 / 3) / 3, 0.5, 1 / 3])


def test_seeds_are_averaged_inside_a_resample(random_cube: Maker) -> None:
    cube = random_cube(1, runs=2)
    draws = resampling(cube, resamples=30)
    alone = replicates(cube, "iou_union", draws)
    seeds = CountCube(**{**vars(cube), "runs": (("mix", 0), ("mix", 1))})
    together = replicates(seeds, "iou_union", draws)
    np.testing.assert_allclose(together[:, 0], alone.mean(axis=1))


def test_percentiles_are_numpys_where_all_is_defined() -> None:
    values = np.random.default_rng(0).normal(size=(1000, 4))
    low, high, defined = interval(values)
    np.testing.assert_allclose([low, high], np.percentile(values, [2.5, 97.5], axis=0))
    assert (defined == 1000).all()


def test_undefined_resamples_are_left_out_and_counted() -> None:
    values = np.random.default_rng(0).normal(size=(100, 1))
    values[::4] = np.nan
    low, high, defined = interval(values)
    np.testing.assert_allclose([low[0], high[0]], np.nanpercentile(values, [2.5, 97.5]))
    assert defined[0] == 75
    found = estimates(np.concatenate([[[0.1]], values]), np.array([5]))[0]
    assert found.undefined == 25
    low, _, defined = interval(np.full((10, 1), np.nan))
    assert np.isnan(low[0])
    assert defined[0] == 0


def test_one_patient_has_a_value_and_no_interval(cube_of: Maker) -> None:
    truth = np.array([[10, 0], [10, 0]])
    cube = cube_of(truth, truth, truth // 2, patients=("p", "p"))
    draws = resampling(cube)
    behind = support(cube, "iou_present", draws)
    assert behind.tolist() == [[1, 0, 1]]
    values = with_mean(replicates(cube, "iou_present", draws))[:, 0]
    first, second, mean = estimates(values, behind[0])
    assert (first.value, first.low, first.high) == (pytest.approx(1 / 3), None, None)
    assert np.isnan(second.value)
    assert mean.low is None


def test_a_finding_in_one_patient_has_no_interval_of_width_zero(cube_of: Maker) -> None:
    truth = np.array([[10, 10], [10, 0], [10, 0]])
    cube = cube_of(truth, truth, truth * [[1, 1], [0, 0], [1, 0]] // 2)
    draws = resampling(cube)
    values = with_mean(replicates(cube, "iou_present", draws))[:, 0]
    common, rare, mean = estimates(values, support(cube, "iou_present", draws)[0])
    assert common.low is not None
    assert rare.low is None
    assert mean.low is not None


def test_differences_use_findings_that_both_have() -> None:
    first = np.array([[0.5, 0.4, np.nan]])
    second = np.array([[0.25, np.nan, 0.9]])
    absolute, relative = difference(first, second)
    np.testing.assert_allclose(absolute, [[0.25, np.nan, np.nan, 0.25]])
    np.testing.assert_allclose(relative, [[1.0, np.nan, np.nan, 1.0]])


def test_gain_over_zero_is_undefined() -> None:
    absolute, relative = difference(np.array([[0.5]]), np.array([[0.0]]))
    assert absolute[0, 0] == 0.5
    assert np.isnan(relative).all()


def test_a_method_differs_from_itself_by_exactly_nothing(random_cube: Maker) -> None:
    cube = random_cube(2, images=30)
    twice = CountCube(
        **{
            **vars(cube),
            "runs": (("a", 0), ("b", 0)),
            **{
                name: np.repeat(getattr(cube, name), 2, axis=0)
                for name in ("truth", "prediction", "intersection", "hit", "hd95", "known")
            },
        }
    )
    for metric in IOUS:
        absolute, relative, p = paired(twice, metric, resampling(twice), method="a", reference="b")
        assert set(p) == {1.0}
        assert all((e.value, e.low, e.high) == (0, 0, 0) for e in absolute)
        assert all((e.value, e.low, e.high) == (0, 0, 0) for e in relative)


def test_a_pair_is_compared_on_images_that_both_have(cube_of: Maker) -> None:
    truth = np.full((4, 1), 10)
    both = np.array([[[10], [10], [0], [0]], [[5], [5], [10], [10]]])
    known = np.array([[[True]] * 4, [[True], [True], [False], [False]]])
    cube = cube_of(truth, truth, both, runs=(("a", 0), ("b", 0)), known=known)
    absolute, *_ = paired(cube, "iou_union", resampling(cube), method="a", reference="b")
    assert absolute[0].value == pytest.approx(1 - 5 / 15)


def test_impossible_resampling_is_refused(random_cube: Maker) -> None:
    with pytest.raises(BadResampling, match="'patient' or 'image'"):
        resampling(random_cube(0), cluster="study")  # type: ignore[arg-type]
    with pytest.raises(BadResampling, match="1000"):
        resampling(random_cube(0), resamples=1)


def test_the_mean_is_of_the_same_findings_in_every_resample():
    nan = np.nan
    values = np.array([[0.2, 0.6, nan], [0.4, nan, nan], [0.0, 1.0, nan], [nan, nan, nan]])
    np.testing.assert_allclose(with_mean(values)[:, -1], [0.4, nan, 0.5, nan])


def test_a_mean_without_findings_is_undefined():
    assert np.isnan(with_mean(np.full((3, 2), np.nan))[:, -1]).all()


@pytest.mark.parametrize("metric", ["iou_union", "iou_pooled", "dice_union", "dice_pooled"])
def test_a_resample_without_the_finding_says_nothing_of_any_method(
    metric: str, cube_of: Maker
) -> None:
    # One of ten patients has the finding; the second method has a false alarm besides.
    truth = np.zeros((10, 1), int)
    truth[0] = 50
    prediction = np.stack([truth, truth])
    prediction[1, 5] = 50
    both = np.stack([truth, truth])
    cube = cube_of(truth, prediction, both, runs=(("careful", 0), ("hasty", 0)))
    draws = resampling(cube)
    values = replicates(cube, metric, draws)[:, :, 0]
    drawn = draws.weights[:, 0] > 0
    assert 0.2 < 1 - drawn.mean() < 0.5
    assert (np.isnan(values) == ~drawn[:, None]).all()
    assert (values[drawn, 0] == 1).all()
    assert (values[drawn, 1] > 0).all()


def test_false_alarms_give_a_finding_of_one_patient_no_interval(cube_of: Maker) -> None:
    truth = np.array([[10], [0], [0], [0]])
    cube = cube_of(truth, np.array([[8], [5], [0], [7]]), np.array([[4], [0], [0], [0]]))
    draws = resampling(cube, resamples=50)
    assert support(cube, "iou_union", draws)[0, 0] == 1


def test_hits_are_paired_on_images_that_both_have(cube_of: Maker) -> None:
    truth = np.full((4, 1), 10)
    cube = cube_of(truth, truth, truth, runs=(("a", 0), ("b", 0)))
    cube.hit[:, :, 0] = [[1, 1, 0, 0], [np.nan, np.nan, 1, 0]]
    absolute, *_ = paired(cube, "hit_rate", resampling(cube), method="a", reference="b")
    assert absolute[0].value == -0.5
