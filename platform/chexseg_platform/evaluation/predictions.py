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
from typing import IO, Any

from pycocotools import mask as coco

from chexseg_platform.data.masks import CorruptMask, area
from chexseg_platform.findings import (
    CHEXLOCALIZE_NAMES,
    FINDINGS,
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
