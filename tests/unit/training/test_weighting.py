"""Class weights by hand: inverse to what is shown of what is labelled, bounded, of mean 1."""

import numpy as np
import pytest
from chexseg_platform.data import masks
from chexseg_platform.data.store import MaskRows
from chexseg_platform.training.weighting import balanced_weights

DOT = np.eye(4, dtype=bool)
SHOWN, BLANK = masks.encode(DOT), masks.encode(np.zeros((4, 4), bool))


def rows(known: list[list[int]], shown: list[str], blank: str = "") -> MaskRows:
    """Rows over the classes a, b, c; `shown` names each row's, `blank` those drawn empty."""
    counts = tuple(
        {**dict.fromkeys(blank, BLANK), **dict.fromkeys(names, SHOWN)} for names in shown
    )
    return MaskRows(np.arange(len(known)), counts, np.array(known, bool), ("a", "b", "c"))


def test_by_hand() -> None:
    # a: 2 of 4 rows; b: 1 of the 2 that label it, and one shows it unlabelled; c: 1 of 4.
    known = [[1, 1, 1], [1, 1, 1], [1, 0, 1], [1, 0, 1]]
    found = balanced_weights(rows(known, ["ab", "a", "bc", ""]), 4)
    # Inverse shares 2, 2 and 4, of mean 8 / 3.
    assert found.tolist() == pytest.approx([0.75, 0.75, 1.5])


def test_an_empty_mask_shows_nothing() -> None:
    every = [[1, 1, 1]] * 4
    found = balanced_weights(rows(every, ["a", "a", "ab", "b"], blank="abc"), 4)
    # Shares 3/4 and 1/2: inverse 4/3 and 2, of mean 5/3; c is not shown.
    assert found.tolist() == pytest.approx([0.8, 1.2, 1.0])


def test_no_class_counts_more_than_ten_times_another() -> None:
    every = [[1, 1, 0]] * 100
    found = balanced_weights(rows(every, ["ab", *["a"] * 99]), 4)
    assert found.tolist() == pytest.approx([2 / 11, 20 / 11, 1.0])


def test_nothing_shown_is_no_weight() -> None:
    for nothing in (MaskRows.empty(("a", "b", "c")), rows([[1, 1, 1]] * 2, ["", ""])):
        assert balanced_weights(nothing, 4).tolist() == [1.0, 1.0, 1.0]
