"""Methods at work: a segmenter, pseudo-labels or second readers, asked for masks of dataset rows.

Whatever a method is, it answers in the same form: masks at the image's original resolution, and
the pixel where its map is highest. What it answers is then counted against the experts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from chexseg_platform import plan
from chexseg_platform.artifacts import Artifact
from chexseg_platform.data import geometry, masks
from chexseg_platform.data.store import of_classes
from chexseg_platform.evaluation import hits
from chexseg_platform.evaluation.calibration import CALIBRATION, bin_rows
from chexseg_platform.evaluation.counts import ImageFacts, ImageMasks, count_images
from chexseg_platform.evaluation.segmenting import Frame, Segmenting, full_masks, to_original
from chexseg_platform.evaluation.truth import Truth, drawn_of, truth_of
from chexseg_platform.findings import FINDING_TO_OBSERVATION, FINDINGS

COLUMNS = [
    "image_id", "patient", "split", "view", "projection", "sex", "age", "height", "width", "image",
    "labels", "masks", "benchmark_masks", "benchmark_points",
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
"""A method's masks: one row an image and class, COCO counts or null for an empty mask."""


@dataclass(frozen=True)
class Method:
    """Something that predicts masks: `source` is a segmenter, pseudo-labels, or None (readers)."""

    name: str
    seed: int
    source: Artifact | None


class Said(NamedTuple):
    """What a method says of an image.

    Attributes:
        masks: class -> COCO counts at original size; absent means empty.
        peaks: class -> pixel of its map's maximum; None without maps.
        maps_KSS: probabilities of pixels in the frame, of all classes; None where it has none.
        probability: finding -> probability that the image shows it, where it says so.
    """

    masks: dict[str, str]
    peaks: dict[str, tuple[int, int]] | None
    maps_KSS: NDArray[np.float32] | None = None
    probability: Mapping[str, float] = MappingProxyType({})


class Predictor:
    """A method, loaded: dataset rows in, masks at original resolution out.

    Attributes:
        classes: what it can draw, in the order of its maps: a segmenter's own, else the findings.
    """

    def __init__(self, method: Method, dataset: Artifact) -> None:
        self.method, self.size = method, int(dataset.summary["size"])
        self.classes: tuple[str, ...] = FINDINGS
        if method.source is None or method.source.kind == "pseudolabels":
            return
        files = {
            part.name.rpartition("/")[2]: method.source.read(part.name)
            for part in method.source.parts("checkpoints/00/")
        }
        self.segmenting = Segmenting(files, self.size)
        self.classes = self.segmenting.classes

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
            yield Said(found.masks, found.peaks, found.maps_KSS)

    def _pseudo(self, rows: Sequence[Mapping[str, Any]], shard: str) -> Iterator[Said | None]:
        assert self.method.source is not None
        if not rows:
            return
        table = self.method.source.table(f"masks/{shard}")
        wanted = pc.and_(  # there may be pseudo-labels of more observations
            pc.equal(table["split"], rows[0]["split"]),
            pc.is_in(table["finding"], pa.array(FINDINGS)),
        )
        found: dict[str, list[dict[str, Any]]] = {}
        for item in table.filter(wanted).to_pylist():
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
            probability = {item["finding"]: item["probability"] for item in items}
            yield Said(full_masks(small, half, box), peaks, probability=probability)


class Counted(NamedTuple):
    """Tables of a method on some rows: `counts.SCHEMA`, `CALIBRATION` and `PREDICTIONS`."""

    counts: pa.Table
    calibration: pa.Table
    predictions: pa.Table


