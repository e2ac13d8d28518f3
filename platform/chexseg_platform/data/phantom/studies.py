"""One patient from number to pictures: studies, views, findings, labels, readings.

Every draw comes from a generator made of (seed, split, patient) and, below, study and view, so a
patient is the same whatever else is made and in whatever order.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .anatomy import Patient, Scene, frontal, sample_patient
from .devices import add_devices, add_distractors
from .frame import Field, Rng, bump, make_frame
from .labels import (
    Illness,
    Labels,
    expert_labels,
    report_labels,
    sample_illness,
    sample_truth,
)
from .lateral import lateral
from .lesions import Lesion, add_findings
from .readers import EXPERT, SECOND, Outlines, salient_points
from .render import expose, finish

SPLITS: tuple[str, ...] = ("train", "valid", "test")

STUDY_COUNTS: tuple[float, ...] = (0.520, 0.173, 0.092, 0.057, 0.038, 0.026, 0.018, 0.076)
"""Share of CheXpert's training patients with 1, 2, ... 7, and 8 or more studies."""

VIEWS: dict[str, dict[str, float]] = {
    # Frontal (F) and lateral (L) views of a study: shares in CheXpert's training table, and for
    # the expert splits what gives 234 images in 200 studies and 668 in 500.
    "train": {"F": 0.819, "FL": 0.158, "FF": 0.0135, "FLL": 0.0055, "FFL": 0.004},
    "valid": {"F": 0.84, "FL": 0.15, "FF": 0.01},
    "test": {"F": 0.69, "FL": 0.28, "FF": 0.02, "FFL": 0.01},
}

DICOM_SHARE = 0.08
"""Share of studies written as DICOM, half of them MONOCHROME1."""


@dataclass(frozen=True)
class Study:
    """What a study holds before anything is drawn."""

    number: int
    views: str
    projection: str
    present: frozenset[str]
    labels: Labels
    dicom: str | None


@dataclass(frozen=True)
class Plan:
    """A patient's build and studies."""

    split: str
    index: int
    patient: Patient
    studies: tuple[Study, ...]


@dataclass(frozen=True)
class Picture:
    """A drawn view: (H, W) float32 in [0, 1], detector values, and who marked what where."""

    image: Field
    detector: Field
    truth: Outlines = field(default_factory=dict)
    second: Outlines = field(default_factory=dict)
    points: Outlines = field(default_factory=dict)
    lesions: tuple[Lesion, ...] = ()


def generator(seed: int, split: str, *key: int) -> Rng:
    """The generator of one patient, or of one view of one patient."""
    return np.random.default_rng([seed, SPLITS.index(split), *key])


def plan_patient(seed: int, split: str, index: int) -> Plan:
    """Draw the studies of patient `index` (from 0) of a split."""
    rng = generator(seed, split, index)
    patient, illness = sample_patient(rng), sample_illness(rng)
    count = 1
    if split == "train":
        count += int(rng.choice(len(STUDY_COUNTS), p=STUDY_COUNTS))
    studies = tuple(_plan_study(split, number, illness, rng) for number in range(1, count + 1))
    return Plan(split, index, patient, studies)


def _plan_study(split: str, number: int, illness: Illness, rng: Rng) -> Study:
    present, ill = sample_truth(illness, split, rng)
    # Who is too ill to stand is taken lying or sitting, from the front (AP).
    projection = "AP" if 0.7 * ill + 0.7 * rng.standard_normal() > -1.0 else "PA"
    shares = VIEWS[split]
    views = str(rng.choice(list(shares), p=np.array(list(shares.values())) / sum(shares.values())))
    labels = report_labels(present, rng) if split == "train" else expert_labels(present)
    dicom = None
    if rng.random() < DICOM_SHARE:
        dicom = "MONOCHROME1" if rng.random() < 0.5 else "MONOCHROME2"
    return Study(number, views, projection, frozenset(present), labels, dicom)


