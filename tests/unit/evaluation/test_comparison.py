from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from chexseg_platform.evaluation.comparison import Roles, compare
from chexseg_platform.evaluation.counts import CountCube
from chexseg_platform.evaluation.metrics import score

Maker = Callable[..., CountCube]


def test_values_are_those_of_the_table(comparison_cube: Maker) -> None:
    cube = comparison_cube()
    found = compare(cube, resamples=50)
    assert found.methods == ("expert only", "pseudo only", "mix", "radiologists")
    assert (found.images, found.patients, found.clusters) == (24, 12, 12)
    assert found.seeds["mix"] == (0, 1)
    assert found.truth_images[2] == 0
    by_run = score(cube.select(["mix"]), "iou_union")
    mix = found.scores["iou_union"]["mix"]
    np.testing.assert_allclose([e.value for e in mix.findings[:3]], by_run.mean(axis=0))
    means = np.nanmean(by_run, axis=1)
    assert mix.findings[-1].value == pytest.approx(means.mean())
    assert mix.seed_sd == pytest.approx(means.std(ddof=1))
    assert found.scores["iou_union"]["radiologists"].seed_sd is None


def test_images_and_findings_behind_numbers_are_counted(comparison_cube: Maker) -> None:
    found = compare(comparison_cube(), resamples=50)
    expert = found.scores["iou_present"]["expert only"]
    assert expert.findings[0].images == found.truth_images[0]
    assert expert.averaged == 2
    assert np.isnan(expert.findings[2].value)
    assert found.left_out == {"radiologists": ("patient1_study1_view2_frontal",)}
    assert any("nothing is measured of: Lung Lesion" in note for note in found.notes)
    assert any("radiologists: 1 image not counted" in note for note in found.notes)


def test_gains_and_gap_have_the_order_that_the_data_have(comparison_cube: Maker) -> None:
    found = compare(comparison_cube(), resamples=200)
    gains = {gain.reference: gain for gain in found.gains["iou_pooled"]}
    assert set(gains) == {"expert only", "pseudo only", "radiologists"}
    assert gains["pseudo only"].absolute[-1].low > 0
    assert gains["radiologists"].absolute[-1].high < 0
    assert 0.2 < found.gap_closed["iou_pooled"].value < 0.8
    assert found.reached["iou_pooled"] == {"mean": (), "interval": (), "paired": ()}


def test_missing_roles_are_passed_over(comparison_cube: Maker) -> None:
    found = compare(comparison_cube(readers=False), resamples=50)
    assert found.gap_closed == {}
    assert found.reached["iou_union"] == {}
    alone = compare(comparison_cube().select(["expert only"]), resamples=50)
    assert alone.gains["iou_union"] == ()
    other = compare(comparison_cube(), resamples=50, roles=Roles(proposed="expert only"))
    assert {gain.reference for gain in other.gains["iou_union"]} >= {"pseudo only"}


def test_columns_have_one_order_whatever_the_table(comparison_cube: Maker) -> None:
    cube = comparison_cube()
    turned = cube.select(["mix"])
    names = {"expert only": "radiologists", "radiologists": "expert only", "mix": "my method"}
    renamed = CountCube(
        **{**vars(cube), "runs": tuple((names.get(m, m), seed) for m, seed in cube.runs)}
    )
    assert compare(turned, resamples=20).methods == ("mix",)
    found = compare(renamed, resamples=20)
    assert found.methods == ("expert only", "pseudo only", "my method", "radiologists")
    assert list(found.scores["iou_union"]) == list(found.methods)
    values = score(renamed.select(["expert only"]), "iou_union")
    assert found.scores["iou_union"]["expert only"].findings[0].value == pytest.approx(values[0, 0])


def test_same_seed_same_comparison(comparison_cube: Maker) -> None:
    cube = comparison_cube().select(["mix", "radiologists"])
    first, again, other = (compare(cube, resamples=50, seed=s) for s in (1, 1, 2))
    interval = [
        (
            c.scores["iou_union"]["mix"].findings[0].low,
            c.scores["iou_union"]["mix"].findings[0].high,
        )
        for c in (first, again, other)
    ]
    assert interval[0] == interval[1] != interval[2]


def test_one_patient_says_that_it_has_no_interval(cube_of: Maker) -> None:
    truth = np.array([[10], [10]])
    found = compare(cube_of(truth, truth, truth, patients=("p", "p")), resamples=20)
    assert "One patient only: no interval can be given." in found.notes
    assert found.scores["iou_union"]["mix"].findings[0].low is None


def test_hit_rate_appears_when_something_was_hit(comparison_cube: Maker) -> None:
    cube = comparison_cube()
    assert "hit_rate" not in compare(cube, resamples=20).scores
    hits = np.where(cube.truth > 0, 1.0, np.nan)
    hits[-1] = np.nan
    found = compare(CountCube(**{**vars(cube), "hit": hits}), resamples=20).scores["hit_rate"]
    assert found["mix"].findings[0].value == 1.0
    assert np.isnan(found["radiologists"].findings[0].value)
