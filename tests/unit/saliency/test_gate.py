"""The gate: every setting for every label and probability."""

import math

import numpy as np
import pytest
from chexseg_platform.config import Saliency
from chexseg_platform.findings import FINDING_TO_OBSERVATION, FINDINGS
from chexseg_platform.saliency.gate import gate, label_evidence

CASES = [(label, p) for label in (1, 0, -1, math.nan) for p in (0.9, 0.5, 0.1, math.nan)]
"""Label and probability of each image: four labels times four probabilities."""


def judge(**settings):
    """What the gate says of finding 3 in each case: "mask", "empty" or "unknown"."""
    labels = np.full((len(CASES), 14), np.nan, np.float32)
    labels[:, FINDING_TO_OBSERVATION[3]] = [label for label, _ in CASES]
    probabilities = np.full((len(CASES), 10), 0.7, np.float32)
    probabilities[:, 3] = [p for _, p in CASES]
    allowed, known = gate(labels, probabilities, Saliency(**settings))
    assert allowed.shape == known.shape == (len(CASES), 10)
    assert not (allowed & ~known).any()
    words = np.where(allowed, "m", np.where(known, "0", "?"))[:, 3]
    return " ".join("".join(words[start : start + 4]) for start in range(0, 16, 4))


# Groups: label 1, 0, -1, blank. In a group: p = 0.9, 0.5, 0.1, not a number. m: a mask is cut;
# 0: labelled as empty; ?: not labelled.
@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, "mmmm 0000 ???? 0000"),
        ({"blank": "unknown"}, "mmmm 0000 ???? ????"),
        ({"uncertain": "positive"}, "mmmm 0000 mmmm 0000"),
        ({"uncertain": "negative"}, "mmmm 0000 0000 0000"),
        ({"uncertain": "negative", "blank": "unknown"}, "mmmm 0000 0000 ????"),
        ({"gate": "none"}, "mmmm mmmm mmmm mmmm"),
        ({"gate": "none", "blank": "unknown"}, "mmmm mmmm mmmm mmmm"),
        ({"gate": "probability"}, "mm0? mm0? mm0? mm0?"),
        ({"gate": "probability", "cutoff": 0.6}, "m00? m00? m00? m00?"),
        ({"gate": "probability", "uncertain": "positive"}, "mm0? mm0? mm0? mm0?"),
        ({"gate": "both"}, "mm?? 0000 ???? 0000"),
        ({"gate": "both", "cutoff": 0.95}, "???? 0000 ???? 0000"),
        ({"gate": "both", "uncertain": "positive"}, "mm?? 0000 mm?? 0000"),
        ({"gate": "both", "uncertain": "negative", "blank": "unknown"}, "mm?? 0000 0000 ????"),
    ],
)
def test_truth_table(settings, wanted):
    assert judge(**settings) == wanted


def test_each_finding_hears_its_own_observation():
    labels = np.zeros((14, 14), np.float32)
    np.fill_diagonal(labels, 1)
    allowed, known = gate(labels, np.full((14, 10), 0.5, np.float32), Saliency())
    for k in range(len(FINDINGS)):
        assert np.flatnonzero(allowed[:, k]).tolist() == [FINDING_TO_OBSERVATION[k]]
    assert known.all()


def test_labels_are_not_changed():
    labels = np.array([[math.nan, -1, 0, 1] * 3 + [1, 0]], np.float32)
    before = labels.copy()
    for uncertain in ("unknown", "positive", "negative"):
        present, absent = label_evidence(labels, Saliency(uncertain=uncertain))
        assert not (present & absent).any()
    np.testing.assert_array_equal(labels, before)


def test_no_images():
    allowed, known = gate(np.zeros((0, 14), np.float32), np.zeros((0, 10)), Saliency(gate="both"))
    assert allowed.shape == known.shape == (0, 10)
