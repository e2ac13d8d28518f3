"""From the experiment file's `data` section to entries: tables read, masks attached, checked."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from chexseg_platform.config import Collection, Data, Phantom, Table
from chexseg_platform.data.chexlocalize import attach, read_masks, read_points
from chexseg_platform.data.chexpert import find_table, read_chexpert, read_labels
from chexseg_platform.data.chexpert_plus import label_file, read_chexpert_plus, read_label_lines
from chexseg_platform.data.entries import SPLITS, Entry, entry_state, file_state
from chexseg_platform.data.masked.collection import read_collection
from chexseg_platform.data.masked.doubles import Double, without_doubles
from chexseg_platform.data.splits import assert_disjoint
from chexseg_platform.data.tables import Pick, spread
from chexseg_platform.findings import OBSERVATIONS

SAMPLED = 1000
"""Images of a table whose content enters the dataset's fingerprint."""
READING = 2
"""Raised when the same mask files make another dataset."""


class NoImages(ValueError):
    """The tables hold no image that the experiment asks for."""


class ImagesTwice(ValueError):
    """Some images are in more than one table; `image_ids` lists them all."""

    def __init__(self, message: str, image_ids: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.image_ids = tuple(image_ids)


def tables_of(data: Data, phantom: Path | None) -> list[Table]:
    """Return the tables to read: the experiment's own, or those of a phantom folder."""
    if data.phantom is None:
        return list(data.tables)
    assert phantom is not None
    return phantom_tables(phantom, data.phantom) if data.phantom.layout == "chexpert" else []


def collections_of(data: Data, phantom: Path | None) -> list[Collection]:
    """Return the collections to read, likewise."""
    wish = data.phantom
    if wish is None or wish.layout == "chexpert":
        return list(data.collections)
    if wish.layout in ("covid-qu-ex", "folder"):
        return [Collection(layout=wish.layout, root=str(phantom))]
    # The others have no splits, or but two: shares that give the numbers asked for.
    folds = wish.layout == "jsrt"
    images = wish.train + wish.valid + (0 if folds else wish.test)
    test = 0.0 if folds else wish.test / images
    return [Collection(layout=wish.layout, root=str(phantom), valid=wish.valid / images, test=test)]


def phantom_tables(folder: Path, phantom: Phantom) -> list[Table]:
    """Return the tables of a phantom's folder; they are laid out as the real ones are."""
    chexpert, localize = folder / "CheXpert-v1.0", folder / "CheXlocalize"
    tables = []
    if phantom.train:
        tables.append(Table(table=str(chexpert / "train.csv"), split="train"))
    if phantom.valid:
        tables.append(
            Table(
                table=str(chexpert / "valid.csv"),
                split="valid",
                truth=str(localize / "gt_segmentations_val.json"),
            )
        )
    if phantom.test:
        tables.append(
            Table(
                table=str(localize / "CheXpert" / "test_labels.csv"),
                split="test",
                truth=str(localize / "gt_segmentations_test.json"),
                benchmark=str(localize / "hb_segmentations_test.json"),
                points=str(localize / "hb_salient_pt_test.json"),
            )
        )
    return tables


class Inputs(NamedTuple):
    """What an experiment's data section names: images to read, and copies of them left out."""

    entries: list[Entry]
    doubles: list[Double]


def read_entries(data: Data, phantom: Path | None = None) -> Inputs:
    """Read every table or collection of an experiment: entries in their order.

    Of collections each picture is taken once, see `masked.doubles`.

    Raises:
        NoCollection: a folder does not hold the layout that was named.
        BrokenTable, BrokenAnnotations, UnknownImages: naming file and place.
        PatientInTwoSplits: a patient may be in one split only.
        ImagesTwice: an image may be in one table only.
        NoImages: if nothing is left.
    """
    listed: list[Entry] = []
    for table in tables_of(data, phantom):
        listed.extend(read_table(table, data.views))
    collections = collections_of(data, phantom)
    listed.extend(_listed(collections))
    if not listed:
        raise NoImages(
            f"the tables hold no {' or '.join(data.views)} image; check data.tables and data.views"
        )
    found = Inputs(*without_doubles(listed)) if collections else Inputs(listed, [])
    # What has masks and no image is refused later, and is in no split.
    seen = [entry for entry in found.entries if entry.path]
    assert_disjoint({split: [e for e in seen if e.split == split] for split in SPLITS})
    assert_once(seen)
    return found


def _listed(collections: Sequence[Collection]) -> list[Entry]:
    """List collections one after the other; a `source` that two of them have gets a number."""
    found = [read_collection(wish) for wish in collections]
    count = Counter(entry.source for entries in found for entry in entries)
    return [
        replace(entry, source=f"collections.{number}: {entry.source}")
        if count[entry.source] > 1
        else entry
        for number, entries in enumerate(found)
        for entry in entries
    ]


def assert_once(entries: Iterable[Entry]) -> None:
    """Raise ImagesTwice if an image is in more than one table."""
    places: dict[str, list[str]] = {}
    for entry in entries:
        places.setdefault(entry.image_id, []).append(entry.source)
    twice = [name for name, sources in places.items() if len(sources) > 1]
    if twice:
        raise ImagesTwice(
            f"{len(twice):,} images are in more than one table or collection, such as {twice[0]} "
            f"({' and '.join(places[twice[0]])}); list each image once in data, and rename files "
            "of one name that hold different images",
            twice,
        )


def read_table(
    table: Table, views: Iterable[str] = ("frontal", "lateral"), *, allow_unknown: bool = False
) -> list[Entry]:
    """Read one table of the experiment with the masks that belong to it.

    Args:
        allow_unknown: leave out masks of images that the table does not list, as is always done
            where only some of its images are taken.
    """
    entries = _read(table)
    subset = table.limit is not None or set(views) != {"frontal", "lateral"}
    entries = [entry for entry in entries if entry.view in set(views)][: table.limit]
    if not (table.truth or table.benchmark or table.points):
        return entries
    return attach(
        entries,
        truth=read_masks(table.truth) if table.truth else None,
        benchmark=read_masks(table.benchmark) if table.benchmark else None,
        points=read_points(table.points) if table.points else None,
        allow_unknown=subset or allow_unknown,
    )


def broken_files(table: Table) -> list[Exception]:
    """Return what is wrong with the files of a table, each read by itself."""
    reads: list[Callable[[], object]] = [partial(_read, table, iter), partial(_read_labels, table)]
    reads += [partial(read_masks, path) for path in (table.truth, table.benchmark) if path]
    reads += [partial(read_points, table.points)] if table.points else []
    found: list[Exception] = []
    for read in reads:
        try:
            read()
        except (ValueError, OSError) as error:
            found.append(error)
    return found


def _read_labels(table: Table) -> None:
    """Read labels that are in a file of their own."""
    root = Path(os.path.abspath(root_of(table)))
    if table.layout == "chexpert-plus":
        read_label_lines(label_file(root, labels=table.labels))
    elif table.labels:
        read_labels(find_table(root, table.labels, table.split))


def root_of(table: Table) -> Path:
    """Return the folder that a table's paths start from."""
    return Path(table.root) if table.root else Path(table.table).parent


def _read(table: Table, pick: Pick | None = None) -> list[Entry]:
    """Read a table's images without masks; `pick` chooses among its rows."""
    path, root = Path(table.table), root_of(table)
    if not path.is_file():
        raise NoImages(_not_there(path))
    if table.layout == "chexpert-plus":
        return read_chexpert_plus(root, path.name, table.split, labels=table.labels, pick=pick)
    if pick is not None:
        return read_chexpert(root, path, table.split, pick=pick)
    return read_chexpert(root, path, table.split, labels=table.labels)


def content(data: Data) -> dict[str, Any]:
    """Return what decides a dataset's content, for its fingerprint.

    Tables count by their bytes and not by where they lie. Images count by a sample of their
    content, for hashing 439 GB would take longer than using them.
    """
    shared = {"size": data.size, "views": sorted(data.views)}
    if data.phantom is not None:
        read = {} if data.phantom.layout == "chexpert" else {"reading": READING}
        return {**shared, "phantom": _drawn(data.phantom), **read}
    if data.collections:
        return {**shared, "collections": [_collection_content(item) for item in data.collections]}
    return {**shared, "tables": [_table_content(table) for table in data.tables]}


def _table_content(table: Table) -> dict[str, Any]:
    files = {
        name: getattr(table, name) for name in ("table", "labels", "truth", "benchmark", "points")
    }
    return {
        "split": table.split,
        "layout": table.layout,
        "limit": table.limit,
        "files": {name: digest(Path(path)) for name, path in files.items() if path},
        "images": _sample(table),
    }


def _sample(table: Table) -> str:
    """Return a digest of some of a table's images, evenly spread over its rows."""
    some = _read(table, partial(spread, most=SAMPLED, limit=table.limit))
    return _states([(entry.image_id, entry.path) for entry in some])


def _collection_content(wish: Collection) -> dict[str, Any]:
    """Names and splits count in full, images and masks by a sample of each."""
    entries = read_collection(wish)
    drawn = [
        (f"{entry.image_id} {name}", path)
        for entry in entries
        if entry.mask_files is not None
        for name, paths in entry.mask_files.files.items()
        for path in paths
    ]
    seen = [(entry.image_id, entry.path) for entry in entries]
    return {
        "layout": wish.layout,
        "reading": READING,
        "names": hashlib.sha256(
            json.dumps([[e.image_id, e.patient, e.split] for e in entries]).encode()
        ).hexdigest(),
        "images": _states(spread(seen, SAMPLED)),
        "masks": _states(spread(drawn, SAMPLED)),
    }


def _states(files: Iterable[tuple[str, str]]) -> str:
    """Return a digest of some files' contents, each with a name."""
    states = [[name, file_state(path)] for name, path in files]
    return hashlib.sha256(json.dumps(states).encode()).hexdigest()


def states_of(data: Data, names: Iterable[str]) -> list[str]:
    """Return `entry_state` of the images that entries name as their `source`."""
    if data.collections:
        drawn = {entry.source: entry for entry in _listed(data.collections)}
        return [entry_state(drawn[name]) if name in drawn else "missing" for name in names]
    roots = list(dict.fromkeys(root_of(table).absolute() for table in data.tables))
    found = ([file_state(root / name) for root in roots] for name in names)
    return [next((state for state in each if state != "missing"), "missing") for each in found]


def digest(path: Path) -> str:
    """Return a file's sha256; raises FileNotFoundError with advice."""
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        raise NoImages(_not_there(path)) from None
    except OSError as error:
        raise NoImages(f"{path} cannot be read: {error.strerror}") from None


def _not_there(path: Path) -> str:
    """Say that a file is missing, and what lies where it should be."""
    folder = path.parent
    if folder.is_dir():
        there = sorted(item.name for item in folder.iterdir())
        more = ", ..." if len(there) > 8 else ""
        return f"there is no file {path}; in that folder: {', '.join(there[:8])}{more}"
    while not folder.is_dir():
        folder = folder.parent
    return f"there is no file {path}; of its folders only {folder} is there"


def phantom_folder_name(phantom: Phantom) -> str:
    """Return the folder name of a phantom: its numbers."""
    text = json.dumps(_drawn(phantom), sort_keys=True)
    return f"phantom-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _drawn(phantom: Phantom) -> dict[str, Any]:
    """Return a phantom's numbers, and its layout where it is another than the first there was."""
    plain = {"layout"} if phantom.layout == "chexpert" else set()
    return phantom.model_dump(exclude=plain)


def count_labels(labels: Iterable[Iterable[int | None]]) -> dict[str, dict[str, int]]:
    """Count each observation's labels: present, absent, uncertain, unmentioned."""
    names = {1: "present", 0: "absent", -1: "uncertain", None: "unmentioned"}
    counts: dict[str, Counter[str]] = {name: Counter() for name in OBSERVATIONS}
    for row in labels:
        for name, value in zip(OBSERVATIONS, row, strict=True):
            counts[name][names[value]] += 1
    return {name: {key: count[key] for key in names.values()} for name, count in counts.items()}
