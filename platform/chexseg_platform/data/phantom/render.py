"""From attenuation to the picture: noise, blur, exposure, contrast curve, collimation, marker.

CheXpert's JPEGs are window-scaled 8-bit images that were often histogram-equalised; its DICOM
originals are 12-bit. Both are made here from the same field.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .anatomy import Scene
from .frame import Field, Frame, Rng, draw_lines, noise, ramp


def expose(scene: Scene, rng: Rng) -> Field:
    """Return what the detector reads, scaled to [0, 1], bright where the body is dense."""
    density = scene.density + np.float32(rng.uniform(0.14, 0.28)) * scene.vessels
    density += np.float32(rng.normal(0, 0.04)) * scene.frame.x
    density += np.float32(rng.normal(0, 0.05)) * scene.frame.y
    density += np.float32(0.03) * noise(scene.frame.shape, 6, rng)
    density += np.float32(0.012) * noise(scene.frame.shape, 28, rng)
    density = _blur(density, float(rng.uniform(0, 0.9)))
    grain = rng.standard_normal(density.shape, dtype=np.float32)
    # Few photons get through dense parts: quantum noise grows there.
    density += np.float32(rng.uniform(0.002, 0.011)) * np.exp(density * np.float32(0.6)) * grain
    low, high = np.percentile(density[::3, ::3], [rng.uniform(0.2, 4), rng.uniform(98, 99.95)])
    return np.clip((density - low) / np.float32(max(high - low, 1e-3)), 0, 1)


def _blur(image: Field, amount: float) -> Field:
    """Mix each pixel with its neighbours: weights (a/4, 1 - a/2, a/4) along both axes."""
    side, middle = np.float32(amount / 4), np.float32(1 - amount / 2)
    wide = np.pad(image, 1, mode="edge")
    rows = wide[1:-1] * middle + (wide[:-2] + wide[2:]) * side
    return np.asarray(rows[:, 1:-1] * middle + (rows[:, :-2] + rows[:, 2:]) * side, np.float32)


def finish(level: Field, frame: Frame, rng: Rng) -> Field:
    """Apply a contrast curve, collimation borders and a side marker; stays in [0, 1]."""
    gamma = np.float32(np.exp(rng.normal(-0.1, 0.2)))
    image = np.power(level, gamma)
    equal = rng.uniform(0, 0.9) if rng.random() < 0.7 else 0.0
    image = (1 - np.float32(equal)) * image + np.float32(equal) * _equalise(image)
    if rng.random() < 0.25:
        image *= _collimator(image.shape, rng)
    if rng.random() < 0.8:
        image = np.maximum(image, _marker(frame, rng))
    return np.clip(image, 0, 1)


def _equalise(image: Field) -> Field:
    bins = (image * np.float32(255)).astype(np.uint8)
    counts = np.bincount(bins.ravel(), minlength=256)
    return (np.cumsum(counts) / image.size).astype(np.float32)[bins]


def _collimator(shape: tuple[int, ...], rng: Rng) -> Field:
    """1 inside a slightly turned rectangle, nearly 0 outside."""
    height, width = shape
    row, column = np.arange(height, dtype=np.float32), np.arange(width, dtype=np.float32)
    lean = np.float32(rng.normal(0, 0.01))
    edges = np.maximum(rng.normal(0.005, 0.025, 4), -0.02)
    x = column[None] + lean * row[:, None]
    y = row[:, None] - lean * column[None]
    inside = ramp(x - np.float32(edges[0] * width), 1) * ramp(
        np.float32((1 - edges[1]) * width) - x, 1
    )
    inside *= ramp(y - np.float32(edges[2] * height), 1)
    inside *= ramp(np.float32((1 - edges[3]) * height) - y, 1)
    return np.float32(0.02) + np.float32(0.98) * inside


def _marker(frame: Frame, rng: Rng) -> Field:
    """An "L" near the patient's left shoulder."""
    height, width = frame.shape
    size = rng.uniform(0.03, 0.05) * max(height, width)
    x, y = rng.uniform(0.84, 0.95) * width, rng.uniform(0.03, 0.12) * height
    letter = np.array([[0, 0], [0, size], [0.6 * size, size]]) + [x, y]
    return draw_lines(frame.shape, [(letter, size / 6, rng.uniform(0.7, 1))])


def to_bytes(image: Field) -> NDArray[np.uint8]:
    """8-bit picture."""
    return np.rint(image * 255).astype(np.uint8)


def to_twelve_bits(image: Field) -> NDArray[np.uint16]:
    """12-bit detector values, 0 to 4095."""
    return np.rint(image * 4095).astype(np.uint16)
