"""Calibration figures: answers by hand, and that a small phantom is neither too easy nor absurd."""

from pathlib import Path

import numpy as np
import pytest
from chexseg_platform.data.phantom import write_phantom
from chexseg_platform.data.phantom.calibration import (
    PHANTOM,
    PUBLISHED,
    PUBLISHED_PAIRS,
    auroc,
    co_occurrence,
    label_table,
    measure,
    pair_table,
    table,
)
from chexseg_platform.findings import FINDINGS


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("calibration")
    write_phantom(root, train=120, valid=0, test=120, size=64, seed=0, workers=1)
    return root


def test_auroc_by_hand() -> None:
    truth = np.array([1.0, 0, 1, 0])
    assert auroc(truth, np.array([0.9, 0.1, 0.8, 0.2])) == 1.0
    assert auroc(truth, np.array([0.1, 0.9, 0.2, 0.8])) == 0.0
    assert auroc(truth, np.array([0.9, 0.8, 0.5, 0.5])) == pytest.approx(0.625)
    assert auroc(np.ones(3), np.arange(3.0)) is None


def test_co_occurrence_by_hand() -> None:
    labels = np.array([[1, 1, -1], [1, 1, 0], [0, np.nan, 1], [0, 0, 1]], float)
    assert np.allclose(co_occurrence(labels), [[1, 1, -1], [1, 1, -1], [-1, -1, 1]])


def test_figures_of_a_small_phantom_are_near_the_published(phantom: Path) -> None:
    figures = measure(phantom)
    assert list(figures) == list(FINDINGS)
    for finding in FINDINGS:
        ours, theirs = figures[finding], PUBLISHED[finding]
        assert ours.prevalence == pytest.approx(theirs.prevalence, abs=0.16), finding
        if ours.agreement is not None and ours.prevalence > 0.15:
            assert ours.agreement == pytest.approx(theirs.agreement, abs=0.15), finding
    assert figures["Cardiomegaly"].agreement > figures["Atelectasis"].agreement


def test_scores_equal_to_the_truth_have_auroc_one(phantom: Path) -> None:
    truth = label_table(phantom, "test")
    values = {figures.auroc for figures in measure(phantom, scores=truth).values()}
    assert values <= {1.0, None}


def test_training_labels_go_together_as_in_chexpert(phantom: Path) -> None:
    labels = label_table(phantom, "train")
    assert labels.shape == (120, 10)
    assert np.isnan(labels).any()
    assert (labels == -1).any()
    assert pair_table(labels).count("\n") == 10


def test_published_pairs_are_findings() -> None:
    assert all(a in FINDINGS and b in FINDINGS for a, b in PUBLISHED_PAIRS)


def test_table_shows_both_figures() -> None:
    text = table(PHANTOM)
    assert text.count("\n") == 11
    assert "| Cardiomegaly |" in text
    assert "(.712)" in text
