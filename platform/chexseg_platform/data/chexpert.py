"""CheXpert as it is distributed: full, small, or as four "batch" archives; and its test labels.

Paths in the tables are those of the full set (`CheXpert-v1.0/train/patient00001/...`). The
training archives unpack to patient folders without `train/` above them, and people keep the root
under several names, so a patient is looked for in every place where a release puts it. Folders
are listed once each; nothing is looked up per row, since a table has 223,414 of them.

A file that is missing is no error here: ingest lists it as rejected. A split is what the caller
says, never guessed from a path.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from chexseg_platform.data.entries import (
    SPLITS,
    BrokenTable,
    Entry,
    ViewPath,
    parse_view_path,
)
from chexseg_platform.data.tables import (
    PROJECTIONS,
    SEXES,
    VIEWS,
    LabelCells,
    Pick,
    Problems,
    Table,
    age_of,
    one_of,
)
from chexseg_platform.findings import OBSERVATIONS

TABLES: dict[str, tuple[str, ...]] = {
    "train": ("train.csv",),
    "valid": ("valid.csv", "val_labels.csv"),
    "test": ("test_labels.csv", "test.csv"),
}
"""Names under which each split's table is distributed."""

PATH_ALLOWED = ".../patient00001/study1/view1_frontal.jpg, below the root"
DEFAULT_SUFFIX = ".jpg"


def read_chexpert(
    root: str | Path,
    table: str | Path | None = None,
    split: str = "train",
    *,
    labels: str | Path | None = None,
    pick: Pick = iter,
) -> list[Entry]:
    """Read one table of CheXpert's layout.

    Args:
        root: the folder that holds `CheXpert-v1.0`, that folder itself, or the one that holds
            the "batch" archives, unpacked.
        table: name of the table below the root, or its path; by default the split's usual name.
            Sex, age, view and projection may be absent (as in `test_labels.csv`); the view is
            then taken from the file's name.
        split: "train", "valid" or "test".
        labels: another table whose 14 labels replace these (`train_cheXbert.csv`,
            `train_visualCheXbert.csv`); rows are matched by image.
        pick: chooses among the rows; by default all.

    Returns:
        One entry a row, in the table's order.

    Raises:
        BrokenTable: a table that is not there or ambiguous, without rows, or with a cell that is
            not allowed, a path that leaves the root, or an image listed twice.
    """
    if split not in SPLITS:
        raise ValueError(f"{split!r} is no split; use one of {', '.join(SPLITS)}.")
    base = Path(os.path.abspath(root))
    file = find_table(base, table, split)
    replaced = read_labels(find_table(base, labels, split)) if labels is not None else None
    entries = _read(base, Table(file, ["Path", *OBSERVATIONS]), split, pick)
    if replaced is not None:
        entries = _relabel(entries, replaced, Path(str(labels)))
    return entries


def read_labels(file: str | Path) -> dict[str, tuple[int | None, ...]]:
    """Read the 14 labels of each image of a table: image_id -> 14 values.

    Raises:
        BrokenTable: as `read_chexpert`.
    """
    table = Table(Path(file), ["Path", *OBSERVATIONS])
    problems = Problems(table.file)
    convert = LabelCells(table, problems)
    images = _Images(table, problems)
    found = {}
    for row, cells in table:
        view = images.view(row, cells)
        if view is not None:
            found[view.image_id] = convert(row, cells)
    problems.stop_if_any()
    return found


def find_table(root: Path, table: str | Path | None, split: str) -> Path:
    """Return the table to read: below the root in any place where a release puts it, or a path.

    Raises:
        BrokenTable: none is there, or several are.
    """
    names = [str(table)] if table is not None else list(TABLES[split])
    found = [folder / name for folder in containers(root) for name in names]
    found = list(dict.fromkeys(path for path in found if path.is_file()))
    if not found and table is not None and Path(table).is_file():
        return Path(table)
    if not found:
        raise BrokenTable(
            root, None, None, f"there is no {' or '.join(names)} here",
            "the folder that holds CheXpert's table, or the one above it",
        )  # fmt: skip
    if len(found) > 1 and found[0].parent != root:
        several = " and ".join(str(path.relative_to(root)) for path in found[:3])
        raise BrokenTable(root, None, None, f"found {several}", "one: name it, or a root below")
    return found[0]


