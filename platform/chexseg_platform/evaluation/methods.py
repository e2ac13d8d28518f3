"""Methods at work: a segmenter, pseudo-labels or second readers, asked for masks of dataset rows.

Whatever a method is, it answers in the same form: masks at the image's original resolution, and
the pixel where its map is highest. What it answers is then counted against the experts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from chexseg_platform import plan
from chexseg_platform.artifacts import Artifact
from chexseg_platform.data import geometry, masks
from chexseg_platform.evaluation import hits
from chexseg_platform.evaluation.counts import count_table, image_rows
from chexseg_platform.evaluation.segmenting import Frame, Segmenting, full_masks, to_original
from chexseg_platform.findings import FINDING_TO_OBSERVATION, FINDINGS

COLUMNS = [
    "image_id", "patient", "split", "height", "width", "image", "labels", "masks",
    "benchmark_masks", "benchmark_points",
]  # fmt: skip
"""Columns of a dataset's rows that a method and its counting need."""
PREDICTIONS = pa.schema(
    [
        ("image_id", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("finding", pa.string()),
        ("counts", pa.string()),
    ]
)
"""A method's masks: one row an image and finding, COCO counts or null for an empty mask."""


@dataclass(frozen=True)
class Method:
    """Something that predicts masks: `source` is a segmenter, pseudo-labels, or None (readers)."""

    name: str
    seed: int
    source: Artifact | None


class Said(NamedTuple):
    """What a method says of an image: finding -> COCO counts at original size (absent: empty),
    and finding -> pixel of its map's maximum, where it has maps."""

    masks: dict[str, str]
    peaks: dict[str, tuple[int, int]] | None


class Predictor:
    """A method, loaded: dataset rows in, masks at original resolution out."""

    def __init__(self, method: Method, dataset: Artifact) -> None:
        self.method, self.size = method, int(dataset.summary["size"])
        if method.source is None or method.source.kind == "pseudolabels":
            return
        files = {
            part.name.rpartition("/")[2]: method.source.read(part.name)
            for part in method.source.parts("checkpoints/00/")
        }
        self.segmenting = Segmenting(files, self.size)

    def predict(self, rows: Sequence[Mapping[str, Any]], shard: str) -> Iterator[Said | None]:
        """Yield what the method says of each row of a shard; None where it says nothing.

        Pseudo-labels lie in shards of the same names as the dataset's.
        """
        if self.method.source is None:
            for row in rows:
                drawn = drawn_of(row, "benchmark_masks")
                yield None if drawn is None else Said(drawn, None)
        elif self.method.source.kind == plan.PSEUDOLABELS:
            yield from self._pseudo(rows, shard)
        else:
            yield from self._segment(rows)

    def _segment(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[Said]:
        shape = (self.size, self.size)
        frames = [
            Frame(np.frombuffer(row["image"], np.uint8).reshape(shape), row["height"], row["width"])
            for row in rows
        ]
        for found in self.segmenting.segment(frames):
            yield Said(found.masks, found.peaks)

    def _pseudo(self, rows: Sequence[Mapping[str, Any]], shard: str) -> Iterator[Said | None]:
        assert self.method.source is not None
        if not rows:
            return
        table = self.method.source.table(f"masks/{shard}")
        found: dict[str, list[dict[str, Any]]] = {}
        for item in table.filter(pc.equal(table["split"], rows[0]["split"])).to_pylist():
            found.setdefault(item["image_id"], []).append(item)
        half = np.full(len(FINDINGS), 0.5, dtype=np.float32)
        for row in rows:
            items = found.get(row["image_id"])
            if items is None:  # of a split that was not explained
                yield None
                continue
            small = np.zeros((len(FINDINGS), self.size, self.size), dtype=np.float32)
            for item in items:
                if item["counts"] is not None:
                    mask = masks.decode(item["counts"], self.size, self.size)
                    small[FINDINGS.index(item["finding"])] = mask
            box = geometry.Letterbox(row["height"], row["width"], self.size)
            peaks = {
                item["finding"]: to_original(item["peak_row"], item["peak_column"], box)
                for item in items
                if item["peak_row"] is not None
            }
            yield Said(full_masks(small, half, box), peaks)


def drawn_of(row: Mapping[str, Any], column: str) -> dict[str, str] | None:
    """Return what a reader drew; all empty where nobody drew and the ten labels are 0.

    Both readers of CheXlocalize were given the labels, so an image without a finding is one
    without masks; an image with a finding and without masks is one that nobody read.
    """
    if row[column] is not None:
        return {item["finding"]: item["counts"] for item in row[column]}
    absent = all(row["labels"][place] == 0 for place in FINDING_TO_OBSERVATION)
    return {} if absent else None


def count_rows(
    predictor: Predictor, table: pa.Table, shard: str, split: str
) -> tuple[pa.Table, pa.Table]:
    """Count a method on dataset rows: the count table and the predictions."""
    method = predictor.method
    counted: list[dict[str, Any]] = []
    predicted: list[dict[str, Any]] = []
    rows = table.to_pylist()
    for row, said in zip(rows, predictor.predict(rows, shard), strict=True):
        if said is None:
            continue
        prediction, peaks = said
        truth = drawn_of(row, "masks")
        counted += image_rows(
            method=method.name,
            seed=method.seed,
            split=split,
            image_id=row["image_id"],
            patient=row["patient"],
            height=row["height"],
            width=row["width"],
            truth=truth,
            prediction=prediction,
            peaks=peaks,
            hits=_hits(row, truth, peaks, method.source is None),
        )
        shape = {"image_id": row["image_id"], "height": row["height"], "width": row["width"]}
        predicted += [{**shape, "finding": f, "counts": prediction.get(f)} for f in FINDINGS]
    return count_table(counted), pa.Table.from_pylist(predicted, schema=PREDICTIONS)


def _hits(
    row: Mapping[str, Any],
    truth: Mapping[str, str] | None,
    peaks: Mapping[str, tuple[int, int]] | None,
    readers: bool,
) -> dict[str, int | None] | None:
    """Whether the map's peak, or a reader's point, lies in the truth; None without a truth."""
    if truth is None:
        return None
    height, width = row["height"], row["width"]
    if readers:
        if row["benchmark_points"] is None:
            return None
        points: dict[str, list[tuple[float, float]]] = {}
        for point in row["benchmark_points"]:
            points.setdefault(point["finding"], []).append((point["x"], point["y"]))
        return {
            name: hits.points_hit(points.get(name, []), truth.get(name), height=height, width=width)
            for name in FINDINGS
        }
    if peaks is None:
        return None
    # A map without a maximum points nowhere: a miss, as a reader without a point has.
    return {
        name: hits.hit_rle(peaks[name], truth.get(name), height=height, width=width)
        if name in peaks
        else hits.points_hit([], truth.get(name), height=height, width=width)
        for name in FINDINGS
    }
