"""The count table: pixels of truth, prediction and overlap, one row an image and finding.

Everything that is reported (IoU in its three meanings, Dice, hit rate, intervals, differences)
is a reduction of this table. So masks are read once, a new statistic never needs them again,
and what happens with an empty mask is written in one place (`metrics.py`).

Two forms. On disk a Parquet table with `SCHEMA`, which anybody can open. In memory a
`CountCube`: dense arrays, runs × images × findings (letters R, N, K), where a run is one
training of one method, that is (method, seed).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from chexseg_platform.data.overlaps import overlaps
from chexseg_platform.evaluation.boundary import hausdorff95_rle
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
        pa.field("prediction", pa.int64()),
        pa.field("intersection", pa.int64()),
        pa.field("hit", pa.int8()),
        pa.field("peak_y", pa.int32()),
        pa.field("peak_x", pa.int32()),
        pa.field("hd95", pa.float64()),
        pa.field("sex", pa.string()),
        pa.field("age", pa.int32()),
        pa.field("view", pa.string()),
    ]
)
"""Columns of the count table. Areas are pixels of the original image. `truth` and `intersection`
are null where no expert says anything of the finding, `prediction` and `intersection` where the
method says nothing of it; `hit` (1, 0) is null where the truth is empty or unknown or the method
has no heat map; the peak is the heat map's maximum in original pixels; `hd95` is null where a mask
is empty or unknown, or boundaries were not measured. Sex, age in years and view
("AP", "PA", or "frontal", "lateral" where no more is known) are null where the data lack them."""


TRAITS = ("sex", "age", "view")


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


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFacts:
    """What is known of an image besides its pixels; see the columns of `SCHEMA`."""

    image_id: str
    patient: str
    height: int
    width: int
    sex: str | None = None
    age: int | None = None
    view: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageMasks:
    """What was drawn on one image.

    Attributes:
        truth: finding -> run-length string; None if no expert read the image. A finding that is
            not in it was read and is empty. `prediction` likewise; None if the method says nothing.
        unread: findings of which the expert says nothing, of an image that was read.
        unsaid: findings of which the method says nothing, of an image that it has.
        peaks: finding -> (y, x) of the heat map's maximum, original pixels.
        hits: finding -> 1, 0 or None, from `hits.py`.
    """

    image: ImageFacts
    truth: Mapping[str, str] | None
    prediction: Mapping[str, str] | None
    unread: Collection[str] = ()
    unsaid: Collection[str] = ()
    peaks: Mapping[str, tuple[int, int]] | None = None
    hits: Mapping[str, int | None] | None = None


def count_images(
    images: Sequence[ImageMasks],
    *,
    method: str,
    seed: int,
    split: str,
    boundary: bool = True,
    findings: Sequence[str] = FINDINGS,
) -> pa.Table:
    """Count masks of images: one row an image and finding, with `SCHEMA`.

    Args:
        boundary: measure the distance of outlines too, which takes most of the time.
        findings: what is counted; structures by the names that the masks have.

    Raises:
        CorruptPair: run lengths that are no mask of their image's size.
        UnknownFinding: for a mask whose name is none of the findings and no alias of an
            observation.
    """
    pairs = [
        (drawn, finding, (drawn.truth or {}).get(finding), (drawn.prediction or {}).get(finding))
        for drawn in (_canonical(image, findings) for image in images)
        for finding in findings
    ]
    sides = np.array([(pair[0].image.height, pair[0].image.width) for pair in pairs]).reshape(-1, 2)
    counted = overlaps([pair[2] for pair in pairs], [pair[3] for pair in pairs], *sides.T)
    common = {"method": method, "seed": seed, "split": split}
    return count_table(
        common
        | _row(drawn, finding, counts, _distance(drawn, finding, counts) if boundary else None)
        for (drawn, finding, *_), counts in zip(pairs, counted.tolist(), strict=True)
    )


def _canonical(drawn: ImageMasks, findings: Sequence[str]) -> ImageMasks:
    truth, prediction = (
        None if masks is None else {_name(key, findings): value for key, value in masks.items()}
        for masks in (drawn.truth, drawn.prediction)
    )
    return replace(drawn, truth=truth, prediction=prediction)


def _name(key: str, findings: Sequence[str]) -> str:
    return key if key in findings else canonical(key)


def _row(
    drawn: ImageMasks, finding: str, counts: Sequence[int], distance: float | None
) -> dict[str, Any]:
    read = drawn.truth is not None and finding not in drawn.unread
    said = drawn.prediction is not None and finding not in drawn.unsaid
    peak_y, peak_x = (drawn.peaks or {}).get(finding, (None, None))
    return asdict(drawn.image) | {
        "finding": finding,
        "truth": counts[0] if read else None,
        "prediction": counts[1] if said else None,
        "intersection": counts[2] if read and said else None,
        "hit": (drawn.hits or {}).get(finding),
        "peak_y": peak_y,
        "peak_x": peak_x,
        "hd95": distance,
    }


def _distance(drawn: ImageMasks, finding: str, counts: Sequence[int]) -> float | None:
    if drawn.truth is None or drawn.prediction is None or not (counts[0] and counts[1]):
        return None
    image = drawn.image
    pair = drawn.truth[finding], drawn.prediction[finding]
    return hausdorff95_rle(*pair, image.height, image.width)


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
        truth: int64 (R, N, K), pixels; 0 where no expert read the image.
        prediction, intersection: int64 (R, N, K), pixels; 0 where they are not there.
        hit: float64 (R, N, K) of 1, 0 and NaN.
        hd95: float64 (R, N, K), pixels; NaN where there is none.
        pixels: int64 (N,), pixels of each image.
        traits: "sex", "age", "view" -> N values or None; see `SCHEMA`.
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
    hd95: np.ndarray
    known: np.ndarray
    pixels: np.ndarray
    traits: Mapping[str, tuple[Any, ...]]

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
            hd95=self.hd95[keep],
            known=self.known[keep],
        )

    def aligned(self) -> CountCube:
        """Keep only entries known to every run, so that runs differ in nothing but masks.

        A hit or miss counts where every run has one: it may be known where masks are not.
        """
        known = np.broadcast_to(self.known.all(axis=0), self.known.shape)
        both = ~np.isnan(self.hit).any(axis=0)
        return replace(self, known=known, hit=np.where(both, self.hit, np.nan))

    def restricted(self, where: np.ndarray) -> CountCube:
        """Let only some entries count: bool (N,), images, or (N, K), images and findings."""
        chosen = where[:, None] if where.ndim == 1 else where
        return replace(self, known=self.known & chosen, hit=np.where(chosen, self.hit, np.nan))

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
    said = pc.and_(table["truth"].is_valid(), table["prediction"].is_valid())
    known = _fill(shape, place, said.to_numpy(), False)
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
        hit=_fill(shape, place, _floats(table, "hit"), np.nan),
        hd95=_fill(shape, place, _floats(table, "hd95"), np.nan),
        known=known,
        pixels=_of_images(image, table["height"].to_numpy().astype(np.int64) * table["width"]),
        traits={name: _trait(table, image, name) for name in TRAITS},
        **counts,
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


def _floats(table: pa.Table, column: str) -> np.ndarray:
    return table[column].cast(pa.float64()).fill_null(np.nan).to_numpy()


def _of_images(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """One value an image, of those of its rows."""
    out = np.zeros(int(image.max()) + 1, dtype=np.int64)
    out[image] = values
    return out


def _trait(table: pa.Table, image: np.ndarray, name: str) -> tuple[Any, ...]:
    values = table[name].to_pylist()
    _, first = np.unique(image, return_index=True)
    return tuple(values[row] for row in first)


def _patients(table: pa.Table, image: np.ndarray, image_ids: list[str]) -> tuple[str, ...]:
    patient, names = _codes(table["patient"])
    of_image = _of_images(image, patient)
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
