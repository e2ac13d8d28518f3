"""What a table says about one image, before its pixels are read.

Every reader of a layout returns a list of `Entry`; ingest turns each into a row of the dataset.
The errors that a broken table or annotation file ends in are here too, for all readers share
them: they name file, row and column, what was found and what is allowed.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from chexseg_platform.data import masks
from chexseg_platform.data.geometry import resize_mask
from chexseg_platform.data.masks import Polygon

SPLITS = ("train", "valid", "test")
SUFFIXES = (".jpg", ".png", ".dcm", ".jpeg", ".JPG", ".PNG", ".DCM", ".dicom")
ASPECT_TOLERANCE = 0.01
STATE_BYTES = 64 << 10

_VIEW_PATH = re.compile(
    r"(?P<patient>patient\w+)/(?P<study>study\w+)/(?P<name>view\w*?(?P<view>frontal|lateral)\w*)"
    r"(?P<suffix>\.\w+)?"
)


class BrokenTable(ValueError):
    """A table that cannot be used; `file`, `row` and `column` say where the first problem is.

    Rows are counted as a text editor counts lines: the header is row 1.
    """

    def __init__(
        self, file: str | Path, row: int | None, column: str | None, found: str, allowed: str = ""
    ) -> None:
        self.file, self.row, self.column = str(file), row, column
        self.found, self.allowed = found, allowed
        super().__init__(f"{file}: {self.place}")

    @property
    def place(self) -> str:
        """The problem without its file: "row 5, column 'Edema': found '2'; allowed: ..."."""
        where = [f"row {self.row}"] if self.row is not None else []
        where += [f"column {self.column!r}"] if self.column is not None else []
        rule = f"; allowed: {self.allowed}" if self.allowed else ""
        return ", ".join(where) + (": " if where else "") + self.found + rule

    def __reduce__(self) -> tuple:
        return type(self), (self.file, self.row, self.column, self.found, self.allowed)


class BrokenAnnotations(ValueError):
    """A JSON file of expert masks or points that cannot be used; the message names the place."""


class MaskSizeError(ValueError):
    """An expert mask of another size than its image."""


@dataclass(frozen=True, slots=True)
class MaskSet:
    """Masks that one reader drew on one image: finding -> COCO counts, all height x width.

    A finding that is absent was read and is not there; where masks lie in files, each a structure's
    own (`MaskFiles`), nobody looked for it, and what was looked for and is not there is empty.
    """

    height: int
    width: int
    counts: Mapping[str, str]

    def encoded(self) -> MaskSet:
        """Return itself; `Outlines` is turned into this class by the same call."""
        return self


NOTHING_DRAWN = MaskSet(0, 0, {})
"""An expert read the image and found nothing; without masks no size is known before it is read."""


@dataclass(frozen=True, slots=True)
class Outlines:
    """Outlines that one reader drew on one image: finding -> polygons in pixels.

    They become masks where the image is read, which may be on another machine.
    """

    height: int
    width: int
    polygons: Mapping[str, Sequence[Polygon]]

    def encoded(self) -> MaskSet:
        """Draw the outlines, exactly as CheXlocalize does."""
        drawn = {
            finding: masks.rasterise(polygons, self.height, self.width)
            for finding, polygons in self.polygons.items()
        }
        counts = {finding: masks.encode(mask) for finding, mask in drawn.items() if mask.any()}
        return MaskSet(self.height, self.width, counts)


@dataclass(frozen=True, slots=True)
class MaskFiles:
    """Mask files of one image: structure -> files, of which its mask is the union.

    They are read where the image is read, which may be on another machine.

    Attributes:
        absent: structures whose file has to be there and is not: the image cannot be used.
    """

    files: Mapping[str, Sequence[str]]
    absent: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One image as its tables describe it.

    Attributes:
        image_id: "patient64622_study1_view1_frontal", as CheXlocalize names it.
        view: "frontal" or "lateral".
        projection: "AP", "PA", "LL", "RL" or None where not given.
        sex: "Male", "Female" or None. age: years or None.
        split: "train", "valid" or "test".
        source: the file's path below the root that was read, with "/".
        path: absolute path; the file itself may carry another suffix, see `resolve`; "" where a
            mask has no image.
        labels: 14 values in the order of OBSERVATIONS: 1, 0, -1 (uncertain), None (blank).
        masks, benchmark_masks: what the experts, and second readers, drew; None: nobody read it.
        benchmark_points: finding -> most representative points (x, y) of second readers.
        mask_files: what experts drew, where it lies in files; `masks` is None then.
        format: "jsrt" for raw pixels that no content tells, else "".
    """

    image_id: str
    patient: str
    study: str
    view: str
    projection: str | None
    sex: str | None
    age: int | None
    split: str
    source: str
    path: str
    labels: tuple[int | None, ...]
    masks: MaskSet | Outlines | None = None
    benchmark_masks: MaskSet | Outlines | None = None
    benchmark_points: Mapping[str, Sequence[tuple[float, float]]] | None = None
    mask_files: MaskFiles | None = None
    format: str = ""


