"""What experts say of an image: of findings, of structures, and of what has two sides.

CheXlocalize's readers were asked for all ten findings, so one that they did not draw is not there.
A structure is known where there is a mask of it, be it an empty one; of an image without, nothing
is known. What has two sides is their union, where both are known.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from chexseg_platform.data import masks
from chexseg_platform.findings import FINDING_TO_OBSERVATION, FINDINGS, WHOLE


class Truth(NamedTuple):
    """What experts say of some classes on an image.

    Attributes:
        masks: class -> COCO counts at original size; a known class that is not in it is empty.
            None where nobody read the image.
        known: the classes of which they say something, in their order.
    """

    masks: dict[str, str] | None
    known: tuple[str, ...]


def drawn_of(row: Mapping[str, Any], column: str) -> dict[str, str] | None:
    """Return what a reader drew; all empty where nobody drew and the ten labels are 0.

    Both readers of CheXlocalize were given the labels, so an image without a finding is one
    without masks; an image with a finding and without masks is one that nobody read.
    """
    if row[column] is not None:
        return {item["finding"]: item["counts"] for item in row[column]}
    absent = all(row["labels"][place] == 0 for place in FINDING_TO_OBSERVATION)
    return {} if absent else None


def truth_of(row: Mapping[str, Any], classes: Sequence[str]) -> Truth:
    """Return what the experts say of some classes on a dataset's row.

    Args:
        row: `masks`, `labels`, `height` and `width` of it.
        classes: of FINDINGS or any others.
    """
    drawn = drawn_of(row, "masks")
    if drawn is None:
        return Truth(None, ())
    known = known_classes(drawn, classes)
    found = {name: _whole(drawn, name, row["height"], row["width"]) for name in known}
    return Truth({name: counts for name, counts in found.items() if counts is not None}, known)


def known_classes(drawn: Collection[str], classes: Sequence[str]) -> tuple[str, ...]:
    """Return those of the classes of which an image's masks say something.

    Args:
        drawn: the names of its masks.
    """
    return tuple(
        name for name in classes if name in FINDINGS or name in drawn or _sides(drawn, name)
    )


def _sides(drawn: Collection[str], name: str) -> tuple[str, ...]:
    """The sides of a class; none where one of them has no mask, for half would look like all."""
    sides = WHOLE.get(name, ())
    return sides if all(side in drawn for side in sides) else ()


def _whole(drawn: Mapping[str, str], name: str, height: int, width: int) -> str | None:
    sides = _sides(drawn, name)
    if name in drawn or not sides:
        return drawn.get(name)
    both = [masks.decode(drawn[side], height, width) for side in sides]
    return masks.encode(np.logical_or.reduce(both))
