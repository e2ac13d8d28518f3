"""CheXpert's and CheXlocalize's folder layouts: where a patient's files go and what tables say.

CheXpert names a training image `CheXpert-v1.0/train/patient00001/study1/view1_frontal.jpg` and
keeps its labels in `train.csv` and `valid.csv`; the test images came later, with CheXlocalize,
with a table of paths and labels alone. Readers' marks are CheXlocalize's JSON files.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ...findings import CHEXLOCALIZE_NAMES, FINDINGS, OBSERVATIONS
from ..masks import encode, rasterise
from .dicom import write_dicom
from .readers import Outlines
from .render import to_bytes, to_twelve_bits
from .studies import Picture, Plan, Study, draw_view, plan_patient

FIRST_NUMBER: dict[str, int] = {"train": 1, "valid": 64541, "test": 64741}
LAST_NUMBER: dict[str, int] = {"train": 64540, "valid": 64740, "test": 69999}
OVERFLOW = 70001
"""More than CheXpert's 200 validation patients continue here, clear of every other number."""

IMAGE_ROOT: dict[str, str] = {
    "train": "CheXpert-v1.0",
    "valid": "CheXpert-v1.0",
    "test": "CheXlocalize/CheXpert",
}
"""Folder under the phantom that holds a split's folder and its table."""

TABLE_COLUMNS: tuple[str, ...] = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *OBSERVATIONS)


class PhantomRefused(ValueError):
    """Parameters that cannot be drawn, or a folder that holds something else."""


@dataclass(frozen=True)
class Job:
    """The first `views` views of one patient."""

    split: str
    index: int
    views: int


@dataclass(frozen=True)
class Reading:
    """What the readers marked on one image of (height, width)."""

    image_id: str
    size: tuple[int, int]
    truth: Outlines
    second: Outlines
    points: Outlines


@dataclass(frozen=True)
class Written:
    """What one patient adds to the tables: CSV rows, and a reading per image of an expert split."""

    rows: list[list[str]]
    readings: list[Reading]


def patient_name(split: str, index: int) -> str:
    """`patient00001` for patient `index` (from 0) of a split, in CheXpert's number ranges.

    Raises:
        PhantomRefused: the split has no numbers left.
    """
    number = FIRST_NUMBER[split] + index
    if number > LAST_NUMBER[split] and split != "valid":
        raise PhantomRefused(f"There are no patient numbers left for {split}: ask for fewer.")
    if number > LAST_NUMBER[split]:
        number = OVERFLOW + number - LAST_NUMBER[split] - 1
    return f"patient{number:05d}"


def write_patient(root: Path, job: Job, *, size: int, seed: int) -> Written:
    """Draw the views of one patient and write their images; return the rows for the tables."""
    plan = plan_patient(seed, job.split, job.index)
    views = [(study, view) for study in plan.studies for view in range(1, len(study.views) + 1)]
    rows, readings = [], []
    for study, view in views[: job.views]:
        picture = draw_view(seed, plan, study, view, size, read=job.split != "train")
        kind = "lateral" if study.views[view - 1] == "L" else "frontal"
        suffix = "dcm" if study.dicom else "jpg"
        stem = f"{patient_name(job.split, job.index)}/study{study.number}/view{view}_{kind}"
        image_id = stem.replace("/", "_")
        path = root / IMAGE_ROOT[job.split] / job.split / f"{stem}.{suffix}"
        _write_image(path, picture, study, image_id)
        rows.append(_row(plan, study, kind, f"{job.split}/{stem}.{suffix}"))
        if job.split != "train":
            height, width = picture.image.shape
            marks = (picture.truth, picture.second, picture.points)
            readings.append(Reading(image_id, (height, width), *marks))
    return Written(rows, readings)


def _write_image(path: Path, picture: Picture, study: Study, image_id: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if study.dicom:
        write_dicom(path, to_twelve_bits(picture.detector), study.dicom, image_id)
    else:
        Image.fromarray(to_bytes(picture.image)).save(path, format="JPEG", quality=92)


def _row(plan: Plan, study: Study, kind: str, path: str) -> list[str]:
    labels = study.labels.values()
    values = ["" if value is None else f"{value:.1f}" for value in labels]
    if plan.split == "test":
        return [path, *values]
    projection = study.projection if kind == "frontal" else ""
    build = [plan.patient.sex, str(plan.patient.age), kind.capitalize(), projection]
    return [f"CheXpert-v1.0/{path}", *build, *values]


def write_tables(root: Path, split: str, written: list[Written]) -> None:
    """Write a split's CSV and, for an expert split, its CheXlocalize JSON files."""
    name = "test_labels.csv" if split == "test" else f"{split}.csv"
    columns = ("Path", *OBSERVATIONS) if split == "test" else TABLE_COLUMNS
    rows = (row for patient in written for row in patient.rows)
    _write_csv(root / IMAGE_ROOT[split] / name, columns, rows)
    if split == "train":
        return
    readings = [reading for patient in written for reading in patient.readings]
    folder, short = root / "CheXlocalize", "val" if split == "valid" else "test"
    for reader in ("gt", "hb"):
        drawn = [(r, r.truth if reader == "gt" else r.second) for r in readings]
        drawn = [(r, outlines) for r, outlines in drawn if outlines]
        notes = {r.image_id: _annotation(r, outlines) for r, outlines in drawn}
        masks = {r.image_id: _segmentation(r, outlines) for r, outlines in drawn}
        write_json(folder / f"{reader}_annotations_{short}.json", notes)
        write_json(folder / f"{reader}_segmentations_{short}.json", masks)
    if split == "test":
        points = {r.image_id: _points(r.points) for r in readings if r.points}
        write_json(folder / "hb_salient_pt_test.json", points)


def _annotation(reading: Reading, outlines: Outlines) -> dict[str, Any]:
    named = {CHEXLOCALIZE_NAMES[finding]: drawn for finding, drawn in outlines.items()}
    return {"img_size": list(reading.size)} | {
        name: [polygon.tolist() for polygon in drawn] for name, drawn in named.items()
    }


def _segmentation(reading: Reading, outlines: Outlines) -> dict[str, Any]:
    """Every finding's mask, empty ones too, as CheXlocalize does."""
    height, width = reading.size
    masks = {}
    for finding in FINDINGS:
        polygons = [polygon.tolist() for polygon in outlines.get(finding, [])]
        counts = encode(rasterise(polygons, height, width))
        masks[CHEXLOCALIZE_NAMES[finding]] = {"size": [height, width], "counts": counts}
    return masks


def _points(points: Outlines) -> dict[str, Any]:
    return {
        CHEXLOCALIZE_NAMES[finding]: [point.tolist() for point in found]
        for finding, found in points.items()
    }


def _write_csv(path: Path, columns: Iterable[str], rows: Iterable[list[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON so that the file is never seen half written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".draft")
    draft.write_text(json.dumps(content))
    os.replace(draft, path)
