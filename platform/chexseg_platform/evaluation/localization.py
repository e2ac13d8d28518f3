"""Do saliency maps lie where experts drew? The check that belongs before pseudo-labels are used.

A classifier may be good long before its maps are. So every pseudo-label run is compared with the
expert masks of the validation images, at model size: how often a map's maximum lies in the mask
(beside the share of the image that the masks cover, which is what a dart would hit), how well the
masks that were cut overlap, and how many of their pixels are right and of the experts' are found.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from chexseg_platform.data.overlaps import overlaps
from chexseg_platform.evaluation.hits import inside
from chexseg_platform.evaluation.tables import NOTHING, grid, without_zeros
from chexseg_platform.evaluation.truth import known_classes
from chexseg_platform.findings import FINDINGS

COLUMNS = ["image_id", "finding", "counts", "peak_row", "peak_column"]
Drawn = Mapping[str, Mapping[str, str]]
"""Image -> finding -> COCO counts at model size; images that no expert read are absent.

What an absent entry means is said in `truth.py`: one of the ten findings is not there, of any other
class nothing is known."""


@dataclass(frozen=True)
class Located:
    """One finding, over the images on which an expert drew it.

    Attributes:
        images: how many.
        hit: share of maps whose maximum lies in the mask; a map without a maximum is a miss.
        chance: mean share of the image that the mask covers.
        iou: mean IoU of the pseudo-masks; 0 where none was made.
        pooled: sum of intersections over sum of unions.
        precision: share of the pseudo-masks' pixels that are right, all images together on which
            an expert looked for the finding: a mask where nothing was drawn counts against it.
            None where no mask was made at all.
        recall: share of the experts' pixels that the pseudo-masks hold, all images together.
    """

    finding: str
    images: int
    hit: float
    chance: float
    iou: float
    pooled: float
    precision: float | None
    recall: float


class _Pair(NamedTuple):
    """A pseudo-mask beside an expert's: pixels of the first, the second and both."""

    peaked: bool
    chance: float
    mine: int
    covered: int
    shared: int


def locate(
    table: pa.Table,
    drawn: Drawn,
    content: Mapping[str, int],
    size: int,
    classes: Sequence[str] = FINDINGS,
) -> list[Located]:
    """Compare pseudo-labels with expert masks.

    Args:
        table: rows with image_id, finding, counts, peak_row and peak_column.
        drawn: expert masks.
        content: image -> pixels of its frame that are image and not padding.
        size: side of the frame.
        classes: what is compared; others in the table are passed over.

    Returns:
        One entry a class that an expert drew at least once, in the order of `classes`.
    """
    found: dict[str, list[_Pair]] = {name: [] for name in classes}
    known = {image: frozenset(known_classes(masks, classes)) for image, masks in drawn.items()}
    rows = [
        (row, drawn[row["image_id"]].get(row["finding"]))
        for row in table.select(COLUMNS).to_pylist()
        if row["finding"] in known.get(row["image_id"], ())
    ]
    side = np.full(len(rows), size)
    counted = overlaps([row["counts"] for row, _ in rows], [truth for _, truth in rows], side, side)
    for (row, truth), (mine, covered, shared) in zip(rows, counted.tolist(), strict=True):
        peak = row["peak_row"], row["peak_column"]
        peaked = (
            truth is not None
            and peak[0] is not None
            and inside(truth, *peak, height=size, width=size)
        )
        chance = covered / content[row["image_id"]]
        found[row["finding"]].append(_Pair(peaked, chance, mine, covered, shared))
    return [_located(name, pairs) for name, pairs in found.items() if any(p.covered for p in pairs)]


def _located(finding: str, pairs: Sequence[_Pair]) -> Located:
    drawn = [pair for pair in pairs if pair.covered]
    unions = [pair.mine + pair.covered - pair.shared for pair in drawn]
    shared, made = sum(pair.shared for pair in drawn), sum(pair.mine for pair in pairs)
    return Located(
        finding,
        images=len(drawn),
        hit=sum(pair.peaked for pair in drawn) / len(drawn),
        chance=sum(pair.chance for pair in drawn) / len(drawn),
        iou=sum(p.shared / union for p, union in zip(drawn, unions, strict=True)) / len(drawn),
        pooled=shared / sum(unions),
        precision=shared / made if made else None,
        recall=shared / sum(pair.covered for pair in drawn),
    )


def lines(located: Sequence[Mapping[str, Any]], *, more: bool = False) -> list[str]:
    """Return the table as a person reads it, with the means over findings last.

    Args:
        located: entries of `locate` as dictionaries.
        more: with precision and recall; the mean precision is of the findings that have one.
    """
    if not located:
        return []
    columns = COLUMN_OF | MORE_COLUMNS if more else COLUMN_OF
    rows = [[item["finding"], str(item["images"]), *_figures(item, columns)] for item in located]
    means = {key: mean_of(located, key) for key in columns}
    header = ["Finding", "images", *columns.values()]
    return grid(header, [*rows, ["Mean", "", *_figures(means, columns)]])


COLUMN_OF = {"hit": "hit rate", "chance": "chance", "iou": "mIoU", "pooled": "pooled"}
MORE_COLUMNS = {"precision": "precision", "recall": "recall"}


def mean_of(located: Sequence[Mapping[str, Any]], key: str) -> float | None:
    """Return the mean of a figure over the classes that have one; None where none has."""
    there = [item[key] for item in located if item[key] is not None]
    return sum(there) / len(there) if there else None


def _figures(figures: Mapping[str, float | None], keys: Iterable[str]) -> list[str]:
    found = [figures[key] for key in keys]
    return [NOTHING if value is None else without_zeros(f"{value:.3f}") for value in found]
