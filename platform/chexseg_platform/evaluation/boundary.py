"""How far two outlines lie apart: the 95 % Hausdorff distance.

An outline is the pixels of a mask that have one of their four neighbours outside it. From every
pixel of one outline the distance to the nearest of the other is taken, and of those the 95th
percentile; the larger of the two directions is the distance. Libraries differ here: some pool
both directions, some weigh by edge length; this is MONAI's and MedPy's definition. It is in pixels
of the original image, for CheXpert's JPEGs have lost their millimetres.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from chexseg_platform.data import masks

SPECKLED = 50_000
"""Outline pixels from which a map of all distances is faster than a search for each."""
SHARE = 95
"""Percentile. The maximum, Hausdorff's own distance, is decided by a single stray pixel."""


def hausdorff95(first_HW: masks.BoolArray, second_HW: masks.BoolArray) -> float:
    """95 % Hausdorff distance of two masks in pixels; NaN where one of them is empty.

    Raises:
        ValueError: masks of different shapes.
    """
    if first_HW.shape != second_HW.shape:
        raise ValueError(f"The masks are {first_HW.shape} and {second_HW.shape} pixels.")
    if not (first_HW.any() and second_HW.any()):
        return float("nan")
    one, two = outline(first_HW), outline(second_HW)
    return float(
        max(np.percentile(way, SHARE) for way in (_distances(one, two), _distances(two, one)))
    )


def _distances(from_HW: masks.BoolArray, to_HW: masks.BoolArray) -> NDArray[np.float64]:
    """Distance of each pixel of one outline to the nearest of another."""
    starts = np.argwhere(from_HW)
    if len(starts) < SPECKLED:
        return KDTree(np.argwhere(to_HW)).query(starts)[0]
    distance: NDArray[np.float64] = ndimage.distance_transform_edt(~to_HW)[from_HW]
    return distance


def hausdorff95_rle(first: str, second: str, height: int, width: int) -> float:
    """As `hausdorff95`, of two run-length masks of one image.

    Raises:
        CorruptMask: either is not a mask of this size.
    """
    pair = [masks.decode(counts, height, width) for counts in (first, second)]
    window = _window(pair[0] | pair[1])
    # What is cut away is background, but a mask may end at the image's own border.
    return hausdorff95(*(mask[window] for mask in pair))


def outline(mask_HW: masks.BoolArray) -> masks.BoolArray:
    """The outline of a mask, bool (H, W); the image's border is an edge."""
    return mask_HW & ~ndimage.binary_erosion(mask_HW)


def _window(mask_HW: masks.BoolArray) -> tuple[slice, slice]:
    """The smallest window around a mask; the whole image around an empty one."""
    found = ndimage.find_objects(mask_HW.view(np.uint8))
    return found[0] if found else (slice(None), slice(None))
