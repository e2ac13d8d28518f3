"""Rows of the dataset: an image in its frame with everything known about it, as Arrow.

One schema for every source, so that a stage can read any dataset. Its metadata carries the
frame's size and a version, for a reader must not guess either from the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from chexseg_platform.data.decode import MAX_PIXELS, UnreadableInput, read_grey, read_jsrt
from chexseg_platform.data.entries import (
    Entry,
    MaskSet,
    MaskSizeError,
    Outlines,
    check_mask_size,
    entry_state,
    fit_masks,
    resolve,
)
from chexseg_platform.data.geometry import Letterbox, letterbox
from chexseg_platform.data.masked.read import read_mask_files
from chexseg_platform.findings import OBSERVATIONS

VERSION = 1


def _list_of(*columns: tuple[str, pa.DataType]) -> pa.DataType:
    # "element" is what Parquet calls it: the schema is the same before and after a file.
    return pa.list_(pa.field("element", pa.struct(columns)))


_MASKS = _list_of(("finding", pa.string()), ("counts", pa.string()))
_POINTS = _list_of(("finding", pa.string()), ("x", pa.float64()), ("y", pa.float64()))

REJECTED = pa.schema(
    [
        pa.field("image_id", pa.string()),
        pa.field("source", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("message", pa.string()),
        pa.field("state", pa.string()),
    ]
)
"""Schema of `rejected.parquet`: every input that was not taken, and why.

`state` (`entries.entry_state`) tells later whether the input has been mended.
"""


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One row of a dataset; see `Entry` for the fields that tables give.

    Attributes:
        height, width: pixels of the original image.
        image: the letterboxed image, size x size bytes, row by row.
        labels: 14 values 1, 0, -1 or None.
        masks, benchmark_masks: finding -> COCO counts at height x width; None: nobody read it.
            A mask file without foreground has an empty mask here; a structure without a file, none.
        benchmark_points: (finding, x, y) in pixels of the original image; None: no such reader.
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
    height: int
    width: int
    image: bytes
    labels: tuple[int | None, ...]
    masks: Mapping[str, str] | None = None
    benchmark_masks: Mapping[str, str] | None = None
    benchmark_points: tuple[tuple[str, float, float], ...] | None = None

    def pixels(self) -> NDArray[np.uint8]:
        """Return the letterboxed image as a read-only array, size x size."""
        side = round(len(self.image) ** 0.5)
        return np.frombuffer(self.image, np.uint8).reshape(side, side)


def SCHEMA(size: int) -> pa.Schema:
    """Return the Arrow schema of a dataset of `size` x `size` images."""
    text = pa.string()
    return pa.schema(
        [
            pa.field("image_id", text),
            pa.field("patient", text),
            pa.field("study", text),
            pa.field("view", text),
            pa.field("projection", text),
            pa.field("sex", text),
            pa.field("age", pa.int32()),
            pa.field("split", text),
            pa.field("source", text),
            pa.field("height", pa.int32()),
            pa.field("width", pa.int32()),
            pa.field("image", pa.binary()),
            pa.field("labels", pa.list_(pa.field("element", pa.int8()), len(OBSERVATIONS))),
            pa.field("masks", _MASKS),
            pa.field("benchmark_masks", _MASKS),
            pa.field("benchmark_points", _POINTS),
        ],
        metadata={"chexseg.size": str(size), "chexseg.version": str(VERSION)},
    )


def make_row(entry: Entry, size: int, *, max_pixels: int = MAX_PIXELS) -> ImageRow:
    """Read an entry's image and put it, with all it carries, in a frame of `size`.

    Masks drawn at full resolution follow an image that is a smaller copy, and so do points.

    Raises:
        UnreadableInput: the file is missing or cannot be used; it carries a reason.
        MaskSizeError: the expert masks are not of this image.
    """
    image = read_image(entry, max_pixels)
    if entry.mask_files is not None:
        drawn = read_mask_files(entry.mask_files)
        entry = replace(entry, masks=drawn)
        if entry.format == "jsrt":
            image = _as_coarse(image, drawn)
        elif image.shape != (drawn.height, drawn.width):
            raise MaskSizeError(
                f"The masks of {entry.image_id} are {drawn.height} x {drawn.width} pixels, its "
                f"image {image.shape[0]} x {image.shape[1]}: give masks of the image's own size."
            )
    height, width = image.shape
    check_mask_size(entry, height, width)
    return ImageRow(
        image_id=entry.image_id,
        patient=entry.patient,
        study=entry.study,
        view=entry.view,
        projection=entry.projection,
        sex=entry.sex,
        age=entry.age,
        split=entry.split,
        source=entry.source,
        height=height,
        width=width,
        image=letterbox(image, Letterbox(height, width, size)).tobytes(),
        labels=entry.labels,
        masks=_fitted(entry.masks, height, width),
        benchmark_masks=_fitted(entry.benchmark_masks, height, width),
        benchmark_points=_points(entry, height, width),
    )


def read_image(entry: Entry, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Read an entry's image: uint8, H x W; raises UnreadableInput with a reason."""
    if not entry.path:
        raise UnreadableInput("missing", "There is a mask of this name, but no image.")
    path = resolve(entry.path)
    # The readers tell what else it is, where there is something else than a file.
    where = path if path is not None else entry.path
    return read_jsrt(where) if entry.format == "jsrt" else read_grey(where, max_pixels=max_pixels)