@dataclass(frozen=True, slots=True)
class ViewPath:
    """The parts of a path `.../patient64622/study1/view1_frontal.jpg`."""

    folder: str
    patient: str
    study: str
    name: str
    view: str
    suffix: str

    @property
    def image_id(self) -> str:
        """The parts joined as CheXlocalize joins them."""
        return f"{self.patient}_{self.study}_{self.name}"


def parse_view_path(path: str) -> ViewPath | None:
    """Split a path of CheXpert's layout; None if it is none, or could leave its root."""
    start = path.find("patient")
    found = _VIEW_PATH.fullmatch(path, start) if start >= 0 else None
    folder = path[:start]
    if found is None or folder.startswith("/") or "\\" in path or "\0" in path:
        return None
    if folder and (not folder.endswith("/") or {"..", "."} & set(folder.split("/"))):
        return None
    patient, study, name, view, suffix = found.group("patient", "study", "name", "view", "suffix")
    return ViewPath(folder.rstrip("/"), patient, study, name, view, suffix or "")


def resolve(path: str | Path) -> Path | None:
    """Return the file at `path`, or the same with another image suffix, or None.

    Tables of CheXpert say .jpg also where the pixels were released as PNG or DICOM.
    """
    if os.path.isfile(path):
        return Path(path)
    stem = os.path.splitext(path)[0]
    return next((Path(stem + s) for s in SUFFIXES if os.path.isfile(stem + s)), None)


def file_state(path: str | Path) -> str:
    """Return what tells a file from another in its place, without reading all of it.

    A digest of its size and of its first and last 64 KiB; "missing" where it cannot be read.
    """
    found = resolve(path)
    try:
        with open(found or path, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            digest = hashlib.sha256(str(size).encode() + b"/" + stream.read(STATE_BYTES))
            stream.seek(max(STATE_BYTES, size - STATE_BYTES))
            digest.update(stream.read(STATE_BYTES))
            return digest.hexdigest()
    except OSError:
        return "missing"


def entry_state(entry: Entry) -> str:
    """Return `file_state` of an entry's image; with mask files, a digest of all their states."""
    if entry.mask_files is None:
        return file_state(entry.path)
    drawn = sorted(path for paths in entry.mask_files.files.values() for path in paths)
    states = [file_state(path) if path else "missing" for path in (entry.path, *drawn)]
    return hashlib.sha256("/".join(states).encode()).hexdigest()


def missing_files(entries: Iterable[Entry]) -> list[Entry]:
    """Return the entries whose file is not there under any suffix (one look per image)."""
    return [entry for entry in entries if resolve(entry.path) is None]


def check_mask_size(entry: Entry, height: int, width: int) -> None:
    """Check that the entry's masks belong to an image of `height` x `width`.

    Masks are drawn at full resolution. An image that was made smaller with its aspect kept
    (within 1 %), as those of CheXpert-small were, is allowed: see `fit_masks`.

    Raises:
        MaskSizeError: another aspect ratio, or an image larger than its masks.
    """
    for drawn in (entry.masks, entry.benchmark_masks):
        if drawn is not None:
            _check_fit(entry.image_id, drawn, height, width)


def fit_masks(drawn: MaskSet | Outlines, height: int, width: int) -> MaskSet:
    """Return the masks at the size of their image, `height` x `width`.

    Masks of a full-resolution image are resampled when the image is its smaller copy: a pixel is
    set where at least half of its area is, and no finding disappears (`geometry.resize_mask`).
    Call `check_mask_size` first: this function stretches whatever it is given.
    """
    full = drawn.encoded()
    if (full.height, full.width) == (height, width):
        return full
    counts = {
        finding: masks.encode(
            resize_mask(masks.decode(text, full.height, full.width), height, width)
        )
        for finding, text in full.counts.items()
    }
    return MaskSet(height, width, counts)


def _check_fit(image_id: str, drawn: MaskSet | Outlines, height: int, width: int) -> None:
    if drawn == NOTHING_DRAWN or (drawn.height, drawn.width) == (height, width):
        return
    aspect = (drawn.width / drawn.height) / (width / height)
    if abs(aspect - 1) <= ASPECT_TOLERANCE and height <= drawn.height and width <= drawn.width:
        return
    raise MaskSizeError(
        f"The expert masks of {image_id} are {drawn.height} x {drawn.width} pixels, its image "
        f"{height} x {width}: give the image that the masks were drawn on, or a smaller copy "
        "with the same aspect ratio."
    )