def count_rows(predictor: Predictor, table: pa.Table, shard: str, split: str) -> Counted:
    """Count a method on dataset rows, in every class that it can draw.

    Args:
        table: `COLUMNS`, and `small_masks`, the experts' masks in the frame, from the index.
    """
    method, classes = predictor.method, predictor.classes
    images: list[ImageMasks] = []
    binned: list[dict[str, Any]] = []
    predicted: list[dict[str, Any]] = []
    rows = table.to_pylist()
    for row, said in zip(rows, predictor.predict(rows, shard), strict=True):
        if said is None:
            continue
        truth = truth_of(row, classes)
        images.append(
            ImageMasks(
                image=facts_of(row),
                truth=truth.masks,
                prediction=said.masks,
                unread=[name for name in classes if name not in truth.known],
                peaks=said.peaks,
                hits=_hits(row, truth, said.peaks, method.source is None),
            )
        )
        binned += _binned(method, classes, row, said, truth)
        shape = {"image_id": row["image_id"], "height": row["height"], "width": row["width"]}
        predicted += [{**shape, "finding": f, "counts": said.masks.get(f)} for f in classes]
    return Counted(
        count_images(images, method=method.name, seed=method.seed, split=split, findings=classes),
        pa.Table.from_pylist(binned, schema=CALIBRATION),
        pa.Table.from_pylist(predicted, schema=PREDICTIONS),
    )


def _binned(
    method: Method, classes: Sequence[str], row: Mapping[str, Any], said: Said, truth: Truth
) -> Iterator[dict[str, Any]]:
    """Yield rows of the calibration table: of pixels where there are maps, or of the image."""
    place = {"method": method.name, "seed": method.seed, "image_id": row["image_id"]}
    place["patient"] = row["patient"]
    if said.maps_KSS is not None:
        box = geometry.Letterbox(row["height"], row["width"], said.maps_KSS.shape[-1])
        inner = geometry.content(box)
        drawn = {item["finding"]: item["counts"] for item in row["small_masks"] or ()}
        small = {
            name: masks.decode(counts, box.size, box.size)
            for name, counts in of_classes(drawn, truth.known, box.size).items()
        }
        nothing = np.zeros((box.size, box.size), bool)
        for finding, map_SS in zip(classes, said.maps_KSS, strict=True):
            if finding not in truth.known:
                continue
            true = small.get(finding, nothing)
            for counted in bin_rows(map_SS[inner], true[inner]):
                yield place | {"unit": "pixel", "finding": finding} | counted
    for finding, probability in said.probability.items():
        label = row["labels"][FINDING_TO_OBSERVATION[FINDINGS.index(finding)]]
        if label in (0, 1) and np.isfinite(probability):
            for counted in bin_rows(np.array([probability]), np.array([label == 1])):
                yield place | {"unit": "image", "finding": finding} | counted


def facts_of(row: Mapping[str, Any]) -> ImageFacts:
    """What a dataset's row, or a table's entry, says of an image."""
    return ImageFacts(
        image_id=row["image_id"],
        patient=row["patient"],
        height=row["height"],
        width=row["width"],
        sex=row["sex"],
        age=row["age"],
        view=row["projection"] or row["view"],
    )


def _hits(
    row: Mapping[str, Any],
    truth: Truth,
    peaks: Mapping[str, tuple[int, int]] | None,
    readers: bool,
) -> dict[str, int | None] | None:
    """Whether the map's peak, or a reader's point, lies in the truth; None without a truth."""
    if truth.masks is None:
        return None
    drawn = truth.masks
    height, width = row["height"], row["width"]
    if readers:
        if row["benchmark_points"] is None:
            return None
        points: dict[str, list[tuple[float, float]]] = {}
        for point in row["benchmark_points"]:
            points.setdefault(point["finding"], []).append((point["x"], point["y"]))
        return {
            name: hits.points_hit(points.get(name, []), drawn.get(name), height=height, width=width)
            for name in truth.known
        }
    if peaks is None:
        return None
    # A map without a maximum points nowhere: a miss, as a reader without a point has.
    return {
        name: hits.hit_rle(peaks[name], drawn.get(name), height=height, width=width)
        if name in peaks
        else hits.points_hit([], drawn.get(name), height=height, width=width)
        for name in truth.known
    }
