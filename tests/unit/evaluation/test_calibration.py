"""Calibration: bins and errors by hand, and a model whose probabilities are true."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from chexseg_platform.evaluation.calibration import BINS, CALIBRATION, bin_rows, calibrations

WHERE = {"method": "mix", "seed": 0, "unit": "pixel", "finding": "Edema"}


def table_of(rows: list[dict]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=CALIBRATION)


def rows_of(image: int, probability: np.ndarray, truth: np.ndarray) -> list[dict]:
    place = WHERE | {"image_id": f"i{image}", "patient": f"p{image}"}
    return [place | row for row in bin_rows(probability, truth)]


def test_bins_by_hand() -> None:
    probability = np.array([[0.0, 0.05, 0.1], [0.95, 1.0, 0.55]])
    truth = np.array([[False, True, False], [True, True, False]])
    rows = {row["bin"]: row for row in bin_rows(probability, truth)}
    assert sorted(rows) == [0, 1, 5, 9]
    assert (rows[0]["count"], rows[0]["claimed"], rows[0]["true"]) == (2, 0.05, 1)
    assert (rows[9]["count"], rows[9]["claimed"], rows[9]["true"]) == (2, 1.95, 2)


def test_the_error_is_weighted_by_what_falls_in_a_bin() -> None:
    # 30 pixels at 0.25 of which 15 are true, 10 at 0.85 of which 9 are.
    probability = np.r_[np.full(30, 0.25), np.full(10, 0.85)]
    truth = np.r_[np.arange(30) < 15, np.arange(10) < 9]
    halves = [slice(0, None, 2), slice(1, None, 2)]
    rows = [
        row for n, half in enumerate(halves) for row in rows_of(n, probability[half], truth[half])
    ]
    (found,) = calibrations(table_of(rows), resamples=50)
    assert found.error.value == pytest.approx((30 * 0.25 + 10 * 0.05) / 40)
    assert found.count == (0, 0, 30, 0, 0, 0, 0, 0, 10, 0)
    assert found.claimed[2] == pytest.approx(0.25)
    assert (found.true[2], found.true[8], found.true[0]) == (0.5, 0.9, None)
    assert found.error.low <= found.error.value <= found.error.high


def test_one_patient_has_no_interval() -> None:
    (found,) = calibrations(table_of(rows_of(0, np.array([0.5]), np.array([True]))), resamples=20)
    assert (found.error.value, found.error.low) == (0.5, None)


def test_true_probabilities_have_little_error_and_shifted_ones_their_shift() -> None:
    rng = np.random.default_rng(1)
    true_rows, shifted = [], []
    for image in range(40):
        probability = rng.uniform(0.2, 0.8, 500)
        truth = rng.random(500) < probability
        true_rows += rows_of(image, probability, truth)
        shifted += rows_of(image, probability + 0.15, truth)
    (good,), (bad,) = (calibrations(table_of(rows), resamples=100) for rows in (true_rows, shifted))
    assert good.error.value < 0.02
    assert bad.error.value == pytest.approx(0.15, abs=0.02)
    assert len(good.count) == BINS
