"""The healthy chest: a patient's build, and the frontal view as a field of attenuation.

A projection X-ray adds up what the beam meets, so everything here is added or subtracted:
soft tissue of the body, minus air in the lungs, plus heart, mediastinum and bones. The heart
and mediastinum take their width from the truth, since an enlarged one is a finding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .frame import Field, Frame, Rng, branches, bump, draw_lines, ellipse, noise, ramp


@dataclass(frozen=True)
class Patient:
    """What stays the same from one study of a patient to the next (lengths in body units)."""

    sex: str
    age: int
    width: float
    height: float
    fat: float
    heart: float
    aorta: float
    rib_gap: float
    rib_phase: float
    rib_bend: float
    bone: float


@dataclass
class Scene:
    """One view while it is being drawn.

    Attributes:
        lungs: occupancy in [0, 1] per side ("right", "left"; "both" in a lateral view).
        wall: radius of the rib cage, 1 at its inner wall.
        heart, mediastinum: occupancy in [0, 1].
        vessels: the lungs' vascular pattern, added at the end as findings change it.
        density: attenuation so far.
        base: Y of the right dome of the diaphragm.
        clavicles: occupancy in [0, 1] of both, in a frontal view.
    """

    frame: Frame
    patient: Patient
    view: str
    projection: str
    lungs: dict[str, Field]
    wall: Field
    heart: Field
    mediastinum: Field
    vessels: Field
    density: Field
    base: float
    clavicles: Field | None = None


def sample_patient(rng: Rng) -> Patient:
    """Draw a patient's build; sex and age are distributed as in CheXpert's training table."""
    sex = "Male" if rng.random() < 0.594 else "Female"
    age = int(np.clip(rng.normal(60.4, 17.8), 18, 90))
    return Patient(
        sex=sex,
        age=age,
        width=float(rng.normal(1.0 if sex == "Male" else 0.94, 0.05)),
        height=float(rng.normal(1.0, 0.06)),
        fat=float(np.clip(rng.beta(2, 3), 0.05, 1)),
        heart=float(np.clip(rng.normal(0.445 + 0.0006 * (age - 60), 0.022), 0.38, 0.5)),
        aorta=float(np.clip(rng.normal(0.12 + 0.0007 * (age - 60), 0.018), 0.07, 0.2)),
        rib_gap=float(rng.normal(0.165, 0.009)),
        rib_phase=float(rng.uniform(0, 1)),
        rib_bend=float(rng.normal(0.33, 0.06)),
        bone=float(np.clip(rng.normal(1.15 - 0.004 * (age - 60), 0.2), 0.5, 1.7)),
    )


def frontal(
    frame: Frame,
    patient: Patient,
    projection: str,
    heart: float,
    mediastinum: float,
    rng: Rng,
) -> Scene:
    """Draw the healthy frontal view (density, float32 H x W) and its parts.

    Args:
        heart: cardiothoracic ratio, 0.38 to 0.5 normal, up to 0.72 enlarged.
        mediastinum: half-width of the upper mediastinum, 0.15 to 0.2 normal.
    """
    breath = rng.normal(1.12, 0.07) if projection == "AP" else rng.normal(1.36, 0.08)
    base = float(np.clip(breath * patient.height, 0.85, 1.6))
    twist = float(rng.normal(0, 0.05 if projection == "AP" else 0.02))
    wall = _cage(frame, patient.width, base, twist)
    sides = {
        "right": _lung(frame, wall, patient.width, base, -1, rng),
        "left": _lung(frame, wall, patient.width, base + float(rng.normal(0.06, 0.04)), 1, rng),
    }
    heart_field = _heart(frame, patient.width, base, heart, twist, rng)
    middle = _mediastinum(frame, base, mediastinum, patient.aorta, twist)
    air = (sides["right"] + sides["left"]) * (np.float32(1) - np.float32(0.45) * wall**3)
    solid = np.maximum(heart_field, middle) * np.float32(0.9)
    air *= np.float32(1) - solid
    density = _body(frame, patient, rng, projection) * (np.float32(1.15) - np.float32(0.66) * air)
    density += _abdomen(frame, base, wall, rng)
    density += np.float32(0.13) * solid
    # Findings show where there is lung to show them against.
    open_air = np.float32(1) - np.float32(0.8) * solid
    lungs = {side: lung * open_air for side, lung in sides.items()}
    bones = _bones(frame, patient, wall, base)
    shoulders, clavicles = _shoulders(frame, projection, rng)
    bones += shoulders
    density += np.float32(patient.bone) * bones * (1 - np.float32(0.5) * heart_field)
    if patient.sex == "Female":
        density += _breasts(frame, patient, base, rng)
    return Scene(
        frame, patient, "frontal", projection, lungs, wall, heart_field, middle,
        _vessels(frame, base, lungs, twist, rng), density, base, clavicles,
    )  # fmt: skip


def _cage(frame: Frame, width: float, base: float, twist: float) -> Field:
    """Radius of the bullet-shaped rib cage: 1 at the wall; a twist makes one side narrower."""
    ax = np.abs(frame.x) / (np.float32(width) * (1 + np.float32(twist) * np.sign(frame.x)))
    up = np.clip(np.float32(1) - frame.y / np.float32(base), 0, None)
    total = ax * ax * np.sqrt(ax) + up * up * np.sqrt(up)
    return np.power(total, np.float32(0.4))


def _lung(frame: Frame, wall: Field, width: float, base: float, side: int, rng: Rng) -> Field:
    """Occupancy of one lung: inside the cage, off the midline, above a dome that falls sideways."""
    x = frame.x * np.float32(side)
    top = rng.uniform(0.36, 0.48) * width
    fall = np.where(x > top, rng.uniform(0.24, 0.42), rng.uniform(0.08, 0.22))
    dome = base + fall.astype(np.float32) * np.square((x - np.float32(top)) / np.float32(0.55))
    inside = ramp(np.float32(0.985) - wall, 0.03) * ramp(dome - frame.y, 0.025)
    return inside * ramp(x - np.float32(0.08), 0.03)


def _heart(frame: Frame, width: float, base: float, ratio: float, twist: float, rng: Rng) -> Field:
    """Occupancy of the heart: a left ventricle that leans out and a right atrium, merged."""
    across = ratio * 2 * width
    right, left = across * rng.uniform(0.25, 0.33), across
    left -= right
    turn, low = rng.uniform(0.35, 0.7), base - rng.uniform(0.12, 0.2)
    shift = 1.2 * twist
    ventricle = ellipse(frame, left * 0.34 + shift, low - 0.1, left * 0.7, left * 0.58, turn)
    atrium = ellipse(frame, shift + left * 0.1, low - 0.2, right + left * 0.1, 0.3 + 0.2 * ratio)
    # A soft minimum: the two chambers flow into one outline instead of meeting in a notch.
    gap = np.clip(np.float32(0.5) + (atrium - ventricle) * np.float32(1.6), 0, 1)
    both = atrium + (ventricle - atrium) * gap - np.float32(0.31) * gap * (1 - gap)
    return ramp((np.float32(1) - both) * np.float32(0.4), float(rng.uniform(0.02, 0.045)))


def _mediastinum(frame: Frame, base: float, half: float, aorta: float, twist: float) -> Field:
    """Occupancy of the mediastinum: a band along the spine and the aortic knob."""
    x = frame.x - np.float32(0.9 * twist)
    flare = np.float32(half) + np.float32(0.05) * bump(frame.y - np.float32(0.05), 0.4)
    band = ramp(flare - np.abs(x), 0.04) * ramp(np.float32(base + 0.2) - frame.y, 0.22)
    band *= np.float32(0.35) + np.float32(0.65) * ramp(frame.y - np.float32(0.1), 0.22)
    knob = ellipse(frame, half * 0.6 + twist, 0.37 * base, aorta + 0.42 * half, aorta * 1.25)
    trunk = ellipse(frame, half * 0.6 + twist, 0.55 * base, 0.11 + 0.4 * half, 0.3, -0.25)
    bulge = np.minimum(knob, trunk)
    return np.maximum(band, ramp((np.float32(1) - bulge) * np.float32(0.15), 0.035))


def _body(frame: Frame, patient: Patient, rng: Rng, projection: str) -> Field:
    """Thickness of soft tissue in [0, 1]: trunk, sloping shoulders, neck, and arms if they hang."""
    ax, y = np.abs(frame.x), frame.y
    half = patient.width * (1.16 + 0.16 * patient.fat)
    slope = np.clip((ax - np.float32(0.28)) * np.float32(0.8), 0, 1.2)
    shoulder = np.float32(-0.34) + np.float32(rng.uniform(0.2, 0.45)) * slope * np.sqrt(slope)
    trunk = ramp(np.float32(half) - ax, 0.06)
    if rng.random() < (0.7 if projection == "AP" else 0.35):
        inner, lean = half + rng.uniform(0.1, 0.3), np.float32(rng.uniform(0, 0.3))
        middle = (y - np.float32(0.5)) * lean + np.float32(inner)
        arm = ramp(np.float32(0.22) - np.abs(ax - middle), 0.06)
        trunk = np.maximum(trunk, np.float32(rng.uniform(0.6, 0.9)) * arm)
        trunk = np.maximum(trunk, ramp(np.float32(0.32) - y, 0.12) * ramp(half + 0.4 - ax, 0.1))
    neck = np.float32(0.92) * ramp(np.float32(0.3) - ax, 0.05) * ramp(np.float32(0) - y, 0.1)
    return np.maximum(trunk * ramp(y - shoulder, 0.07), neck)


def _abdomen(frame: Frame, base: float, wall: Field, rng: Rng) -> Field:
    """Liver and stomach under the diaphragm, often with a gastric bubble or bowel gas."""
    below = ramp(frame.y - np.float32(base + 0.25), 0.35) * ramp(np.float32(1.05) - wall, 0.1)
    result = np.float32(0.12) * below
    for _ in range(int(rng.integers(0, 4))):
        x, y = rng.uniform(0.2, 0.75), base + rng.uniform(0.22, 0.6)
        gas = ellipse(frame, x, y, rng.uniform(0.06, 0.22), rng.uniform(0.05, 0.12))
        result -= np.float32(rng.uniform(0.08, 0.3)) * ramp((1 - gas) * np.float32(0.1), 0.03)
    return result


def _bones(frame: Frame, patient: Patient, wall: Field, base: float) -> Field:
    """Ribs (two periodic families of arcs), spine, trachea (negative)."""
    ax, x, y = np.abs(frame.x), frame.x, frame.y
    gap = patient.rib_gap
    cage = ramp(np.float32(1.03) - wall, 0.02)
    cage *= np.float32(1) - np.float32(0.85) * ramp(y - np.float32(base - 0.05), 0.25)
    back = y - ax * np.float32(0.04) - ax * ax * ax * np.float32(patient.rib_bend)
    front = y + ax * np.float32(0.42) - ax * ax * np.float32(0.1)
    ribs = _arcs(back, gap, patient.rib_phase, 0.036) * ramp(ax - np.float32(0.1), 0.03)
    soft = _arcs(front, gap * 1.12, patient.rib_phase * 0.7, 0.042)
    soft *= ramp(ax - np.float32(0.32), 0.1) * ramp(y - np.float32(0.12), 0.1)
    bones = cage * (np.float32(0.085) * ribs + np.float32(0.05) * soft)
    bones += np.float32(0.1) * bump(wall - np.float32(1.015), 0.05)
    vertebrae = np.float32(0.75) + np.float32(0.25) * np.cos(y * np.float32(2 * np.pi / 0.17))
    bones += np.float32(0.12) * bump(x, 0.15) * vertebrae
    trachea = bump(x - np.float32(0.01), 0.075) * ramp(np.float32(0.5) - y, 0.1)
    bones -= np.float32(0.2) * trachea
    return bones


def _arcs(level: NDArray[Any], gap: float, phase: float, half: float) -> Field:
    """Parallel ribs: a band of half-width `half` every `gap`, with brighter cortical edges."""
    t = level * np.float32(1 / gap) + np.float32(phase)
    d = np.abs(t - np.rint(t)) * np.float32(gap)
    return np.float32(0.7) * ramp(np.float32(half) - d, 0.013) + np.float32(0.45) * bump(
        d - np.float32(half), 0.018
    )


def _shoulders(frame: Frame, projection: str, rng: Rng) -> tuple[Field, Field]:
    """Clavicles, scapulae (over the lungs when the arms hang) and heads of the humeri.

    Returns what they add, and where the clavicles are.
    """
    ax, y = np.abs(frame.x), frame.y
    high = rng.uniform(-0.02, 0.1) if projection == "AP" else rng.uniform(0.06, 0.2)
    rise = np.float32(rng.uniform(0.08, 0.22))
    line = np.float32(high) - rise * (ax - np.float32(0.1)) + np.float32(0.025) * np.sin(6 * ax)
    clavicle = ramp(np.float32(0.042) - np.abs(y - line), 0.016)
    clavicle *= ramp(ax - np.float32(0.09), 0.03) * ramp(np.float32(1.12) - ax, 0.05)
    out = rng.uniform(0.78, 0.95) if projection == "AP" else rng.uniform(0.95, 1.15)
    edge = ax - np.float32(out) - np.float32(0.12) * (y - np.float32(0.3))
    scapula = ramp(edge, 0.025) * ramp(np.float32(0.85) - y, 0.12) * ramp(y - np.float32(0.05), 0.1)
    scapula *= ramp(np.float32(out + 0.4) - ax, 0.08)
    head = np.square((ax - np.float32(1.32)) / np.float32(0.17))
    head += np.square((y - np.float32(0.1)) / np.float32(0.17))
    humerus = np.float32(0.2) * ramp(1 - head, 0.3)
    return np.float32(0.15) * clavicle + np.float32(0.06) * scapula + humerus, clavicle


def _breasts(frame: Frame, patient: Patient, base: float, rng: Rng) -> Field:
    """Breast shadows: soft above, a clearer edge below."""
    ax = np.abs(frame.x)
    low, size = base * rng.uniform(0.82, 1.05), 0.28 + 0.2 * patient.fat
    r = np.square((ax - np.float32(0.58)) / np.float32(size))
    r += np.square((frame.y - np.float32(low)) / np.float32(size * 0.9))
    shade = ramp(np.float32(1) - r, 0.14) * ramp(frame.y - np.float32(low - size * 0.5), size * 0.7)
    return np.float32(rng.uniform(0.04, 0.13)) * shade


def _vessels(frame: Frame, base: float, lungs: dict[str, Field], twist: float, rng: Rng) -> Field:
    """Hila and branching vessels, brightest near the hila, kept inside the lungs."""
    side = np.repeat([-1.0, 1.0], 9)
    angle = np.tile(np.linspace(-1.25, 1.3, 9), 2) + rng.normal(0, 0.12, 18)
    ways = np.stack([side * np.cos(angle), np.sin(angle)], 1) * rng.uniform(0.35, 0.72, (18, 1))
    hilum = np.stack([side * 0.24 + twist, np.full(18, 0.56 * base)], 1)
    hilum += rng.normal(0, 0.045, hilum.shape)
    wide = 0.032 * frame.scale
    lines = []
    for path in frame.to_pixels(branches(hilum, ways, 0.16, rng)):
        lines += [(path[5:], wide * 0.35, 0.2), (path[2:6], wide * 0.6, 0.3)]
        lines += [(path[:3], wide * 0.9, 0.42)]
    tree = draw_lines(frame.shape, lines)
    ax = np.abs(frame.x - np.float32(twist))
    hila = bump(ax - np.float32(0.22), 0.16) * bump(frame.y - np.float32(0.58 * base), 0.26)
    grain = np.float32(0.1) * noise(frame.shape, 40, rng)
    return (tree + np.float32(0.7) * hila + grain) * (sum(lungs.values()))
