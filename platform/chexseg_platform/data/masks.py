"""Binary masks as polygons, as arrays, and as COCO compressed run lengths.

Masks travel as COCO "counts" strings: a few hundred bytes for a mask of six million pixels, the
form CheXlocalize's own JSON uses, and are counted without decoding (`overlaps.py`). A counts string
from a file is checked here before compiled code sees it, because pycocotools turns a cut or
wrong-sized one into uninitialised memory without an error. Runs go down the columns (Fortran
order) and start with background.

Polygons are drawn as CheXlocalize draws them (Pillow, mode "1", outline and fill, union of all
polygons, pixel centres at whole coordinates), which reproduces its published masks pixel by pixel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pycocotools import mask as coco

MAX_PIXELS = 100_000_000
"""No mask is larger: a size from a file must not decide how much memory is taken."""

MAX_CHARACTERS_PER_RUN = 7
"""Seven characters carry 35 bits, more than a run of MAX_PIXELS and its sign need."""

Polygon = Sequence[Sequence[float]]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]


class CorruptMask(ValueError):
    """Run lengths or polygons that cannot be a mask of the stated size."""


def rasterise(polygons: Sequence[Polygon], height: int, width: int) -> BoolArray:
    """Draw the union of `polygons` as a bool mask of `height` x `width`.

    Args:
        polygons: each a list of (x, y) points in pixels, float or int; a polygon may hold one
            or two points (it then marks a pixel or a line); parts outside the frame are cut off.

    Raises:
        CorruptMask: a polygon without points, a point that is not two finite numbers, or a
            frame that is empty or above `MAX_PIXELS`.
    """
    check_size(height, width)
    canvas = Image.new("1", (width, height))
    draw = ImageDraw.Draw(canvas)
    for polygon in polygons:
        draw.polygon(_points(polygon), outline=1, fill=1)
    return np.array(canvas, dtype=bool)


def encode(mask: BoolArray) -> str:
    """Encode a bool mask (H x W) as COCO compressed counts.

    Raises:
        CorruptMask: the array is not two-dimensional, not bool, empty or above `MAX_PIXELS`.
    """
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise CorruptMask(
            f"A mask must be a two-dimensional bool array, not {mask.dtype} of shape {mask.shape}."
        )
    check_size(*mask.shape)
    # pycocotools takes Fortran order only, and says so late and unclearly otherwise.
    return coco.encode(np.asfortranarray(mask).view(np.uint8))["counts"].decode("ascii")


def decode(counts: str, height: int, width: int) -> BoolArray:
    """Decode COCO compressed counts to a bool mask of `height` x `width`.

    Raises:
        CorruptMask: the counts are not those of a mask of this size.
    """
    runs = _checked_runs(counts, height, width)
    ink = np.zeros(len(runs), bool)
    ink[1::2] = True
    return np.repeat(ink, runs).reshape(width, height).T


def run_lengths(counts: str) -> IntArray:
    """Return the lengths of the runs in `counts`: background, foreground, background, ...

    Each length is written five bits to a character, least significant first; from the fourth
    run on, what is written is the difference to the run before the last.

    Raises:
        CorruptMask: a character that COCO never writes, a run cut short, or a negative length.
    """
    pairs, runs = parse([counts])
    return pairs.reshape(-1)[: runs[0]]


def parse(many: Sequence[str]) -> tuple[IntArray, IntArray]:
    """Parse the counts of many masks in one pass.

    Returns:
        int64 (R, 2): run lengths of background and of the foreground after it, mask after mask; a
        mask that ends with background has a foreground of 0 in its last row. And int64 (masks,):
        how many runs each has, so that it fills half as many rows, rounded up.

    Raises:
        CorruptMask: as `run_lengths`.
    """
    codes = _codes(many)
    last = np.cumsum([len(counts) for counts in many]) - 1
    if (codes[last] & 0x20).any():
        raise CorruptMask("The run lengths are cut short: the last one has no end.")
    ends = np.flatnonzero(codes < 0x20)
    runs = np.diff(np.searchsorted(ends, last, side="right"), prepend=0)
    rows = (runs + 1) // 2
    first = np.cumsum(rows) - rows
    pairs = np.zeros((int(rows.sum()), 2), np.int64)
    # Where a mask has an odd number of runs, the place after its last one stays empty.
    pairs.reshape(-1)[
        np.arange(len(ends)) + np.repeat(2 * first - np.cumsum(runs) + runs, runs)
    ] = _written(codes, ends)
    _add_up(pairs, first, rows)
    pairs[(first + rows - 1)[runs % 2 == 1], 1] = 0
    if pairs.min() < 0:
        raise CorruptMask("The run lengths hold a negative length.")
    return pairs, runs


def _written(codes: NDArray[np.uint8], ends: IntArray) -> IntArray:
    """Read the numbers: five bits a character, least significant first, the last one signed."""
    digits = np.diff(ends, prepend=-1)
    if digits.max() > MAX_CHARACTERS_PER_RUN:
        raise CorruptMask("The run lengths hold a number longer than any run can be.")
    # The last character's fifth bit is the sign: 16 to 31 stand for -16 to -1.
    top = codes[ends].astype(np.int8)
    written = (((top & 0x1F) ^ 0x10) - 0x10).astype(np.int64)
    longer = np.flatnonzero(digits > 1)
    for digit in range(1, MAX_CHARACTERS_PER_RUN):
        longer = longer[digits[longer] > digit]
        written[longer] = (written[longer] << 5) | (codes[ends[longer] - digit] & 0x1F)
    return written


def _add_up(pairs: IntArray, first: IntArray, rows: IntArray) -> None:
    """Turn differences into lengths: two chains a mask, which its very first run is no part of."""
    opening = pairs[first, 0].copy()
    pairs[first, 0] = 0
    np.cumsum(pairs, axis=0, out=pairs)
    before = np.zeros((len(first), 2), np.int64)
    before[1:] = pairs[first[1:] - 1]
    pairs -= np.repeat(before, rows, axis=0)
    pairs[first, 0] = opening


def area(counts: str, height: int, width: int) -> int:
    """Return the number of foreground pixels, without decoding.

    Raises:
        CorruptMask: the counts are not those of a mask of this size.
    """
    return int(_checked_runs(counts, height, width)[1::2].sum())


def check_size(height: int, width: int) -> None:
    """Refuse a size that no mask has.

    Raises:
        CorruptMask: an empty frame, or one above `MAX_PIXELS`.
    """
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise CorruptMask(
            f"A mask of {height} x {width} pixels is not possible: "
            f"both sides must be at least 1 and the area at most {MAX_PIXELS:,}."
        )


def _points(polygon: Polygon) -> list[tuple[float, float]]:
    try:
        points = np.asarray(polygon, dtype=np.float64)
    except (TypeError, ValueError) as problem:
        raise CorruptMask("A polygon must be a list of [x, y] points.") from problem
    if points.ndim != 2 or points.shape[1] != 2 or len(points) == 0:
        raise CorruptMask("A polygon must be a list of at least one [x, y] point.")
    # Beyond this Pillow's own integer arithmetic would wrap around.
    if not np.isfinite(points).all() or np.abs(points).max() > MAX_PIXELS:
        raise CorruptMask("A polygon holds a coordinate that is not a number or far outside.")
    if len(points) == 1:
        points = np.repeat(points, 2, axis=0)
    return [(x, y) for x, y in points.tolist()]


def _codes(many: Sequence[str]) -> NDArray[np.uint8]:
    if not all(isinstance(counts, str) and counts.isascii() for counts in many):
        raise CorruptMask("Run lengths must be a string of COCO's characters.")
    if not all(many):
        raise CorruptMask("The run lengths are empty.")
    # What lies before "0" wraps around, and so is too large as well.
    codes = np.frombuffer("".join(many).encode("ascii"), np.uint8) - np.uint8(48)
    if codes.max() > 63:
        raise CorruptMask("The run lengths hold a character that COCO never writes.")
    return codes


def _checked_runs(counts: str, height: int, width: int) -> IntArray:
    check_size(height, width)
    if isinstance(counts, str) and len(counts) > MAX_CHARACTERS_PER_RUN * (height * width + 1):
        raise CorruptMask(f"The run lengths are too long for {height} x {width} pixels.")
    runs = run_lengths(counts)
    covered = int(runs.sum())
    if covered != height * width:
        raise CorruptMask(
            f"The run lengths cover {covered:,} pixels, "
            f"but a mask of {height} x {width} has {height * width:,}."
        )
    return runs
