"""Predictions in CheXlocalize's own JSON, which its public evaluation reads as it is.

`{image_id: {finding: {"size": [height, width], "counts": "..."}}}`, masks as COCO run lengths at
the original size. Its rules: every image is there, and every image has all ten findings under
CheXlocalize's names ("Airspace Opacity"), the empty ones too. A test set takes tens of megabytes,
so it is written image by image.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from pycocotools import mask as coco

from chexseg_platform.data.masks import CorruptMask, area
from chexseg_platform.findings import (
    CHEXLOCALIZE_NAMES,
    FINDINGS,
    UnknownFinding,
    canonical,
)


class BrokenPredictions(ValueError):
    """A prediction file, or predictions for one, that CheXlocalize's evaluation cannot take."""


@dataclass(frozen=True)
class PredictedImage:
    """Masks of one image: finding (our name) -> run-length string; absent means empty."""

    image_id: str
    height: int
    width: int
    masks: Mapping[str, str]


class PredictionWriter:
    """Writes a file of this form image by image; `finish` makes it whole.

    Args:
        stream: of text, empty.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._seen: set[str] = set()
        stream.write("{")

    def add(self, image: PredictedImage) -> None:
        """Write one image.

        Raises:
            BrokenPredictions: when it comes twice or a mask is not of its size.
        """
        if image.image_id in self._seen:
            raise BrokenPredictions(f"Image {image.image_id!r} is predicted twice.")
        line = f"{json.dumps(image.image_id)}: {json.dumps(_entry(image))}"
        self._stream.write((",\n" if self._seen else "\n") + line)
        self._seen.add(image.image_id)

    def finish(self) -> int:
        """Write the end; return how many images there are."""
        self._stream.write("\n}\n")
        return len(self._seen)


def write_predictions(stream: IO[str], images: Iterable[PredictedImage]) -> int:
    """Write images one after another; return how many.

    Raises:
        BrokenPredictions: as `PredictionWriter.add`.
    """
    writer = PredictionWriter(stream)
    for image in images:
        writer.add(image)
    return writer.finish()


def _entry(image: PredictedImage) -> dict[str, Any]:
    unknown = [name for name in image.masks if name not in FINDINGS]
    if unknown:
        raise BrokenPredictions(
            f"{image.image_id}: {unknown[0]!r} is not one of CheXlocalize's ten findings."
        )
    empty = _empty(image.height, image.width)
    entry = {}
    for finding in FINDINGS:
        counts = image.masks.get(finding, empty)
        _check(image.image_id, finding, counts, image.height, image.width)
        size = [image.height, image.width]
        entry[CHEXLOCALIZE_NAMES[finding]] = {"size": size, "counts": counts}
    return entry


@lru_cache(maxsize=4096)
def _empty(height: int, width: int) -> str:
    """Run lengths of an empty mask, made without the mask."""
    whole = {"size": [height, width], "counts": [height * width]}
    return coco.frPyObjects(whole, height, width)["counts"].decode("ascii")


def _check(image_id: str, finding: str, counts: str, height: int, width: int) -> int:
    try:
        return area(counts, height, width)
    except CorruptMask as error:
        raise BrokenPredictions(f"{image_id}, {finding}: {error}") from error


def read_predictions(path: str | Path) -> dict[str, PredictedImage]:
    """Read a file of this form, ours or anybody's, checking all of it.

    Findings that an image lacks are empty, and so are left out of `masks` like those whose mask
    is empty.

    Raises:
        BrokenPredictions: naming the image and finding, for text that is no JSON or no
            prediction, an image or finding given twice, an unknown finding, masks of one image
            of different sizes, run lengths that do not add up, or a file without images.
    """
    try:
        with Path(path).open(encoding="utf-8") as stream:
            whole = json.load(stream, object_pairs_hook=_unique)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BrokenPredictions(f"{path} is not JSON: {error}.") from error
    except BrokenPredictions as error:
        raise BrokenPredictions(f"{path}: {error}") from error
    if not isinstance(whole, dict) or not whole:
        raise BrokenPredictions(f"{path} holds no images: it must map image ids to findings.")
    try:
        return {image_id: _image(image_id, entry) for image_id, entry in whole.items()}
    except BrokenPredictions as error:
        raise BrokenPredictions(f"{path}: {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in pairs:
        if key in out:
            raise BrokenPredictions(f"{key!r} is given twice in one object.")
        out[key] = value
    return out


def _image(image_id: str, entry: Any) -> PredictedImage:
    if not isinstance(entry, dict) or not entry:
        raise BrokenPredictions(f"{image_id} must map findings to masks.")
    sizes: dict[tuple[int, int], str] = {}
    masks: dict[str, str] = {}
    for name, mask in entry.items():
        finding = _finding(image_id, name)
        if finding in masks:
            raise BrokenPredictions(f"{image_id}: {name!r} is given twice under two names.")
        height, width, counts = _mask(image_id, name, mask)
        sizes[height, width] = name
        masks[finding] = counts if _check(image_id, name, counts, height, width) else ""
    if len(sizes) > 1:
        raise BrokenPredictions(f"{image_id}: its masks have different sizes, {list(sizes)}.")
    (height, width) = next(iter(sizes))
    there = {name: counts for name, counts in masks.items() if counts}
    return PredictedImage(image_id, height, width, there)


def _finding(image_id: str, name: str) -> str:
    try:
        finding = canonical(name)
    except UnknownFinding as error:
        raise BrokenPredictions(f"{image_id}: {error}") from error
    if finding not in FINDINGS:
        raise BrokenPredictions(f"{image_id}: {name!r} is not one of CheXlocalize's ten findings.")
    return finding


def _mask(image_id: str, name: str, mask: Any) -> tuple[int, int, str]:
    size = mask.get("size") if isinstance(mask, dict) else None
    counts = mask.get("counts") if isinstance(mask, dict) else None
    whole = isinstance(size, list) and len(size) == 2 and all(type(side) is int for side in size)
    if not whole or not isinstance(counts, str):
        raise BrokenPredictions(
            f'{image_id}, {name}: a mask is {{"size": [height, width], "counts": "run lengths"}}.'
        )
    assert isinstance(size, list)
    return size[0], size[1], counts