def containers(root: Path) -> list[Path]:
    """Return the folders in which a release may put its splits or its patients, root first."""
    found = [root]
    for child in _folders(root):
        if child.lower().startswith("chexpert") or "batch" in child.lower():
            found.append(root / child)
            found += [
                root / child / below for below in _folders(root / child) if "batch" in below.lower()
            ]
    return found


class PatientFolders:
    """Finds the folder that holds a patient's studies; lists each candidate folder once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._containers = containers(root)
        self._candidates: dict[str, tuple[list[Path], list[Path]]] = {}
        self._patients: dict[Path, frozenset[str]] = {}
        self._found: dict[tuple[str, str], Path] = {}

    def parent(self, view: ViewPath) -> Path:
        """Return the folder above the patient's; where it should be, if it is nowhere."""
        key = (view.folder, view.patient)
        if key not in self._found:
            self._found[key] = self._look(view)
        return self._found[key]

    def _look(self, view: ViewPath) -> Path:
        if view.folder not in self._candidates:
            self._candidates[view.folder] = self._places(view.folder)
        written, others = self._candidates[view.folder]
        for place in written + others:
            if place not in self._patients:
                self._patients[place] = frozenset(_folders(place))
            if view.patient in self._patients[place]:
                return place
        return next((place for place in written if place.is_dir()), written[0])

    def _places(self, folder: str) -> tuple[list[Path], list[Path]]:
        """Return where `CheXpert-v1.0/train` may be: as written or with less of it; elsewhere."""
        steps = folder.split("/") if folder else []
        written = [self._root.joinpath(*steps[skip:]) for skip in range(max(1, len(steps)))]
        section = steps[-1:] if steps and steps[-1] in SPLITS else []
        others = [c.joinpath(*tail) for c in self._containers for tail in (section, [])]
        return written, others


class _Images:
    """Reads the path of each row and refuses one that leaves the root or comes twice."""

    def __init__(self, table: Table, problems: Problems) -> None:
        self._column = table.columns["Path"]
        self._problems = problems
        self._rows: dict[str, int] = {}

    def view(self, row: int, cells: list[str]) -> ViewPath | None:
        text = cells[self._column]
        view = parse_view_path(text)
        if view is None:
            self._problems.add(row, "Path", f"found {text[:200]!r}", PATH_ALLOWED)
            return None
        before = self._rows.setdefault(view.image_id, row)
        if before != row:
            self._problems.add(
                row, "Path", f"found {text!r}, an image that row {before} has too", "one row each"
            )
        return view


def _read(root: Path, table: Table, split: str, pick: Pick) -> list[Entry]:
    problems = Problems(table.file)
    convert, images = LabelCells(table, problems), _Images(table, problems)
    folders = PatientFolders(root)
    get = table.columns.get
    sex, age, side, projection = (get(c) for c in ("Sex", "Age", "Frontal/Lateral", "AP/PA"))
    entries = []
    for row, cells in pick(table):
        view = images.view(row, cells)
        labels = convert(row, cells)
        if view is None:
            continue
        folder = str(folders.parent(view))
        path = f"{folder}/{view.patient}/{view.study}/{view.name}{view.suffix or DEFAULT_SUFFIX}"
        stated = side is not None and one_of(VIEWS, problems, row, "Frontal/Lateral", cells[side])
        entries.append(
            Entry(
                image_id=view.image_id,
                patient=view.patient,
                study=view.study,
                view=stated or view.view,
                projection=None
                if projection is None
                else one_of(PROJECTIONS, problems, row, "AP/PA", cells[projection]),
                sex=None if sex is None else one_of(SEXES, problems, row, "Sex", cells[sex]),
                age=None if age is None else age_of(problems, row, "Age", cells[age]),
                split=split,
                source=path.removeprefix(f"{root}/"),
                path=path,
                labels=labels,
            )
        )
    problems.stop_if_any()
    if not entries:
        raise BrokenTable(table.file, None, None, "the table has no rows", "at least one image")
    return entries


def _relabel(
    entries: list[Entry], labels: dict[str, tuple[int | None, ...]], file: Path
) -> list[Entry]:
    absent = [entry.image_id for entry in entries if entry.image_id not in labels]
    if absent:
        raise BrokenTable(
            file, None, "Path",
            f"{len(absent):,} images of the table have no labels here, such as {absent[0]}",
            "a row for every image",
        )  # fmt: skip
    return [replace(entry, labels=labels[entry.image_id]) for entry in entries]


def _folders(place: Path) -> list[str]:
    try:
        with os.scandir(place) as found:
            return sorted(item.name for item in found if item.is_dir())
    except OSError:
        return []
