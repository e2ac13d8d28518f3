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
OPEN = (1, 255, 65_535)
"""Values that foreground may have; background is 0."""
SAVE = "Save it with values below 128 as 0 and the others as 255"
ABOUT = 64
"""What lies nearer to black or white than this, JPEG may have left there."""


def read_mask_files(drawn: MaskFiles) -> MaskSet:
    """Read an image's masks; one without foreground is an empty mask.

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
    counts = {name: masks.encode(each) for name, each in found.items()}
    return MaskSet(mask.shape[0], mask.shape[1], counts)


def read_mask(path: str | Path) -> NDArray[np.bool_]:
    """Read one mask file, bool (H, W); errors as `read_mask_files`."""
    # Masks of all structures have one name; it is the folder that tells them apart.
    name = "/".join(Path(path).parts[-2:])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Image.open(path, formats=(*FORMATS, "JPEG")) as image:
                masks.check_size(image.height, image.width)
                values = _values(image, name)
    except UnreadableInput:
        raise
    except FileNotFoundError:
        raise UnreadableInput("mask", f"The mask {name} is missing.") from None
    except Exception as problem:
        raise UnreadableInput(
            "mask",
            f"The mask {name} cannot be read ({type(problem).__name__}): it should be a sound PNG, "
            "GIF, BMP or TIFF.",
        ) from None
    there = np.unique(values).tolist()
    if not any(set(there) <= {0, value} for value in OPEN):
        other = [value for value in there if value not in (0, 255)]
        shown = ", ".join(f"{value:g}" for value in other[:5]) + ", ..." * (len(other) > 5)
        raise UnreadableInput(
            "mask",
            f"The mask {name} has the values {shown} besides 0 and 255: {_advice(there)}",
        )
    return values > 0


def _values(image: Image.Image, name: str) -> NDArray:
    """Return a mask's values as they are, grey; colours as their brightness."""
    if image.format == "JPEG":
        raise UnreadableInput(
            "mask",
            f"The mask {name} is a JPEG, which does not keep black and white. {SAVE}, as a PNG.",
        )
    if image.mode.startswith(("I", "F")):  # `convert` would make white of what is above 255
        return np.asarray(image)
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        low, high = image.convert("RGBA").getchannel("A").getextrema()
        if low != high:
            raise UnreadableInput(
                "mask",
                f"The mask {name} is transparent in places: save it as black and white, without "
                "transparency.",
            )
    return np.asarray(image.convert("L"))


def _advice(values: Sequence[float]) -> str:
    """Say what to do about a mask that is not black and white."""
    if max(values) < ABOUT:
        return "if they are labels, give each structure a file of its own, black and white."
    marked = [value for value in values if value]
    if len(marked) == 1:
        return f"save {marked[0]:g} as 255, as a PNG, if it marks the structure."
    if max(values) <= 255 and not any(ABOUT <= value <= 255 - ABOUT for value in values):
        return f"JPEG leaves such behind. {SAVE}, as a PNG."
    return f"masks are black and white, not probabilities. {SAVE}, or at another threshold."


def _union(name: str, paths: Sequence[str]) -> NDArray[np.bool_]:
    read = [read_mask(path) for path in paths]
    if any(mask.shape != read[0].shape for mask in read):
        raise UnreadableInput("mask", f"The parts of {name} differ in size.")
    return np.logical_or.reduce(read)


def _by(mask: NDArray[np.bool_]) -> str:
    return f"{mask.shape[0]} x {mask.shape[1]}"
