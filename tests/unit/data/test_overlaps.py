"""Overlaps of run lengths: pixels as the reference, empty masks, blocks, corrupt pairs by name."""

import numpy as np
import pytest
from chexseg_platform.data import overlaps as module
from chexseg_platform.data.masks import encode
from chexseg_platform.data.overlaps import CorruptPair, areas, overlaps
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

SIZES = st.tuples(st.integers(1, 13), st.integers(1, 13))
PAIR = SIZES.flatmap(lambda size: st.tuples(arrays(bool, size), arrays(bool, size)))


def sides(pairs):
    return np.array([first.shape for first, _ in pairs]).T


@given(st.lists(PAIR, min_size=1, max_size=12))
@settings(deadline=None, max_examples=150)
def test_counts_are_those_of_pixels(pairs):
    first, second = ([encode(pair[side]) for pair in pairs] for side in (0, 1))
    counted = overlaps(first, second, *sides(pairs))
    assert counted.tolist() == [[a.sum(), b.sum(), (a & b).sum()] for a, b in pairs]
    assert areas(first, *sides(pairs)).tolist() == [a.sum() for a, _ in pairs]


def test_none_is_empty_and_no_pairs_are_none():
    full = encode(np.ones((3, 4), bool))
    counted = overlaps([None, full, None], [full, None, None], [3, 3, 3], [4, 4, 4])
    assert counted.tolist() == [[0, 12, 0], [12, 0, 0], [0, 0, 0]]
    assert overlaps([], [], [], []).shape == (0, 3)


def test_blocks_change_nothing(monkeypatch):
    rng = np.random.default_rng(3)
    pairs = [(rng.random((2, 9, 11)) < 0.4) for _ in range(40)]
    first, second = ([encode(pair[side]) for pair in pairs] for side in (0, 1))
    whole = overlaps(first, second, *sides([tuple(pair) for pair in pairs]))
    monkeypatch.setattr(module, "BLOCK_CHARACTERS", 60)
    again = overlaps(first, second, *sides([tuple(pair) for pair in pairs]))
    assert again.tolist() == whole.tolist()


@pytest.mark.parametrize("bad", ["a01", "", "Q", "a01\x00", 7])
def test_the_corrupt_mask_of_many_is_named(bad):
    good = encode(np.eye(5, 4, dtype=bool))
    with pytest.raises(CorruptPair) as caught:
        overlaps([good] * 3, [good, good, bad], [5] * 3, [4] * 3)
    assert (caught.value.index, caught.value.second) == (2, True)


def test_a_mask_longer_than_its_image_does_not_borrow_from_the_next():
    # Together they cover 12 + 20 pixels, but neither its own image.
    first, second = encode(np.ones((4, 4), bool)), encode(np.ones((4, 4), bool))
    with pytest.raises(CorruptPair) as caught:
        overlaps([first, second], [None, None], [4, 4], [3, 5])
    assert (caught.value.index, caught.value.second) == (0, False)


def test_sequences_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="as many"):
        overlaps([None], [None, None], [1], [1])
