"""Do saliency maps lie where experts drew? The check that belongs before pseudo-labels are used.

A classifier may be good long before its maps are. So every pseudo-label run is compared with the
expert masks of the validation images, at model size: how often a map's maximum lies in the mask
(beside the share of the image that the masks cover, which is what a dart would hit), and how well
the masks that were cut overlap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from chexseg_platform.data.overlaps import overlaps
from chexseg_platform.evaluation.hits import inside
from chexseg_platform.evaluation.tables import grid, without_zeros
from chexseg_platform.findings import FINDINGS

COLUMNS = ["image_id", "finding", "counts", "peak_row", "peak_column"]
Drawn = Mapping[str, Mapping[str, str]]
"""Image -> finding -> COCO counts at model size; images that no expert read are absent."""


@dataclass(frozen=True)
class Located:
    """One finding, over the images on which an expert drew it.

    Attributes:
        images: how many.
        hit: share of maps whose maximum lies in the mask; a map without a maximum is a miss.
        chance: mean share of the image that the mask covers.
        iou: mean IoU of the pseudo-masks; 0 where none was made.
        pooled: sum of intersections over sum of unions.
    """

    finding: str
    images: int
    hit: float
    chance: float
    iou: float
    pooled: float


def locate(table: pa.Table, drawn: Drawn, content: Mapping[str, int], size: int) -> list[Located]:
    """Compare pseudo-labels with expert masks.

    Args:
        table: rows with image_id, finding, counts, peak_row and peak_column.
        drawn: expert masks.
        content: image -> pixels of its frame that are image and not padding.
        size: side of the frame.

    Returns:
        One entry a finding that an expert drew at least once, in the order of FINDINGS.
    """
    found: dict[str, list[tuple[float, float, int, int]]] = {name: [] for name in FINDINGS}
    rows = [
        (row, drawn[row["image_id"]][row["finding"]])
        for row in table.select(COLUMNS).to_pylist()
        if row["finding"] in drawn.get(row["image_id"], {})
    ]
    side = np.full(len(rows), size)
    counted = overlaps([row["counts"] for row, _ in rows], [truth for _, truth in rows], side, side)
    for (row, truth), (mine, covered, shared) in zip(rows, counted.tolist(), strict=True):
        if covered == 0:
            continue
        peak = row["peak_row"], row["peak_column"]
        peaked = peak[0] is not None and inside(truth, *peak, height=size, width=size)
        chance = covered / content[row["image_id"]]
        found[row["finding"]].append((float(peaked), chance, shared, mine + covered - shared))
    return [_located(name, rows) for name, rows in found.items() if rows]


def _located(finding: str, rows: Sequence[tuple[float, float, int, int]]) -> Located:
    hits, chances, shared, union = zip(*rows, strict=True)
    return Located(
        finding,
        images=len(rows),
        hit=sum(hits) / len(rows),
        chance=sum(chances) / len(rows),
        iou=sum(part / whole for part, whole in zip(shared, union, strict=True)) / len(rows),
        pooled=sum(shared) / sum(union),
    )


def lines(located: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the table as a person reads it, with the means over findings last."""
    if not located:
        return []
    rows = [[item["finding"], str(item["images"]), *_figures(item)] for item in located]
    means = {key: sum(item[key] for item in located) / len(located) for key in KEYS}
    header = ["Finding", "images", "hit rate", "chance", "mIoU", "pooled"]
    return grid(header, [*rows, ["Mean", "", *_figures(means)]])


KEYS = ("hit", "chance", "iou", "pooled")


def _figures(figures: Mapping[str, Any]) -> list[str]:
    return [without_zeros(f"{figures[key]:.3f}") for key in KEYS]
