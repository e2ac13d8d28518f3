"""Are probabilities true? Of the pixels a model calls 70 %, do 70 % belong to the finding?

Counted first, as everything: `CALIBRATION` has a row an image, finding and bin of probability.
Pixels of segmenters are counted at model size, where they were predicted; for pseudo-labels the
unit is the image, with the classifier's probability that the finding is there.

The expected calibration error (Naeini et al. 2015) is the mean distance between what is claimed
and what is true, bin by bin, weighted by how much falls in a bin. Background fills most of an image
and is easy, so the error over pixels is small for any model: the curve says more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from chexseg_platform.evaluation.bootstrap import Estimate, estimates, weights_of
from chexseg_platform.evaluation.metrics import ratio

BINS = 10
CALIBRATION = pa.schema(
    [
        pa.field("method", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("unit", pa.string(), nullable=False),
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("patient", pa.string(), nullable=False),
        pa.field("finding", pa.string(), nullable=False),
        pa.field("bin", pa.int8(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),
        pa.field("claimed", pa.float64(), nullable=False),
        pa.field("true", pa.int64(), nullable=False),
    ]
)
"""Columns: of the pixels ("pixel") or images ("image") whose probability is in a bin, how many
there are, the sum of their probabilities, and how many the truth has. Bins that are empty have no
row. Bin b holds [b / 10, (b + 1) / 10), the last one 1 as well."""


def bin_rows(
    probability: NDArray[np.floating], truth: NDArray[np.bool_]
) -> Iterable[dict[str, float]]:
    """Bin probabilities of one image and finding: rows of bin, count, claimed, true.

    Args:
        probability, truth: of one shape; probabilities in [0, 1].
    """
    flat, true = np.asarray(probability, np.float64).ravel(), np.asarray(truth).ravel()
    place = np.minimum((flat * BINS).astype(np.int64), BINS - 1)
    count = np.bincount(place, minlength=BINS)
    claimed = np.bincount(place, weights=flat, minlength=BINS)
    there = np.bincount(place[true], minlength=BINS)
    for number in np.flatnonzero(count):
        yield {
            "bin": int(number),
            "count": int(count[number]),
            "claimed": float(claimed[number]),
            "true": int(there[number]),
        }


@dataclass(frozen=True)
class Calibration:
    """One method and finding.

    Attributes:
        unit: "pixel" or "image".
        count: (BINS,) how many fell in each bin, over all seeds.
        claimed, true: (BINS,) mean probability and share of the truth there; None in empty bins.
        error: expected calibration error, with its interval over patients.
    """

    method: str
    finding: str
    unit: str
    count: tuple[int, ...]
    claimed: tuple[float | None, ...]
    true: tuple[float | None, ...]
    error: Estimate


def calibrations(
    table: pa.Table, *, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> list[Calibration]:
    """Reduce a calibration table to one entry a method and finding, in order of appearance."""
    patients = {name: code for code, name in enumerate(table["patient"].unique().to_pylist())}
    draws = np.random.default_rng(seed).integers(0, len(patients), (resamples, len(patients)))
    weights = np.concatenate([np.ones((1, len(patients))), weights_of(draws, len(patients))])
    found: dict[tuple[str, str, str], NDArray[np.float64]] = {}
    for row in table.to_pylist():
        key = row["method"], row["finding"], row["unit"]
        sums = found.setdefault(key, np.zeros((len(patients), BINS, 3)))
        sums[patients[row["patient"]], row["bin"]] += (row["count"], row["claimed"], row["true"])
    return [_calibration(key, sums, weights, level) for key, sums in found.items()]


def _calibration(
    key: tuple[str, str, str],
    sums_CB3: NDArray[np.float64],
    weights: NDArray[np.float64],
    level: float,
) -> Calibration:
    count, claimed, true = np.moveaxis(np.tensordot(weights, sums_CB3, axes=1), -1, 0)
    error = ratio(np.abs(claimed - true).sum(axis=1), count.sum(axis=1))
    behind = int(np.count_nonzero(sums_CB3[..., 0].sum(axis=1)))
    means, shares = ratio(claimed[0], count[0]), ratio(true[0], count[0])
    method, finding, unit = key
    return Calibration(
        method,
        finding,
        unit,
        count=tuple(int(n) for n in count[0]),
        claimed=tuple(map(_known, means)),
        true=tuple(map(_known, shares)),
        error=estimates(error[:, None], np.array([behind]), level=level)[0],
    )


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
