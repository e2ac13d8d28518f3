"""Images that are there twice: one copy stays, so that nothing tested on was learned from.

Collections draw on one another (both trees of COVID-QU-Ex on one pool), under the same names or
others. So files are compared by their bytes, whatever they are called; and by their pixels where
two have one name, for one of them may have been saved anew. To compare the pixels of all would be
to decode every image twice, here in one process and again where the dataset is made.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from chexseg_platform.data.decode import UnreadableInput
from chexseg_platform.data.entries import (
    SPLITS,
    STATE_BYTES,
    Entry,
    MaskFiles,
    entry_state,
    file_state,
)
from chexseg_platform.data.rows import read_image
from chexseg_platform.data.splits import PatientInTwoSplits

REASON = "double"
THREADS = 8
"""Files read at once: on a network it is the answer that takes long, not the hash."""

Groups = list[list[int]]


class Double(NamedTuple):
    """An image that is left out, and the copy that stays."""

    left: Entry
    kept: Entry

    def rejection(self, *, stays: bool = True) -> dict[str, str]:
        """Return its row of `rejected.parquet`.

        Args:
            stays: False where the other copy was refused later.
        """
        left, kept = self
        taken = _lacking(kept, left)
        masks = f" and takes over its masks: {', '.join(taken)}" if taken else ""
        fate = f"stays{masks}" if stays else "was to stay and cannot be used: mend or remove it"
        return {
            "image_id": left.image_id,
            "source": left.source,
            "reason": REASON,
            "message": f"The same picture is {kept.source} ({kept.split}), which {fate}.",
            "state": entry_state(left),
        }


def without_doubles(entries: Sequence[Entry]) -> tuple[list[Entry], list[Double]]:
    """Return the entries with every picture once, in their order, and what was left out.

    Of several copies one of the test stays, else one of validation, else the first. Structures
    that only another copy has a mask of are taken over from it.

    Raises:
        PatientInTwoSplits: where other images of a copy's patient are in another split than the
            copy that stays: under two names they are one patient's.
    """
    stays = dict(enumerate(entries))
    doubles: list[Double] = []
    for group in same_pictures(entries):
        kept, *others = sorted(group, key=lambda place: -SPLITS.index(entries[place].split))
        for place in others:
            left = stays.pop(place)
            doubles.append(Double(left, stays[kept]))
            stays[kept] = _with_masks_of(stays[kept], left)
    _check_patients(list(stays.values()), doubles)
    return list(stays.values()), doubles


def _check_patients(stays: Sequence[Entry], doubles: Sequence[Double]) -> None:
    places: dict[str, dict[str, Entry]] = {}
    for entry in stays:
        places.setdefault(entry.patient, {})[entry.split] = entry
    for left, kept in doubles:
        for split, other in places.get(left.patient, {}).items():
            if left.patient != kept.patient and split != kept.split:
                raise PatientInTwoSplits(
                    f"{left.source} and {kept.source} are the same picture, so patients "
                    f"{left.patient} and {kept.patient} are one; {other.source} is in {split}, and "
                    f"{kept.source} in {kept.split}: give both one name and one split"
                )


def same_pictures(entries: Sequence[Entry]) -> Groups:
    """Return the places of entries that show the same picture, group by group, each in order."""
    there = [place for place, entry in enumerate(entries) if os.path.isfile(entry.path)]
    first = {place: place for place in there}
    for group in _same_bytes(entries, there):
        first |= dict.fromkeys(group, group[0])
    for one, other in _saved_anew(entries, first):
        first[_leader(first, other)] = _leader(first, one)
    return _parted([there], {place: _leader(first, place) for place in there})


def _leader(first: Mapping[int, int], place: int) -> int:
    while first[place] != place:
        place = first[place]
    return place


def _same_bytes(entries: Sequence[Entry], there: list[int]) -> Groups:
    """From cheap to dear: few files are as long as another, and fewer have the same ends."""
    groups = [there]
    with ThreadPoolExecutor(THREADS) as pool:
        for key in (os.path.getsize, _ends, _digest):
            places = [place for group in groups for place in group]
            values = pool.map(key, [entries[place].path for place in places])
            groups = _parted(groups, dict(zip(places, values, strict=True)))
    return groups


def _parted(groups: Groups, value: Mapping[int, Hashable]) -> Groups:
    """Part groups by a value of their members; who is alone then is left out."""
    parts: dict[Hashable, list[int]] = {}
    for number, group in enumerate(groups):
        for place in group:
            parts.setdefault((number, value[place]), []).append(place)
    return [part for part in parts.values() if len(part) > 1]


def _ends(path: str) -> str:
    state = file_state(path)
    return state if state != "missing" else path


def _digest(path: str) -> str:
    """Return a file's digest; nothing where its two ends are all of it."""
    if os.path.getsize(path) <= 2 * STATE_BYTES:
        return ""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _saved_anew(entries: Sequence[Entry], first: dict[int, int]) -> Iterator[tuple[int, int]]:
    """Yield pairs of one name whose bytes differ and whose pixels do not."""
    named: dict[str, dict[int, None]] = {}
    for place, leader in first.items():
        named.setdefault(entries[place].image_id, {})[leader] = None
    for one, *others in named.values():
        pixels = _pixels(entries[one]) if others else None
        for other in others:
            again = _pixels(entries[other])
            if pixels is not None and again is not None and np.array_equal(pixels, again):
                yield one, other


def _pixels(entry: Entry) -> np.ndarray | None:
    try:
        return read_image(entry)
    except UnreadableInput:
        return None


def _lacking(kept: Entry, left: Entry) -> list[str]:
    """Return the structures that only the copy that is left out has a mask of."""
    if kept.mask_files is None or left.mask_files is None:
        return []
    return [name for name in left.mask_files.files if name not in kept.mask_files.files]


def _with_masks_of(kept: Entry, left: Entry) -> Entry:
    taken = _lacking(kept, left)
    if not taken or kept.mask_files is None or left.mask_files is None:
        return kept
    files = {**kept.mask_files.files, **{name: left.mask_files.files[name] for name in taken}}
    absent = tuple(name for name in kept.mask_files.absent if name not in taken)
    return replace(kept, mask_files=MaskFiles(files, absent))
