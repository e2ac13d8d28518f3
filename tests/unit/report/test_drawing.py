from __future__ import annotations

import base64
import io
import re

import numpy as np
from chexseg_platform.report.drawing import data_uri, heat_pixels, outline, shrunk, svg
from PIL import Image


def edges(path: str) -> set[tuple[str, int, int]]:
    """The unit edges of a path: ("h", x, y) from (x, y) to the right, ("v", x, y) downwards."""
    found = set()
    for x, y, way, length in re.findall(r"M(\d+) (\d+)([hv])(\d+)", path):
        for step in range(int(length)):
            right, down = (step, 0) if way == "h" else (0, step)
            found.add((way, int(x) + right, int(y) + down))
    return found


def test_an_outline_is_where_a_pixel_has_another_neighbour() -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((6, 9)) < 0.5
    inked = np.pad(mask, 1)
    wanted = set()
    for y in range(7):
        for x in range(10):
            if inked[y, x + 1] != inked[y + 1, x + 1]:
                wanted.add(("h", x, y))
            if inked[y + 1, x] != inked[y + 1, x + 1]:
                wanted.add(("v", x, y))
    assert edges(outline(mask)) == {e for e in wanted if e[1] < (9 if e[0] == "h" else 10)}


def test_a_square_has_four_lines_and_an_empty_mask_none() -> None:
    mask = np.zeros((8, 8), bool)
    assert outline(mask) == ""
    mask[2:5, 3:7] = True
    assert outline(mask) == "M3 2h4M3 5h4M3 2v3M7 2v3"


def test_a_picture_is_the_pixels_it_was_given() -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    head, _, data = data_uri(pixels).partition(",")
    assert head == "data:image/png;base64"
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), pixels
    )
    assert shrunk(pixels, 2).shape == (2, 2)
    assert shrunk(pixels, 4) is pixels


def test_a_low_map_shows_the_image_and_an_empty_one_nothing_else() -> None:
    alpha = heat_pixels(np.array([[0.0, 0.25, 4.0]]))[0, :, 3]
    assert alpha[0] == 0
    assert 0 < alpha[1] < alpha[2] == 191  # 0.75 of 255
    assert heat_pixels(np.zeros((2, 2)))[..., 3].max() == 0


def test_text_alternatives_are_escaped() -> None:
    assert 'aria-label="&#34;&lt;b&gt;"' in svg((2, 3), '"<b>', [])
