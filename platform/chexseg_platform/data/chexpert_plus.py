"""CheXpert Plus: `df_chexpert_plus_240401.csv`, CheXbert's labels, images as PNG or DICOM.

The table holds radiology reports with line breaks inside cells, so it goes through a real CSV
parser row by row; no report text enters an entry. Labels come from JSON Lines, one file for each
part of the report they were read from.

CheXbert calls an empty findings section "No Finding". Labels of the findings section that say so
where the section is empty are therefore left blank: nothing was read, which is not the same as
nothing was found.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chexseg_platform.data.chexpert import PATH_ALLOWED
from chexseg_platform.data.entries import (
    SPLITS,
    BrokenTable,
    Entry,
    ViewPath,
    parse_view_path,
)
from chexseg_platform.data.tables import (
    LABELS_ALLOWED,
    PROJECTIONS,
    SEXES,
    VIEWS,
    Pick,
    Problems,
    Row,
    Table,
    age_of,
    one_of,
)
from chexseg_platform.findings import OBSERVATIONS

TABLE = "df_chexpert_plus_240401.csv"
SECTIONS = ("findings", "impression", "report")
COLUMNS = ("path_to_image", "frontal_lateral", "ap_pa", "age", "sex", "split")
IMAGE_FOLDERS = ("", "PNG", "DICOM", "images", "PNG/PNG", "DICOM/DICOM")
DEFAULT_SUFFIX = ".png"

_NOTHING = (None,) * len(OBSERVATIONS)
_ONLY_NO_FINDING = (1,) + (None,) * (len(OBSERVATIONS) - 1)

Labels = tuple[int | None, ...]


def read_chexpert_plus(
    root: str | Path,
    table: str = TABLE,
    split: str | None = None,
    *,
    section: str = "report",
    labels: str | Path | None = None,
    images: str | Path | None = None,
    pick: Pick | None = None,
) -> list[Entry]:
    """Read CheXpert Plus.

    Args:
        root: the folder that holds the table and `chexbert_labels/`.
        split: only rows of this split ("train" or "valid"); None takes every row.
        section: part of the report that the labels were read from: "findings", "impression" or
            "report".
        labels: the JSON Lines file, if it is not `chexbert_labels/<section>_fixed.json`.
        images: the folder that holds `train/` and `valid/`, if it is none of the usual ones.
        pick: chooses among the split's rows; labels are then left blank.

    Returns:
        One entry a row. Images without a line of labels have 14 blanks.

    Raises:
        BrokenTable: naming file, row and column; also for an image listed twice and for labels
            of images that the table does not have.
    """
    if section not in SECTIONS:
        raise ValueError(f"{section!r} is no part of a report; use one of {', '.join(SECTIONS)}.")
    base = Path(os.path.abspath(root))
    file = label_file(base, section, labels)
    known = read_label_lines(file) if pick is None else {}
    reader = _Rows(Table(base / table, COLUMNS), base, images, known, section)
    entries = list(reader.entries(split, pick or iter))
    reader.finish(file)
    if not entries:
        raise BrokenTable(base / table, None, "split", f"no rows of {split or 'any split'}")
    return entries


def label_file(root: Path, section: str = "report", labels: str | Path | None = None) -> Path:
    """Return the file of the labels of a part of the report, or `labels` where given."""
    return Path(labels) if labels else root / "chexbert_labels" / f"{section}_fixed.json"


def read_label_lines(file: Path) -> dict[str, Labels]:
    """Read labels in JSON Lines: image_id -> 14 values 1, 0, -1 or None.

    Raises:
        BrokenTable: a line that is no object, lacks a key, repeats an image or holds a value
            that is not allowed; row is the line.
    """
    problems = Problems(file)
    found: dict[str, Labels] = {}
    for row, record in _json_lines(file):
        absent = [name for name in ("path_to_image", *OBSERVATIONS) if name not in record]
        if absent:
            problems.add(row, absent[0], "no such key", "path_to_image and 14 observations")
            continue
        view = parse_view_path(str(record["path_to_image"]))
        if view is None or view.image_id in found:
            what = "found twice" if view else "found no path of an image"
            problems.add(row, "path_to_image", what, PATH_ALLOWED)
            continue
        found[view.image_id] = _labels(record, row, problems)
    problems.stop_if_any()
    return found


class _Rows:
    """Turns rows of the table into entries and remembers which labels were used."""

    def __init__(
        self, table: Table, root: Path, images: str | Path | None, labels: dict[str, Labels],
        section: str,
    ) -> None:  # fmt: skip
        self._table, self._root, self._labels = table, root, labels
        self._images = Path(os.path.abspath(images)) if images else _image_folder(root)
        self._problems = Problems(table.file)
        self._rows: dict[str, int] = {}
        self._findings = table.columns.get("section_findings") if section == "findings" else None
        self._gate = section == "findings"

    def entries(self, split: str | None, pick: Pick) -> Iterator[Entry]:
        path, side, projection, age, sex, part = self._table.positions(COLUMNS)
        check = self._problems
        for row, cells in pick(self._of_split(split, path, part)):
            view = parse_view_path(cells[path])
            assert view is not None
            file = "/".join(filter(None, [view.folder, view.patient, view.study, view.name]))
            absolute = f"{self._images}/{file}{self._suffix(view)}"
            yield Entry(
                image_id=view.image_id,
                patient=view.patient,
                study=view.study,
                view=one_of(VIEWS, check, row, "frontal_lateral", cells[side]) or view.view,
                projection=one_of(PROJECTIONS, check, row, "ap_pa", cells[projection]),
                sex=one_of(SEXES, check, row, "sex", cells[sex]),
                age=age_of(check, row, "age", cells[age]),
                split=cells[part],
                source=absolute.removeprefix(f"{self._root}/"),
                path=absolute,
                labels=self._labels_of(view.image_id, cells),
            )

    def _of_split(self, split: str | None, path: int, part: int) -> Iterator[Row]:
        """Yield the split's rows; what is wrong with any row is noted."""
        for row, cells in self._table:
            view = self._view(row, cells[path])
            if cells[part] not in SPLITS:
                self._problems.add(row, "split", f"found {cells[part][:80]!r}", ", ".join(SPLITS))
            if view is not None and split in (None, cells[part]):
                yield row, cells

    def finish(self, labels: Path) -> None:
        """Raise what was found on the way, and labels that belong to no row."""
        self._problems.stop_if_any()
        unknown = self._labels.keys() - self._rows.keys()
        if unknown:
            raise BrokenTable(
                labels, None, "path_to_image",
                f"{len(unknown):,} images that the table does not have, such as {min(unknown)}",
                "labels of this release",
            )  # fmt: skip

    def _view(self, row: int, text: str) -> ViewPath | None:
        view = parse_view_path(text)
        if view is None:
            self._problems.add(row, "path_to_image", f"found {text[:80]!r}", PATH_ALLOWED)
            return None
        before = self._rows.setdefault(view.image_id, row)
        if before != row:
            found = f"found {text!r}, an image that row {before} has too"
            self._problems.add(row, "path_to_image", found, "one row each")
        return view

    def _labels_of(self, image_id: str, cells: list[str]) -> Labels:
        labels = self._labels.get(image_id, _NOTHING)
        empty = self._findings is None or not cells[self._findings].strip()
        return _NOTHING if self._gate and empty and labels == _ONLY_NO_FINDING else labels

    def _suffix(self, view: ViewPath) -> str:
        # The table says .jpg, but only PNG and DICOM were released; `resolve` takes either.
        return DEFAULT_SUFFIX if view.suffix in (".jpg", "") else view.suffix


