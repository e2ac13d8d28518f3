from __future__ import annotations

import numpy as np
import pytest
from chexseg_platform.data.geometry import Letterbox
from chexseg_platform.data.masks import encode
from chexseg_platform.evaluation.hits import (
    BadHeatMap,
    hit,
    hit_rle,
    inside,
    peak,
    peak_in_original,
    points_hit,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays


def test_first_maximum_in_reading_order_wins() -> None:
    heat = np.array([[0.0, 1.0, 3.0], [3.0, 0.0, 3.0]])
    assert peak(heat) == (0, 2)
    assert peak(np.zeros((4, 4))) == (0, 0)


def test_hits_and_misses() -> None:
    heat = np.array([[0.0, 2.0], [1.0, 0.0]])
    truth = np.array([[False, True], [False, False]])
    assert hit(heat, truth) == 1.0
    assert hit(heat, ~truth) == 0.0
    assert np.isnan(hit(heat, np.zeros((2, 2), bool)))


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


def test_other_shapes_are_refused() -> None:
    with pytest.raises(BadHeatMap, match="truth"):
        hit(np.zeros((2, 3)), np.zeros((3, 2), bool))


def test_peak_returns_through_the_letterbox() -> None:
    # 40 × 80 into 20: scale 1/4, five rows of padding above and below.
    box = Letterbox(40, 80, 20)
    heat = np.zeros((20, 20))
    heat[7, 3] = 1.0
    row, column = peak_in_original(heat, box)
    # Frame row 7 is image row 2, whose centre lies at (2 + 0.5) · 4 − 0.5 = 9.5.
    assert row in (9, 10)
    assert column in (13, 14)


def test_a_maximum_in_the_padding_does_not_count() -> None:
    heat = np.zeros((20, 20))
    heat[0, 0], heat[10, 10] = 9.0, 1.0
    row, column = peak_in_original(heat, Letterbox(40, 80, 20))
    assert row in (21, 22)
    assert column in (41, 42)


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
