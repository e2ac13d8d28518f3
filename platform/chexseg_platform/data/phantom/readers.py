"""Radiologists: polygons around what is in the image, drawn as people draw them.

Two readers look at the same lesions and each draws their own outlines: moved, larger or smaller,
wobbling, now and then forgetting one place or marking another. The reference reader (CheXlocalize's
ground truth) is a consensus and steadier than the second (its human benchmark), but neither is the
drawing's own shape: expert masks are noisy in the real data too. `SPREAD` holds one number a
finding, set so that the two agree as published (see `calibration`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from contourpy import contour_generator

from ...findings import FINDINGS
from .frame import Field, Points, Rng
from .lesions import Lesion

Outlines = dict[str, list[Points]]

VISIBLE = 0.4
"""Level of a lesion's visibility that its outline follows."""

STEADY = 0.55
"""How much less the reference reader errs than the second one."""

SPREAD: dict[str, float] = {
    "Enlarged Cardiomediastinum": 1.5,
    "Cardiomegaly": 0.5,
    "Lung Lesion": 1.35,
    "Lung Opacity": 2.05,
    "Edema": 1.5,
    "Consolidation": 2.9,
    "Atelectasis": 3.35,
    "Pneumothorax": 0.75,
    "Pleural Effusion": 2.15,
    "Support Devices": 1.35,
}
"""How far readers stray, by finding; 1 moves an outline by about a fifth of its width."""

HIT_RATE: dict[str, float] = {
    "Enlarged Cardiomediastinum": 0.953, "Cardiomegaly": 0.972, "Lung Lesion": 0.847,
    "Lung Opacity": 0.653, "Edema": 0.818, "Consolidation": 0.602, "Atelectasis": 0.869,
    "Pneumothorax": 1.0, "Pleural Effusion": 0.749, "Support Devices": 0.955,
}  # fmt: skip
"""Published share of second readers' most salient points that fall into the ground truth."""


@dataclass(frozen=True)
class Reader:
    """How steady a hand is: `care` multiplies every error."""

    care: float

    def outline(self, lesions: list[Lesion], shape: tuple[int, int], rng: Rng) -> Outlines:
        """Draw the polygons (pixels, (N, 2)) of every finding among the lesions.

        As in CheXlocalize, the enlarged cardiomediastinum includes the polygons of the heart.
        A finding never comes out empty: readers were told which findings an image has.
        """
        drawn: Outlines = {}
        for finding in FINDINGS:
            places = [clean for lesion in lesions if lesion.finding == finding
                      for clean in clean_outlines(lesion)]  # fmt: skip
            if places:
                polygons = self._draw(places, SPREAD[finding] * self.care, shape, rng)
                drawn[finding] = polygons
        heart = drawn.get("Cardiomegaly")
        if heart and "Enlarged Cardiomediastinum" in drawn:
            drawn["Enlarged Cardiomediastinum"] += heart
        return drawn

    def _draw(
        self, places: list[tuple[Points, bool]], spread: float, shape: tuple[int, int], rng: Rng
    ) -> list[Points]:
        keep = rng.random(len(places)) > min(0.25 * spread, 0.6)
        keep[int(rng.integers(len(places)))] = True
        # One hand: a reader who draws one place large draws them all large.
        style = float(_bounded(rng.normal(0.08, 0.3 * spread), 0.5))
        return [
            _within(_shake(points, thin, spread, style, shape, rng), shape)
            for (points, thin), kept in zip(places, keep, strict=True)
            if kept
        ]


def clean_outlines(lesion: Lesion) -> list[tuple[Points, bool]]:
    """The true outlines of a lesion in pixels, each with whether it is a thin ribbon."""
    if lesion.stroke is not None:
        return [(ribbon(*lesion.stroke), True)]
    if lesion.outline is not None:
        return [(lesion.outline, False)]
    assert lesion.shape is not None
    return [(points, False) for points in trace(lesion.shape)]


def trace(shape: Field, level: float = VISIBLE) -> list[Points]:
    """Contours (pixels) of a field at a level, those of at least a few pixels, largest first."""
    padded = np.pad(shape, 1)
    # Fading lesions are outlined at a share of their own peak.
    lines = contour_generator(z=padded).lines(level * max(float(shape.max()), 1e-3))
    loops = [np.asarray(line, dtype=np.float64) - 1 for line in lines]
    sized = sorted(((abs(signed_area(loop)), k) for k, loop in enumerate(loops)), reverse=True)
    if not sized:
        return []
    least = max(0.15 * sized[0][0], 3.0)
    return [loops[k] for area, k in sized[:3] if area >= least] or [loops[sized[0][1]]]


def signed_area(points: Points) -> float:
    """Area of a polygon by the shoelace formula."""
    x, y = points[:, 0], points[:, 1]
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def ribbon(path: Points, width: float) -> Points:
    """The outline of a polyline `width` pixels wide, drawn a little generously."""
    step = np.gradient(path, axis=0)
    normal = np.stack([-step[:, 1], step[:, 0]], 1)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)
    half = 0.5 * max(1.3 * width, 1.6)
    return np.vstack([path + half * normal, (path - half * normal)[::-1]])


