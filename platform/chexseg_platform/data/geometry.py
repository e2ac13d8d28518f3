"""The letterbox: a whole image in a square frame, and the way back.

The longest side becomes `size`, the other keeps the aspect ratio, and what is left of the frame
is zero. Nothing is cropped and nothing is stretched, so classifier, saliency and segmenter see
one frame and a prediction returns to original pixels by one inverse. (The published saliency
maps of CheXlocalize were computed on a centre crop and stretched over the whole image; an
explicit inverse rules that out.)

Names: S is the frame's side, C channels, H x W the original image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Letterbox:
    """Where an image of `height` x `width` pixels lies in a frame of `size` x `size`.

    Raises:
        ValueError: a side below one pixel.
    """

    height: int
    width: int
    size: int

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.size) < 1:
            raise ValueError(
                f"An image of {self.height} x {self.width} pixels cannot be put in a frame of "
                f"{self.size}: every side must be at least 1."
            )

    @property
    def scale(self) -> float:
        """Frame pixels per image pixel, before rounding to whole pixels."""
        return self.size / max(self.height, self.width)

    @property
    def inner_height(self) -> int:
        """Height of the image within the frame, at least 1."""
        return _scaled(self.height, self)

    @property
    def inner_width(self) -> int:
        """Width of the image within the frame, at least 1."""
        return _scaled(self.width, self)

    @property
    def top(self) -> int:
        """Rows of padding above; the odd one out goes below."""
        return (self.size - self.inner_height) // 2

    @property
    def left(self) -> int:
        """Columns of padding to the left; the odd one out goes right."""
        return (self.size - self.inner_width) // 2


def content(box: Letterbox) -> tuple[slice, slice]:
    """Return the rows and the columns of the frame that hold image, not padding."""
    return (
        slice(box.top, box.top + box.inner_height),
        slice(box.left, box.left + box.inner_width),
    )


def letterbox(image: NDArray, box: Letterbox) -> NDArray:
    """Put an image (H x W, uint8 or float) in its frame (S x S); padding is 0.

    Bilinear with antialiasing: when the image shrinks, each frame pixel averages the pixels it
    covers. uint8 stays uint8; anything else becomes float32.

    Raises:
        ValueError: the image is not of the box's height and width.
    """
    _check_shape(image.shape, box)
    kind = np.uint8 if image.dtype == np.uint8 else np.float32
    frame = np.zeros((box.size, box.size), kind)
    frame[content(box)] = _resize(image.astype(kind, copy=False), box)
    return frame


def letterbox_mask(mask: NDArray[np.bool_], box: Letterbox) -> NDArray[np.bool_]:
    """Put a bool mask (H x W) in its frame (S x S bool), resampled as `resize_mask` does.

    Raises:
        ValueError: the mask is not of the box's height and width.
    """
    _check_shape(mask.shape, box)
    frame = np.zeros((box.size, box.size), bool)
    frame[content(box)] = resize_mask(mask, box.inner_height, box.inner_width)
    return frame


def resize_mask(mask: NDArray[np.bool_], height: int, width: int) -> NDArray[np.bool_]:
    """Resample a bool mask: a pixel is set where at least half of the area it covers is set.

    A lesion that fills no pixel by half would vanish, and its image turn into a negative one.
    The pixel that it covers most is set then: a mask that is not empty never becomes empty.
    """
    if mask.shape == (height, width):
        return mask.copy()
    if not mask.any():
        return np.zeros((height, width), bool)
    share = np.asarray(
        Image.fromarray(mask.astype(np.float32)).resize((width, height), Image.Resampling.BOX)
    )
    resized = share >= 0.5 - 1e-6
    if not resized.any():
        resized[np.unravel_index(int(share.argmax()), share.shape)] = True
    return resized


def restore(map_CSS: torch.Tensor | NDArray, box: Letterbox) -> NDArray[np.float32]:
    """Bring float maps from the frame (C x S x S or S x S) back to the image (C x H x W or H x W).

    Padding is cut off, then bilinear interpolation with `align_corners=False`. Binary masks go
    back through their probabilities: restore, then threshold.

    Raises:
        ValueError: the last two sides are not S x S.
    """
    # Imported here: reading and ingest need the letterbox, but not seconds of torch.
    import torch

    maps = torch.as_tensor(map_CSS, dtype=torch.float32)
    if maps.ndim not in (2, 3) or tuple(maps.shape[-2:]) != (box.size, box.size):
        raise ValueError(
            f"Maps of shape {tuple(maps.shape)} do not fit a frame of {box.size} x {box.size}."
        )
    rows, columns = content(box)
    inner = maps[..., rows, columns]
    batch = inner[None, None] if inner.ndim == 2 else inner[None]
    full = torch.nn.functional.interpolate(
        batch, size=(box.height, box.width), mode="bilinear", align_corners=False
    )
    return (full[0, 0] if inner.ndim == 2 else full[0]).cpu().numpy()


def _scaled(side: int, box: Letterbox) -> int:
    # Whole-number arithmetic: round half up, the same on every machine.
    longest = max(box.height, box.width)
    return max(1, (2 * side * box.size + longest) // (2 * longest))


def _resize(image: NDArray, box: Letterbox) -> NDArray:
    if image.shape == (box.inner_height, box.inner_width):
        return image
    size = (box.inner_width, box.inner_height)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


def _check_shape(shape: tuple[int, ...], box: Letterbox) -> None:
    if shape != (box.height, box.width):
        raise ValueError(
            f"An array of shape {shape} is not the image of {box.height} x {box.width} pixels "
            "that this letterbox was made for."
        )
