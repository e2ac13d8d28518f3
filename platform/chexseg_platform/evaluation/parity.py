"""CheXlocalize's public evaluation, number by number, from the count table.

What its script does (`eval.py`, 2023) and is done here alike, so that a table in a paper can be
compared with theirs:

- IoU on the "true positive slice": of images listed in the truth, where truth and prediction are
  both there. Otherwise IoU of all images with a non-empty union, those that only the prediction
  lists included. An image or finding that the prediction lacks is empty.
- Hit or miss: the first maximum of the map at the image's size; nothing where the truth is empty;
  readers hit with any point, and miss without one.
- 1,000 resamples of images by NumPy's legacy generator with seed 0; in each the mean a finding over
  the images that have a value; the interval ends are the 25th and 975th of the sorted means,
  resamples without a value last, and the "mean" is the mean of the means.

It differs from the rest of this package on purpose: resamples are of images, not patients, and a
false alarm counts where the truth shows the finding nowhere in a resample. Prefer the comparison's
intervals; these are for parity.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from chexseg_platform.evaluation.bootstrap import weights_of
from chexseg_platform.evaluation.counts import CountCube
from chexseg_platform.evaluation.metrics import ratio
from chexseg_platform.findings import CHEXLOCALIZE_NAMES

What = Literal["iou_true_positives", "iou_union", "hitmiss"]
WHATS: tuple[What, ...] = ("iou_true_positives", "iou_union", "hitmiss")
RESAMPLES = 1000


@dataclass(frozen=True)
class PerImage:
    """Values of images and findings, as the script writes them: images and names sorted.

    values is float64 (N, K), NaN where an image has none.
    """

    image_ids: tuple[str, ...]
    names: tuple[str, ...]
    values: np.ndarray


def per_image(
    cube: CountCube, method: str, what: What, listed: Collection[str], own: Collection[str] = ()
) -> PerImage:
    """Values of a method's first run.

    Args:
        listed: images that the truth's file lists.
        own: images that the method's file lists.
    """
    run = next(index for index, (name, _) in enumerate(cube.runs) if name == method)
    names = sorted((CHEXLOCALIZE_NAMES[finding], k) for k, finding in enumerate(cube.findings))
    rows = sorted(
        (image_id, row)
        for row, image_id in enumerate(cube.image_ids)
        if image_id in listed or (what == "iou_union" and image_id in own)
    )
    values = _values(cube, run, what)[np.ix_([row for _, row in rows], [k for _, k in names])]
    return PerImage(tuple(i for i, _ in rows), tuple(name for name, _ in names), values)


def _values(cube: CountCube, run: int, what: What) -> np.ndarray:
    if what == "hitmiss":
        return np.asarray(cube.hit[run])
    # The truth of every run is one; where a run says nothing the script takes an empty mask.
    truth = cube.truth.max(axis=0)
    union = truth + cube.prediction[run] - cube.intersection[run]
    iou = ratio(cube.intersection[run], union)
    if what == "iou_true_positives":
        return np.where((truth > 0) & (cube.prediction[run] > 0), iou, np.nan)
    return iou


def resampled_means(values: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Means of every resample of images: float64 (B, K), NaN without a value."""
    draws = np.random.RandomState(seed).choice(len(values), (resamples, len(values)))
    weights = weights_of(draws, len(values))
    there = ~np.isnan(values)
    return ratio(weights @ np.where(there, values, 0.0), weights @ there)


@dataclass(frozen=True)
class Summary:
    """One line of the script's summary."""

    name: str
    lower: float
    mean: float
    upper: float


def summarise(names: tuple[str, ...], means: np.ndarray, level: float = 0.95) -> list[Summary]:
    """Interval and mean of each finding from its resamples, (B, K)."""
    ordered, tail = np.sort(means, axis=0), (1 - level) / 2
    ends = [int(round(share * len(means), 6)) - 1 for share in (tail, 1 - tail)]
    there = ~np.isnan(means)
    average = ratio(np.where(there, means, 0.0).sum(axis=0), there.sum(axis=0))
    return [
        Summary(name, float(ordered[ends[0], k]), float(average[k]), float(ordered[ends[1], k]))
        for k, name in enumerate(names)
    ]


def rows_per_image(found: PerImage) -> list[dict[str, Any]]:
    """The script's table of images: a column a finding, and `img_id` last."""
    return [
        {**dict(zip(found.names, map(_cell, values), strict=True)), "img_id": image_id}
        for image_id, values in zip(found.image_ids, found.values, strict=True)
    ]


def rows_of_resamples(names: tuple[str, ...], means: np.ndarray) -> list[dict[str, Any]]:
    """The script's table of resamples: a column a finding."""
    return [dict(zip(names, map(_cell, row), strict=True)) for row in means]


def rows_of_summary(summary: list[Summary]) -> list[dict[str, Any]]:
    """The script's summary, to three digits."""
    return [
        {"name": line.name, **{key: _cell(round(getattr(line, key), 3)) for key in ENDS}}
        for line in summary
    ]


ENDS = ("lower", "mean", "upper")


def _cell(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
