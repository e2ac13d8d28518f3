"""IoU and Dice in the three meanings of "mean IoU", what pixels are right, and hit rate.

Every one of them is, for one finding, a ratio of two sums over images (`Terms`):

============  =====================================  =====================================
meaning       numerator, summed over images          denominator, summed over images
============  =====================================  =====================================
A  present    IoU where prediction and truth are     1 there
              both non-empty
B  union      IoU where at least one is non-empty    1 there
C  pooled     pixels of the intersection             pixels of the union
============  =====================================  =====================================

So a point estimate is one division, and a bootstrap is two matrix products (`bootstrap.py`).
A is what CheXlocalize's evaluation reports by default (it does not see a missed finding or a
false alarm); B charges both with 0; C weighs images by area, as CheXseg's own test script does.
Dice takes the same three forms.

Precision, recall and specificity are shares of pixels, averaged over images: of the images where
the method draws, where the truth shows the finding, and of all. The boundary's distance is averaged
where both masks are there (`boundary.py`), and is the only metric of which less is better.

The rules for what is not there, in force everywhere:

1. An image that no expert read, or of which a run says nothing, counts in no sum. (A reader may
   have set points on an image without drawing masks: then it counts for the hit rate alone.)
2. Both masks empty: the image is in no sum of A, B or C (there is nothing to overlap).
3. One of two masks empty: not in A; 0 in B; its pixels are in the union of C.
4. A finding with a zero denominator has nothing to average: NaN, never 0 or 1.
5. A finding that the truth of no image shows cannot be found: NaN under every metric, also where
   a method draws it. (B and C would be 0 for a method with one false alarm and undefined for one
   without, and the means of the two would be over different findings.) The comparison names it.
6. The mean over findings leaves NaN findings out, and says how many it took.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from chexseg_platform.evaluation.counts import CountCube


class Terms(NamedTuple):
    """Summands of a ratio: float64 arrays of one shape, (R, N, K) from a cube."""

    numerator: np.ndarray
    denominator: np.ndarray


def iou(cube: CountCube) -> np.ndarray:
    """IoU of each run, image and finding, (R, N, K) in [0, 1]; NaN: union empty or unknown."""
    return np.where(cube.known, ratio(cube.intersection, _union(cube)), np.nan)


def dice(cube: CountCube) -> np.ndarray:
    """Dice of each run, image and finding, (R, N, K) in [0, 1]; NaN: both empty or unknown."""
    return np.where(cube.known, ratio(2 * cube.intersection, _areas(cube)), np.nan)


def iou_present(cube: CountCube) -> Terms:
    """mIoU A: mean over images where prediction and truth are both non-empty."""
    return _mean_where(iou(cube), _both(cube))


def iou_union(cube: CountCube) -> Terms:
    """mIoU B: mean over images where prediction or truth is non-empty."""
    return _mean_where(iou(cube), _either(cube))


def iou_pooled(cube: CountCube) -> Terms:
    """mIoU C: pixels of all intersections over pixels of all unions."""
    return _pooled(cube, cube.intersection, _union(cube))


def dice_present(cube: CountCube) -> Terms:
    """Dice over the images of A."""
    return _mean_where(dice(cube), _both(cube))


def dice_union(cube: CountCube) -> Terms:
    """Dice over the images of B."""
    return _mean_where(dice(cube), _either(cube))


def dice_pooled(cube: CountCube) -> Terms:
    """Dice of all pixels together."""
    return _pooled(cube, 2 * cube.intersection, _areas(cube))


def hit_rate(cube: CountCube) -> Terms:
    """Share of images with a non-empty truth whose heat map peaks inside it (`hits.py`)."""
    return _mean_where(cube.hit, (cube.truth > 0) & ~np.isnan(cube.hit))


def precision(cube: CountCube) -> Terms:
    """Share of the predicted pixels that are right, mean over images with a prediction."""
    there = _countable(cube) & (cube.prediction > 0)
    return _mean_where(ratio(cube.intersection, cube.prediction), there)


def recall(cube: CountCube) -> Terms:
    """Share of the truth's pixels that are found, mean over images with a truth."""
    there = _countable(cube) & (cube.truth > 0)
    return _mean_where(ratio(cube.intersection, cube.truth), there)


