"""Checks of an experiment's data: tables, splits, images as far as a header tells, masks, labels.

Whether an image is there is looked up for all of them. Headers are read of all images, or of some
thousand evenly spread where there are more; only the ingest decodes pixels.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chexseg_platform.config import Data, Experiment, Table
from chexseg_platform.data import sources
from chexseg_platform.data.chexlocalize import UnknownImages
from chexseg_platform.data.decode import UnreadableInput, read_size
from chexseg_platform.data.entries import (
    SPLITS,
    Entry,
    MaskSizeError,
    check_mask_size,
    missing_files,
    resolve,
)
from chexseg_platform.data.masked.collection import read_collection
from chexseg_platform.data.splits import PatientInTwoSplits, assert_disjoint, split_patients
from chexseg_platform.findings import FINDINGS, OBSERVATIONS
from chexseg_platform.preflight.networks import Wanted
from chexseg_platform.preflight.problems import Problem

OPENED = 3000
"""Images whose header is read: so many of those with masks, and so many of the others."""

FEW_PHANTOMS = 10

REASONS = {
    "missing": "are not there",
    "truncated": "are cut short",
    "format": "are no JPEG, PNG or DICOM",
    "constant": "hold one value only",
    "too-large": "are too large",
    "dicom": "are no single radiograph",
    "decode": "are damaged",
    "mask-size": "have another size than their expert masks: give those that experts drew on, or "
    "smaller copies with the same aspect ratio",
}

Splits = dict[str, list[Entry]]


@dataclass(frozen=True)
class Bad:
    """An input that the ingest would reject."""

    source: str
    reason: str
    message: str

    def __str__(self) -> str:
        if self.reason == "missing":
            return self.source
        # What to do about masks is the same for all, and said above them.
        said = self.message.partition(":")[0] if self.reason == "mask-size" else self.message
        return f"{self.source}: {said}"


def check_data(experiment: Experiment, wanted: Sequence[Wanted]) -> Iterator[Problem]:
    """Yield what is wrong with an experiment's data.

    Args:
        wanted: the segmenters to train, for what they need of the experts.
    """
    if experiment.data.phantom is not None:
        yield from _phantom(experiment)
        return
    by_split: Splits = {split: [] for split in SPLITS}
    whole = True
    for number, table in enumerate(experiment.data.tables):
        try:
            entries, problems = _read(number, experiment.data)
        except (ValueError, OSError) as error:
            broken = sources.broken_files(table) or [error]
            yield from (Problem(str(each)) for each in broken)
            whole = False
            continue
        yield from problems
        by_split[table.split] += entries
    entries = [entry for split in SPLITS for entry in by_split[split]]
    yield from _splits(by_split)
    yield from _files(entries, experiment.data.max_rejected)
    if whole:
        yield from _labels(experiment, by_split, wanted)
        yield from _experts(experiment, by_split, wanted)


def check_collections(data: Data) -> Iterator[Problem]:
    """Yield what is wrong with collections of mask files, as far as their listing tells."""
    broken = []
    for number, wish in enumerate(data.collections):
        try:
            read_collection(wish)
        except (ValueError, OSError) as error:
            broken.append(Problem(f"collections.{number}: {error}"))
    if broken:
        yield from broken
        return
    try:
        entries, doubles = sources.read_entries(data)
    except PatientInTwoSplits as error:
        yield Problem(str(error), items=error.patients)
        return
    except sources.ImagesTwice as error:
        yield Problem(str(error), items=error.image_ids)
        return
    half = [entry for entry in entries if _is_half(entry)]
    if half:
        share = len(half) / len(entries)
        yield Problem(
            f"{len(half):,} of {len(entries):,} lack their image or a mask ({share:.1%}; "
            f"max_rejected is {data.max_rejected:.1%}):",
            fatal=share > data.max_rejected,
            items=tuple(entry.source for entry in half),
        )
    if doubles:
        yield Problem(
            f"{len(doubles):,} images are copies of others and are left out: those of the test "
            "stay, then those of validation",
            fatal=False,
        )


def _is_half(entry: Entry) -> bool:
    drawn = entry.mask_files
    return drawn is not None and (not entry.path or not drawn.files or bool(drawn.absent))


def _read(number: int, data: Data) -> tuple[list[Entry], list[Problem]]:
    """Read a table with its masks, also where some of these are of unknown images."""
    table = data.tables[number]
    first = next(n for n, other in enumerate(data.tables) if _same(other, table))
    if first != number:
        what = f"data.tables.{number} is the same table as data.tables.{first}: remove one"
        return [], [Problem(what)]
    try:
        return sources.read_table(table, data.views), []
    except UnknownImages as error:
        problem = Problem(f"{table.table}: {error}", items=error.image_ids)
        return sources.read_table(table, data.views, allow_unknown=True), [problem]


def _same(one: Table, other: Table) -> bool:
    same = Path(one.table).resolve() == Path(other.table).resolve()
    return same and (one.split, one.layout) == (other.split, other.layout)


def _splits(by_split: Splits) -> Iterator[Problem]:
    try:
        assert_disjoint(by_split)
    except PatientInTwoSplits as error:
        patients = {split: {entry.patient for entry in by_split[split]} for split in SPLITS}
        items = [
            f"{name} ({' and '.join(split for split in SPLITS if name in patients[split])})"
            for name in error.patients
        ]
        what = f"{len(items):,} patients are in more than one split; keep each in one table"
        yield Problem(what, items=tuple(items))
    for split in SPLITS:
        try:
            sources.assert_once(by_split[split])
        except sources.ImagesTwice as error:
            yield Problem(f"{split}: {error}", items=error.image_ids)


def _files(entries: Sequence[Entry], allowed: float) -> Iterator[Problem]:
    """List every image that is missing or, as its header tells, unusable."""
    if not entries:
        return
    missing = missing_files(entries)
    gone = {entry.path for entry in missing}
    there = [entry for entry in entries if entry.path not in gone]
    drawn = [entry for entry in there if _drawn(entry)]
    others = [entry for entry in there if not _drawn(entry)]
    opened, spread = _spread(drawn), _spread(others)
    bad = [Bad(entry.source, "missing", "") for entry in missing]
    bad += _unusable(opened)
    found = _unusable(spread)
    share = len(found) / max(1, len(spread))
    # Of those that were not opened, no more than is all but certain counts.
    least = share - 3 * math.sqrt(share * (1 - share) / max(1, len(spread)))
    unseen = max(0.0, least) * (len(others) - len(spread))
    bad += found
    fatal = len(bad) + unseen > allowed * len(entries)
    for reason, count in Counter(item.reason for item in bad).most_common():
        yield Problem(
            f"{count:,} of {len(entries):,} images {REASONS[reason]} "
            f"({count / len(entries):.1%}; data.max_rejected is {allowed:.1%}):",
            fatal=fatal,
            items=tuple(str(item) for item in bad if item.reason == reason),
        )
    if len(opened) + len(spread) < len(there):
        yield Problem(
            f"{len(opened) + len(spread):,} of {len(there):,} images were opened, evenly spread; "
            "the ingest looks at all of them",
            fatal=False,
        )


def _spread(entries: Sequence[Entry]) -> list[Entry]:
    """Return at most OPENED entries, evenly spread."""
    places = np.unique(np.linspace(0, len(entries) - 1, min(OPENED, len(entries))).astype(int))
    return [entries[place] for place in places]


def _unusable(entries: Iterable[Entry]) -> list[Bad]:
    bad = []
    for entry in entries:
        try:
            check_mask_size(entry, *read_size(resolve(entry.path) or entry.path))
        except UnreadableInput as problem:
            bad.append(Bad(entry.source, problem.reason, str(problem)))
        except MaskSizeError as problem:
            bad.append(Bad(entry.source, "mask-size", str(problem)))
    return bad


def _drawn(entry: Entry) -> bool:
    return entry.masks is not None or entry.benchmark_masks is not None


def _labels(
    experiment: Experiment, by_split: Splits, wanted: Sequence[Wanted]
) -> Iterator[Problem]:
    needed = {"train": "classifier and pseudo-labels learn from it"}
    if wanted:
        needed[experiment.evaluation.split] = "the comparison is made on it"
    for split, why in needed.items():
        if not by_split[split]:
            yield Problem(f"no table has `split: {split}`; {why}")
    for split in ("train", "valid"):
        entries = by_split[split]
        positive = Counter(
            name
            for entry in entries
            for name, value in zip(OBSERVATIONS, entry.labels, strict=True)
            if value == 1
        )
        without = [name for name in OBSERVATIONS if entries and not positive[name]]
        if without:
            yield Problem(
                f"{split}: no image is positive for {', '.join(without)}; "
                "nothing can be learnt or measured of them there",
                fatal=len(without) == len(OBSERVATIONS),
            )


def _experts(
    experiment: Experiment, by_split: Splits, wanted: Sequence[Wanted]
) -> Iterator[Problem]:
    drawn = [entry for entry in by_split["valid"] if _findings(entry)]
    learning = [item for item in wanted if item.settings.expert_probability > 0]
    if learning and not drawn:
        names = [name for name in experiment.arms if experiment.arm(name).expert_probability > 0]
        yield Problem(
            f"arms {', '.join(names)} learn from expert masks, but no valid table has any: "
            "give it `truth`"
        )
    patients = {entry.patient for entry in drawn}
    if drawn and len(patients) < 2 and experiment.segmenter.expert_validation > 0:
        yield Problem(
            "all expert masks are of one patient, so none can be held for validation: "
            "set segmenter.expert_validation to 0 and segmenter.threshold to a number"
        )
    tested = by_split[experiment.evaluation.split]
    if wanted and tested and not any(_findings(entry) for entry in tested):
        yield Problem(f"no {experiment.evaluation.split} image has an expert mask to compare with")
    if drawn:
        held, _ = split_patients(patients, experiment.segmenter.expert_validation, experiment.seed)
        yield from _expert_masks(learning, drawn, held)
    seen = Counter(name for entry in drawn for name in _findings(entry))
    rare = [name for name in FINDINGS if drawn and not seen[name]]
    if rare:
        yield Problem(f"no expert drew {', '.join(rare)} on a validation image", fatal=False)


def _expert_masks(
    learning: Sequence[Wanted], drawn: Sequence[Entry], held: set[str]
) -> Iterator[Problem]:
    """Check that as many expert images are left to learn from as are asked for."""
    left = sum(entry.patient not in held for entry in drawn)
    asked = {
        (item.field("segmenter.expert_masks"), item.settings.expert_masks) for item in learning
    }
    for field, count in sorted((field, count) for field, count in asked if count):
        if count > left:
            yield Problem(
                f"{field} is {count}, but experts drew on {len(drawn)} images, of which "
                f"{len(drawn) - left} (of {len(held)} patients) are held for validation: "
                f"ask for at most {left}, or hold fewer by segmenter.expert_validation"
            )


def _findings(entry: Entry) -> list[str]:
    drawn = entry.masks
    if drawn is None:
        return []
    found = getattr(drawn, "counts", None) or getattr(drawn, "polygons", {})
    return [name for name in found if found[name]]


def _phantom(experiment: Experiment) -> Iterator[Problem]:
    phantom = experiment.data.phantom
    assert phantom is not None
    for split in ("train", "valid", experiment.evaluation.split):
        if getattr(phantom, split) == 0:
            yield Problem(f"data.phantom.{split} is 0, but images of that split are needed")
    if 0 < phantom.valid < FEW_PHANTOMS:
        yield Problem(
            f"data.phantom.valid is {phantom.valid}: of fewer than about {FEW_PHANTOMS} phantoms "
            "hardly any expert image is left to learn from and to hold for validation",
            fatal=False,
        )
    if phantom.size < experiment.data.size:
        yield Problem(
            f"phantoms of {phantom.size} px are enlarged to {experiment.data.size} px", fatal=False
        )
