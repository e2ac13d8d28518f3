"""Anybody's truth and predictions, read from CheXlocalize's formats.

Segmentations (COCO run lengths) or annotations (polygons); a prediction may be a folder of heat
maps too. Nothing is dropped in silence: every image, finding or map that cannot be taken as it
stands is counted and named in the notes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from chexseg_platform.data.chexlocalize import Drawing, read_drawing
from chexseg_platform.data.chexpert import read_chexpert
from chexseg_platform.data.entries import MaskSet
from chexseg_platform.evaluation.heatmaps import (
    BrokenHeatMap,
    HeatMap,
    cut,
    find_heat_maps,
    read_heat_map,
)
from chexseg_platform.evaluation.outlines import about_outlines, some
from chexseg_platform.findings import FINDING_TO_OBSERVATION, FINDINGS

Tick = Callable[[int], None]
Size = tuple[int, int]


class BadFiles(ValueError):
    """Files that cannot be compared; the message says what to do."""


@dataclass(frozen=True)
class Predicted:
    """What one method says.

    Attributes:
        masks: image -> masks at the image's size.
        unsaid: findings of which it says nothing anywhere.
        broken: image -> findings whose map is absent or could not be used.
        peaks: image -> finding -> (row, column) of the map's maximum; None without heat maps.
        notes: sentences of what was left out or mended.
    """

    masks: Mapping[str, MaskSet]
    unsaid: Collection[str] = ()
    broken: Mapping[str, Collection[str]] = field(default_factory=dict)
    peaks: Mapping[str, Mapping[str, Size]] | None = None
    notes: tuple[str, ...] = ()


def read_drawn(path: str | Path) -> Predicted:
    """Read segmentations or annotations.

    Raises:
        BrokenAnnotations: naming the file and the place in it.
        BadFiles: a file without images.
    """
    drawing = read_drawing(path)
    if not drawing.masks:
        raise BadFiles(f"{path} holds no images: it must map image ids to findings.")
    masks = {image_id: entry.encoded() for image_id, entry in drawing.masks.items()}
    unsaid, notes = _about_names(path, drawing)
    notes += about_outlines(path, drawing.masks)
    return Predicted(masks, unsaid=unsaid, notes=tuple(notes))


def _about_names(path: str | Path, drawing: Drawing) -> tuple[tuple[str, ...], list[str]]:
    """Findings that a file says nothing of, and what it leaves out on some images."""
    notes = []
    if drawing.empty:
        notes.append(f"{path}: images whose record is empty, left out: {some(drawing.empty)}.")
    if drawing.named is None:
        return (), notes
    every = frozenset().union(*drawing.named.values())
    unsaid = tuple(name for name in FINDINGS if name not in every)
    if unsaid:
        notes.append(f"{path} says nothing of {', '.join(unsaid)}: left out.")
    lacking = [
        f"{finding} of {image_id}"
        for image_id, named in drawing.named.items()
        for finding in FINDINGS
        if finding in every - named
    ]
    if lacking:
        notes.append(f"{path}: findings that an image lacks, taken as empty: {some(lacking)}.")
    return unsaid, notes


def read_heat_maps(
    folder: str | Path, sizes: Mapping[str, Size], threshold: float | None, tick: Tick
) -> Predicted:
    """Cut a folder of heat maps at their images' sizes.

    Args:
        sizes: image -> (height, width), from the truth; a map of another image must say its own.
        threshold: in [0, 1], or None for Otsu's of each map.
        tick: told how many maps were done.

    Raises:
        BrokenHeatMap: no maps, or names that say nothing.
        BadFiles: a map that says another size than the truth, or whose size nobody says.
    """
    masks: dict[str, dict[str, str]] = {}
    peaks: dict[str, dict[str, Size]] = {}
    known, broken, flat = dict(sizes), dict[tuple[str, str], str](), []
    files = find_heat_maps(folder)
    for path, image_id, finding in files.maps:
        tick(1)
        try:
            saved = read_heat_map(path)
        except BrokenHeatMap as problem:
            broken[image_id, finding] = str(problem)
            continue
        known[image_id] = _size_of(path, saved, known.get(image_id))
        found = cut(saved.map_hw, *known[image_id], threshold)
        peaks.setdefault(image_id, {})[finding] = found.peak
        if found.flat:
            flat.append(f"{finding} of {image_id}")
        if found.counts is not None:
            masks.setdefault(image_id, {})[finding] = found.counts
    seen = {(image_id, finding) for _, image_id, finding in files.maps}
    mapped = sorted({image_id for image_id, _ in seen} & known.keys())
    absent = {(image_id, finding) for image_id in mapped for finding in FINDINGS} - seen
    notes = _about_maps(folder, broken, absent)
    if flat:
        notes.append(f"{folder}: flat maps, which show nothing: {some(flat)}.")
    if files.others:
        notes.append(f"{folder}: files that are no map of a finding: {some(files.others)}.")
    return Predicted(
        {image_id: MaskSet(*known[image_id], masks.get(image_id, {})) for image_id in mapped},
        broken=_by_image({*broken, *absent}),
        peaks=peaks,
        notes=tuple(notes),
    )


def _by_image(pairs: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for image_id, finding in pairs:
        found.setdefault(image_id, set()).add(finding)
    return found


def _size_of(path: Path, saved: HeatMap, truth: Size | None) -> Size:
    size = saved.size or truth
    if size is None:
        raise BadFiles(f"{path}: neither the map nor the truth says how large the image is.")
    if truth is not None and size != truth:
        raise BadFiles(
            f"{path} is of an image of {size[0]} x {size[1]} pixels, the truth of one of "
            f"{truth[0]} x {truth[1]}: give the truth that belongs to it."
        )
    return size


def _about_maps(
    folder: str | Path, broken: Mapping[tuple[str, str], str], absent: Collection[tuple[str, str]]
) -> list[str]:
    notes = []
    if broken:
        first = next(iter(broken.values()))
        named = some([f"{finding} of {image_id}" for image_id, finding in broken])
        notes.append(f"{folder}: maps that cannot be used, left out: {named}. The first: {first}")
    if absent:
        named = some([f"{finding} of {image_id}" for image_id, finding in sorted(absent)])
        notes.append(f"{folder}: images without a map of a finding, left out there: {named}.")
    return notes


@dataclass(frozen=True)
class Truth:
    """The truth, and what else is known of its images.

    Attributes:
        masks: image -> masks.
        facts: image -> patient, sex, age and view, where a table says them.
        positive: images of which a table says that a finding is there.
    """

    masks: Mapping[str, MaskSet]
    facts: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    positive: Collection[str] = ()
    notes: tuple[str, ...] = ()


def read_truth(path: str | Path, table: str | Path | None = None) -> Truth:
    """Read the truth, and a CheXpert table that says more of its images.

    Raises:
        BrokenAnnotations, BrokenTable: naming the file and the place in it.
        BadFiles: a truth without images, or a table of other images.
    """
    drawn = read_drawn(path)
    if table is None:
        return Truth(drawn.masks, notes=drawn.notes)
    entries = read_chexpert(Path(table).parent, Path(table).absolute(), "test")
    if not any(entry.image_id in drawn.masks for entry in entries):
        raise BadFiles(f"{table} has none of the images of {path}: give the table of that split.")
    positive = {
        e.image_id for e in entries if any(e.labels[i] == 1 for i in FINDING_TO_OBSERVATION)
    }
    facts = {
        entry.image_id: {
            "patient": entry.patient,
            "sex": entry.sex,
            "age": entry.age,
            "view": entry.projection or entry.view,
        }
        for entry in entries
    }
    return Truth(drawn.masks, facts, positive, drawn.notes)
