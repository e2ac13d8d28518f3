"""CheXlocalize's expert masks and points, and how they join the images they were drawn on.

Three kinds of JSON: annotations (polygons), segmentations (COCO run lengths), points. The same
two mask formats hold the ground truth (`gt_`) and the second readers, the "human benchmark"
(`hb_`). A published ground truth lists only images with at least one finding; an image that is
absent though its labels say that none of the ten is there was read too, and has empty masks.
One that is absent in spite of a positive label (there is one in the test set) stays unread.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from chexseg_platform.data import masks
from chexseg_platform.data.entries import NOTHING_DRAWN, BrokenAnnotations, Entry, MaskSet, Outlines
from chexseg_platform.data.overlaps import CorruptPair, areas
from chexseg_platform.findings import (
    CHEXLOCALIZE_NAMES,
    FINDING_TO_OBSERVATION,
    FINDINGS,
    UnknownFinding,
    canonical,
)

Points = Mapping[str, Sequence[tuple[float, float]]]
Images = dict[str, dict[str, Any]]
"""What a file holds: image_id -> name -> drawing."""

SHOWN = 5


class UnknownImages(ValueError):
    """Masks or points of images that are not among the entries; `image_ids` lists them all."""

    def __init__(self, message: str, image_ids: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.image_ids = tuple(image_ids)


def read_annotations(path: str | Path) -> dict[str, Outlines]:
    """Read polygons: image_id -> outlines per finding, in pixels of `img_size` [height, width].

    Raises:
        BrokenAnnotations: naming the file and the place in it.
    """
    return _annotations(Path(path), _images(Path(path)))


def _annotations(file: Path, images: Images) -> dict[str, Outlines]:
    found = {}
    for image_id, record in images.items():
        place = f"{file}: image {image_id!r}"
        if not record:
            continue
        height, width = _size(record.pop("img_size", None), f"{place}, 'img_size'")
        polygons = {
            finding: _polygons(value, f"{place}, {name!r}")
            for finding, (name, value) in _named(file, image_id, record).items()
        }
        found[image_id] = Outlines(height, width, polygons)
    return found


def read_segmentations(path: str | Path) -> dict[str, MaskSet]:
    """Read run lengths: image_id -> masks; findings whose mask is empty are left out.

    Raises:
        BrokenAnnotations: naming the file and the place in it, also for run lengths that are not
            those of a mask of their size.
    """
    return _segmentations(Path(path), _images(Path(path)))


def _segmentations(file: Path, images: Images) -> dict[str, MaskSet]:
    read = {image_id: _run_lengths(file, image_id, record) for image_id, record in images.items()}
    listed = [(i, finding) for i, (_, counts) in read.items() for finding in counts]
    sides = np.array([read[image_id][0] for image_id, _ in listed]).reshape(-1, 2)
    counts = [read[image_id][1][finding] for image_id, finding in listed]
    try:
        drawn = {key for key, area in zip(listed, areas(counts, *sides.T), strict=True) if area}
    except CorruptPair as problem:
        image_id, finding = listed[problem.index]
        place = f"{file}: image {image_id!r}, {CHEXLOCALIZE_NAMES[finding]!r}"
        raise BrokenAnnotations(f"{place}: {problem}") from None
    return {
        image_id: MaskSet(*size, {f: c for f, c in counts.items() if (image_id, f) in drawn})
        for image_id, (size, counts) in read.items()
        if counts
    }


def _run_lengths(
    file: Path, image_id: str, record: Mapping[str, Any]
) -> tuple[tuple[int, int], dict[str, str]]:
    """An image's size and its unchecked run lengths by finding."""
    size, counts = (0, 0), dict[str, str]()
    for finding, (name, mask) in _named(file, image_id, record).items():
        place = f"{file}: image {image_id!r}, {name!r}"
        if not isinstance(mask, dict) or set(mask) != {"size", "counts"}:
            raise BrokenAnnotations(f"{place}: a mask must hold 'size' and 'counts'.")
        if not isinstance(mask["counts"], str):
            raise BrokenAnnotations(f"{place}: run lengths must be a string of COCO's characters.")
        mine = _size(mask["size"], f"{place}, 'size'")
        if counts and mine != size:
            raise BrokenAnnotations(f"{place}: the masks of one image differ in size.")
        size, counts[finding] = mine, mask["counts"]
    return size, counts


