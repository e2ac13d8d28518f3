"""Mask files to masks: what a file may hold, and what it may not."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from chexseg_platform.data import masks
from chexseg_platform.data.decode import UnreadableInput
from chexseg_platform.data.entries import MaskFiles, MaskSet

FORMATS = ("PNG", "GIF", "BMP", "TIFF")
"""JPEG is none of them: it does not keep 0 and 255."""
OPEN = ((0,), (255,), (1,), (0, 255), (0, 1))
"""Values that a mask may have."""


def read_mask_files(drawn: MaskFiles) -> MaskSet:
    """Read an image's masks.

    Raises:
        UnreadableInput: reason "mask", for a file that is missing, damaged, of another size than
            the others, or with other values than 0 and 255 (or 0 and 1).
    """
    if drawn.absent:
        raise UnreadableInput("mask", f"There is no mask of {' and of '.join(drawn.absent)}.")
    found = {name: _union(name, paths) for name, paths in drawn.files.items()}
    if not found:
        raise UnreadableInput("mask", "There is no mask of it in any folder.")
    (first, mask), *others = found.items()
    for name, other in others:
        if other.shape != mask.shape:
            raise UnreadableInput(
                "mask", f"The masks differ in size: {first} {_by(mask)}, {name} {_by(other)}."
            )
    counts = {name: masks.encode(each) for name, each in found.items() if each.any()}
    return MaskSet(mask.shape[0], mask.shape[1], counts)


def read_mask(path: str | Path) -> NDArray[np.bool_]:
    """Read one mask file, bool (H, W); errors as `read_mask_files`."""
    name = Path(path).name
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Image.open(path, formats=FORMATS) as image:
                masks.check_size(image.height, image.width)
                values = np.asarray(image.convert("L"))
    except FileNotFoundError:
        raise UnreadableInput("mask", f"The mask {name} is missing.") from None
    except Exception as problem:
        raise UnreadableInput(
            "mask",
            f"The mask {name} cannot be read ({type(problem).__name__}): it should be a PNG, GIF, "
            "BMP or TIFF.",
        ) from None
    there = tuple(np.unique(values).tolist())
    if there not in OPEN:
        other = [value for value in there if value not in (0, 255)]
        raise UnreadableInput(
            "mask",
            f"The mask {name} has the values {', '.join(map(str, other[:5]))} besides 0 and 255: "
            "masks are black and white, not probabilities, labels or JPEG.",
        )
    return values > 0


def _union(name: str, paths: Sequence[str]) -> NDArray[np.bool_]:
    read = [read_mask(path) for path in paths]
    if any(mask.shape != read[0].shape for mask in read):
        raise UnreadableInput("mask", f"The parts of {name} differ in size.")
    return np.logical_or.reduce(read)


def _by(mask: NDArray[np.bool_]) -> str:
    return f"{mask.shape[0]} x {mask.shape[1]}"