def specificity(cube: CountCube) -> Terms:
    """Share of the pixels outside the truth that are left alone, mean over all images."""
    outside = cube.pixels[:, None] - cube.truth
    right = cube.pixels[:, None] - _union(cube)
    return _mean_where(ratio(right, outside), _countable(cube) & (outside > 0))


def hd95(cube: CountCube) -> Terms:
    """95 % Hausdorff distance in pixels, mean over images where both masks are there."""
    return _mean_where(cube.hd95, _both(cube) & ~np.isnan(cube.hd95))


METRICS: dict[str, Callable[[CountCube], Terms]] = {
    "iou_present": iou_present,
    "iou_union": iou_union,
    "iou_pooled": iou_pooled,
    "dice_present": dice_present,
    "dice_union": dice_union,
    "dice_pooled": dice_pooled,
    "precision": precision,
    "recall": recall,
    "specificity": specificity,
    "hd95": hd95,
    "hit_rate": hit_rate,
}
"""Name in tables, JSON and MLflow -> the summands of it."""

TITLES: dict[str, str] = {
    "iou_present": "mIoU A: mean over images where prediction and truth both show the finding",
    "iou_union": "mIoU B: mean over images where prediction or truth shows the finding",
    "iou_pooled": "mIoU C: all images pooled, sum of intersections over sum of unions",
    "dice_present": "Dice A: mean over images where prediction and truth both show the finding",
    "dice_union": "Dice B: mean over images where prediction or truth shows the finding",
    "dice_pooled": "Dice C: all images pooled",
    "precision": "Precision: share of predicted pixels that are right, mean over images with any",
    "recall": "Recall: share of the truth's pixels that are found, mean over images with any",
    "specificity": "Specificity: share of pixels outside the truth left alone, mean over images",
    "hd95": "HD95: 95 % Hausdorff distance in pixels where both show the finding; less is better",
    "hit_rate": "Hit rate: the heat map's maximum lies inside the truth",
}
"""What each metric is, in words that stand beside every number."""

SHORT: dict[str, str] = {
    "iou_present": "mIoU A",
    "iou_union": "mIoU B",
    "iou_pooled": "mIoU C",
    "dice_present": "Dice A",
    "dice_union": "Dice B",
    "dice_pooled": "Dice C",
    "precision": "precision",
    "recall": "recall",
    "specificity": "specificity",
    "hd95": "HD95",
    "hit_rate": "hit rate",
}


LESS_IS_BETTER = frozenset({"hd95"})


def score(cube: CountCube, metric: str) -> np.ndarray:
    """A metric of each run and finding, float64 (R, K); NaN where nothing can be averaged."""
    terms = METRICS[metric](cube)
    return ratio(terms.numerator.sum(axis=1), terms.denominator.sum(axis=1))


def images_behind(cube: CountCube, metric: str) -> np.ndarray:
    """How many images each number of `score` rests on, int64 (R, K)."""
    return np.count_nonzero(METRICS[metric](cube).denominator, axis=1)


def mean_defined(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean along an axis of what is not NaN; NaN where nothing is left (rule 6)."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(axis=axis), defined.sum(axis=axis))


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """numerator / denominator in float64, NaN where the denominator is zero (rule 4)."""
    shape = np.broadcast_shapes(np.shape(numerator), np.shape(denominator))
    out = np.full(shape, np.nan)
    return np.divide(numerator, denominator, out=out, where=np.asarray(denominator) != 0)


def _areas(cube: CountCube) -> np.ndarray:
    return cube.truth + cube.prediction


def _union(cube: CountCube) -> np.ndarray:
    return _areas(cube) - cube.intersection


def _countable(cube: CountCube) -> np.ndarray:
    shown = (cube.known & (cube.truth > 0)).any(axis=(0, 1))
    return cube.known & shown


def _both(cube: CountCube) -> np.ndarray:
    return cube.known & (cube.truth > 0) & (cube.prediction > 0)


def _either(cube: CountCube) -> np.ndarray:
    return _countable(cube) & (_areas(cube) > 0)


def _mean_where(values: np.ndarray, where: np.ndarray) -> Terms:
    return Terms(np.where(where, values, 0.0), where.astype(np.float64))


def _pooled(cube: CountCube, numerator: np.ndarray, denominator: np.ndarray) -> Terms:
    countable = _countable(cube)
    return Terms(
        np.where(countable, numerator, 0).astype(np.float64),
        np.where(countable, denominator, 0).astype(np.float64),
    )
