"""Hit rate: does the heat map's single strongest pixel lie inside the expert's mask?

CheXlocalize's rules, which are also those of the pointing game: the first maximum in reading
order (row by row) decides; an image whose truth is empty has no hit or miss (NaN); a reader's
points hit if any of them is inside; a reader who gave no point missed. The maximum is that of
the map at the original image's size, after interpolation.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from chexseg_platform.data.masks import area, run_lengths


class BadHeatMap(ValueError):
    """A heat map without a maximum."""


def peak(heat_HW: np.ndarray) -> tuple[int, int]:
    """Row and column of the first maximum in reading order.

    Raises:
        BadHeatMap: when the map is not two-dimensional, empty or holds NaN.
    """
    if heat_HW.ndim != 2 or heat_HW.size == 0:
        raise BadHeatMap(f"A heat map must be height × width, not {heat_HW.shape}.")
    if np.isnan(heat_HW).any():
        raise BadHeatMap("The heat map holds NaN, so it has no maximum: explain the image again.")
    row, column = np.unravel_index(int(np.argmax(heat_HW)), heat_HW.shape)
    return int(row), int(column)


def hit_rle(
    place: tuple[int, int] | None, truth: str | None, height: int, width: int
) -> int | None:
    """Whether a map's peak (row, column) lies in a run-length truth: 1 or 0.

    None where the truth is empty or there is no peak: the null of the count table's `hit`.
    """
    if place is None or truth is None or area(truth, height, width) == 0:
        return None
    return int(inside(truth, *place, height=height, width=width))


def points_hit(
    points: Iterable[tuple[float, float]] | None, truth: str | None, height: int, width: int
) -> int | None:
    """Whether any of a reader's points (x, y) lies in the truth; coordinates are truncated.

    None where the truth is empty; 0 where the reader gave no point or only points outside the
    image.
    """
    if truth is None or area(truth, height, width) == 0:
        return None
    places = [(int(y), int(x)) for x, y in points or ()]
    return int(any(inside(truth, *place, height=height, width=width) for place in places))


def inside(counts: str, row: int, column: int, *, height: int, width: int) -> bool:
    """Whether a run-length mask holds a pixel, without decoding it; outside the image is False."""
    if not (0 <= row < height and 0 <= column < width):
        return False
    ends = np.cumsum(run_lengths(counts))
    # Runs go down the columns and start with background, so foreground runs have odd numbers.
    return bool(np.searchsorted(ends, column * height + row, side="right") % 2)
