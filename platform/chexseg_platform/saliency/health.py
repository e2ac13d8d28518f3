"""Health of saliency maps: do they peak in a corner or at the border, whatever the image?

Users of saliency on chest X-rays report this failure again and again: burnt-in letters, padding
or a missing normalisation draw every map to one place. A map's strongest pixel tells it; flat maps
and maps that are not finite have none, and pseudo-labels record them as a state.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CORNER = 1 / 6
"""Side of a corner square, as a share of the image's sides: four cover 1/9 of the area."""
BORDER = 1 / 16
"""Width of the border frame, as a share of the image's sides: it covers 23 % of the area."""


def in_corner(peak_N2: NDArray[np.int64], content_N4: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tell which peaks lie in one of the four corner squares of their image.

    Args:
        peak_N2: (row, column) in the frame.
        content_N4: (top, bottom, left, right) of the image inside its frame.

    Returns:
        Bool (N,).
    """
    rows, columns = _ends(peak_N2, content_N4, CORNER)
    return rows & columns


def at_border(peak_N2: NDArray[np.int64], content_N4: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tell which peaks lie in the border frame of their image; arguments as `in_corner`."""
    rows, columns = _ends(peak_N2, content_N4, BORDER)
    return rows | columns


def _ends(
    peak_N2: NDArray[np.int64], content_N4: NDArray[np.int64], share: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether a peak's row, and its column, lie within `share` of either end of the image."""
    top, bottom, left, right = np.asarray(content_N4, dtype=np.float64).T
    row, column = np.asarray(peak_N2, dtype=np.float64).T
    across, along = (bottom - top) * share, (right - left) * share
    # A pixel belongs where its centre is.
    row, column = row + 0.5, column + 0.5
    return (
        (row < top + across) | (row > bottom - across),
        (column < left + along) | (column > right - along),
    )