def _as_coarse(image: NDArray[np.uint8], drawn: MaskSet) -> NDArray[np.uint8]:
    """Return an image that is finer than its masks as coarse as they are, as SCR's are for JSRT.

    Experts are compared with at the resolution that they drew at. Another aspect is left for
    `check_mask_size` to refuse.
    """
    height, width = image.shape
    if drawn.height >= height or abs(drawn.height * width / (height * drawn.width) - 1) > 0.01:
        return image
    size = (drawn.width, drawn.height)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def rejection(entry: Entry, problem: ValueError) -> dict[str, str]:
    """Return the row of `rejected.parquet` for an entry that `make_row` refused."""
    reason = problem.reason if isinstance(problem, UnreadableInput) else "mask-size"
    return {
        "image_id": entry.image_id,
        "source": entry.source,
        "reason": reason,
        "message": str(problem),
        "state": entry_state(entry),
    }


def to_table(rows: Sequence[ImageRow], size: int) -> pa.Table:
    """Pack rows in an Arrow table of `SCHEMA(size)`.

    Raises:
        ValueError: a row whose image is not size x size bytes.
    """
    for row in rows:
        if len(row.image) != size * size:
            raise ValueError(f"{row.image_id} holds {len(row.image)} bytes, not {size} x {size}.")
    return pa.Table.from_pylist([_packed(row) for row in rows], schema=SCHEMA(size))


def _fitted(drawn: MaskSet | Outlines | None, height: int, width: int) -> Mapping[str, str] | None:
    return None if drawn is None else fit_masks(drawn, height, width).counts


def _points(entry: Entry, height: int, width: int) -> tuple[tuple[str, float, float], ...] | None:
    if entry.benchmark_points is None:
        return None
    # Point files carry no image size; the masks of the same image do.
    sized = [drawn for drawn in (entry.masks, entry.benchmark_masks) if drawn and drawn.height]
    down, right = (height / sized[0].height, width / sized[0].width) if sized else (1.0, 1.0)
    return tuple(
        (finding, x * right, y * down)
        for finding, points in entry.benchmark_points.items()
        for x, y in points
    )


def _packed(row: ImageRow) -> dict[str, Any]:
    record = {name: getattr(row, name) for name in row.__slots__}
    for name in ("masks", "benchmark_masks"):
        if record[name] is not None:
            record[name] = [{"finding": f, "counts": c} for f, c in record[name].items()]
    if row.benchmark_points is not None:
        record["benchmark_points"] = [
            {"finding": f, "x": x, "y": y} for f, x, y in row.benchmark_points
        ]
    return record
