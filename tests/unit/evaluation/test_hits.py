from __future__ import annotations

import numpy as np
import pytest
from chexseg_platform.data.masks import encode
from chexseg_platform.evaluation.hits import (
    BadHeatMap,
    hit_rle,
    inside,
    peak,
    points_hit,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays


def test_first_maximum_in_reading_order_wins() -> None:
    heat = np.array([[0.0, 1.0, 3.0], [3.0, 0.0, 3.0]])
    assert peak(heat) == (0, 2)
    assert peak(np.zeros((4, 4))) == (0, 0)


@pytest.mark.parametrize(
    ("heat", "message"),
    [
        (np.array([[0.0, np.nan]]), "NaN"),
        (np.zeros((0, 3)), "height × width"),
        (np.zeros(3), "height × width"),
    ],
)
def test_maps_without_a_maximum_are_refused(heat: np.ndarray, message: str) -> None:
    with pytest.raises(BadHeatMap, match=message):
        peak(heat)


@settings(max_examples=40, deadline=None)
@given(arrays(bool, (5, 4)), st.integers(-1, 5), st.integers(-1, 4))
def test_inside_agrees_with_the_mask(mask: np.ndarray, row: int, column: int) -> None:
    there = 0 <= row < 5 and 0 <= column < 4 and bool(mask[row, column])
    assert inside(encode(mask), row, column, height=5, width=4) == there


def test_run_length_hit_has_null_where_there_is_nothing_to_hit() -> None:
    mask = np.zeros((5, 4), bool)
    empty = encode(mask)
    mask[2, 3] = True
    truth = encode(mask)
    assert hit_rle((2, 3), truth, 5, 4) == 1
    assert hit_rle((3, 2), truth, 5, 4) == 0
    assert hit_rle((2, 3), empty, 5, 4) is None
    assert hit_rle((2, 3), None, 5, 4) is None
    assert hit_rle(None, truth, 5, 4) is None


def test_points_of_readers() -> None:
    mask = np.zeros((5, 4), bool)
    mask[2, 3] = True
    truth = encode(mask)
    assert points_hit([(0, 0), (3.9, 2.9)], truth, 5, 4) == 1
    assert points_hit([(2.9, 3.9)], truth, 5, 4) == 0
    assert points_hit([(40, 2), (-3, 2)], truth, 5, 4) == 0
    assert points_hit([], truth, 5, 4) == 0
    assert points_hit(None, truth, 5, 4) == 0
    assert points_hit([(3, 2)], None, 5, 4) is None
