"""CSV tables read strictly: what a cell may hold, and what is said when it holds something else.

A row at a time, since CheXpert Plus has a gigabyte of reports in its table. Problems of cells are
collected, so that one run shows how many there are; problems of the file itself end it at once.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TextIO, TypeVar

from chexseg_platform.data.entries import BrokenTable
from chexseg_platform.findings import OBSERVATIONS, UnknownFinding, canonical

SHOWN = 3
OLDEST = 120

LABEL_VALUES: dict[str, int | None] = {
    "": None,
    "1": 1,
    "1.0": 1,
    "0": 0,
    "0.0": 0,
    "-1": -1,
    "-1.0": -1,
}
LABELS_ALLOWED = "1, 0, -1 or blank"
SEXES: dict[str, str | None] = {"Male": "Male", "Female": "Female", "Unknown": None, "": None}
PROJECTIONS: dict[str, str | None] = {"": None} | {p: p for p in ("AP", "PA", "LL", "RL")}
VIEWS: dict[str, str | None] = {"Frontal": "frontal", "Lateral": "lateral", "": None}


Row = tuple[int, list[str]]
"""A record's number and its cells."""

Item = TypeVar("Item")

Pick = Callable[[Iterable[Row]], Iterable[Row]]
"""Chooses among a table's rows."""


def spread(rows: Iterable[Item], most: int, limit: int | None = None) -> list[Item]:
    """Return at most `most` rows, evenly spread over the first `limit` (all where None).

    One pass, which keeps every row, then every second, every fourth, ...
    """
    kept: list[Item] = []
    stride = 1
    for place, row in enumerate(islice(rows, limit)):
        if place % stride:
            continue
        kept.append(row)
        if len(kept) > most:
            kept, stride = kept[::2], 2 * stride
    return kept


@dataclass
class Table:
    """A CSV file with its header read and checked; iterate it for (row number, cells).

    Attributes:
        columns: name -> position; names of observations in our spelling.

    Raises:
        BrokenTable: no such file, an empty one, or a header that lacks or doubles a column.
    """

    file: Path
    required: Sequence[str]
    columns: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        header = next(self._records(), None)
        if header is None:
            raise BrokenTable(self.file, None, None, "the file is empty", "a table with a header")
        names = [_column_name(cell) for cell in header[1]]
        for name in names:
            if name and names.count(name) > 1:
                raise BrokenTable(self.file, 1, name, "found twice in the header", "one column")
        absent = [name for name in self.required if name not in names]
        if absent:
            raise BrokenTable(
                self.file, 1, absent[0], f"no such column ({len(absent)} missing)",
                "a header with " + ", ".join(self.required),
            )  # fmt: skip
        self.columns = {name: position for position, name in enumerate(names)}

    def __iter__(self) -> Iterator[Row]:
        records = self._records()
        _, header = next(records)
        for number, cells in records:
            if len(cells) != len(header):
                raise BrokenTable(
                    self.file, number, None, f"found {len(cells)} cells",
                    f"{len(header)}, as the header has (is a quote or a comma too many before?)",
                )  # fmt: skip
            yield number, cells

    def positions(self, names: Sequence[str]) -> list[int]:
        """Return where the named columns are."""
        return [self.columns[name] for name in names]

    def _records(self) -> Iterator[Row]:
        """Yield (line on which the record starts, cells); blank lines are passed over."""
        start = 1
        try:
            with _open(self.file) as lines:
                reader = csv.reader(lines, strict=True)
                for cells in reader:
                    if cells:
                        yield start, cells
                    start = reader.line_num + 1
        except FileNotFoundError:
            raise BrokenTable(self.file, None, None, "there is no such file") from None
        except UnicodeDecodeError:
            raise BrokenTable(
                self.file,
                _first_bad_line(self.file),
                None,
                "found bytes that are no text",
                "UTF-8; save the table as that",
            ) from None
        except (csv.Error, EOFError, OSError) as problem:
            raise BrokenTable(
                self.file, start, None, f"found no readable row ({problem})"
            ) from None


@dataclass
class Problems:
    """Problems of cells, collected until the table has been read."""

    file: Path
    first: list[BrokenTable] = field(default_factory=list)
    count: int = 0

    def add(self, row: int, column: str | None, found: str, allowed: str) -> None:
        """Note a problem."""
        self.count += 1
        if self.count <= SHOWN:
            self.first.append(BrokenTable(self.file, row, column, found, allowed))

    def stop_if_any(self) -> None:
        """Raise the first problem, with the next ones and the number of the others told."""
        if not self.first:
            return
        first, *others = self.first
        more = "".join(f"; {problem.place}" for problem in others)
        if self.count > SHOWN:
            more += f"; and {self.count - SHOWN:,} more problems"
        raise BrokenTable(self.file, first.row, first.column, first.found, first.allowed + more)


class LabelCells:
    """Turns the 14 label cells of a row into values; equal rows share one tuple."""

    def __init__(self, table: Table, problems: Problems) -> None:
        self._positions = table.positions(OBSERVATIONS)
        self._problems = problems
        self._seen: dict[tuple[str, ...], tuple[int | None, ...]] = {}

    def __call__(self, row: int, cells: list[str]) -> tuple[int | None, ...]:
        texts = tuple([cells[position] for position in self._positions])
        values = self._seen.get(texts)
        if values is None:
            values = self._convert(row, texts)
        return values

    def _convert(self, row: int, texts: tuple[str, ...]) -> tuple[int | None, ...]:
        bad = [name for name, text in zip(OBSERVATIONS, texts, strict=True)
               if text.strip() not in LABEL_VALUES]  # fmt: skip
        for name in bad:
            found = f"found {texts[OBSERVATIONS.index(name)]!r}"
            self._problems.add(row, name, found, LABELS_ALLOWED)
        values = tuple([LABEL_VALUES.get(text.strip()) for text in texts])
        if not bad:
            self._seen[texts] = values
        return values


def one_of(
    choices: dict[str, str | None], problems: Problems, row: int, column: str, text: str
) -> str | None:
    """Look a cell up among its choices; note a problem where it is none of them."""
    found = choices.get(text, "?")
    if found == "?":
        allowed = ", ".join(filter(None, choices)) + " or blank"
        problems.add(row, column, f"found {text!r}", allowed)
        return None
    return found


def age_of(problems: Problems, row: int, column: str, text: str) -> int | None:
    """Read an age in whole years; blank is None."""
    if not text:
        return None
    try:
        years = float(text)
    except ValueError:
        years = -1.0
    if not 0 <= years <= OLDEST:
        problems.add(row, column, f"found {text!r}", f"0 to {OLDEST} or blank")
        return None
    return int(years)


def _open(file: Path) -> TextIO:
    if file.suffix == ".gz":
        return gzip.open(file, "rt", encoding="utf-8-sig", newline="")
    return file.open(encoding="utf-8-sig", newline="")


def _first_bad_line(file: Path) -> int | None:
    """Return the line that is no UTF-8: text is decoded in blocks, so an error does not tell."""
    with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return None


def _column_name(cell: str) -> str:
    try:
        return canonical(cell)
    except UnknownFinding:
        return cell.strip()
