"""Steps from a mask to a better one: drawn by hand."""

import numpy as np
from chexseg_platform.saliency.boost import without_small


def drawn(*rows: str) -> np.ndarray:
    return np.array([[cell == "#" for cell in row] for row in rows])


MASK = drawn(
    "##.....#",
    "##......",
    "........",
    "....###.",
    "....###.",
    "....###.",
    "#......#",
    ".#......",
)


def test_small_regions_are_left_out() -> None:
    whole = MASK[None, None]
    assert without_small(whole, 0.0) is whole
    # 9 of 64 pixels are above an eighth, 4 are not, and corners do not join.
    kept = without_small(whole, 1 / 8)[0, 0]
    assert np.argwhere(kept).min(axis=0).tolist() == [3, 4]
    assert kept.sum() == 9
    assert without_small(whole, 4 / 64)[0, 0].sum() == 13  # as large as asked for is enough
    assert without_small(whole, 2 / 64)[0, 0].sum() == 13
    assert not without_small(whole, 0.5).any()


def test_each_mask_by_itself() -> None:
    many = np.stack([np.stack([MASK, ~MASK]), np.stack([np.zeros_like(MASK), MASK])])
    found = without_small(many, 1 / 8)
    # Of what is not drawn, the lower left corner is cut off by two drawn pixels.
    assert found.sum(axis=(2, 3)).tolist() == [[9, (~MASK).sum() - 1], [0, 9]]
