"""The count table: pixels of truth, prediction and overlap, one row an image and finding.

Everything that is reported (IoU in its three meanings, Dice, hit rate, intervals, differences)
is a reduction of this table. So masks are read once, a new statistic never needs them again,
and what happens with an empty mask is written in one place (`iou.py`).

Two forms. On disk a Parquet table with `SCHEMA`, which anybody can open. In memory a
`CountCube`: dense arrays, runs × images × findings (letters R, N, K), where a run is one
training of one method, that is (method, seed).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from chexseg_platform.data import masks
from chexseg_platform.findings import FINDINGS, canonical

SCHEMA = pa.schema(
    [
        pa.field("method", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("patient", pa.string(), nullable=False),
        pa.field("finding", pa.string(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("truth", pa.int64()),
        pa.field("prediction", pa.int64(), nullable=False),
        pa.field("intersection", pa.int64()),
        pa.field("hit", pa.int8()),
        pa.field("peak_y", pa.int32()),
        pa.field("peak_x", pa.int32()),
    ]
)
"""Columns of the count table. Areas are pixels of the original image. `truth` and `intersection`
are null where no expert read the image; `hit` (1, 0) is null where the truth is empty or unknown
or the method has no heat map; the peak is the heat map's maximum in original pixels."""


class BrokenCounts(ValueError):
    """Counts that cannot be: other shapes, impossible areas, a row given twice."""


class Counts(NamedTuple):
    """Pixels of the truth, of the prediction and of both."""

    truth: int
    prediction: int
    intersection: int


def count_masks(truth: np.ndarray, prediction: np.ndarray) -> Counts:
    """Count two boolean masks of one shape (height × width).

    Raises:
        BrokenCounts: when the shapes differ or the arrays are not boolean.
    """
    if truth.shape != prediction.shape:
        raise BrokenCounts(
            f"The truth is {truth.shape} and the prediction {prediction.shape}: restore the "
            "prediction to the original image's size first."
        )
    if truth.dtype != np.bool_ or prediction.dtype != np.bool_:
        raise BrokenCounts("Masks must be boolean arrays: threshold probabilities first.")
    return Counts(
        int(np.count_nonzero(truth)),
        int(np.count_nonzero(prediction)),
        int(np.count_nonzero(truth & prediction)),
    )


def count_rle(truth: str | None, prediction: str | None, height: int, width: int) -> Counts:
    """Count two COCO run-length strings of one size without decoding them; None is empty."""
    if truth is None or prediction is None:
        return Counts(_area(truth, height, width), _area(prediction, height, width), 0)
    both, first, second = masks.overlap(truth, prediction, height, width)
    return Counts(first, second, both)


def _area(counts: str | None, height: int, width: int) -> int:
    return 0 if counts is None else masks.area(counts, height, width)


def image_rows(
    *,
    method: str,
    seed: int,
    split: str,
    image_id: str,
    patient: str,
    height: int,
    width: int,
    truth: Mapping[str, str] | None,
    prediction: Mapping[str, str],
    findings: Sequence[str] = FINDINGS,
    peaks: Mapping[str, tuple[int, int]] | None = None,
    hits: Mapping[str, int | None] | None = None,
) -> list[dict[str, Any]]:
    """Rows of one image for every finding.

    Args:
        truth: finding -> run-length string; None if no expert read the image. A finding that is
            not in it was read and is empty. `prediction` likewise.
        peaks: finding -> (y, x) of the heat map's maximum, original pixels.
        hits: finding -> 1, 0 or None, from `hits.py`.
    """
    truth = None if truth is None else {canonical(key): value for key, value in truth.items()}
    prediction = {canonical(key): value for key, value in prediction.items()}
    common = {
        "method": method,
        "seed": seed,
        "split": split,
        "image_id": image_id,
        "patient": patient,
        "height": height,
        "width": width,
    }
    rows = []
    for finding in findings:
        counts = count_rle((truth or {}).get(finding), prediction.get(finding), height, width)
        peak_y, peak_x = (peaks or {}).get(finding, (None, None))
        rows.append(
            common
            | {
                "finding": finding,
                "truth": None if truth is None else counts.truth,
                "prediction": counts.prediction,
                "intersection": None if truth is None else counts.intersection,
                "hit": (hits or {}).get(finding),
                "peak_y": peak_y,
                "peak_x": peak_x,
            }
        )
    return rows


