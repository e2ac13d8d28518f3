"""The drawing primitives: answers by hand and properties."""

import numpy as np
import pytest
from chexseg_platform.data.phantom.frame import (
    bump,
    curve,
    draw_lines,
    draw_polygon,
    ellipse,
    make_frame,
    noise,
    ramp,
)


def test_ramp_by_hand() -> None:
    t = np.array([-2, -1, 0, 0.5, 1, 2], np.float32)
    assert ramp(t, 1.0) == pytest.approx([0, 0, 0.5, 0.84375, 1, 1])
    assert ramp(t, 1.0).dtype == np.float32


def test_bump_by_hand() -> None:
    assert bump(np.array([0, 1, 2, 3], np.float32), 2.0) == pytest.approx([1, 0.5625, 0, 0])


def test_curve_passes_through_its_knots_in_every_batch() -> None:
    knots = np.array([[[0, 0], [1, 2], [3, 1]], [[5, 5], [4, 4], [0, 9]]], float)
    paths = curve(knots, 5)
    assert paths.shape == (2, 5, 2)
    assert np.allclose(paths[:, [0, 2, 4]], knots, atol=1e-6)
    assert np.allclose(curve(knots[1], 5), paths[1])


def test_straight_knots_give_a_straight_curve() -> None:
    path = curve(np.array([[0, 0], [1, 1], [2, 2]], float), 9)
    assert np.allclose(path[:, 0], path[:, 1])


def test_frame_maps_points_to_the_pixels_that_carry_their_coordinates() -> None:
    frame = make_frame(90, 110, 2.5, -0.4, 0.1, 0.05, np.random.default_rng(0))
    assert frame.shape == (90, 110)
    point = np.array([[0.2, 0.7]])
    column, row = np.rint(frame.to_pixels(point)[0]).astype(int)
    # The bending, which to_pixels leaves out, is a few hundredths.
    assert frame.x[row, column] == pytest.approx(0.2, abs=0.15)
    assert frame.y[row, column] == pytest.approx(0.7, abs=0.15)


def test_ellipse_is_one_on_its_edge() -> None:
    frame = make_frame(64, 64, 2.0, -1.0, 0.0, 0.0, np.random.default_rng(1))
    r = ellipse(frame, 0.1, 0.0, 0.5, 0.3)
    inside = np.count_nonzero(r < 1) / frame.scale**2
    assert inside == pytest.approx(np.pi * 0.5 * 0.3, rel=0.15)


def test_lines_are_as_thick_and_bright_as_asked() -> None:
    ink = draw_lines((20, 20), [(np.array([[0.0, 10.0], [19.0, 10.0]]), 3.0, 0.8)])
    assert ink[:, 10].sum() == pytest.approx(0.8 * 3, abs=0.45)
    assert ink.max() == pytest.approx(0.8, abs=0.01)
    box = draw_polygon((20, 20), np.array([[5, 5], [14, 5], [14, 14], [5, 14]], float))
    assert box.sum() == pytest.approx(90, abs=12)


def test_noise_is_standard_and_smooth() -> None:
    field = noise((128, 96), 12, np.random.default_rng(2))
    assert field.shape == (128, 96)
    assert 0.4 < field.std() < 1.2
    assert np.abs(np.diff(field, axis=0)).mean() < 0.25 * field.std()
