"""What the layouts share: files joined by name, splits where a collection has none."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from chexseg_platform.data.entries import Entry, MaskFiles
from chexseg_platform.data.splits import split_patients
from chexseg_platform.findings import OBSERVATIONS

PICTURES = (
    ".png", ".jpg", ".jpeg", ".dcm", ".dicom", ".gif", ".bmp", ".tif", ".tiff", ".webp",
)  # fmt: skip
"""What is listed. Not all of it can be read: what cannot is refused by name, and not passed over.
"""


class NoCollection(ValueError):
    """A folder does not hold the layout that was named; the message says what was looked for."""


def files_in(folder: Path, suffixes: Sequence[str] = PICTURES) -> dict[str, Path]:
    """Return the files of a folder by their name without suffix, sorted; none where it is not.

    Hidden files (such as macOS leaves behind) are passed over.

    Raises:
        NoCollection: where two files differ in nothing but their suffix.
    """
    found: dict[str, Path] = {}
    if not folder.is_dir():
        return found
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        if path.stem in found:
            raise NoCollection(
                f"{folder} holds {found[path.stem].name} and {path.name}: masks are joined to "
                "images by name without suffix, so remove one of them"
            )
        found[path.stem] = path
    return found


def first_folder(root: Path, *names: str) -> Path | None:
    """Return the first of some folders below `root` that is there."""
    return next((root / name for name in names if (root / name).is_dir()), None)


def needed_folder(root: Path, what: str, *names: str) -> Path:
    """Return the first of some folders below `root`.

    Raises:
        NoCollection: naming what was looked for, and what is there instead.
    """
    found = first_folder(root, *names)
    if found is None:
        there = sorted(item.name for item in root.iterdir()) if root.is_dir() else []
        holds = f"it holds {', '.join(there[:8])}" if there else "it holds nothing"
        state = holds if root.is_dir() else "there is no such folder"
        wanted = " or ".join(repr(name) for name in names)
        raise NoCollection(f"{root} has no {what} ({wanted}): {state}")
    return found


def joined(
    root: Path,
    images: Mapping[str, Path],
    masks: Mapping[str, Mapping[str, Path]],
    *,
    split: str,
    kind: str = "",
    partial: bool = False,
) -> list[Entry]:
    """Join images and masks by name: an entry for every name that has either.

    An image that lacks one of the masks, and a mask without its image, become entries as well:
    reading them says what is missing, and they are listed among the inputs that were not taken.

    Args:
        images: name -> file.
        masks: structure -> name -> file.
        kind: the entries' `format`.
        partial: an image may lack some of the masks; these structures are unknown there.
    """
    names = dict.fromkeys([*images, *(name for files in masks.values() for name in files)])
    entries = []
    for name in names:
        files = {
            structure: (str(found[name]),) for structure, found in masks.items() if name in found
        }
        lacking = tuple(structure for structure in masks if structure not in files)
        path = images.get(name)
        seen = path if path is not None else Path(next(iter(files.values()))[0])
        entries.append(
            Entry(
                image_id=name,
                patient=name,
                study="study1",
                view="frontal",
                projection=None,
                sex=None,
                age=None,
                split=split,
                source=_below(str(root), seen),
                path=str(path) if path is not None else "",
                labels=(None,) * len(OBSERVATIONS),
                mask_files=MaskFiles(files, () if partial else lacking),
                format=kind,
            )
        )
    return entries


def _below(root: str, path: Path) -> str:
    """Return a path below a folder, with "/"; of one elsewhere its name."""
    # Plain text: there may be a hundred thousand, and pathlib takes its time.
    text = str(path)
    inside = text.startswith(root + os.sep)
    return text[len(root) + 1 :].replace(os.sep, "/") if inside else path.name


def shared_out(entries: Iterable[Entry], *, valid: float, test: float, seed: int) -> list[Entry]:
    """Give entries of a collection without official splits their splits, by patient.

    Args:
        valid, test: shares of the patients.
    """
    listed = list(entries)
    patients = {entry.patient for entry in listed}
    tested, others = split_patients(patients, test, seed)
    held, _ = split_patients(others, min(1.0, valid / max(1e-9, 1 - test)), seed)
    home = dict.fromkeys(tested, "test") | dict.fromkeys(held, "valid")
    return [replace(entry, split=home.get(entry.patient, "train")) for entry in listed]
