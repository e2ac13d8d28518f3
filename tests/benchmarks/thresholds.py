"""Tuning thresholds on 187 images x 10 classes: one histogram, and a loop over 20 thresholds."""

from __future__ import annotations

import numpy as np
import torch
from chexseg_platform.saliency.histogram import MAP_BINS, split_histogram
from chexseg_platform.saliency.threshold import tune
from numpy.typing import NDArray
from torch import Tensor

from tests.benchmarks.harness import Row, compare, rate_of
from tests.benchmarks.material import Place

IMAGES, CLASSES, SIZE, BATCH = 187, 10, 320, 16
LOOP = np.arange(20) / 20


def run(place: Place) -> list[Row]:
    """Normalised maps and truth are in memory on both sides."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(IMAGES, CLASSES, 10, 10, generator=generator)
    unit = torch.nn.functional.interpolate(coarse, size=(SIZE, SIZE), mode="bilinear")
    truth = unit + 0.2 * torch.rand(unit.shape, generator=generator) > 0.8
    arrays = unit.numpy(), truth.numpy()
    return [
        compare(
            "threshold tuning, 187 images x 10 classes",
            "passes/s",
            lambda: rate_of(1, lambda: _ours(unit, truth)),
            lambda: rate_of(1, lambda: _loop(*arrays)),
            "NumPy, threshold by threshold (20)",
            aim=20,
            repetitions=2,
        )
    ]


def _ours(unit: Tensor, truth: Tensor) -> Tensor:
    counts = torch.zeros(2, CLASSES, MAP_BINS, dtype=torch.int64)
    for start in range(0, IMAGES, BATCH):
        part = slice(start, start + BATCH)
        counts += split_histogram(unit[part], truth[part])
    return tune(counts).threshold_K


def _loop(unit: NDArray[np.float32], truth: NDArray[np.bool_]) -> NDArray[np.float64]:
    iou = np.zeros((CLASSES, len(LOOP)))
    for k in range(CLASSES):
        for column, threshold in enumerate(LOOP):
            both = either = 0
            for image in range(IMAGES):
                mask = unit[image, k] > threshold
                both += np.logical_and(mask, truth[image, k]).sum()
                either += np.logical_or(mask, truth[image, k]).sum()
            iou[k, column] = both / either
    best: NDArray[np.float64] = LOOP[iou.argmax(axis=1)]
    return best
