"""One image with its masks, as it is handed to every format that is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chexseg_platform.data import masks
from chexseg_platform.prediction.inputs import Input


@dataclass(frozen=True)
class Predicted:
    """Masks of an image at its original size.

    Attributes:
        source: the image.
        height, width: its pixels.
        masks: class -> COCO counts; absent means empty.
        peaks: class -> pixel (y, x) under its map's maximum.
        highest: class -> its greatest probability in the image.
    """

    source: Input
    height: int
    width: int
    masks: Mapping[str, str]
    peaks: Mapping[str, tuple[int, int]]
    highest: Mapping[str, float]

    @property
    def image_id(self) -> str:
        return self.source.image_id

    def mask(self, name: str) -> NDArray[np.bool_]:
        """Return a class's mask, bool (H, W)."""
        counts = self.masks.get(name)
        if counts is None:
            return np.zeros((self.height, self.width), bool)
        return masks.decode(counts, self.height, self.width)


class Failure(NamedTuple):
    """What could not be done with an image: read it ("reading"), or write it in a format."""

    image: Input
    what: str
    why: str


class NotExported(ValueError):
    """One image cannot be written in one format; the others go on."""


Add = Callable[[Predicted], str | None]
"""Writes an image; returns why it was left out, where it was.

Raises:
    NotExported: where that is a failure.
"""
Export = AbstractContextManager[Add]
"""A format being written: what it wrote is whole once the context has ended without an error."""