def _shake(
    points: Points, thin: bool, spread: float, style: float, shape: tuple[int, int], rng: Rng
) -> Points:
    """Draw an outline again: moved, scaled, turned and wobbling."""
    if thin:
        return _shake_ribbon(points, spread, shape, rng)
    points = points[:: max(1, len(points) // 60)]
    middle = points.mean(axis=0)
    reach = points.std(axis=0) + 0.5
    middle_to = middle + rng.normal(0, 0.3 * spread, 2) * reach
    if rng.random() < min(0.15 * max(spread - 0.9, 0), 0.4):
        middle_to = _elsewhere(middle_to, reach, shape, rng)
    arms = points - middle
    angle = np.arctan2(arms[:, 1], arms[:, 0])
    wobble = sum(
        rng.normal(0, 0.05 * spread) * np.cos(k * angle + rng.uniform(0, 6.28)) for k in (2, 3, 4)
    )
    scale = np.exp(style + _bounded(rng.normal(0, 0.2 * spread, 2), 0.3))
    return middle_to + arms * scale * (1 + np.asarray(wobble)[:, None])


def _elsewhere(middle: Points, reach: Points, shape: tuple[int, int], rng: Rng) -> Points:
    """Where another reader sees it: in the other lung, or higher or lower in the same."""
    if rng.random() < 0.5:
        return np.array([shape[1] - 1 - middle[0], middle[1]])
    step = rng.choice([-1, 1]) * rng.uniform(1.5, 3)
    return middle + np.array([0.0, step * reach.max()])


def _bounded(value: Any, limit: float) -> Any:
    """`value` softly kept within +-`limit`: readers differ, but nobody fills the whole chest."""
    return limit * np.tanh(value / limit)


def _shake_ribbon(points: Points, spread: float, shape: tuple[int, int], rng: Rng) -> Points:
    """Draw a tube again: a share of its length, a slow sideways drift, another width."""
    half = len(points) // 2
    left, right = points[:half], points[half:][::-1]
    middle, normal = (left + right) / 2, (left - right) / 2
    start = int(half * min(0.6, abs(rng.normal(0, 0.15 * spread))))
    stop = half - int(half * min(0.3, abs(rng.normal(0, 0.1 * spread))))
    stop = max(stop, start + 3)
    t = np.linspace(0, 1, half)[:, None]
    width = np.linalg.norm(normal, axis=1, keepdims=True).mean()
    drift = rng.normal(0, 0.35 * spread, 2) + rng.normal(0, 0.35 * spread, 2) * np.sin(
        2 * np.pi * t * rng.uniform(0.5, 1.5) + rng.uniform(0, 6.28)
    )
    middle = middle + drift * width
    normal = normal * np.exp(rng.normal(0.1, 0.3 * spread))
    return np.vstack([(middle + normal)[start:stop], (middle - normal)[start:stop][::-1]])


def _within(points: Points, shape: tuple[int, int]) -> Points:
    """Keep a polygon inside the image and give it CheXlocalize's five decimals."""
    height, width = shape
    inside: Points = np.clip(points, 0, np.array([width - 1.0, height - 1.0]))
    return inside.round(5)


def salient_points(truth: Outlines, shape: tuple[int, int], rng: Rng) -> Outlines:
    """A second reader's most telling point of each finding, (1, 2) pixels.

    With the published hit rate it lies inside the truth, else anywhere in the image.
    """
    height, width = shape
    points: Outlines = {}
    for finding, polygons in truth.items():
        largest = max(polygons, key=lambda polygon: abs(signed_area(polygon)))
        if rng.random() < HIT_RATE[finding]:
            point = _inside(largest, rng)
        else:
            point = rng.uniform(0.1, 0.9, 2) * [width - 1, height - 1]
        points[finding] = [np.round(point, 5)]
    return points


def _inside(polygon: Points, rng: Rng) -> Points:
    """A point in a polygon: between two neighbours of opposite vertices, near the middle."""
    count = len(polygon)
    for _ in range(20):
        a, b = polygon[int(rng.integers(count))], polygon[int(rng.integers(count))]
        point = a + (b - a) * rng.uniform(0.3, 0.7)
        if contains(polygon, point):
            return point
    return (polygon[0] + polygon[1]) / 2


def contains(polygon: Points, point: Points) -> bool:
    """Whether a point lies in a polygon, by counting crossings."""
    a, b = polygon, np.roll(polygon, -1, axis=0)
    above = (a[:, 1] > point[1]) != (b[:, 1] > point[1])
    rise = np.where(above, b[:, 1] - a[:, 1], 1)
    at = a[:, 0] + (point[1] - a[:, 1]) / rise * (b[:, 0] - a[:, 0])
    return bool(np.count_nonzero(above & (point[0] < at)) % 2)


EXPERT = Reader(STEADY)
SECOND = Reader(1.0)
