"""Body coordinates on a pixel grid, and the few soft primitives that everything is drawn with.

The body's unit of length is half the width of an average thorax. X grows to the patient's left
(the viewer's right), Y grows downwards and is 0 at the apex of the lungs. All drawing is done on
fields sampled once a pixel: edges are ramps at least a pixel wide, so nothing needs supersampling
except lines, which Pillow draws at twice the resolution.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Field = NDArray[np.float32]
Points = NDArray[np.float64]
Rng = np.random.Generator


@dataclass(frozen=True)
class Frame:
    """Where a pixel grid lies on the body.

    Attributes:
        x, y: (H, W) float32 body coordinates of each pixel's centre, bent a little.
        scale: pixels a unit of length.
        angle: rotation of the body in the image, radians.
        origin: pixel (column, row) of the body's (0, 0).
    """

    x: Field
    y: Field
    scale: float
    angle: float
    origin: tuple[float, float]

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.x.shape[0], self.x.shape[1]

    def to_pixels(self, points: Points) -> Points:
        """Map (N, 2) body points to (N, 2) pixel columns and rows, leaving the bending out."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        turned = points @ np.array([[cos, sin], [-sin, cos]])
        return turned * self.scale + np.asarray(self.origin)


def make_frame(
    height: int, width: int, span: float, top: float, angle: float, offset: float, rng: Rng
) -> Frame:
    """Lay a grid of `span` body units across, its upper edge at Y = `top`, turned by `angle`.

    `offset` shifts the body sideways. The grid is bent by slow sine waves, so that no two
    bodies share an outline and no outline is a clean curve.
    """
    scale = width / span
    origin = (width / 2 + offset * scale, -top * scale)
    u = ((np.arange(width) - origin[0]) / scale).astype(np.float32)
    v = ((np.arange(height) - origin[1]) / scale).astype(np.float32)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    x = cos * u[None, :] + (sin * v + wave(v, rng, 0.022))[:, None]
    y = cos * v[:, None] + (-sin * u + wave(u, rng, 0.022))[None, :]
    return Frame(x, y, scale, angle, origin)


def wave(t: Field, rng: Rng, amplitude: float) -> Field:
    """A sum of three sines of `t`, of about `amplitude`."""
    size, phase = rng.normal(0, amplitude, 3), rng.uniform(0, 2 * np.pi, 3)
    terms = [size[k] * np.sin((1.3 + 1.9 * k) * t + phase[k]) / (k + 1) for k in range(3)]
    return np.asarray(sum(terms), dtype=np.float32)


def ramp(distance: NDArray[Any], softness: float) -> Field:
    """0 below -softness, 1 above softness, a smooth step in between."""
    t = np.clip(distance * np.float32(0.5 / softness) + np.float32(0.5), 0, 1)
    return t * t * (np.float32(3) - t - t)


def bump(distance: NDArray[Any], width: float) -> Field:
    """A bell of half-width `width` that ends: (1 - (d/width)^2)^2 inside, 0 outside."""
    t = np.clip(np.float32(1) - np.square(distance * np.float32(1 / width)), 0, 1)
    return t * t


def ellipse(frame: Frame, x: float, y: float, rx: float, ry: float, turn: float = 0.0) -> Field:
    """Elliptical radius (H, W): 1 on the ellipse, less inside."""
    cos, sin = float(np.cos(turn)), float(np.sin(turn))
    dx, dy = frame.x - np.float32(x), frame.y - np.float32(y)
    a = (dx * np.float32(cos) + dy * np.float32(sin)) * np.float32(1 / rx)
    b = (dy * np.float32(cos) - dx * np.float32(sin)) * np.float32(1 / ry)
    return np.sqrt(a * a + b * b)


def noise(shape: tuple[int, int], cells: int, rng: Rng) -> Field:
    """Smooth Gaussian noise (H, W) with about `cells` lumps along the longer side."""
    longest = max(shape)
    grid = [max(2, round(cells * n / longest)) for n in shape]
    coarse = Image.fromarray(rng.standard_normal(grid, dtype=np.float32))
    return np.asarray(coarse.resize(shape[::-1], Image.Resampling.BICUBIC))


def draw_lines(shape: tuple[int, int], lines: Iterable[tuple[Points, float, float]]) -> Field:
    """Draw polylines (points in pixels, width in pixels, value 0 to 1) into a soft (H, W) field."""
    height, width = shape
    canvas = Image.new("L", (2 * width, 2 * height))
    pen = ImageDraw.Draw(canvas)
    for points, thickness, value in lines:
        path = [(2 * px + 0.5, 2 * py + 0.5) for px, py in points.tolist()]
        pen.line(path, fill=round(255 * value), width=max(1, round(2 * thickness)), joint="curve")
    return halve(canvas)


def draw_polygon(shape: tuple[int, int], points: Points) -> Field:
    """Fill a polygon (points in pixels) into a soft-edged (H, W) field."""
    height, width = shape
    canvas = Image.new("L", (2 * width, 2 * height))
    path = [(2 * px + 0.5, 2 * py + 0.5) for px, py in points.tolist()]
    ImageDraw.Draw(canvas).polygon(path, fill=255)
    return halve(canvas)


def halve(canvas: Image.Image) -> Field:
    """Average a twice-resolution 8-bit canvas down to a float32 field in [0, 1]."""
    return np.asarray(canvas.reduce(2), dtype=np.float32) * np.float32(1 / 255)


def curve(knots: Points, count: int = 24) -> Points:
    """Smooth polylines (..., count, 2) through knots (..., K, 2), by Catmull and Rom."""
    before, after = 2 * knots[..., :1, :] - knots[..., 1:2, :], 2 * knots[..., -1:, :]
    padded = np.concatenate([before, knots, after - knots[..., -2:-1, :]], axis=-2)
    at = np.arange(count) * ((knots.shape[-2] - 1 - 1e-9) / (count - 1))
    k, t = at.astype(int), (at % 1)[:, None]
    p0, p1, p2, p3 = (padded[..., k + j, :] for j in range(4))
    cubic = (3 * p1 - p0 - 3 * p2 + p3) * t**3 + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2
    return np.asarray(0.5 * (cubic + (p2 - p0) * t + 2 * p1), dtype=np.float64)


def branches(hilum: Points, ways: Points, bend: float, rng: Rng) -> Points:
    """Bent paths (N, 7, 2) from each hilum (N, 2) along each way (N, 2): blood vessels."""
    aside = np.stack([-ways[:, 1], ways[:, 0]], 1) * rng.normal(0, bend, (len(ways), 1))
    return curve(np.stack([hilum, hilum + ways / 2 + aside, hilum + ways], 1), 7)