def _labels(record: dict[str, Any], row: int, problems: Problems) -> Labels:
    values: list[int | None] = []
    for name in OBSERVATIONS:
        value = record[name]
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value is not None and not (number and value in (1, 0, -1)):
            problems.add(row, name, f"found {str(value)[:80]!r}", LABELS_ALLOWED)
            value = None
        values.append(None if value is None else int(value))
    return tuple(values)


def _json_lines(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    row = 0
    try:
        with file.open(encoding="utf-8-sig") as lines:
            for row, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise BrokenTable(file, row, None, "found no JSON object", "one a line")
                yield row, record
    except FileNotFoundError:
        raise BrokenTable(file, None, None, "there is no such file") from None
    except UnicodeDecodeError:
        raise BrokenTable(file, row + 1, None, "found bytes that are no text", "UTF-8") from None
    except (json.JSONDecodeError, RecursionError) as problem:
        place = (
            f" at character {problem.colno}" if isinstance(problem, json.JSONDecodeError) else ""
        )
        raise BrokenTable(file, row, None, f"found no JSON{place}", "one object a line") from None


def _image_folder(root: Path) -> Path:
    """Return the first of the usual folders that holds a split."""
    folders = [root / name for name in IMAGE_FOLDERS]
    return next(
        (folder for folder in folders if any((folder / split).is_dir() for split in SPLITS)), root
    )
