"""The 95 % Hausdorff distance: by hand, MONAI as the reference, edges of the image, empty masks."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from chexseg_platform.data.masks import encode
from chexseg_platform.evaluation import boundary
from chexseg_platform.evaluation.boundary import hausdorff95, hausdorff95_rle, outline
from hypothesis import assume, given, settings
from hypothesis.extra.numpy import arrays


def square(top: int, left: int, side: int, size: int = 64) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_a_shifted_square_is_as_far_as_it_was_shifted() -> None:
    assert hausdorff95(square(10, 5, 20), square(10, 15, 20)) == 10.0
    assert hausdorff95(square(10, 5, 20), square(10, 5, 20)) == 0.0


def test_one_stray_pixel_of_many_does_not_count() -> None:
    mask = square(10, 10, 30)
    stray = mask.copy()
    stray[63, 63] = True
    assert hausdorff95(mask, stray) == 0.0


def test_the_outline_is_what_has_a_neighbour_outside_or_lies_at_the_border() -> None:
    assert outline(square(10, 10, 5)).sum() == 16
    assert outline(np.ones((6, 7), bool)).sum() == 2 * (6 + 7) - 4


def test_speckles_are_measured_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = np.random.default_rng(2).random((2, 40, 50)) < 0.2
    searched = hausdorff95(*pair)
    monkeypatch.setattr(boundary, "SPECKLED", 0)
    assert hausdorff95(*pair) == pytest.approx(searched)


def test_an_empty_mask_has_no_distance_and_shapes_must_agree() -> None:
    assert math.isnan(hausdorff95(square(1, 1, 3), np.zeros((64, 64), bool)))
    with pytest.raises(ValueError, match="64"):
        hausdorff95(square(1, 1, 3), np.zeros((3, 3), bool))


@settings(max_examples=40, deadline=None)
@given(arrays(bool, (2, 9, 8)))
def test_run_lengths_are_measured_as_masks_are(pair: np.ndarray) -> None:
    assume(pair[0].any() and pair[1].any())
    found = hausdorff95_rle(encode(pair[0]), encode(pair[1]), 9, 8)
    assert found == hausdorff95(*pair)


def test_monai_says_the_same() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        monai = pytest.importorskip("monai.metrics")
        import torch

        rng = np.random.default_rng(4)
        for _ in range(20):
            # Blobs away from the border: MONAI's outline is open where a mask leaves the image.
            pair = np.zeros((2, 1, 1, 40, 44), bool)
            pair[..., 4:-4, 4:-4] = rng.random((2, 1, 1, 32, 36)) < rng.uniform(0.02, 0.9)
            theirs = monai.compute_hausdorff_distance(
                *torch.from_numpy(pair), include_background=True, percentile=95
            )
            assert hausdorff95(*pair[:, 0, 0]) == pytest.approx(float(theirs), abs=1e-6)
