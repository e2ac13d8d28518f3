"""Support devices, and the things that look a little like findings but are none.

Devices are thin and bright, and so are their masks. Monitoring wires and electrodes are not
support devices in CheXlocalize's annotations; here too they are drawn and not annotated.
"""

from __future__ import annotations

import numpy as np

from .anatomy import Scene
from .frame import Points, Rng, bump, curve, draw_lines, draw_polygon, ellipse, ramp
from .lesions import Lesion, contrast


def add_devices(scene: Scene, rng: Rng) -> list[Lesion]:
    """Draw one to four devices; return their places."""
    kinds = [_line, _tube, _feeding_tube, _pacemaker, _drain]
    odds = np.array([0.40, 0.2, 0.15, 0.13, 0.12])
    count = 1 + int(rng.binomial(3, 0.28))
    lesions: list[Lesion] = []
    for k in rng.choice(len(kinds), size=count, replace=False, p=odds):
        lesions += kinds[int(k)](scene, rng)
    return lesions


def _stroke(scene: Scene, knots: Points, width: float, rng: Rng) -> Lesion:
    """Draw one tube along `knots` (body units), `width` body units thick."""
    path = scene.frame.to_pixels(curve(knots + rng.normal(0, 0.012, knots.shape)))
    pixels = max(width * scene.frame.scale, 0.8)
    ink = draw_lines(scene.frame.shape, [(path, pixels, 1.0)])
    # A line thinner than a pixel is as bright as it is thick.
    scene.density += (
        contrast("Support Devices", rng, 0.35)
        * ink
        * np.float32(min(1.0, 0.5 + width * scene.frame.scale / 3))
    )
    return Lesion("Support Devices", stroke=(path, pixels))


def _line(scene: Scene, rng: Rng) -> list[Lesion]:
    """A central line from the neck or the arm to the superior vena cava."""
    b, side = scene.base, -1 if rng.random() < 0.65 else 1
    tip = [[-0.14, 0.25 * b], [-0.17, rng.uniform(0.42, 0.65) * b]]
    if rng.random() < 0.5:
        way = [[side * 1.4, 0.45], [side * 0.9, 0.1], [side * 0.4, 0.12], *tip]
    else:
        way = [[side * 0.34, -0.5], [side * 0.22, -0.1], [-0.1, 0.1 * b], *tip]
    return [_stroke(scene, np.array(way), 0.02, rng)]


def _tube(scene: Scene, rng: Rng) -> list[Lesion]:
    """An endotracheal or tracheostomy tube in the midline."""
    x = rng.normal(0, 0.02)
    way = [[x + rng.normal(0, 0.05), -0.6], [x, -0.15], [x, rng.uniform(0.2, 0.42) * scene.base]]
    return [_stroke(scene, np.array(way), 0.035, rng)]


def _feeding_tube(scene: Scene, rng: Rng) -> list[Lesion]:
    """A tube through the oesophagus into the stomach."""
    b = scene.base
    way = [[0.02, -0.6], [0.0, 0.3 * b], [0.03, 0.8 * b], [0.16, b + 0.12]]
    way += [[rng.uniform(0.25, 0.5), b + rng.uniform(0.2, 0.4)]]
    return [_stroke(scene, np.array(way), 0.022, rng)]


def _drain(scene: Scene, rng: Rng) -> list[Lesion]:
    """A chest tube from the flank up along the pleura."""
    side, b = float(rng.choice([-1, 1])), scene.base
    way = [[side * 1.3, b * 1.0], [side * 0.9, b * 0.85], [side * 0.72, 0.5 * b]]
    way += [[side * rng.uniform(0.4, 0.62), rng.uniform(0.12, 0.35) * b]]
    return [_stroke(scene, np.array(way), 0.04, rng)]