def count_table(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """The rows as an Arrow table with `SCHEMA`; columns that a row lacks are null."""
    return pa.Table.from_pylist([dict(row) for row in rows], schema=SCHEMA)


@dataclass(frozen=True)
class CountCube:
    """Dense counts: arrays of runs × images × findings.

    Attributes:
        runs: (method, seed) of each run, R of them.
        image_ids, patients: N strings each.
        findings: K names.
        truth, prediction, intersection: int64 (R, N, K), pixels; 0 where not `known`.
        hit: float64 (R, N, K) of 1, 0 and NaN.
        known: bool (R, N, K): an expert read the image and the run predicted it.
    """

    runs: tuple[tuple[str, int], ...]
    image_ids: tuple[str, ...]
    patients: tuple[str, ...]
    findings: tuple[str, ...]
    truth: np.ndarray
    prediction: np.ndarray
    intersection: np.ndarray
    hit: np.ndarray
    known: np.ndarray

    @property
    def methods(self) -> tuple[str, ...]:
        """Methods in order of first appearance."""
        return tuple(dict.fromkeys(method for method, _ in self.runs))

    def seeds(self, method: str) -> tuple[int, ...]:
        """Seeds with which a method was run."""
        return tuple(seed for name, seed in self.runs if name == method)

    def select(self, methods: Sequence[str]) -> CountCube:
        """The runs of some methods; the images stay, so that resamples stay the same."""
        for method in methods:
            if method not in self.methods:
                raise BrokenCounts(
                    f"The count table has no method {method!r}; it has {', '.join(self.methods)}."
                )
        keep = [index for index, (method, _) in enumerate(self.runs) if method in methods]
        return replace(
            self,
            runs=tuple(self.runs[index] for index in keep),
            truth=self.truth[keep],
            prediction=self.prediction[keep],
            intersection=self.intersection[keep],
            hit=self.hit[keep],
            known=self.known[keep],
        )

    def aligned(self) -> CountCube:
        """Keep only entries known to every run, so that runs differ in nothing but masks."""
        known = np.broadcast_to(self.known.all(axis=0), self.known.shape)
        return replace(self, known=known)

    def left_out(self) -> dict[str, tuple[str, ...]]:
        """Method -> images on which at least one of its runs has an entry that cannot count."""
        missing: dict[str, tuple[str, ...]] = {}
        for method in self.methods:
            whole = np.asarray(self.select([method]).known.all(axis=(0, 2)))
            missing[method] = tuple(
                name for name, known in zip(self.image_ids, whole, strict=True) if not known
            )
        return missing


def cube(table: pa.Table, *, split: str | None = None) -> CountCube:
    """Build the dense form of a count table, in order of first appearance.

    Raises:
        BrokenCounts: on an empty table, two rows for one place, several splits without a choice,
            an image of two patients, or areas that cannot be.
    """
    table = _one_split(table, split)
    method, methods = _codes(table["method"])
    run, pairs = _pairs(method, table["seed"].to_numpy())
    image, image_ids = _codes(table["image_id"])
    finding, findings = _codes(table["finding"])
    place = (run, image, finding)
    shape = (len(pairs), len(image_ids), len(findings))
    known = _fill(shape, place, table["truth"].is_valid().to_numpy(), False)
    counts = {
        name: _fill(shape, place, table[name].fill_null(0).to_numpy(), np.int64(0))
        for name in ("truth", "prediction", "intersection")
    }
    _check_places(shape, place)
    _check_areas(counts, known)
    return CountCube(
        runs=tuple((methods[code], seed) for code, seed in pairs),
        image_ids=tuple(image_ids),
        patients=_patients(table, image, image_ids),
        findings=tuple(findings),
        hit=_fill(shape, place, _hits(table), np.nan),
        known=known,
        **{name: np.where(known, values, 0) for name, values in counts.items()},
    )


def _one_split(table: pa.Table, split: str | None) -> pa.Table:
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if missing:
        raise BrokenCounts(f"The count table lacks the column {missing[0]!r}: evaluate again.")
    present = table["split"].unique().to_pylist()
    if split is None and len(present) > 1:
        raise BrokenCounts(f"The count table holds the splits {present}: say which one to reduce.")
    if split is not None:
        table = table.filter(pc.equal(table["split"], split))
    if table.num_rows == 0:
        raise BrokenCounts(f"The count table has no rows of split {split!r}: nothing to evaluate.")
    return table.combine_chunks()


def _codes(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    encoded = pa.concat_arrays(column.chunks).dictionary_encode()
    return encoded.indices.to_numpy(), encoded.dictionary.to_pylist()


def _pairs(method: np.ndarray, seed: np.ndarray) -> tuple[np.ndarray, list[tuple[int, int]]]:
    pairs, codes = np.unique(np.stack([method, seed], axis=1), axis=0, return_inverse=True)
    return codes.reshape(-1), [(int(code), int(number)) for code, number in pairs]


def _fill(
    shape: tuple[int, ...], place: tuple[np.ndarray, ...], values: np.ndarray, empty: Any
) -> np.ndarray:
    out = np.full(shape, empty)
    out[place] = values
    return out


def _hits(table: pa.Table) -> np.ndarray:
    return table["hit"].cast(pa.float64()).fill_null(np.nan).to_numpy()


def _patients(table: pa.Table, image: np.ndarray, image_ids: list[str]) -> tuple[str, ...]:
    patient, names = _codes(table["patient"])
    of_image = np.zeros(len(image_ids), dtype=np.int64)
    of_image[image] = patient
    wrong = np.flatnonzero(of_image[image] != patient)
    if wrong.size:
        name = image_ids[image[wrong[0]]]
        raise BrokenCounts(f"Image {name!r} is given to two patients: mend the data set.")
    return tuple(names[code] for code in of_image)


def _check_places(shape: tuple[int, ...], place: tuple[np.ndarray, ...]) -> None:
    flat = np.ravel_multi_index(place, shape)
    if np.unique(flat).size != flat.size:
        raise BrokenCounts(
            "The count table has two rows for one method, seed, image and finding: evaluate again."
        )


def _check_areas(counts: Mapping[str, np.ndarray], known: np.ndarray) -> None:
    smaller = np.minimum(counts["truth"], counts["prediction"])
    negative = np.minimum(smaller, counts["intersection"]) < 0
    if np.any(negative) or np.any(known & (counts["intersection"] > smaller)):
        raise BrokenCounts(
            "The count table holds an overlap larger than its masks or an area below zero."
        )
