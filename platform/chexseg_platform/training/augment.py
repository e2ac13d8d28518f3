"""Random variation of training batches, on the device, from a generator handed in.

torchvision's transforms draw from the process's own generator and make one draw for a whole
batch; here every image has its own, from the run's seed, and the batch is one `grid_sample`.
The default varies nothing: the CheXseg models were trained so.

`prepare` puts the steps in the order that keeps padding right: intensity on grey levels, then
normalisation, then geometry, whose fill of 0 is what padding is after normalisation.

A horizontal flip swaps the patient's left and right: the heart goes to the wrong side, and what is
named by side ("left lung") is the other one (`Varied.flipped_B`). It is off unless asked for.

Shapes: B images, C input channels, K mask channels, S side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from chexseg_platform.models.preprocess import Preprocess


@dataclass(frozen=True, kw_only=True)
class Augment:
    """How far images are varied; each amount is drawn uniformly within its limits.

    Args:
        rotate: degrees, up to this either way.
        scale: zoom between 1 - scale and 1 + scale; 0 <= scale < 1.
        translate: share of the side, up to this either way, in both directions.
        brightness: share of white (255) added or taken away, up to this.
        contrast: factor between 1 - contrast and 1 + contrast about mid-grey; below 1.
        gamma: exponent between 1 / (1 + gamma) and 1 + gamma, uniform in its logarithm.
        flip: probability of a horizontal flip; see the module's text.

    Raises:
        ValueError: naming the field outside its range.
    """

    rotate: float = 0.0
    scale: float = 0.0
    translate: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    gamma: float = 0.0
    flip: float = 0.0

    def __post_init__(self) -> None:
        limits = {"rotate": 180.0, "translate": 1.0, "brightness": 1.0, "gamma": 10.0, "flip": 1.0}
        for name, high in limits.items():
            self._require(name, high, 0.0 <= getattr(self, name) <= high)
        for name in ("scale", "contrast"):
            self._require(name, 1.0, 0.0 <= getattr(self, name) < 1.0)

    def _require(self, name: str, high: float, fine: bool) -> None:
        if not fine:
            raise ValueError(
                f"augment.{name} is between 0 and {high:g}, not {getattr(self, name)}."
            )

    @property
    def moves(self) -> bool:
        """Whether geometry changes."""
        return any((self.rotate, self.scale, self.translate, self.flip))

    @property
    def shades(self) -> bool:
        """Whether grey levels change."""
        return any((self.brightness, self.contrast, self.gamma))


class Varied(NamedTuple):
    """A batch as it is varied.

    Attributes:
        image_BCSS: float32 network input.
        mask_BKSS: in the dtype that came in, or None.
        flipped_B: bool, which images are mirrored; the channels of their masks keep their order.
    """

    image_BCSS: Tensor
    mask_BKSS: Tensor | None
    flipped_B: Tensor


def prepare(
    image_BSS: Tensor,
    mask_BKSS: Tensor | None,
    preprocess: Preprocess,
    *,
    content_B4: Tensor | None = None,
    augment: Augment | None = None,
    generator: torch.Generator | None = None,
) -> Varied:
    """Grey images and masks -> network input and masks, varied where `augment` says so.

    Args:
        image_BSS: uint8 or floating grey levels, 0 to 255.
        mask_BKSS: bool, or floating in [0, 1], or None.
        preprocess, content_B4: as in models/preprocess.py.
        augment: None varies nothing.
        generator: on the CPU; needed where augment varies anything.
    """
    if augment is None or not (augment.moves or augment.shades):
        return _unmoved(preprocess(image_BSS, content_B4), mask_BKSS)
    if generator is None:
        raise ValueError("Augmentation needs a generator made from the run's seed.")
    shaded_BSS = vary_intensity(image_BSS, augment, generator)
    input_BCSS = preprocess(shaded_BSS, content_B4)
    return vary_geometry(input_BCSS, mask_BKSS, augment, generator)


def vary_intensity(image_BSS: Tensor, augment: Augment, generator: torch.Generator) -> Tensor:
    """Gamma, contrast and brightness of each image: float32 (B, S, S), levels 0 to 255."""
    if not augment.shades:
        return image_BSS
    number, device = len(image_BSS), image_BSS.device
    gamma = _uniform(number, math.log1p(augment.gamma), generator).exp().to(device)
    contrast = (1 + _uniform(number, augment.contrast, generator)).to(device)
    shift = _uniform(number, augment.brightness, generator).to(device)
    unit = image_BSS.float().div(255.0)
    if augment.gamma:
        unit = unit.pow(gamma[:, None, None])
    unit = (unit - 0.5) * contrast[:, None, None] + 0.5 + shift[:, None, None]
    return unit.clamp_(0.0, 1.0).mul_(255.0)


def vary_geometry(
    input_BCSS: Tensor,
    mask_BKSS: Tensor | None,
    augment: Augment,
    generator: torch.Generator,
) -> Varied:
    """Move each image, and its masks alike; what comes in from outside is 0.

    Bilinear; a bool mask is cut again at one half.
    """
    if not augment.moves:
        return _unmoved(input_BCSS, mask_BKSS)
    theta_B23 = affine_matrices(len(input_BCSS), augment, generator).to(input_BCSS.device)
    size = (len(input_BCSS), 1, *input_BCSS.shape[2:])
    grid_BSS2 = F.affine_grid(theta_B23, list(size), align_corners=False)
    moved_BCSS = _sample(input_BCSS, grid_BSS2)
    flipped_B = torch.linalg.det(theta_B23[:, :, :2]) < 0
    if mask_BKSS is None:
        return Varied(moved_BCSS, None, flipped_B)
    moved_mask = _sample(mask_BKSS.float(), grid_BSS2)
    cut = moved_mask >= 0.5 if mask_BKSS.dtype == torch.bool else moved_mask.to(mask_BKSS.dtype)
    return Varied(moved_BCSS, cut, flipped_B)


def _unmoved(input_BCSS: Tensor, mask_BKSS: Tensor | None) -> Varied:
    flipped_B = torch.zeros(len(input_BCSS), dtype=torch.bool, device=input_BCSS.device)
    return Varied(input_BCSS, mask_BKSS, flipped_B)


def affine_matrices(number: int, augment: Augment, generator: torch.Generator) -> Tensor:
    """(number, 2, 3) float32 maps from output to input, in `affine_grid`'s units (-1 to 1)."""
    angle = torch.deg2rad(_uniform(number, augment.rotate, generator))
    zoom = 1 + _uniform(number, augment.scale, generator)
    shift_B2 = 2 * _uniform(number * 2, augment.translate, generator).view(number, 2)
    flip = torch.rand(number, generator=generator) < augment.flip
    sign = torch.where(flip, -1.0, 1.0)
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    rows = torch.stack((sign * cos, sign * -sin, sin, cos), dim=1).view(number, 2, 2)
    # The shift is of the image as it is seen, so it is undone before rotation and zoom.
    offset = -(rows @ shift_B2[:, :, None])
    return torch.cat((rows, offset), dim=2)


def _sample(values: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(values, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _uniform(number: int, limit: float, generator: torch.Generator) -> Tensor:
    """Uniform in [-limit, limit]; drawn even where the limit is 0, so one setting does not
    change the draws of another."""
    return (torch.rand(number, generator=generator) * 2 - 1) * limit