def _pacemaker(scene: Scene, rng: Rng) -> list[Lesion]:
    """A generator below a clavicle with one or two leads into the heart."""
    side = 1 if rng.random() < 0.85 else -1
    x, y = side * rng.uniform(0.62, 0.85), rng.uniform(0.18, 0.4)
    turn = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    tilt, size = rng.uniform(-0.5, 0.5), rng.uniform(0.1, 0.15)
    box = np.stack([np.cos(turn), 0.8 * np.sin(turn)], 1)
    box = np.sign(box) * np.abs(box) ** 0.6 * size
    cos, sin = np.cos(tilt), np.sin(tilt)
    outline = scene.frame.to_pixels(box @ np.array([[cos, sin], [-sin, cos]]) + [x, y])
    scene.density += (
        np.float32(1.6)
        * contrast("Support Devices", rng, 0.2)
        * draw_polygon(scene.frame.shape, outline)
    )
    lesions = [Lesion("Support Devices", outline=outline)]
    for _ in range(int(rng.integers(1, 3))):
        b = scene.base
        way = [[x, y], [side * 0.35, 0.1], [-0.12, 0.3 * b], [-0.14, 0.7 * b]]
        way += [[rng.uniform(-0.05, 0.4), rng.uniform(0.82, 0.98) * b]]
        lesions.append(_stroke(scene, np.array(way), 0.018, rng))
    return lesions


def add_distractors(scene: Scene, rng: Rng) -> None:
    """Draw what is no finding: wires, electrodes, skin folds, nipples, mild haze, clips."""
    if rng.random() < (0.45 if scene.projection == "AP" else 0.06):
        _wires(scene, rng)
    if rng.random() < 0.15:
        _skin_fold(scene, rng)
    if rng.random() < 0.25 and scene.view == "frontal":
        _nipples(scene, rng)
    for side in scene.lungs.values():
        if rng.random() < 0.5:
            _haze(scene, side, rng)


def _wires(scene: Scene, rng: Rng) -> None:
    lines = []
    for _ in range(int(rng.integers(1, 4))):
        side = rng.choice([-1, 1])
        a = np.array([side * rng.uniform(0.4, 0.95), rng.uniform(0, 1.1) * scene.base])
        end = np.array([side * rng.uniform(0.2, 1.5), rng.choice([-0.6, 1.9])])
        bend = (a + end) / 2 + rng.normal(0, 0.25, 2)
        path = scene.frame.to_pixels(curve(np.stack([a, bend, end])))
        lines.append((path, max(0.012 * scene.frame.scale, 0.6), 0.5))
        dot = np.stack([path[0], path[0] + 0.01])
        lines.append((dot, 0.06 * scene.frame.scale, 0.7))
    scene.density += np.float32(0.28) * draw_lines(scene.frame.shape, lines)


def _skin_fold(scene: Scene, rng: Rng) -> None:
    """A soft step along a slanting line: it mimics the edge of a pneumothorax."""
    side = rng.choice([-1, 1])
    line = scene.frame.x - np.float32(side * rng.uniform(0.5, 0.85))
    line -= np.float32(rng.normal(0, 0.3)) * (scene.frame.y - np.float32(0.6))
    scene.density += np.float32(rng.uniform(0.03, 0.09)) * bump(line, 0.12) * (line > 0)


def _nipples(scene: Scene, rng: Rng) -> None:
    x, y = rng.uniform(0.45, 0.65), scene.base * rng.uniform(0.85, 1.0)
    for side in (-1, 1):
        r = ellipse(scene.frame, side * x, y + rng.normal(0, 0.03), 0.045, 0.04)
        scene.density += np.float32(rng.uniform(0.03, 0.1)) * ramp(1 - r, 0.3)


def _haze(scene: Scene, lung: np.ndarray, rng: Rng) -> None:
    """An opacity too mild for anyone to call."""
    x, y = rng.uniform(-0.8, 0.8), rng.uniform(0.2, 1.2)
    r = ellipse(scene.frame, x, y, rng.uniform(0.2, 0.6), rng.uniform(0.2, 0.6))
    scene.density += np.float32(abs(rng.normal(0, 0.05))) * ramp(1 - r, 0.6) * lung
