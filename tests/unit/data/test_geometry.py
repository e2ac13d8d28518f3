"""The letterbox and its inverse: positions by hand, and properties over odd sizes."""

import numpy as np
import pytest
import torch
from chexseg_platform.data.geometry import (
    Letterbox,
    content,
    letterbox,
    letterbox_mask,
    restore,
)
from hypothesis import given, settings
from hypothesis import strategies as st

BOXES = st.builds(Letterbox, st.integers(1, 90), st.integers(1, 90), st.integers(1, 48))


def test_positions_by_hand():
    box = Letterbox(height=50, width=100, size=20)
    assert (box.inner_height, box.inner_width, box.top, box.left) == (10, 20, 5, 0)
    assert box.scale == 0.2
    assert content(box) == (slice(5, 15), slice(0, 20))


def test_odd_padding_goes_below_and_right():
    box = Letterbox(height=4, width=3, size=4)
    assert (box.left, box.inner_width) == (0, 3)


@given(BOXES)
def test_the_image_fills_the_longest_side_and_keeps_its_aspect(box):
    rows, columns = content(box)
    assert max(box.inner_height, box.inner_width) == box.size
    assert 0 <= rows.start < rows.stop <= box.size
    assert 0 <= columns.start < columns.stop <= box.size
    assert abs(box.inner_height - box.height * box.scale) <= max(0.5, 1 - box.height * box.scale)
    assert abs(box.inner_width - box.width * box.scale) <= max(0.5, 1 - box.width * box.scale)
    assert abs((box.size - rows.stop) - rows.start) <= 1
    assert abs((box.size - columns.stop) - columns.start) <= 1


@given(BOXES, st.integers(1, 255))
@settings(deadline=None)
def test_a_flat_image_stays_flat_there_and_back(box, value):
    frame = letterbox(np.full((box.height, box.width), value, np.uint8), box)
    inside = np.zeros((box.size, box.size), bool)
    inside[content(box)] = True
    assert frame.dtype == np.uint8
    assert (frame[inside] == value).all()
    assert not frame[~inside].any()
    back = restore(frame.astype(np.float32), box)
    assert back.shape == (box.height, box.width)
    np.testing.assert_allclose(back, value, rtol=1e-6)


@given(st.integers(1, 40), st.integers(1, 40))
@settings(deadline=None)
def test_a_frame_of_the_images_own_size_changes_nothing(height, width):
    box = Letterbox(height, width, max(height, width))
    image = np.random.default_rng(0).integers(0, 256, (height, width)).astype(np.uint8)
    np.testing.assert_array_equal(letterbox(image, box)[content(box)], image)
    np.testing.assert_array_equal(restore(letterbox(image, box).astype(np.float32), box), image)
    np.testing.assert_array_equal(letterbox_mask(image > 99, box)[content(box)], image > 99)


@pytest.mark.parametrize("shape", [(200, 300), (301, 199), (1, 257), (257, 1), (97, 97)])
def test_a_blob_returns_to_its_place(shape):
    height, width = shape
    rows, columns = np.mgrid[:height, :width]
    blob = np.exp(
        -(((rows - 0.3 * height) / height) ** 2 + ((columns - 0.6 * width) / width) ** 2) * 9
    )
    box = Letterbox(height, width, 96)
    back = restore(letterbox(blob.astype(np.float32), box), box)
    assert np.abs(back - blob).max() < 0.03
    shift = np.array(np.unravel_index(back.argmax(), shape)) - np.unravel_index(
        blob.argmax(), shape
    )
    assert np.abs(shift).max() <= 2 / box.scale


def test_shrinking_averages_what_a_pixel_covers():
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 200
    inner = letterbox(stripes, Letterbox(64, 64, 8))[1:-1, 1:-1]
    assert np.abs(inner.astype(int) - 100).max() <= 2


def test_mask_is_set_where_half_the_area_is():
    mask = np.zeros((8, 8), bool)
    mask[0:2, 0:4] = True  # half of the first frame pixel, all that lies above
    mask[4:5, 4:8] = True  # a quarter of the last
    assert letterbox_mask(mask, Letterbox(8, 8, 2)).tolist() == [[True, False], [False, False]]


@given(BOXES, st.data())
@settings(deadline=None)
def test_a_single_pixel_survives_in_its_place(box, data):
    row = data.draw(st.integers(0, box.height - 1))
    column = data.draw(st.integers(0, box.width - 1))
    mask = np.zeros((box.height, box.width), bool)
    mask[row, column] = True
    frame = letterbox_mask(mask, box)
    assert frame.any()
    inside = np.zeros_like(frame)
    inside[content(box)] = True
    assert not (frame & ~inside).any()
    down, right = np.argwhere(frame).mean(axis=0) - (box.top, box.left) + 0.5
    assert abs(down / box.inner_height * box.height - row - 0.5) <= max(1, 1 / box.scale)
    assert abs(right / box.inner_width * box.width - column - 0.5) <= max(1, 1 / box.scale)


def test_an_empty_mask_stays_empty():
    assert not letterbox_mask(np.zeros((30, 7), bool), Letterbox(30, 7, 16)).any()


def test_restore_takes_channels_and_tensors():
    box = Letterbox(30, 20, 16)
    maps = np.random.default_rng(1).random((3, 16, 16)).astype(np.float32)
    together = restore(torch.from_numpy(maps), box)
    assert together.shape == (3, 30, 20)
    for channel in range(3):
        np.testing.assert_allclose(together[channel], restore(maps[channel], box), rtol=1e-6)


def test_padding_never_reaches_the_image():
    box = Letterbox(20, 10, 16)
    frame = np.full((16, 16), 7.0, np.float32)
    frame[content(box)] = 1.0
    np.testing.assert_array_equal(restore(frame, box), np.ones((20, 10), np.float32))


def test_wrong_shapes_are_refused():
    box = Letterbox(20, 10, 16)
    with pytest.raises(ValueError, match="20 x 10"):
        letterbox(np.zeros((10, 20), np.uint8), box)
    with pytest.raises(ValueError, match="20 x 10"):
        letterbox_mask(np.zeros((10, 20), bool), box)
    with pytest.raises(ValueError, match="16 x 16"):
        restore(np.zeros((20, 10), np.float32), box)
    with pytest.raises(ValueError, match="at least 1"):
        Letterbox(0, 10, 16)
