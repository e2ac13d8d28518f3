"""Odd polygons, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from chexseg_platform.data.entries import Outlines
from chexseg_platform.evaluation.outlines import (
    about_outlines,
    crosses_itself,
    is_outside,
    is_thin,
    some,
)

SQUARE = [[1, 1], [5, 1], [5, 5], [1, 5]]
BOW = [[1, 1], [5, 5], [5, 1], [1, 5]]


@pytest.mark.parametrize(
    ("polygon", "crosses"),
    [
        (SQUARE, False),
        (BOW, True),
        ([[0, 0], [4, 0], [4, 4], [2, 1], [0, 4]], False),
        ([[0, 0], [4, 0], [2, 0], [2, 4]], False),  # goes back along its own edge
        ([[1, 1], [2, 2]], False),
        ([[1, 1]], False),
    ],
)
def test_crossing(polygon: list, crosses: bool) -> None:
    assert crosses_itself(np.array(polygon, float)) is crosses


def test_outside_and_thin() -> None:
    assert not is_outside(np.array([[0, 0], [9.4, 7.4]]), 8, 10)
    assert is_outside(np.array([[0, 0], [9.6, 3]]), 8, 10)
    assert is_outside(np.array([[-1.0, 0], [9, 3]]), 8, 10)
    assert is_thin(np.array([[1.0, 1], [1, 1], [2, 2]]))
    assert not is_thin(np.array(SQUARE, float))


def test_each_kind_is_named_once_an_image_and_finding() -> None:
    drawn = Outlines(8, 10, {"Edema": [SQUARE, BOW, BOW], "Cardiomegaly": [[[50, 50], [60, 60]]]})
    notes = about_outlines("gt.json", {"a": drawn})
    assert len(notes) == 3
    assert [note for note in notes if "cross" in note and "Edema of a." in note]
    assert [note for note in notes if "outside" in note and "Cardiomegaly of a." in note]
    assert [note for note in notes if "one or two points" in note and "Cardiomegaly of a." in note]


def test_the_first_names_and_the_number_of_others() -> None:
    assert some("abc") == "a, b, c"
    assert some("abcde") == "a, b, c and 2 more"
