"""Predictions as tables: one CSV row an image and class, and CheXlocalize's own JSON."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from chexseg_platform.data.masks import area
from chexseg_platform.evaluation.predictions import PredictedImage, PredictionWriter
from chexseg_platform.findings import FINDINGS
from chexseg_platform.prediction.output import published
from chexseg_platform.prediction.predicted import Add, Failure, Predicted

COLUMNS = (
    "image", "height", "width", "finding", "threshold", "pixels", "share", "max_probability",
    "peak_x", "peak_y",
)  # fmt: skip
"""`finding` is the class, whatever it is; `share` is of the image's pixels, 0 to 1; the peak is
where the probability is highest."""


@contextmanager
def csv_table(path: Path, thresholds: Mapping[str, float]) -> Iterator[Add]:
    """Write a row an image and class, the empty ones too.

    Args:
        thresholds: class -> what cut its maps; in the order of the rows.
    """
    with published(path) as partial, _open(partial) as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)

        def add(image: Predicted) -> None:
            for name, threshold in thresholds.items():
                writer.writerow(_row(image, name, threshold))

        yield add


def _open(path: Path) -> IO[str]:
    # Names that are no UTF-8 keep their bytes.
    return path.open("w", encoding="utf-8", errors="surrogateescape", newline="")


def _row(image: Predicted, name: str, threshold: float) -> list[str | int]:
    counts = image.masks.get(name)
    pixels = 0 if counts is None else area(counts, image.height, image.width)
    y, x = image.peaks[name]
    return [
        image.image_id,
        image.height,
        image.width,
        name,
        f"{threshold:.6g}",
        pixels,
        f"{pixels / (image.height * image.width):.6f}",
        f"{image.highest[name]:.6f}",
        x,
        y,
    ]


@contextmanager
def chexlocalize_file(path: Path) -> Iterator[Add]:
    """Write one JSON file that CheXlocalize's public scripts read as it is: the ten findings."""
    with published(path) as partial, partial.open("w", encoding="utf-8") as stream:
        writer = PredictionWriter(stream)

        def add(image: Predicted) -> None:
            masks = {name: image.masks[name] for name in FINDINGS if name in image.masks}
            writer.add(PredictedImage(image.image_id, image.height, image.width, masks))

        yield add
        writer.finish()


def write_failures(path: Path, failures: Sequence[Failure]) -> None:
    """Write what could not be read, or not be written in a format, each with the reason."""
    with published(path) as partial, _open(partial) as stream:
        writer = csv.writer(stream)
        writer.writerow(("image", "file", "failed", "reason"))
        writer.writerows((f.image.image_id, f.image.path, f.what, f.why) for f in failures)
