"""Validation metrics from counts that add up: over batches, workers and resumed epochs.

Pooled IoU (intersection over union of all pixels of the data set, per class) needs, for any grid
of thresholds, only the histogram of probabilities split by truth: one pass over the pixels on the
device that holds them, and no copy of the predictions for each threshold. It chooses thresholds
and checkpoints while training; the figures of a report come from evaluation/.

AUROC is per observation and study: a study's score is the maximum over its views (CheXpert's
convention), so that a second view of the same lesion is not a second patient.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor

from chexseg_platform.models.preprocess import content_mask
from chexseg_platform.saliency.histogram import split_histogram
from chexseg_platform.saliency.threshold import best_threshold, pooled_iou


class PooledIoU:
    """Streaming pooled IoU of every class at every threshold i / bins, i = 0 .. bins - 1.

    A pixel is foreground where its probability is at least the threshold (`binarise`).

    Attributes:
        counts_2KT: int64 histogram: [0] pixels whose truth is negative, [1] positive. All of the
            state there is: sum it over workers, save it, or set it to continue.

    Args:
        classes: K.
        bins: 20 gives CheXseg's grid 0, 0.05, ..., 0.95.
        device: where the histogram lies.
    """

    def __init__(self, classes: int, bins: int = 20, device: torch.device | str = "cpu") -> None:
        self.bins = bins
        self.counts_2KT = torch.zeros(2, classes, bins, dtype=torch.int64, device=device)

    def update(
        self,
        probability_BKSS: Tensor,
        truth_BKSS: Tensor,
        *,
        known_BK: Tensor | None = None,
        content_B4: Tensor | None = None,
        ignored_BKSS: Tensor | None = None,
    ) -> None:
        """Count a batch.

        Args:
            probability_BKSS: in [0, 1].
            truth_BKSS: bool.
            known_BK: bool, channels that the truth labels; None for all.
            content_B4: integer (top, bottom, left, right) of the image inside its frame; padding
                is not counted.
            ignored_BKSS: bool, pixels that say nothing and are not counted; None for none.
        """
        unit_BKSS, truth = probability_BKSS.float(), truth_BKSS.bool()
        if ignored_BKSS is None:
            counts = split_histogram(
                unit_BKSS, truth, content_B4=content_B4, counted_BK=known_BK, bins=self.bins
            )
        else:
            kept_BKSS = ~ignored_BKSS
            if known_BK is not None:
                kept_BKSS &= known_BK[:, :, None, None]
            if content_B4 is not None:
                kept_BKSS &= content_mask(content_B4, *kept_BKSS.shape[2:])[:, None]
            counts = self._counts_of(kept_BKSS, unit_BKSS, truth)
        self.counts_2KT += counts.to(self.counts_2KT.device)

    def _counts_of(self, kept_BKSS: Tensor, unit_BKSS: Tensor, truth_BKSS: Tensor) -> Tensor:
        """Count chosen pixels only: those of a class, picked out, are an image of one row."""
        each = []
        for k in range(kept_BKSS.shape[1]):
            kept = kept_BKSS[:, k]
            rows = (values[:, k][kept][None, None, None] for values in (unit_BKSS, truth_BKSS))
            each.append(split_histogram(*rows, bins=self.bins))
        return torch.cat(each, dim=1)

    def curve(self) -> Tensor:
        """IoU (K, bins), float64 on the CPU; NaN for a class without a positive pixel."""
        return pooled_iou(self.counts_2KT.cpu())

    def at(self, threshold: float | Tensor = 0.5) -> Tensor:
        """IoU (K,) at a threshold of the grid, one for all or one a class."""
        curve_KT = self.curve()
        index = (torch.as_tensor(threshold, dtype=torch.float64) * self.bins).round().long()
        index = index.clamp(0, self.bins - 1).expand(len(curve_KT))
        return curve_KT.gather(1, index[:, None])[:, 0]

    def best(self, default: float = 0.5) -> tuple[Tensor, Tensor]:
        """Best threshold (K,) and its IoU (K,).

        Ties go to the middle of the tied thresholds (`best_threshold`). A class without a
        positive pixel keeps `default`, and its IoU is NaN.
        """
        curve_KT = self.curve()
        best_K = best_threshold(curve_KT)
        iou_K = curve_KT.gather(1, best_K.clamp(min=0)[:, None])[:, 0]
        threshold_K = torch.where(best_K >= 0, best_K / float(self.bins), default)
        return threshold_K, iou_K


def binarise(probability_BKSS: Tensor, threshold_K: Tensor) -> Tensor:
    """Bool masks: probability at least the class's threshold."""
    return probability_BKSS >= threshold_K.to(probability_BKSS)[:, None, None]


def study_auroc(
    score_NK: NDArray[np.floating],
    label_NK: NDArray[np.floating],
    study_N: Sequence[str],
) -> NDArray[np.float64]:
    """AUROC of each observation, at study level.

    Args:
        score_NK: of each image; NaN is refused.
        label_NK: 1, 0; anything else (-1, NaN) leaves the image out for that observation.
        study_N: each image's study, unique over patients ("patient00001/study1").

    Returns:
        (K,), NaN where studies of one kind only are labelled.

    Raises:
        ValueError: where shapes differ or a score is NaN.
    """
    score, label = np.asarray(score_NK, np.float64), np.asarray(label_NK, np.float64)
    if score.shape != label.shape or len(score) != len(study_N):
        raise ValueError(
            f"AUROC needs a score and a label for every image and observation: got {score.shape} "
            f"scores, {label.shape} labels and {len(study_N)} studies."
        )
    if np.isnan(score).any():
        raise ValueError("A score is NaN: the classifier diverged, so AUROC means nothing.")
    studies, index = np.unique(np.asarray(study_N), return_inverse=True)
    columns = range(score.shape[1])
    return np.array([_study_auroc(score[:, k], label[:, k], index, len(studies)) for k in columns])


def auroc(score_N: NDArray[np.floating], positive_N: NDArray[np.bool_]) -> float:
    """Area under the ROC curve, ties counting one half; NaN where one kind is absent."""
    n = int(positive_N.sum())
    m = len(positive_N) - n
    if n == 0 or m == 0:
        return float("nan")
    # The rank-sum statistic (Mann and Whitney 1947) is the area.
    ranks = float(rankdata(score_N)[positive_N].sum())
    return (ranks - n * (n + 1) / 2) / (n * m)


def _study_auroc(
    score_N: NDArray[np.float64],
    label_N: NDArray[np.float64],
    index_N: NDArray[np.intp],
    studies: int,
) -> float:
    known = (label_N == 0) | (label_N == 1)
    score = np.full(studies, -np.inf)
    label = np.zeros(studies)
    np.maximum.at(score, index_N[known], score_N[known])
    np.maximum.at(label, index_N[known], label_N[known])
    seen = np.zeros(studies, bool)
    seen[index_N[known]] = True
    return auroc(score[seen], label[seen] == 1)
