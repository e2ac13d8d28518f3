"""The lateral view: a simple chest seen from the side, patient facing the viewer's left.

The lungs project onto one another, so there is one lung field ("both"); the heart lies in front
and below, the spine behind. It is plainer than the frontal view: lateral images are a seventh of
CheXpert's, and few findings are annotated on them.
"""

from __future__ import annotations

import numpy as np

from .anatomy import Patient, Scene
from .frame import Field, Frame, Rng, branches, bump, draw_lines, ellipse, noise, ramp


def lateral(frame: Frame, patient: Patient, heart: float, mediastinum: float, rng: Rng) -> Scene:
    """Draw the healthy lateral view; arguments as in `anatomy.frontal`."""
    base = float(np.clip(rng.normal(1.3, 0.08) * patient.height, 0.9, 1.6))
    depth = float(rng.normal(0.72, 0.05) + 0.08 * patient.fat)
    bend = np.float32(0.16) * np.square(frame.y - np.float32(0.6))
    behind = (frame.x + bend) / np.float32(depth)
    wall = _wall(frame, behind, base)
    lung = _lung(frame, wall, behind, base, rng)
    heart_field = _heart(frame, depth, base, heart, rng)
    arch = ellipse(frame, 0.05, 0.36 * base, 0.16 + 0.9 * mediastinum, 0.12 + 0.6 * mediastinum)
    hila = ellipse(frame, 0.0, 0.55 * base, 0.1 + 0.6 * mediastinum, 0.22)
    middle = ramp((1 - np.minimum(arch, hila)) * np.float32(0.15), 0.06)
    solid = np.maximum(heart_field * np.float32(0.75), middle * np.float32(0.35))
    air = lung * (1 - solid) * (np.float32(1) - np.float32(0.4) * wall**3)
    density = _body(frame, behind, patient, rng) * (np.float32(1.25) - np.float32(0.85) * air)
    density += np.float32(patient.bone) * _bones(frame, patient, behind, wall, lung)
    density += np.float32(0.12) * solid + np.float32(0.03) * noise(frame.shape, 5, rng)
    return Scene(
        frame, patient, "lateral", "", {"both": lung}, wall, heart_field, middle,
        _vessels(frame, base, rng) * lung, density, base,
    )  # fmt: skip


def _wall(frame: Frame, behind: Field, base: float) -> Field:
    up = np.clip(np.float32(1) - frame.y / np.float32(base), 0, None)
    return np.power(np.square(behind * np.float32(1.02)) + up**3, np.float32(0.45))


def _lung(frame: Frame, wall: Field, behind: Field, base: float, rng: Rng) -> Field:
    """Both lungs as one: inside the wall, above a dome that falls far behind."""
    fall = np.where(behind > -0.2, rng.uniform(0.25, 0.42), rng.uniform(0.05, 0.15))
    dome = base - 0.08 + fall.astype(np.float32) * np.square(behind + np.float32(0.2))
    return ramp(np.float32(0.97) - wall, 0.04) * ramp(dome - frame.y, 0.03)


def _heart(frame: Frame, depth: float, base: float, ratio: float, rng: Rng) -> Field:
    size = depth * (0.16 + 0.75 * ratio)
    low = base - 0.12 - 0.45 * size
    r = ellipse(frame, -0.42 * depth + 0.3 * (ratio - 0.45), low, size, size * 0.78, -0.6)
    return ramp((1 - r) * np.float32(0.4), float(rng.uniform(0.04, 0.07)))


def _body(frame: Frame, behind: Field, patient: Patient, rng: Rng) -> Field:
    half = np.float32(1.22 + 0.25 * patient.fat)
    trunk = ramp(half - np.abs(behind), 0.1) * ramp(frame.y + np.float32(0.32), 0.15)
    arm = ramp(np.float32(0.3) - np.abs(behind + np.float32(0.25)), 0.15)
    arm *= ramp(np.float32(rng.uniform(0.0, 0.2)) - frame.y, 0.2)
    neck = ramp(np.float32(0.4) - np.abs(behind - np.float32(0.1)), 0.1)
    return np.maximum(trunk, neck * np.float32(0.9)) + np.float32(0.25) * arm


def _bones(frame: Frame, patient: Patient, behind: Field, wall: Field, lung: Field) -> Field:
    """Vertebrae behind, the sternum in front, ribs that slant downwards to the front."""
    blocks = np.float32(0.6) + np.float32(0.4) * np.cos(frame.y * np.float32(2 * np.pi / 0.19))
    spine = bump(behind - np.float32(0.78), 0.22) * blocks
    sternum = bump(behind + np.float32(1.02), 0.07) * ramp(np.float32(0.9) - frame.y, 0.15)
    level = frame.y + np.float32(0.35) * frame.x
    t = level * np.float32(1 / patient.rib_gap) + np.float32(patient.rib_phase)
    d = np.abs(t - np.rint(t)) * np.float32(patient.rib_gap)
    ribs = ramp(np.float32(0.035) - d, 0.02) * ramp(np.float32(1.02) - wall, 0.04)
    return np.float32(0.17) * spine + np.float32(0.1) * sternum + np.float32(0.045) * ribs * lung


def _vessels(frame: Frame, base: float, rng: Rng) -> Field:
    angle = np.linspace(0, 2 * np.pi, 14, endpoint=False) + rng.normal(0, 0.15, 14)
    ways = np.stack([np.cos(angle), np.sin(angle)], 1) * rng.uniform(0.3, 0.55, (14, 1))
    hilum = rng.normal([0.0, 0.55 * base], 0.09, (14, 2))
    lines = []
    for path in frame.to_pixels(branches(hilum, ways, 0.15, rng)):
        lines += [(path[2:], 0.014 * frame.scale, 0.3), (path[:3], 0.026 * frame.scale, 0.38)]
    return draw_lines(frame.shape, lines) + np.float32(0.1) * noise(frame.shape, 40, rng)
