"""Chests with the masks of their organs, and lungs with a COVID-like infection.

The same body as everywhere in the phantom, seen from the front. Experts of these collections draw
organs with a steady hand, so the truth is where an organ is more there than not. Definitions are
the SCR database's: lungs end at heart, mediastinum and diaphragm; clavicles are drawn where they
lie over the rib cage, which is mostly over the lung of their side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...findings import HEART, INFECTION, LEFT_CLAVICLE, LEFT_LUNG, RIGHT_CLAVICLE, RIGHT_LUNG
from .anatomy import Patient, Scene, frontal, sample_patient
from .devices import add_devices, add_distractors
from .frame import Field, Rng, make_frame
from .lesions import add_findings, patch
from .render import expose, finish

HALF = np.float32(0.5)
GLASS = 0.24
"""Median added attenuation of ground glass: between haze and a consolidation."""

GROUPS: Mapping[str, tuple[frozenset[str], ...]] = {
    "normal": (frozenset(),),
    "nodule": (frozenset({"Lung Lesion"}),),
    "infected": (frozenset(),),
    "pneumonia": (
        frozenset({"Consolidation"}),
        frozenset({"Lung Opacity"}),
        frozenset({"Consolidation", "Pleural Effusion"}),
    ),
    "tuberculosis": (
        frozenset({"Lung Opacity"}),
        frozenset({"Lung Lesion", "Lung Opacity"}),
        frozenset({"Pleural Effusion"}),
    ),
}
"""What a chest of each group may show besides; one of the sets is drawn."""


@dataclass(frozen=True)
class Chest:
    """A drawn chest: (H, W) float32 in [0, 1], detector values, and bool masks by structure."""

    image: Field
    detector: Field
    masks: Mapping[str, NDArray[np.bool_]]


def draw_chest(rng: Rng, group: str, size: int) -> Chest:
    """Draw a chest of a group (`GROUPS`) in a square picture of `size` pixels.

    Its masks are the five organs and the infection, which is empty in every group but "infected".
    """
    patient = sample_patient(rng)
    present = set(GROUPS[group][int(rng.integers(len(GROUPS[group])))])
    scene = _scene(patient, size, rng)
    organs = organ_masks(scene)
    add_findings(scene, present, rng)
    infection = _infect(scene, rng) if group == "infected" else np.zeros((size, size), bool)
    if group != "normal" and rng.random() < 0.3:
        add_devices(scene, rng)
    add_distractors(scene, rng)
    detector = expose(scene, rng)
    masks = {**organs, INFECTION: infection}
    return Chest(finish(detector, scene.frame, rng), detector, masks)


def organ_masks(scene: Scene) -> dict[str, NDArray[np.bool_]]:
    """Return where each organ of a frontal view is: bool (H, W)."""
    assert scene.clavicles is not None
    clavicles = (scene.clavicles > HALF) & (scene.wall < 1.03)
    right = scene.frame.x < 0
    return {
        RIGHT_LUNG: scene.lungs["right"] > HALF,
        LEFT_LUNG: scene.lungs["left"] > HALF,
        HEART: scene.heart > HALF,
        RIGHT_CLAVICLE: clavicles & right,
        LEFT_CLAVICLE: clavicles & ~right,
    }


def _scene(patient: Patient, size: int, rng: Rng) -> Scene:
    projection = "PA" if rng.random() < 0.6 else "AP"
    ratio = patient.heart + (0.035 if projection == "AP" else 0.0)
    tilt = 0.045 if projection == "AP" else 0.015
    frame = make_frame(
        size, size, float(rng.normal(2.35, 0.1)), float(-rng.uniform(0.2, 0.45)),
        float(rng.normal(0, tilt)), float(rng.normal(0, 0.06)), rng,
    )  # fmt: skip
    return frontal(frame, patient, projection, ratio, float(rng.normal(0.14, 0.012)), rng)


def _infect(scene: Scene, rng: Rng) -> NDArray[np.bool_]:
    """Add patches of ground glass, most in the outer and lower lungs and on both sides."""
    seen = np.zeros(scene.frame.shape, bool)
    severity = rng.uniform(0.6, 1.5)
    sides = list(scene.lungs) if rng.random() < 0.8 else [str(rng.choice(list(scene.lungs)))]
    for side in sides:
        for _ in range(1 + int(rng.poisson(2.0 * severity))):
            x, y = _outer_spot(scene, side, rng)
            size = float(np.clip(0.2 * severity * np.exp(rng.normal(0, 0.4)), 0.08, 0.5))
            shape = patch(scene, side, x, y, size, size * rng.uniform(0.7, 1.4), 0.25, rng)
            amount = np.float32(min(GLASS * np.exp(rng.normal(0, 0.4)), 0.55))
            scene.density += amount * shape
            seen |= shape > HALF
    return seen


def _outer_spot(scene: Scene, side: str, rng: Rng) -> tuple[float, float]:
    """A point of a lung, likelier near its wall and low down."""
    lung = scene.lungs[side] > 0.6
    at = np.flatnonzero(lung if lung.any() else scene.lungs[side] > 0.2)
    if not len(at):
        return (-0.5 if side == "right" else 0.5), 0.7 * scene.base
    depth = np.clip(scene.wall.flat[at], 0, 1) ** 3 * np.clip(scene.frame.y.flat[at], 0.1, None)
    pick = rng.choice(at, p=depth / depth.sum())
    return float(scene.frame.x.flat[pick]), float(scene.frame.y.flat[pick])
