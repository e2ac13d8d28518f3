"""Masks as PNG files, one a finding, and pictures of what was found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from chexseg_platform.data.decode import UnreadableInput, read_grey
from chexseg_platform.data.geometry import Letterbox, content, letterbox, resize_mask
from chexseg_platform.findings import FINDINGS
from chexseg_platform.prediction.output import published
from chexseg_platform.prediction.predicted import Add, NotExported, Predicted

SHOWN = 512
"""Longest side of an image in a picture, pixels."""


def file_name(finding: str) -> str:
    """Return the name of a finding's file: "Pleural_Effusion.png"."""
    return f"{finding.replace(' ', '_')}.png"


@contextmanager
def mask_pictures(folder: Path) -> Iterator[Add]:
    """Write `<image id>/<Finding>.png` for all ten findings: 8-bit grey, 0 or 255.

    Empty masks have a file too, so that a missing one means a failure and nothing else.
    """

    def add(image: Predicted) -> None:
        place = folder / image.image_id
        place.mkdir(parents=True, exist_ok=True)
        for finding in FINDINGS:
            picture = Image.fromarray(image.mask(finding).astype(np.uint8) * 255)
            with published(place / file_name(finding)) as partial:
                picture.save(partial, "PNG", compress_level=1)

    yield add


@contextmanager
def overlay_pictures(folder: Path) -> Iterator[Add]:
    """Write `<image id>.png`: the image, and the image with every finding outlined."""
    from chexseg_platform.overlays import findings_page
    from chexseg_platform.plots import png

    folder.mkdir(parents=True, exist_ok=True)

    def add(image: Predicted) -> None:
        box = Letterbox(image.height, image.width, SHOWN)
        try:
            # Read once more, for images wait in batches and must not fill the memory.
            frame = letterbox(read_grey(image.source.path), box)
        except (UnreadableInput, ValueError) as error:
            raise NotExported(f"No overlay: {error}") from None
        masks = {
            finding: resize_mask(image.mask(finding), box.inner_height, box.inner_width)
            for finding in image.masks
        }
        page = png(findings_page(frame[content(box)], masks, title=image.image_id))
        with published(folder / f"{image.image_id}.png") as partial:
            partial.write_bytes(page)

    yield add
