"""Predictions as one COCO file: images, annotations with run lengths, a category a class.

Masks are compressed run lengths with `iscrowd` 0. COCO's own files keep run lengths for crowds, but
a crowd is a region that scoring passes over and training skips; pycocotools decodes run lengths
whatever `iscrowd` says. Ids start from 1. An annotation's `score` is the greatest probability of
its class in the image, so that results can be scored by pycocotools too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from pycocotools import mask as coco

from chexseg_platform.data.masks import area
from chexseg_platform.findings import OBSERVATIONS
from chexseg_platform.prediction.output import published
from chexseg_platform.prediction.predicted import Add, Predicted


@contextmanager
def coco_file(path: Path, classes: Sequence[str]) -> Iterator[Add]:
    """Write images as they come; memory does not grow with their number."""
    there = categories(classes)
    numbers = {category["name"]: category["id"] for category in there}
    with (
        published(path) as partial,
        partial.open("w", encoding="utf-8") as stream,
        TemporaryFile("w+", encoding="utf-8") as waiting,
    ):
        annotations, images = _List(stream), _List(waiting)
        stream.write(f'{{"categories": {json.dumps(there)},\n"annotations": [')

        def add(image: Predicted) -> None:
            images.add(image_entry(image, len(images) + 1))
            for name in image.masks:
                item = annotation(image, name, len(images), len(annotations) + 1, numbers[name])
                annotations.add(item)

        yield add
        stream.write('],\n"images": [')
        waiting.seek(0)
        for line in waiting:
            stream.write(line)
        stream.write("]}\n")


def categories(classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return a segmenter's classes, in order, as COCO describes them."""
    return [
        {
            "id": number,
            "name": name,
            "supercategory": "finding" if name in OBSERVATIONS else "structure",
        }
        for number, name in enumerate(classes, start=1)
    ]


def image_entry(image: Predicted, number: int) -> dict[str, Any]:
    """Return an image as COCO describes it; `name` is its id in our other files."""
    return {
        "id": number,
        "file_name": image.source.name,
        "name": image.image_id,
        "width": image.width,
        "height": image.height,
    }


def annotation(
    image: Predicted, name: str, image_number: int, number: int, category: int
) -> dict[str, Any]:
    """Return a class's mask as COCO describes it; the box is (x, y, width, height)."""
    counts, size = image.masks[name], [image.height, image.width]
    box = coco.toBbox({"size": size, "counts": counts.encode("ascii")})
    return {
        "id": number,
        "image_id": image_number,
        "category_id": category,
        "segmentation": {"size": size, "counts": counts},
        "area": area(counts, image.height, image.width),
        "bbox": [float(side) for side in box],
        "iscrowd": 0,
        "score": round(image.highest[name], 6),
    }


class _List:
    """Items of a JSON list, written one a line, and counted."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream, self._count = stream, 0

    def __len__(self) -> int:
        return self._count

    def add(self, item: dict[str, Any]) -> None:
        self._stream.write((",\n" if self._count else "\n") + json.dumps(item))
        self._count += 1
