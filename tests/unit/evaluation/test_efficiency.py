"""A label-efficiency experiment: numbers by hand, intervals against the comparison's own."""

import math

import pytest
from chexseg_platform.evaluation.bootstrap import Estimate
from chexseg_platform.evaluation.comparison import Roles, compare
from chexseg_platform.evaluation.counts import BrokenCounts, count_table, cube
from chexseg_platform.evaluation.efficiency import METRICS, Value, label_efficiency
from chexseg_platform.evaluation.significance import holm
from chexseg_platform.evaluation.steps import BrokenGrid


def of(items, **wanted):
    found = [item for item in items if all(getattr(item, key) == wanted[key] for key in wanted)]
    assert len(found) == 1
    return found[0]


def test_values_by_hand(make_grid):
    """Dice of one image 0.5 and of the other 1 in seed 0, 0.5 and 0 in seed 1."""
    trained, table = make_grid({"doll": [[(100, 100, 50), (100, 100, 100)],
                                         [(100, 100, 50), (100, 0, 0)]]})  # fmt: skip
    found = label_efficiency(trained, {("heart", 0.5): table}, proposed="doll", resamples=20)
    dice = of(found.values, metric="dice_union", name="Mean")
    assert (dice.task, dice.fraction, dice.images) == ("heart", 0.5, 7)
    assert dice.by_seed == (0.75, 0.25)
    assert dice.estimate.value == 0.5
    assert dice.seed_sd == pytest.approx(math.sqrt(0.125))
    assert of(found.values, metric="dice_pooled", name="Heart").by_seed == (
        pytest.approx(300 / 400),
        pytest.approx(100 / 300),
    )
    assert of(found.values, metric="iou_union", name="Heart").by_seed == (
        pytest.approx((1 / 3 + 1) / 2),
        pytest.approx((1 / 3 + 0) / 2),
    )
    assert of(found.values, metric="iou_pooled", name="Mean").by_seed == (
        pytest.approx(150 / 250),
        pytest.approx(50 / 250),
    )
    assert found.metrics == METRICS
    assert found.differences == ()
    assert [item.initialisation for item in found.steps] == ["doll"]


def test_intervals_and_differences_are_the_comparison_s(make_random_grid):
    trained, table = make_random_grid(["random", "imagenet", "doll"])
    found = label_efficiency(trained, {("organs", 0.1): table}, proposed="doll", resamples=200)
    roles = Roles(proposed="doll", references=("random", "imagenet"))
    expected = compare(cube(table), roles=roles, metrics=METRICS, resamples=200)
    for metric in METRICS:
        for name in ("random", "imagenet", "doll"):
            mine = [
                v.estimate for v in found.values if (v.initialisation, v.metric) == (name, metric)
            ]
            assert mine == list(expected.scores[metric][name].findings)
        for gain in expected.gains[metric]:
            mine = [
                d for d in found.differences if (d.reference, d.metric) == (gain.reference, metric)
            ]
            assert [d.name for d in mine] == ["Lungs", "Heart", "Mean"]
            assert [d.estimate for d in mine] == list(gain.absolute)
            assert [d.p for d in mine] == list(gain.p)
            assert [d.p_holm for d in mine[:-1]] == list(gain.p_holm[:-1])
        corrected = [of(found.differences, reference=name, metric=metric, name="Mean").p_holm
                     for name in ("random", "imagenet")]  # fmt: skip
        assert corrected == holm([gain.p[-1] for gain in expected.gains[metric]])


def test_initialisations_keep_the_order_of_the_trainings(make_random_grid):
    trained, table = make_random_grid(["pseudo-labels", "mix", "a"])  # names that tables know
    found = label_efficiency(trained, {("organs", 0.1): table}, proposed="a", resamples=20)
    names = dict.fromkeys(value.initialisation for value in found.values)
    assert list(names) == ["pseudo-labels", "mix", "a"]


def test_images_of_which_nobody_drew_anything_are_no_test_images(make_grid):
    runs = {"doll": [[(100, 100, 50), (100, 100, 100), (None, 30, None)]]}
    trained, table = make_grid(runs)
    found = label_efficiency(trained, {("heart", 0.5): table}, proposed="doll", resamples=20)
    (tested,) = found.tested
    assert (tested.task, tested.classes) == ("heart", ("Heart",))
    assert (tested.images, tested.patients) == (2, 2)
    assert not any("do not count" in note for note in tested.notes)


def test_what_does_not_count_is_told_once(make_random_grid):
    trained, table = make_random_grid(["random", "doll"], unknown=3)
    tables = {("organs", 0.1): table}
    (tested,) = label_efficiency(trained, tables, proposed="doll", resamples=20).tested
    told = [note for note in tested.notes if "not count" in note]
    assert told == [
        "3 of 12 images do not count everywhere: they lack a mask of some class, or were not "
        "predicted."
    ]


def test_one_seed_has_no_spread():
    value = Value(
        task="t",
        fraction=1.0,
        images=1,
        initialisation="doll",
        metric="dice_union",
        name="Mean",
        estimate=Estimate(0.5),
        by_seed=(0.5, math.nan),
    )
    assert value.seed_sd is None


def test_a_proposed_that_is_not_there_is_named(make_grid):
    trained, table = make_grid({"doll": [[(100, 100, 50)]]})
    with pytest.raises(BrokenGrid, match="'dol' is no initialisation; there are doll"):
        label_efficiency(trained, {("heart", 0.5): table}, proposed="dol")


def test_counts_without_trainings_are_refused(make_grid):
    trained, table = make_grid({"doll": [[(100, 100, 50)]]})
    with pytest.raises(BrokenGrid, match=r"counts of heart with 0\.25 of its images"):
        label_efficiency(trained, {("heart", 0.25): table}, proposed="doll", resamples=20)


def test_a_table_without_truth_is_refused(make_grid):
    trained, _ = make_grid({"doll": [[(100, 100, 50)]]})
    with pytest.raises(BrokenCounts, match="nothing to evaluate"):
        label_efficiency(trained, {("heart", 0.5): count_table([])}, proposed="doll")
