"""Methods' masks matched with the truth's, image by image, and counted.

What each side lacks is taken as CheXlocalize's evaluation takes it, or left out, and in either case
counted and named in the notes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import pyarrow as pa

from chexseg_platform.data.chexlocalize import Points
from chexseg_platform.data.entries import MaskSet
from chexseg_platform.evaluation import hits
from chexseg_platform.evaluation.comparison import RADIOLOGISTS, Comparison
from chexseg_platform.evaluation.counts import ImageFacts, ImageMasks, count_images
from chexseg_platform.evaluation.files import BadFiles, Predicted, Size, Tick, Truth
from chexseg_platform.evaluation.outlines import some
from chexseg_platform.findings import FINDINGS

BLOCK = 64
"""Images counted at a time."""


def with_notes(comparison: Comparison, notes: Sequence[str]) -> Comparison:
    """Return a comparison that says what was left out of the files."""
    return replace(comparison, notes=(*dict.fromkeys(notes), *comparison.notes))


def count_files(
    truth: Truth,
    methods: Mapping[str, Predicted],
    *,
    readers: Predicted | None = None,
    points: Mapping[str, Points] | None = None,
    boundary: bool = False,
    tick: Tick = lambda _: None,
) -> tuple[pa.Table, list[str]]:
    """Count methods, and second readers, against the truth.

    An image that a method lacks is one on which it found nothing, as in CheXlocalize's evaluation.
    One that the truth lacks has no finding, unless a table says otherwise; then nobody read it.

    Args:
        readers: masks of second readers; an image of the truth that they lack they did not read.
        points: image -> finding -> points of second readers.

    Returns:
        The count table, and notes on what was left out or taken as empty.

    Raises:
        BadFiles: no image in common, or an image of two sizes.
    """
    every = {**methods, **({RADIOLOGISTS: readers} if readers is not None else {})}
    images = _images(truth, every)
    tables, notes = [], [*truth.notes, *_about_patients(truth), *_about_points(truth, points)]
    for name, said in every.items():
        check_images(truth, name, said)
        notes += [*said.notes, *_about_images(truth, name, said, name == RADIOLOGISTS)]
    for name, said in every.items():
        reads = name == RADIOLOGISTS
        drawn = (_drawn(truth, said, images, image, reads, points) for image in images)
        for block in _blocks(drawn):
            tables.append(count_images(block, method=name, seed=0, split="test", boundary=boundary))
            tick(len(block))
    return pa.concat_tables(tables), notes


def _images(truth: Truth, methods: Mapping[str, Predicted]) -> dict[str, Size]:
    found = {}
    for masks in (*(said.masks for said in methods.values()), truth.masks):
        found.update({image_id: (m.height, m.width) for image_id, m in masks.items()})
    return dict(sorted(found.items()))


def check_images(truth: Truth, name: str, said: Predicted) -> None:
    """Refuse a method of other images, or of images of other sizes.

    Raises:
        BadFiles: naming the first ones.
    """
    both = truth.masks.keys() & said.masks.keys()
    if not both:
        raise BadFiles(
            f"{name} and the truth have no image in common: {name} has {some(said.masks)}, the "
            f"truth {some(truth.masks)}."
        )
    wrong = [i for i in sorted(both) if _size(said.masks[i]) != _size(truth.masks[i])]
    if wrong:
        image_id = wrong[0]
        theirs, ours = ("x".join(map(str, _size(m[image_id]))) for m in (said.masks, truth.masks))
        raise BadFiles(
            f"{name} and the truth differ in size on {some(wrong)}: {theirs} and {ours} pixels "
            f"(height x width) of {image_id}. Bring predictions to the original size first."
        )


def _size(masks: MaskSet) -> Size:
    return masks.height, masks.width


def _drawn(
    truth: Truth,
    said: Predicted,
    images: Mapping[str, Size],
    image_id: str,
    reads: bool,
    points: Mapping[str, Points] | None,
) -> ImageMasks:
    drawn = truth.masks.get(image_id)
    read = {} if drawn is None else drawn.counts
    unread = drawn is None and image_id in truth.positive
    absent = image_id not in said.masks
    # Readers were given the labels: both files lack an image on which there is nothing to draw.
    silent = absent and reads and drawn is not None
    return ImageMasks(
        image=_facts(truth, image_id, images[image_id]),
        truth=None if unread else read,
        prediction=None if silent else {} if absent else said.masks[image_id].counts,
        unsaid={*said.unsaid, *said.broken.get(image_id, ())},
        peaks=None if said.peaks is None else said.peaks.get(image_id, {}),
        hits=None if unread else _hits(said, read, images, image_id, points if reads else None),
    )


def _facts(truth: Truth, image_id: str, size: Size) -> ImageFacts:
    known = {"patient": patient_of(image_id)} | dict(truth.facts.get(image_id, {}))
    return ImageFacts(image_id=image_id, height=size[0], width=size[1], **known)  # type: ignore[arg-type]


def patient_of(image_id: str) -> str:
    """The patient of CheXpert's image ids; of any other id the image itself stands for one."""
    start = image_id.partition("_")[0]
    return start if start.startswith("patient") and start[7:].isdigit() else image_id


def _hits(
    said: Predicted,
    truth: Mapping[str, str],
    images: Mapping[str, Size],
    image_id: str,
    points: Mapping[str, Points] | None,
) -> dict[str, int | None] | None:
    height, width = images[image_id]
    if points is not None:
        given = points.get(image_id, {})
        return {
            name: hits.points_hit(given.get(name, ()), truth.get(name), height, width)
            for name in FINDINGS
        }
    if said.peaks is None:
        return None
    peaks = said.peaks.get(image_id, {})
    return {
        name: hits.hit_rle(peaks.get(name), truth.get(name), height, width) for name in FINDINGS
    }


def _about_patients(truth: Truth) -> list[str]:
    if truth.facts or any(patient_of(image_id) != image_id for image_id in truth.masks):
        return []
    return ["The image ids say no patients, so every image stands for one."]


def _about_points(truth: Truth, points: Mapping[str, Points] | None) -> list[str]:
    if points is None:
        return []
    both = points.keys() & truth.masks.keys()
    if not both:
        raise BadFiles(
            f"The points and the truth have no image in common: the points have {some(points)}."
        )
    absent = sorted(truth.masks.keys() - both)
    if absent:
        return [f"No points were set on {some(absent)}: missed there, where something shows."]
    return []


def _about_images(truth: Truth, name: str, said: Predicted, reads: bool) -> list[str]:
    absent = sorted(truth.masks.keys() - said.masks.keys())
    beyond = sorted(said.masks.keys() - truth.masks.keys())
    unread = [image_id for image_id in beyond if image_id in truth.positive]
    empty = [image_id for image_id in beyond if image_id not in truth.positive]
    notes = []
    if absent and reads:
        notes.append(f"{name} did not read {some(absent)}: left out there.")
    elif absent:
        notes.append(f"{name} has no masks of {some(absent)}: taken as empty.")
    if empty:
        notes.append(f"The truth does not list {some(empty)} of {name}: taken as without findings.")
    if unread:
        notes.append(
            f"The truth does not list {some(unread)} though their labels show a finding: left out."
        )
    return notes


def _blocks(drawn: Iterable[ImageMasks]) -> Iterable[Sequence[ImageMasks]]:
    held: list[ImageMasks] = []
    for image in drawn:
        held.append(image)
        if len(held) == BLOCK:
            yield held
            held = []
    if held:
        yield held
