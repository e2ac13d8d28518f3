"""Any collection of images and masks, in the simplest layout.

    images/NAME.png             also .jpg and .dcm
    masks/STRUCTURE/NAME.png    0 and 255 (or 0 and 1); the folder's name is the structure's

or the same three times, in `train`, `valid` and `test`. A structure that an image has no file of is
unknown there; one that was looked for and is not there has a mask of zeros. A file `patients.csv`
with the columns `image` (NAME) and `patient` keeps a patient's images together; without it every
image counts as a patient of its own.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from chexseg_platform.data.entries import SPLITS, BrokenTable, Entry
from chexseg_platform.data.masked.files import (
    PICTURES,
    NoCollection,
    files_in,
    joined,
    needed_folder,
)
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
    _check_names(root)
    parts = [split for split in SPLITS if (root / split / "images").is_dir()]
    return _with_patients(root, [e for split in parts for e in _one(root, root / split, split)])


def _check_names(root: Path) -> None:
    """Check that nothing beside the splits is passed over."""
    if files_in(root / "images"):
        raise NoCollection(
            f"{root} holds images beside its splits: move them into {', '.join(SPLITS)}, or away"
        )
    others = [path.parent for path in sorted(root.glob("[!.]*/images"))]
    unknown = [path.name for path in others if path.name not in SPLITS]
    if unknown:
        raise NoCollection(
            f"{root / unknown[0]} is none of the splits {', '.join(SPLITS)}: rename or remove it"
        )


def _one(root: Path, folder: Path, split: str) -> list[Entry]:
    images = files_in(needed_folder(folder, "images", "images"))
    masks = _masks(needed_folder(folder, "masks", "masks"))
    return joined(root, images, masks, split=split, partial=True)


def _masks(drawn: Path) -> dict[str, dict[str, Path]]:
    """Return structure -> name -> file."""
    loose = [path.name for path in sorted(drawn.glob("[!.]*")) if path.suffix.lower() in PICTURES]
    folders = [path for path in sorted(drawn.glob("[!.]*")) if path.is_dir()]
    if loose or not folders:
        has = f"holds {loose[0]} itself" if loose else "has no folders"
        raise NoCollection(f"{drawn} {has}: give each structure a folder, such as {drawn}/heart")
    masks: dict[str, dict[str, Path]] = {}
    for folder in folders:
        name, files = structure(folder.name), files_in(folder)
        if not files:
            raise NoCollection(f"{folder} holds no mask: put NAME.png in it, or remove it")
        if name in masks:
            raise NoCollection(f"{drawn} has two folders of {name}: put their masks in one")
        masks[name] = files
    return masks


def _with_patients(root: Path, entries: list[Entry]) -> list[Entry]:
    path = root / PATIENTS
    if not path.is_file():
        return entries
    named = _patients(path)
    lacking = next((entry.image_id for entry in entries if entry.image_id not in named), None)
    if lacking is not None:
        found = f"{lacking} is not listed: give every image a row, by its name without suffix"
        raise BrokenTable(path, None, "image", found)
    return [replace(entry, patient=named[entry.image_id]) for entry in entries]


def _patients(path: Path) -> Mapping[str, str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise BrokenTable(path, None, None, "this is no text in UTF-8: save it as such") from None
    rows, named = csv.DictReader(text.splitlines()), dict[str, str]()
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
