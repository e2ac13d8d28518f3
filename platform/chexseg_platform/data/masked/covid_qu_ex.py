"""COVID-QU-Ex: lung masks of 33,920 radiographs, and infection masks of a part of them.

Two trees, each with Train, Val and Test, in each of these COVID-19, Non-COVID and Normal, and in
each of these `images`, `lung masks` and, in the infection tree, `infection masks`. The download
nests each tree in a folder of its own name, and some copies have underscores for spaces: all are
read. An image and its masks share their file name; an all-zero infection mask says that there is
no infection, and counts. No patient is named, so an image counts as one.

The two trees draw on the same pool: see `doubles`.
"""

from __future__ import annotations

from pathlib import Path

from chexseg_platform.data.entries import Entry
from chexseg_platform.data.masked.files import (
    NoCollection,
    files_in,
    first_folder,
    joined,
    needed_folder,
)
from chexseg_platform.findings import INFECTION, LUNGS

TREES = {"infection": "Infection Segmentation Data", "lungs": "Lung Segmentation Data"}
SPLIT_FOLDERS = {"train": "Train", "valid": "Val", "test": "Test"}
GROUPS = ("COVID-19", "Non-COVID", "Normal")


def read_covid_qu_ex(root: Path, tree: str = "infection") -> list[Entry]:
    """List one tree's images with their masks.

    Args:
        root: the folder that was downloaded, or the tree itself.
        tree: "infection" (lung and infection masks) or "lungs" (lung masks).

    Raises:
        NoCollection: naming what was looked for.
    """
    base, entries = _tree(root, TREES[tree]), list[Entry]()
    for split, name in SPLIT_FOLDERS.items():
        for folder in _groups(base / name):
            entries += _group(root, folder, split, tree)
    if not entries:
        raise NoCollection(
            f"{base} has none of the folders {', '.join(SPLIT_FOLDERS.values())} with "
            f"{', '.join(GROUPS)} in them"
        )
    return entries


def _tree(root: Path, name: str) -> Path:
    """Return the folder that holds Train, Val and Test."""
    for spelled in (name, name.replace(" ", "_")):
        for candidate in (root / spelled / spelled, root / spelled, root):
            if first_folder(candidate, *SPLIT_FOLDERS.values()) is not None:
                return candidate
    raise NoCollection(
        f"{root} has no {name!r} with Train, Val or Test in it, nor is it that folder itself"
    )


def _groups(folder: Path) -> list[Path]:
    """Return the folders of a split; raises NoCollection for one that is none of GROUPS."""
    inside = sorted(path for path in folder.glob("[!.]*") if path.is_dir())
    other = [path.name for path in inside if path.name.replace("_", "-") not in GROUPS]
    if other:
        raise NoCollection(
            f"{folder} holds {other[0]}, which is none of {', '.join(GROUPS)}: rename or remove it"
        )
    return inside


def _group(root: Path, folder: Path, split: str, tree: str) -> list[Entry]:
    images = files_in(needed_folder(folder, "images", "images"))
    masks = {LUNGS: files_in(needed_folder(folder, "lung masks", "lung masks", "lung_masks"))}
    if tree == "infection":
        drawn = needed_folder(folder, "infection masks", "infection masks", "infection_masks")
        masks[INFECTION] = files_in(drawn)
    return joined(root, images, masks, split=split)
