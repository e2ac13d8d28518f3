"""A collection as the experiment file names it: its layout's reader, its splits, its limit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from chexseg_platform.config import Collection
from chexseg_platform.data.entries import SPLITS, Entry
from chexseg_platform.data.masked.covid_qu_ex import read_covid_qu_ex
from chexseg_platform.data.masked.files import NoCollection, shared_out
from chexseg_platform.data.masked.folder import has_splits, read_folder
from chexseg_platform.data.masked.jsrt import read_jsrt
from chexseg_platform.data.masked.lungs import read_montgomery, read_shenzhen
from chexseg_platform.data.splits import split_patients


def read_collection(wish: Collection) -> list[Entry]:
    """List a collection's images with their masks, each in its split.

    Official splits are kept: COVID-QU-Ex's, JSRT's folds, a folder's own. The others are by
    patient, as the collection's `valid`, `test` and `seed` say.

    Raises:
        NoCollection, BrokenTable: naming what was looked for, and where.
    """
    root = Path(wish.root).absolute()
    if not root.is_dir():
        raise NoCollection(f"there is no folder {root}: `root` is where the collection lies")
    masks = Path(wish.masks).absolute() if wish.masks else None
    if wish.layout == "jsrt":
        found = _held(read_jsrt(root, masks, wish.test_fold), wish)
    elif wish.layout == "covid-qu-ex":
        found = read_covid_qu_ex(root, wish.tree)
    elif wish.layout == "montgomery":
        found = _shared(read_montgomery(root), wish)
    elif wish.layout == "shenzhen":
        found = _shared(read_shenzhen(root, masks), wish)
    else:
        found = read_folder(root)
        found = found if has_splits(root) else _shared(found, wish)
    if not found:
        raise NoCollection(f"{root} holds neither images nor masks in the layout {wish.layout}")
    return _some(found, wish.limit)


def _some(entries: list[Entry], limit: int | None) -> list[Entry]:
    """Take so many images, evenly from all splits, in their order."""
    number = len(entries)
    if limit is None or limit >= number:
        return entries
    by_split = sorted(range(number), key=lambda place: SPLITS.index(entries[place].split))
    taken = sorted(by_split[(2 * k + 1) * number // (2 * limit)] for k in range(limit))
    return [entries[place] for place in taken]


def _shared(entries: list[Entry], wish: Collection) -> list[Entry]:
    return shared_out(entries, valid=wish.valid, test=wish.test, seed=wish.seed)


def _held(entries: list[Entry], wish: Collection) -> list[Entry]:
    """Hold a share of the patients to learn from for validation; the test images stay."""
    learned = {entry.patient for entry in entries if entry.split == "train"}
    held, _ = split_patients(learned, wish.valid, wish.seed)
    return [replace(e, split="valid") if e.patient in held else e for e in entries]
