"""Masks as PNG files, one a class, and pictures of what was found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from chexseg_platform.data.decode import UnreadableInput, read_grey
from chexseg_platform.data.geometry import Letterbox, content, letterbox, resize_mask
from chexseg_platform.prediction.filenames import mask_files
from chexseg_platform.prediction.output import published
from chexseg_platform.prediction.predicted import Add, NotExported, Predicted

SHOWN = 512
"""Longest side of an image in a picture, pixels."""


@contextmanager
def mask_pictures(folder: Path, classes: Sequence[str]) -> Iterator[Add]:
    """Write `<image id>/<Class>.png` for all classes: 8-bit grey, 0 or 255.

    Empty masks have a file too, so that a missing one means a failure and nothing else.
    """
    files = mask_files(classes)

    def add(image: Predicted) -> None:
        place = folder / image.image_id
        place.mkdir(parents=True, exist_ok=True)
        for name, file in files.items():
            picture = Image.fromarray(image.mask(name).astype(np.uint8) * 255)
            with published(place / file) as partial:
                picture.save(partial, "PNG", compress_level=1)

    yield add


@contextmanager
def overlay_pictures(folder: Path, classes: Sequence[str]) -> Iterator[Add]:
    """Write `<image id>.png`: the image, and the image with all that was found outlined."""
    from chexseg_platform.overlays import class_colours, outlines_page
    from chexseg_platform.plots import png

    folder.mkdir(parents=True, exist_ok=True)
    colours = class_colours(classes)

    def add(image: Predicted) -> None:
        box = Letterbox(image.height, image.width, SHOWN)
        try:
            # Read once more, for images wait in batches and must not fill the memory.
            frame = letterbox(read_grey(image.source.path), box)
        except (UnreadableInput, ValueError) as error:
            raise NotExported(f"No overlay: {error}") from None
        masks = {
            name: resize_mask(image.mask(name), box.inner_height, box.inner_width)
            for name in image.masks
        }
        page = png(outlines_page(frame[content(box)], masks, colours, title=image.image_id))
        with published(folder / f"{image.image_id}.png") as partial:
            partial.write_bytes(page)

    yield add
