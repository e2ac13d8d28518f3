"""The findings: what each adds to the attenuation, and where an expert could see it.

Each finding draws its own place, size and contrast. Contrast is log-normal around the value in
`CONTRAST`, so that some are plain and some barely visible. These medians (and the sizes of
nodules, pneumothoraces and hearts) were raised or lowered once, to bring a classifier's AUROC
nearer the published figures (see `calibration`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .anatomy import Scene
from .frame import Field, Points, Rng, bump, ellipse, noise, ramp

CONTRAST: dict[str, float] = {
    "Lung Lesion": 0.40,
    "Lung Opacity": 0.22,
    "Edema": 0.17,
    "Consolidation": 0.40,
    "Atelectasis": 0.36,
    "Pneumothorax": 0.40,
    "Pleural Effusion": 0.42,
    "Support Devices": 0.50,
}
"""Median added attenuation at the centre of a finding (a lung's air takes away about 0.8)."""


@dataclass(frozen=True)
class Lesion:
    """One place of one finding.

    Attributes:
        finding: canonical name.
        shape: visibility in [0, 1], (H, W), for what has an area; None for a stroke.
        stroke: (N, 2) polyline in pixels and its width in pixels, for tubes and wires.
        outline: (N, 2) polygon in pixels, for boxes.
    """

    finding: str
    shape: Field | None = None
    stroke: tuple[Points, float] | None = None
    outline: Points | None = None


def contrast(finding: str, rng: Rng, spread: float = 0.45) -> np.float32:
    """Draw one lesion's contrast: log-normal around the finding's median.

    What fills a lung is at most about as dense as the soft tissue around it; devices are denser.
    """
    most = 2.0 if finding == "Support Devices" else 0.55
    return np.float32(min(CONTRAST[finding] * np.exp(rng.normal(0, spread)), most))


def add_findings(scene: Scene, present: set[str], rng: Rng) -> list[Lesion]:
    """Draw every finding in `present` into the scene; return the places, in drawing order.

    Lung Opacity is a parent class: its places are those of the opaque findings, or, when there
    is none, hazy patches of its own. An enlarged heart or mediastinum is part of the scene
    already, and only its place is returned.
    """
    lesions: list[Lesion] = []
    if "Cardiomegaly" in present:
        lesions.append(Lesion("Cardiomegaly", scene.heart))
    if "Enlarged Cardiomediastinum" in present:
        # Outlined from above the aortic arch down to where the heart meets the diaphragm.
        y, base = scene.frame.y, scene.base
        chest = ramp(y - np.float32(0.14 * base), 0.06) * ramp(np.float32(0.97 * base) - y, 0.06)
        lesions.append(Lesion("Enlarged Cardiomediastinum", scene.mediastinum * chest))
    for finding, draw in DRAWERS.items():
        if finding in present:
            lesions += draw(scene, rng)
    if "Lung Opacity" in present:
        lesions += _opacities(scene, lesions, rng)
    return lesions


def _spot(scene: Scene, side: str, low: float, high: float, rng: Rng) -> tuple[float, float]:
    """A random point of a lung between two heights (0 apex, 1 dome), off the heart."""
    y = scene.frame.y / np.float32(scene.base)
    good = (scene.lungs[side] > 0.6) & (y > low) & (y < high) & (scene.heart < 0.5)
    at = np.flatnonzero(good if good.any() else scene.lungs[side] > 0.3)
    if not len(at):
        return 0.5, 0.6 * scene.base
    pick = at[int(rng.integers(len(at)))]
    return float(scene.frame.x.flat[pick]), float(scene.frame.y.flat[pick])


def _sides(scene: Scene, both: float, rng: Rng) -> list[str]:
    """One side or, with probability `both`, all."""
    sides = list(scene.lungs)
    return sides if rng.random() < both else [sides[int(rng.integers(len(sides)))]]


def patch(
    scene: Scene, side: str, x: float, y: float, rx: float, ry: float, rough: float, rng: Rng
) -> Field:
    """A cloud in one lung: an ellipse whose edge is frayed by noise, fading over its outer half."""
    r = ellipse(scene.frame, x, y, rx, ry, rng.uniform(-0.5, 0.5))
    r = r + np.float32(rough) * noise(scene.frame.shape, 11, rng)
    return ramp(np.float32(0.9) - r, float(rng.uniform(0.25, 0.6))) * scene.lungs[side]


def _edema(scene: Scene, rng: Rng) -> list[Lesion]:
    """Haze around both hila, reaching down, with prominent vessels."""
    amount, lesions = contrast("Edema", rng), []
    middle, reach = rng.uniform(0.55, 0.8) * scene.base, rng.uniform(0.5, 0.85)
    cloud = np.float32(1) + np.float32(0.3) * noise(scene.frame.shape, 9, rng)
    for lung in scene.lungs.values():
        far = np.square((np.abs(scene.frame.x) - np.float32(0.35)) / np.float32(0.55))
        far += np.square((scene.frame.y - np.float32(middle)) / np.float32(reach))
        haze = lung * np.clip(np.float32(1.15) - far, 0, 1)
        share = np.float32(np.exp(rng.normal(0, 0.25)))
        scene.density += amount * share * haze * cloud
        lesions.append(Lesion("Edema", haze))
    scene.vessels *= np.float32(1 + 2 * amount)
    return lesions


def _consolidation(scene: Scene, rng: Rng) -> list[Lesion]:
    """A dense lobar cloud, sometimes two, mottled where air is left in the bronchi."""
    lesions = []
    for side in _sides(scene, 0.3, rng):
        x, y = _spot(scene, side, 0.35, 1.2, rng)
        size = rng.uniform(0.18, 0.42)
        shape = patch(scene, side, x, y, size, size * rng.uniform(0.7, 1.2), 0.22, rng)
        mottle = np.float32(1) + np.float32(0.2) * noise(scene.frame.shape, 30, rng)
        scene.density += contrast("Consolidation", rng) * shape * mottle
        lesions.append(Lesion("Consolidation", shape))
    return lesions


def _atelectasis(scene: Scene, rng: Rng) -> list[Lesion]:
    """Flat bands above the diaphragm in a faint patch of lost volume."""
    lesions = []
    for side in _sides(scene, 0.45, rng):
        x, y = _spot(scene, side, 0.72, 1.25, rng)
        amount, wide = contrast("Atelectasis", rng), rng.uniform(0.2, 0.42)
        shape = patch(scene, side, x, y, wide, rng.uniform(0.12, 0.24), 0.15, rng)
        scene.density += np.float32(0.45) * amount * shape
        for _ in range(int(rng.integers(1, 4))):
            tilt, thick = rng.normal(0, 0.25), rng.uniform(0.015, 0.045)
            line = scene.frame.y - np.float32(y + rng.normal(0, 0.08))
            line -= np.float32(tilt) * (scene.frame.x - np.float32(x))
            scene.density += amount * bump(line, thick * 2) * shape
        lesions.append(Lesion("Atelectasis", shape))
    return lesions


def _effusion(scene: Scene, rng: Rng) -> list[Lesion]:
    """Fluid that fills a lung from below with a meniscus: from a blunted angle to half a lung."""
    lesions = []
    for side in _sides(scene, 0.4, rng):
        depth = 0.12 + 0.75 * rng.beta(1.2, 3.2)
        climb = np.float32(rng.uniform(0.15, 0.4)) * np.square(np.clip(scene.wall, 0, 1.1))
        level = np.float32(scene.base + 0.32 - depth) - climb * climb / np.float32(0.4)
        fluid = ramp(scene.frame.y - level, float(rng.uniform(0.06, 0.18))) * scene.lungs[side]
        scene.density += contrast("Pleural Effusion", rng, 0.35) * fluid
        scene.vessels *= 1 - np.float32(0.6) * fluid
        lesions.append(Lesion("Pleural Effusion", fluid))
    return lesions


def _pneumothorax(scene: Scene, rng: Rng) -> list[Lesion]:
    """Air outside a lung that fell in: a dark crescent without vessels, a thin line at its edge."""
    lesions = []
    for side in _sides(scene, 0.03, rng):
        deep = np.float32(rng.uniform(0.14, 0.45))
        reach = np.float32(scene.base * rng.uniform(0.7, 1.5))
        fade = np.clip(np.float32(1.25) - scene.frame.y / reach, 0.12, 1)
        inner = np.float32(1) - deep * fade
        crescent = ramp(scene.wall - inner, 0.025) * scene.lungs[side]
        amount = contrast("Pneumothorax", rng, 0.3)
        line = bump(scene.wall - inner, 0.03) * scene.lungs[side]
        scene.density += amount * (np.float32(0.5) * line - crescent)
        scene.vessels *= 1 - crescent
        lesions.append(Lesion("Pneumothorax", crescent))
    return lesions


def _lesion(scene: Scene, rng: Rng) -> list[Lesion]:
    """A nodule or mass, at times several, round with a fairly clear edge."""
    lesions, sides = [], list(scene.lungs)
    for _ in range(1 + int(rng.random() < 0.3) + 2 * int(rng.random() < 0.1)):
        side = sides[int(rng.integers(len(sides)))]
        x, y = _spot(scene, side, 0.1, 1.1, rng)
        size = float(np.clip(0.11 * np.exp(rng.normal(0, 0.45)), 0.045, 0.3))
        r = ellipse(scene.frame, x, y, size, size * rng.uniform(0.75, 1.2), rng.uniform(0, 3))
        edge = r + np.float32(0.12) * noise(scene.frame.shape, 20, rng)
        shape = ramp(np.float32(1) - edge, 0.3)
        scene.density += contrast("Lung Lesion", rng) * shape
        lesions.append(Lesion("Lung Lesion", shape))
    return lesions


def _opacities(scene: Scene, lesions: list[Lesion], rng: Rng) -> list[Lesion]:
    """Places of Lung Opacity: those of opaque findings, and patches of its own."""
    opaque = {"Edema": 0.9, "Consolidation": 1.0, "Atelectasis": 0.8, "Lung Lesion": 0.5}
    opaque["Pleural Effusion"] = 0.35
    result = [
        Lesion("Lung Opacity", lesion.shape)
        for lesion in lesions
        if rng.random() < opaque.get(lesion.finding, 0)
    ]
    for side in _sides(scene, 0.35, rng) if not result or rng.random() < 0.25 else []:
        x, y = _spot(scene, side, 0.25, 1.2, rng)
        size = rng.uniform(0.15, 0.45)
        shape = patch(scene, side, x, y, size, size * rng.uniform(0.6, 1.3), 0.3, rng)
        scene.density += contrast("Lung Opacity", rng, 0.55) * shape
        result.append(Lesion("Lung Opacity", shape))
    return result


DRAWERS: dict[str, Callable[[Scene, Rng], list[Lesion]]] = {
    "Pneumothorax": _pneumothorax,
    "Edema": _edema,
    "Consolidation": _consolidation,
    "Atelectasis": _atelectasis,
    "Lung Lesion": _lesion,
    "Pleural Effusion": _effusion,
}
"""Findings that are drawn into the lungs, in drawing order."""
