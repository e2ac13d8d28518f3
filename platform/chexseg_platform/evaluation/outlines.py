"""What is odd about polygons: outside their image, thin, or crossing themselves.

They are drawn all the same, as CheXlocalize draws them: cut at the image's edge, a point or a line
where there is no area, and filled where a ray crosses the outline an odd number of times. So a
reader of the numbers should know of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chexseg_platform.data.entries import MaskSet, Outlines
from chexseg_platform.data.masks import Polygon

SHOWN = 3


def about_outlines(path: str | Path, drawn: Mapping[str, MaskSet | Outlines]) -> list[str]:
    """Return a sentence for every kind of odd polygon that a file holds."""
    kinds = {
        "wholly or in part outside their image, and cut there": is_outside,
        "of one or two points, drawn as points and lines": is_thin,
        "that cross themselves, filled by the even-odd rule": crosses_itself,
    }
    found: dict[str, list[str]] = {kind: [] for kind in kinds}
    for image_id, entry in drawn.items():
        if not isinstance(entry, Outlines):
            continue
        for finding, polygon in _polygons(entry):
            for kind, is_so in kinds.items():
                if is_so(polygon, entry.height, entry.width):
                    found[kind].append(f"{finding} of {image_id}")
    return [
        f"{path}: polygons {kind}: {some(list(dict.fromkeys(names)))}."
        for kind, names in found.items()
        if names
    ]


def _polygons(entry: Outlines) -> Iterator[tuple[str, NDArray[np.float64]]]:
    for finding, polygons in entry.polygons.items():
        for polygon in polygons:
            yield finding, _array(polygon)


def _array(polygon: Polygon) -> NDArray[np.float64]:
    return np.asarray(polygon, dtype=np.float64).reshape(-1, 2)


def is_outside(polygon: NDArray[np.float64], height: int, width: int) -> bool:
    """Whether a point of a polygon, (P, 2) of x and y, lies beyond the image's pixels."""
    beyond = (polygon < -0.5) | (polygon > np.array([width, height]) - 0.5)
    return bool(beyond.any())


def is_thin(polygon: NDArray[np.float64], height: int = 0, width: int = 0) -> bool:
    """Whether a polygon has fewer than three different points."""
    return len(np.unique(polygon, axis=0)) < 3


def crosses_itself(polygon: NDArray[np.float64], height: int = 0, width: int = 0) -> bool:
    """Whether two edges of a polygon cross; to touch is not to cross."""
    start, end = polygon, np.roll(polygon, -1, axis=0)
    # side[i, j]: on which side of edge i the points of edge j lie.
    side = np.stack([_side(start, end, points) for points in (start, end)])
    apart = side[0] * side[1] < 0
    return bool(np.any(apart & apart.T))


def _side(
    start: NDArray[np.float64], end: NDArray[np.float64], points: NDArray[np.float64]
) -> NDArray[np.float64]:
    along = (end - start)[:, None]
    beside = points[None] - start[:, None]
    return np.sign(along[..., 0] * beside[..., 1] - along[..., 1] * beside[..., 0])


def some(names: Iterable[str]) -> str:
    """The first few names, and how many there are besides."""
    listed = list(names)
    more = f" and {len(listed) - SHOWN:,} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more