def draw_view(seed: int, plan: Plan, study: Study, view: int, size: int, read: bool) -> Picture:
    """Draw view `view` (from 1) of a study, its longer side `size` pixels, read by both or none."""
    rng = generator(seed, plan.split, plan.index, study.number, view)
    side = study.views[view - 1] == "L"
    # A pneumothorax is looked for from the front; from the side nobody outlines one.
    present = set(study.present) - ({"Pneumothorax"} if side else set())
    scene = _scene(plan.patient, study, side, size, rng)
    lesions = add_findings(scene, present, rng)
    if "Support Devices" in present:
        lesions += add_devices(scene, rng)
    _weak_signs(scene, present, rng)
    add_distractors(scene, rng)
    detector = expose(scene, rng)
    image = finish(detector, scene.frame, rng)
    if not read:
        return Picture(image, detector)
    shape = scene.frame.shape
    # Readers have generators of their own: their noise must not depend on the picture's.
    key = (plan.index, study.number, view)
    truth = EXPERT.outline(lesions, shape, generator(seed, plan.split, *key, 1))
    second = SECOND.outline(lesions, shape, generator(seed, plan.split, *key, 2))
    points = salient_points(truth, shape, generator(seed, plan.split, *key, 3))
    return Picture(image, detector, truth, second, points, tuple(lesions))


def _scene(patient: Patient, study: Study, side: bool, size: int, rng: Rng) -> Scene:
    """Lay out the frame and draw the chest, its heart and mediastinum as wide as the truth says."""
    ratio = patient.heart + (0.035 if study.projection == "AP" else 0.0)
    if "Cardiomegaly" in study.present:
        ratio = max(ratio, 0.47) + float(np.clip(rng.gamma(2.4, 0.042), 0.02, 0.22))
    half = float(rng.normal(0.14, 0.012))
    if "Enlarged Cardiomediastinum" in study.present:
        half += float(np.clip(rng.gamma(2.0, 0.025), 0.01, 0.14))
    landscape = rng.random() < (0.15 if side else 0.7 if study.projection == "AP" else 0.4)
    short = round(size * rng.choice([0.82, 0.82, 0.86, 1.0]))
    height, width = (short, size) if landscape else (size, short)
    tilt = 0.045 if study.projection == "AP" else 0.015
    span = rng.normal(2.5, 0.12) if landscape else rng.normal(2.3, 0.08)
    top = -rng.uniform(0.18, 0.45)
    frame = make_frame(
        height, width, float(span), float(top), float(rng.normal(0, tilt)),
        float(rng.normal(0, 0.06)), rng,
    )  # fmt: skip
    if side:
        return lateral(frame, patient, ratio, half, rng)
    return frontal(frame, patient, study.projection, ratio, half, rng)


def _weak_signs(scene: Scene, present: set[str], rng: Rng) -> None:
    """The three observations that nobody localizes: hardly anything to see."""
    x, y = scene.frame.x, scene.frame.y
    if "Fracture" in present:
        cx, cy = rng.uniform(0.5, 0.95) * rng.choice([-1, 1]), rng.uniform(0.2, 1.0)
        far = np.square(x - np.float32(cx)) + np.square(y - np.float32(cy))
        scene.density += np.float32(rng.uniform(0.03, 0.15)) * bump(np.sqrt(far), 0.06)
    if "Pleural Other" in present:
        amount = np.float32(rng.uniform(0.03, 0.15))
        scene.density += amount * bump(scene.wall - np.float32(0.93), 0.06) * (x > 0) * (y > 0.3)
    if "Pneumonia" in present:
        cx, cy = rng.uniform(-0.7, 0.7), rng.uniform(0.4, 1.1)
        far = np.square(x - np.float32(cx)) + np.square(y - np.float32(cy))
        lung = np.maximum.reduce(list(scene.lungs.values()))
        scene.density += np.float32(rng.uniform(0.02, 0.1)) * bump(np.sqrt(far), 0.4) * lung
