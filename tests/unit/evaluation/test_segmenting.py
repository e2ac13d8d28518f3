"""From maps to masks, worked out by hand."""

import numpy as np
from chexseg_platform.data.geometry import Letterbox
from chexseg_platform.data.masks import decode
from chexseg_platform.evaluation.segmenting import frame_of, full_masks, peaks_of
from chexseg_platform.findings import FINDINGS

BOX = Letterbox(height=4, width=8, size=8)  # two rows of padding above and below
HALF = np.full(len(FINDINGS), 0.5, np.float32)


def maps(**drawn: tuple[int, int, float]) -> np.ndarray:
    """Maps of 0 with a value at a place of the frame."""
    out = np.zeros((len(FINDINGS), 8, 8), np.float32)
    for name, (row, column, value) in drawn.items():
        out[FINDINGS.index(name), row, column] = value
    return out


def test_what_lies_in_the_padding_is_no_mask_and_no_peak() -> None:
    given = maps(Edema=(0, 3, 0.9))
    given[FINDINGS.index("Edema"), 3, 5] = 0.4
    assert full_masks(given, HALF, BOX) == {}
    peaks, highest = peaks_of(given, BOX)
    assert peaks["Edema"] == (1, 5)
    assert highest["Edema"] == np.float32(0.4)


def test_a_mask_is_where_the_map_reaches_the_threshold() -> None:
    given = maps(Edema=(2, 0, 0.5), Atelectasis=(5, 7, 0.49))
    found = full_masks(given, HALF, BOX)
    assert list(found) == ["Edema"]
    assert np.argwhere(decode(found["Edema"], 4, 8)).tolist() == [[0, 0]]
    assert peaks_of(given, BOX)[0]["Atelectasis"] == (3, 7)


def test_the_first_of_equal_maxima_counts() -> None:
    peaks, highest = peaks_of(maps(), BOX)
    assert set(peaks.values()) == {(0, 0)}
    assert set(highest.values()) == {0.0}


def test_a_frame_keeps_the_size_of_its_image() -> None:
    frame = frame_of(np.full((4, 8), 9, np.uint8), 8)
    assert (frame.height, frame.width, frame.pixels.shape) == (4, 8, (8, 8))
    assert frame.pixels[:2].sum() == frame.pixels[6:].sum() == 0
    assert (frame.pixels[2:6] == 9).all()
