"""Subgroups: who is in them, by hand; their scores, beside those of a table of them alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from chexseg_platform.evaluation.bootstrap import resampling
from chexseg_platform.evaluation.comparison import compare
from chexseg_platform.evaluation.counts import CountCube
from chexseg_platform.evaluation.metrics import mean_defined, score
from chexseg_platform.evaluation.subgroups import score_subgroups, subgroups

Maker = Callable[..., CountCube]


def with_traits(cube: CountCube, **traits: tuple) -> CountCube:
    return replace(cube, traits=dict(cube.traits) | traits)


def test_images_are_told_apart_by_sex_age_and_view(cube_of: Maker) -> None:
    truth = np.array([[10], [0], [20], [30], [0]])
    cube = with_traits(
        cube_of(truth, truth, truth),
        sex=("Female", "Male", None, "Male", "Female"),
        age=(39, 40, 64, 65, None),
        view=("AP", "AP", "AP", "AP", None),
    )
    found = {(g.trait, g.name): g.where.tolist() for g in subgroups(cube)}
    assert found["sex", "Female"] == [True, False, False, False, True]
    assert found["age", "under 40"] == [True, False, False, False, False]
    assert found["age", "40 to 64"] == [False, True, True, False, False]
    assert found["age", "65 and over"] == [False, False, False, True, False]
    # Of views there is one alone: it tells nothing apart.
    assert not any(trait == "view" for trait, _ in found)


def test_thirds_of_lesion_size_follow_the_share_of_the_image(cube_of: Maker) -> None:
    truth = np.array([[10, 0], [20, 5], [0, 0], [30, 0]])
    cube = replace(cube_of(truth, truth, truth), pixels=np.array([100, 50, 100, 1000]))
    found = {g.name: g.where.tolist() for g in subgroups(cube) if g.trait == "lesion"}
    # Shares .1, .4, -, .03 of the first finding; the second is on one image alone.
    assert found["smallest third"] == [[False, False], [False, True], [False, False], [True, False]]
    assert [row[0] for row in found["middle third"]] == [True, False, False, False]
    assert [row[0] for row in found["largest third"]] == [False, True, False, False]


@pytest.mark.parametrize("metric", ["iou_present", "iou_union", "iou_pooled"])
def test_scores_are_those_of_the_subgroup_alone(random_cube: Maker, metric: str) -> None:
    cube = random_cube(5, runs=2, images=40)
    sex = tuple("Female" if index % 3 else "Male" for index in range(40))
    cube = with_traits(cube, sex=sex)
    scored = score_subgroups(cube, resampling(cube, resamples=20), [metric])
    for group in scored:
        if group.trait != "sex":
            continue
        chosen = np.array([name == group.name for name in sex])
        alone = score(cube.restricted(chosen), metric)
        expected = mean_defined(alone, axis=1)
        found = [group.scores[metric][name].value for name in cube.methods]
        assert found == pytest.approx(expected.tolist())
        assert group.images == chosen.sum()


def test_hits_of_a_subgroup_are_its_own(cube_of: Maker) -> None:
    truth = np.full((4, 1), 10)
    sex = ("Female", "Female", "Male", "Male")
    cube = with_traits(cube_of(truth, truth, truth), sex=sex)
    cube.hit[0, :, 0] = [1, 0, 1, 1]
    scored = score_subgroups(cube, resampling(cube, resamples=20), ["hit_rate"])
    found = {g.name: g.scores["hit_rate"]["mix"].value for g in scored if g.trait == "sex"}
    assert found == {"Female": 0.5, "Male": 1.0}


def test_a_comparison_without_traits_has_sizes_only(random_cube: Maker) -> None:
    found = compare(random_cube(1, images=30), resamples=20)
    assert {group.trait for group in found.subgroups} == {"lesion"}
