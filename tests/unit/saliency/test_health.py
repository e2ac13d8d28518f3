"""Where peaks lie, by hand."""

import numpy as np
import pytest
from chexseg_platform.saliency.health import BORDER, CORNER, at_border, in_corner

WHOLE = (0, 48, 0, 48)


@pytest.mark.parametrize(
    ("peak", "corner", "border"),
    [
        ((0, 0), True, True),
        ((7, 7), True, False),  # a corner is 48 / 6 = 8 pixels wide
        ((8, 7), False, False),
        ((7, 40), True, False),
        ((47, 47), True, True),
        ((2, 24), False, True),  # the border is 48 / 16 = 3 pixels wide
        ((3, 24), False, False),
        ((24, 45), False, True),
        ((24, 24), False, False),
    ],
)
def test_places_by_hand(peak: tuple[int, int], corner: bool, border: bool) -> None:
    peaks, content = np.array([peak]), np.array([WHOLE])
    assert in_corner(peaks, content).tolist() == [corner]
    assert at_border(peaks, content).tolist() == [border]


def test_places_are_those_of_the_image_and_not_of_its_frame() -> None:
    peaks = np.array([[17, 1], [17, 1]])
    content = np.array([[16, 48, 0, 64], [0, 64, 0, 64]])
    assert in_corner(peaks, content).tolist() == [True, False]
    assert at_border(np.array([[16, 30]] * 2), content).tolist() == [True, False]


def test_peaks_anywhere_fall_there_as_often_as_the_area_says() -> None:
    grid = np.stack(np.meshgrid(np.arange(96), np.arange(96)), axis=-1).reshape(-1, 2)
    content = np.tile((0, 96, 0, 96), (len(grid), 1))
    assert in_corner(grid, content).mean() == pytest.approx(4 * CORNER**2)
    assert at_border(grid, content).mean() == pytest.approx(1 - (1 - 2 * BORDER) ** 2)


def test_no_peaks() -> None:
    assert in_corner(np.zeros((0, 2)), np.zeros((0, 4))).tolist() == []