def _named(file: Path, image_id: str, record: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """What a record holds by finding, with the name it has there; an alias is no second finding."""
    found: dict[str, tuple[str, Any]] = {}
    for name, value in record.items():
        finding = _finding(name, f"{file}: image {image_id!r}")
        if finding in found:
            raise BrokenAnnotations(
                f"{file}: image {image_id!r}: {found[finding][0]!r} and {name!r} are one finding."
            )
        found[finding] = (name, value)
    return found


def read_points(path: str | Path) -> dict[str, Points]:
    """Read points: image_id -> finding -> most representative points (x, y) in pixels.

    Raises:
        BrokenAnnotations: naming the file and the place in it.
    """
    file = Path(path)
    found: dict[str, Points] = {}
    for image_id, record in _images(file).items():
        place = f"{file}: image {image_id!r}"
        record.pop("img_size", None)
        found[image_id] = {
            finding: _polygon(value, f"{place}, {name!r}")
            for finding, (name, value) in _named(file, image_id, record).items()
        }
    return found


def read_masks(path: str | Path) -> dict[str, Outlines] | dict[str, MaskSet]:
    """Read annotations or segmentations, whichever the file holds.

    Raises:
        BrokenAnnotations: as the two readers.
    """
    return read_drawing(path).masks


class Drawing(NamedTuple):
    """A file of masks.

    Attributes:
        masks: as the two readers give them.
        empty: images whose record is empty: nothing is known of them, not even their size.
        named: image -> findings that segmentations name, empty masks too; None of annotations,
            which name only what was drawn.
    """

    masks: dict[str, Outlines] | dict[str, MaskSet]
    empty: tuple[str, ...]
    named: Mapping[str, frozenset[str]] | None


def read_drawing(path: str | Path) -> Drawing:
    """Read annotations or segmentations, and what the file says besides masks.

    Raises:
        BrokenAnnotations: as the two readers.
    """
    file, images = Path(path), _images(Path(path))
    empty = tuple(image_id for image_id, record in images.items() if not record)
    drawings = (v for record in images.values() for k, v in record.items() if k != "img_size")
    if not isinstance(next(drawings, None), dict):
        return Drawing(_annotations(file, images), empty, None)
    read = _segmentations(file, images)
    named = {i: frozenset(map(canonical, record)) for i, record in images.items() if record}
    return Drawing(read, empty, named)


def attach(
    entries: Iterable[Entry],
    truth: Mapping[str, MaskSet | Outlines] | None = None,
    benchmark: Mapping[str, MaskSet | Outlines] | None = None,
    points: Mapping[str, Points] | None = None,
    *,
    allow_unknown: bool = False,
) -> list[Entry]:
    """Return the entries with what experts and second readers drew on them.

    Args:
        truth: expert masks, by image_id. Where given, an entry of a valid or test split that is
            absent from it and whose ten labels are all 0 gets empty masks; any other stays None.
        benchmark: masks of second readers. points: their points.
        allow_unknown: leave out masks of images that are not among the entries, as in a subset
            of the images, instead of raising.

    Raises:
        UnknownImages: some image_ids of `truth`, `benchmark` or `points` are no entry's.
    """
    entries = list(entries)
    known = {entry.image_id for entry in entries}
    for what, given in (("truth", truth), ("benchmark", benchmark), ("points", points)):
        unknown = sorted(given.keys() - known) if given else []
        if unknown and not allow_unknown:
            raise _unknown(what, unknown, len(given or ()))
    return [
        replace(
            entry,
            masks=entry.masks if truth is None else _truth(entry, truth),
            benchmark_masks=(benchmark or {}).get(entry.image_id, entry.benchmark_masks),
            benchmark_points=(points or {}).get(entry.image_id, entry.benchmark_points),
        )
        for entry in entries
    ]


def _truth(entry: Entry, truth: Mapping[str, MaskSet | Outlines]) -> MaskSet | Outlines | None:
    if entry.image_id in truth:
        return truth[entry.image_id]
    negative = all(entry.labels[i] == 0 for i in FINDING_TO_OBSERVATION)
    if entry.masks is None and negative and entry.split != "train":
        return NOTHING_DRAWN
    return entry.masks


def _unknown(what: str, unknown: list[str], given: int) -> UnknownImages:
    some = ", ".join(unknown[:SHOWN]) + (", ..." if len(unknown) > SHOWN else "")
    return UnknownImages(
        f"{len(unknown)} of the {given} images of the {what} are not in the table of images: "
        f"{some}. Give the file that belongs to the table, or the whole table.",
        unknown,
    )


def _images(file: Path) -> Images:
    try:
        found = json.loads(file.read_bytes(), object_pairs_hook=_once, parse_constant=_no_constant)
    except FileNotFoundError:
        raise BrokenAnnotations(f"{file}: there is no such file.") from None
    except json.JSONDecodeError as problem:
        raise BrokenAnnotations(
            f"{file}: line {problem.lineno}, character {problem.colno}: no JSON ({problem.msg}); "
            "is the file cut short? Fetch it again."
        ) from None
    except (ValueError, RecursionError, OSError) as problem:
        raise BrokenAnnotations(f"{file}: no usable JSON: {problem}") from None
    if not isinstance(found, dict) or not all(isinstance(v, dict) for v in found.values()):
        raise BrokenAnnotations(f"{file}: must hold an object: image id -> class -> drawing.")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {double[:80]!r} comes twice")
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _finding(name: str, place: str) -> str:
    try:
        finding = canonical(name)
    except UnknownFinding as problem:
        raise BrokenAnnotations(f"{place}: {problem}") from None
    if finding not in FINDINGS:
        allowed = ", ".join(CHEXLOCALIZE_NAMES.values())
        raise BrokenAnnotations(f"{place}: {name!r} is not drawn; the classes are {allowed}.")
    return finding


def _size(value: Any, place: str) -> tuple[int, int]:
    whole = isinstance(value, list) and len(value) == 2 and all(type(v) is int for v in value)
    if not whole or min(value) < 1 or value[0] * value[1] > masks.MAX_PIXELS:
        raise BrokenAnnotations(f"{place}: found {str(value)[:80]}, not [height, width] in pixels.")
    return value[0], value[1]


def _polygons(value: Any, place: str) -> list[list[tuple[float, float]]]:
    if not isinstance(value, list):
        raise BrokenAnnotations(f"{place}: must be a list of polygons.")
    drawn = [_polygon(polygon, f"{place}, polygon {n}") for n, polygon in enumerate(value, 1)]
    if not all(drawn):
        raise BrokenAnnotations(f"{place}: holds a polygon without points.")
    return drawn


def _polygon(value: Any, place: str) -> list[tuple[float, float]]:
    if not isinstance(value, list):
        raise BrokenAnnotations(f"{place}: must be a list of [x, y] points.")
    return [_point(point, f"{place}, point {n}") for n, point in enumerate(value, 1)]


def _point(value: Any, place: str) -> tuple[float, float]:
    numbers = isinstance(value, list) and len(value) == 2 and all(
        type(v) in (int, float) and math.isfinite(v) and abs(v) <= masks.MAX_PIXELS for v in value
    )  # fmt: skip
    if not numbers:
        raise BrokenAnnotations(f"{place}: found {str(value)[:80]}, not [x, y] in pixels.")
    return float(value[0]), float(value[1])
