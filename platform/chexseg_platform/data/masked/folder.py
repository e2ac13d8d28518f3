"""Any collection of images and masks, in the simplest layout.

    images/NAME.png             also .jpg and .dcm
    masks/STRUCTURE/NAME.png    0 and 255 (or 0 and 1); the folder's name is the structure's

or the same three times, in `train`, `valid` and `test`. A file `patients.csv` with the columns
`image` (NAME) and `patient` keeps a patient's images together; without it every image counts as a
patient of its own.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from chexseg_platform.data.entries import SPLITS, BrokenTable, Entry
from chexseg_platform.data.masked.files import NoCollection, files_in, joined, needed_folder
from chexseg_platform.findings import structure

PATIENTS = "patients.csv"


def has_splits(root: Path) -> bool:
    """Whether a folder holds splits of its own."""
    return any((root / split / "images").is_dir() for split in SPLITS)


def read_folder(root: Path) -> list[Entry]:
    """List a folder's images with their masks; "train" where it has no splits.

    Raises:
        NoCollection: naming what was looked for.
        BrokenTable: `patients.csv` cannot be used.
    """
    if not has_splits(root):
        return _with_patients(root, _one(root, root, "train"))
    parts = [split for split in SPLITS if (root / split / "images").is_dir()]
    return _with_patients(root, [e for split in parts for e in _one(root, root / split, split)])


def _one(root: Path, folder: Path, split: str) -> list[Entry]:
    images = files_in(needed_folder(folder, "images", "images"))
    drawn = needed_folder(folder, "masks", "masks")
    masks = {
        structure(item.name): files_in(item) for item in sorted(drawn.iterdir()) if item.is_dir()
    }
    if not masks:
        raise NoCollection(
            f"{drawn} has no folders: give each structure one, such as {drawn}/heart"
        )
    return joined(root, images, masks, split=split)


def _with_patients(root: Path, entries: list[Entry]) -> list[Entry]:
    path = root / PATIENTS
    if not path.is_file():
        return entries
    named = _patients(path)
    lacking = next((entry.image_id for entry in entries if entry.image_id not in named), None)
    if lacking is not None:
        raise BrokenTable(path, None, "image", f"{lacking} is not listed", "every image")
    return [replace(entry, patient=named[entry.image_id]) for entry in entries]


def _patients(path: Path) -> Mapping[str, str]:
    named: dict[str, str] = {}
    with open(path, encoding="utf-8-sig", newline="") as stream:
        rows = csv.DictReader(stream)
        missing = {"image", "patient"} - set(rows.fieldnames or ())
        if missing:
            raise BrokenTable(path, 1, min(missing), "there is no such column", "image, patient")
        for number, row in enumerate(rows, start=2):
            image, patient = (row["image"] or "").strip(), (row["patient"] or "").strip()
            if not image or not patient:
                raise BrokenTable(path, number, None, "an empty cell", "a name in each")
            if named.setdefault(image, patient) != patient:
                raise BrokenTable(path, number, "image", f"{image} has two patients", "one")
    return named
