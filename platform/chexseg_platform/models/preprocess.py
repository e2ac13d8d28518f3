"""Grey levels in, network input out: one small object, stored with every model.

A model is only as good as the normalisation it is given, and a forgotten one is the commonest
reason for saliency maps that miss the lesion. So `Preprocess` travels inside `model.json`, and
training, saliency, evaluation and serving all call this one.

Letterbox padding is zero *after* normalisation: it looks like the average grey level of the data
and not like the blackest of X-rays.

Shapes: B images, S side of the square frame, C input channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Preprocess:
    """Normalisation `(level / 255 - mean) / std`, and the number of input channels.

    Args:
        mean, std: of the grey levels on the scale 0 to 1.
        channels: 1, or 3 equal ones for encoders whose first layer expects colour.

    Raises:
        ValueError: where std is not positive, a number is not finite, or channels is not 1 or 3.
    """

    mean: float
    std: float
    channels: int = 1

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise ValueError(
                f"Normalisation needs a finite mean and a positive std; got mean {self.mean} "
                f"and std {self.std}."
            )
        if self.channels not in (1, 3):
            raise ValueError(f"Models take 1 or 3 input channels, not {self.channels}.")

    def __call__(self, image_BSS: Tensor, content_B4: Tensor | None = None) -> Tensor:
        """Normalise a batch on the device where it lies.

        Args:
            image_BSS: grey levels 0 to 255, uint8 or floating (augmented images are floating).
            content_B4: integer (top, bottom, left, right) of the image inside its frame, ends
                exclusive, as slices; None where images fill their frames.

        Returns:
            float32 (B, C, S, S). With three channels they share memory: treat it as read-only.
        """
        unit_BSS = image_BSS.to(torch.float32, copy=True)
        unit_BSS.mul_(1.0 / (255.0 * self.std)).sub_(self.mean / self.std)
        if content_B4 is not None:
            rows_BS, columns_BS = content_axes(content_B4, *unit_BSS.shape[1:])
            unit_BSS.mul_(rows_BS[:, :, None]).mul_(columns_BS[:, None, :])
        return unit_BSS[:, None].expand(-1, self.channels, -1, -1)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, read back by `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Preprocess:
        """Inverse of `to_dict`; ValueError where a field is missing or unknown."""
        try:
            return cls(**fields)
        except TypeError as error:
            raise ValueError(
                f"A stored preprocess has mean, std and channels; got {sorted(fields)}."
            ) from error


PRESETS: dict[str, tuple[float, float]] = {
    "chexpert": (0.5020, 0.2900),
    "chexpert-released": (0.5020, 0.085585),
    "imagenet": (0.4490, 0.2260),
}
"""Name -> (mean, std) of grey levels on the scale 0 to 1.

"chexpert": CheXpert's images are histogram-equalised, so their pixels are near uniform (std
1/sqrt(12)). "chexpert-released" is what the released CheXseg code divides by: 0.0856 is the
spread of image means, not of pixels, so its inputs reach ±5.8. "imagenet" is the average of
ImageNet's three channel means and stds, for encoders that start from ImageNet weights.
"""


def preset(name: str, channels: int = 1) -> Preprocess:
    """Return the named `Preprocess`; ValueError lists the names."""
    if name not in PRESETS:
        raise ValueError(f"Unknown normalisation {name!r}; choose one of {', '.join(PRESETS)}.")
    mean, std = PRESETS[name]
    return Preprocess(mean=mean, std=std, channels=channels)


def content_axes(content_B4: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Rows (B, height) and columns (B, width), bool, that hold image and not padding."""
    top, bottom, left, right = content_B4[:, :, None].unbind(1)
    row = torch.arange(height, device=content_B4.device)
    column = torch.arange(width, device=content_B4.device)
    return (row >= top) & (row < bottom), (column >= left) & (column < right)


def content_mask(content_B4: Tensor, height: int, width: int) -> Tensor:
    """Bool (B, height, width): True where a pixel is image and not padding."""
    rows, columns = content_axes(content_B4, height, width)
    return rows[:, :, None] & columns[:, None, :]
