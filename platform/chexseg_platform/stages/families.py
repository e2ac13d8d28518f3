"""Families of pseudo-labels side by side: how well each lies where experts drew, class by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow.compute as pc

from chexseg_platform.artifacts import Artifact
from chexseg_platform.data.store import read_index
from chexseg_platform.evaluation.localization import mean_of
from chexseg_platform.evaluation.tables import NOTHING, grid, without_zeros
from chexseg_platform.stages.explained import localization

MEASURES = {"iou": "mIoU", "pooled": "pooled IoU", "precision": "precision", "recall": "recall"}
MEAN = "Mean"


def compare_labels(
    labels: Mapping[str, Artifact], dataset: Artifact, split: str
) -> dict[str, list[dict[str, Any]]]:
    """Compare the labels of a split with its experts' masks: family -> rows, a class each.

    Families without labels of the split, and splits that no expert read, are left out.
    """
    index = read_index(dataset)
    read = index.filter(pc.and_(pc.equal(index["split"], split), pc.is_valid(index["masks"])))
    size = int(dataset.summary["size"])
    columns = ["image_id", "split", "finding", "counts", "peak_row", "peak_column"]
    found = {}
    for name, artifact in labels.items():
        table = artifact.tables("masks/", columns)
        mine = table.filter(pc.equal(table["split"], split))
        rows = localization(mine, read, size) if mine.num_rows and read.num_rows else []
        if rows:
            found[name] = rows
    return found


def rows_of(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Return a row a family and class, for a CSV; the means over classes last."""
    rows = []
    for family, items in found.items():
        rows += [{"family": family, **item} for item in items]
        means = {key: mean_of(items, key) for key in ("hit", "chance", *MEASURES)}
        rows.append({"family": family, "finding": MEAN, "images": None, **means})
    return rows


def render(found: Mapping[str, Sequence[Mapping[str, Any]]], split: str) -> str:
    """Return a table a measure: a row a class, a column a family."""
    families = list(found)
    names = list(dict.fromkeys(item["finding"] for items in found.values() for item in items))
    lines = [f"Labels beside the experts' masks of the {split} images:"]
    for key, title in MEASURES.items():
        by_class = {f: {item["finding"]: item[key] for item in found[f]} for f in families}
        images = {item["finding"]: item["images"] for f in families for item in found[f]}
        rows = [
            [name, str(images[name]), *(_figure(by_class[f].get(name)) for f in families)]
            for name in names
        ]
        means = [_figure(mean_of(found[f], key)) for f in families]
        lines += ["", *grid([title, "images", *families], [*rows, [MEAN, "", *means]])]
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    return NOTHING if value is None else without_zeros(f"{value:.3f}")
