"""JSRT's 247 radiographs with the organ masks of the SCR database.

JSRT: `JPCLN001.IMG` to `JPCLN154.IMG` with a nodule, `JPCNN001.IMG` to `JPCNN093.IMG` without; raw
pixels, see `decode.read_jsrt`. SCR: `fold1/masks/heart/JPCLN001.gif` and so on, 1024 x 1024 for
images of 2048 x 2048, in two folds (odd numbers, even numbers) that are each other's test set.
Organs overlap: most of a clavicle lies in the lung of its side.
"""

from __future__ import annotations

from pathlib import Path

from chexseg_platform.data.entries import Entry
from chexseg_platform.data.masked.files import NoCollection, files_in, joined, needed_folder
from chexseg_platform.data.splits import PatientInTwoSplits
from chexseg_platform.findings import ORGANS

FOLDS = (1, 2)


def read_jsrt(root: Path, masks: Path | None = None, test_fold: int = 2) -> list[Entry]:
    """List the images of both folds: those of `test_fold` are "test", the others "train".

    Args:
        root: folder of the `.IMG` files, or the one above.
        masks: folder of SCR's `fold1` and `fold2`, at most one folder below; by default `root`.

    Raises:
        NoCollection: without images or without a fold's masks.
        PatientInTwoSplits: an image has masks in both folds.
    """
    places = ("*.IMG", "*.img", "*/*.IMG", "*/*.img")
    images = {path.stem: path for place in places for path in sorted(root.glob(place))}
    if not images:
        raise NoCollection(f"{root} holds no .IMG file of JSRT, nor does a folder in it")
    base, entries = _scr(masks or root), list[Entry]()
    named: set[str] = set()
    for fold in FOLDS:
        drawn = needed_folder(base / f"fold{fold}", "masks of the SCR database", "masks")
        found = {organ: files_in(_organ(drawn, organ)) for organ in ORGANS}
        names = {name for files in found.values() for name in files}
        _check_once(base, names & named)
        named |= names
        mine = {name: path for name, path in images.items() if name in names}
        split = "test" if fold == test_fold else "train"
        entries += joined(root, mine, found, split=split, kind="jsrt")
    unread = {name: path for name, path in images.items() if name not in named}
    # In neither fold: nobody drew on them.
    entries += joined(root, unread, {organ: {} for organ in ORGANS}, split="train", kind="jsrt")
    return entries


def _check_once(base: Path, both: set[str]) -> None:
    if both:
        more = f" and {len(both) - 1:,} more" if len(both) > 1 else ""
        raise PatientInTwoSplits(
            f"{min(both)}{more} would be learned from and tested on: there are masks of it in "
            f"{base / 'fold1'} and in {base / 'fold2'}. Remove those of one fold; SCR has odd "
            "numbers in fold1, even ones in fold2",
            sorted(both),
        )


def _scr(folder: Path) -> Path:
    """Return the folder that holds `fold1` and `fold2`: itself, or one below ("scratch", "scr")."""
    inner = sorted(folder.iterdir()) if folder.is_dir() else []
    for candidate in (folder, *(path for path in inner if path.is_dir())):
        if (candidate / "fold1").is_dir() and (candidate / "fold2").is_dir():
            return candidate
    raise NoCollection(
        f"{folder} has no folders fold1 and fold2 of the SCR database, nor has a folder in it"
    )


def _organ(drawn: Path, organ: str) -> Path:
    return needed_folder(drawn, f"masks of {organ}", organ.lower(), organ.lower().replace(" ", "_"))
