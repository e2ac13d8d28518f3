"""From a map or a mask to a better one, without any model: what DoLL calls boosting.

Each step is a function of arrays and is off unless the settings ask for it. Few of a batch's
channels hold a map or a mask, and only these are worked on: 0 everywhere stays so for nothing. A
map that is not finite everywhere comes back as NaN everywhere, so that no step hides it or gives
it to another.

Shapes: B images, K classes, N maps of one image, P pixels, S side of the frame.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from chexseg_platform.models.preprocess import content_mask
from chexseg_platform.saliency.seeds import guided_filter

COMPACTNESS = 0.1
"""Of superpixels: SLIC's 10 of 100 levels of lightness. A tenth of an image's range of grey then
weighs as much as a superpixel's side. On real X-rays it is also where regions tell most of the
grey levels (0.94 of the variance with 300 regions): below, scraps are given to other regions."""


def superpixels(
    image_BSS: NDArray[np.uint8],
    content_B4: NDArray[np.int64],
    count: int,
    compactness: float = COMPACTNESS,
) -> NDArray[np.int32]:
    """Cut images into regions of like grey levels by SLIC (Achanta et al. 2012), always the same.

    Args:
        image_BSS: grey levels.
        content_B4: (top, bottom, left, right) of each image inside its frame. What is outside has
            no say: not in the regions, not in the range of grey that compactness is a share of.
        count: about how many regions an image gets, at least 1.
        compactness: above 0; the larger, the nearer to squares.

    Returns:
        (B, S, S): 0 in the padding, 1 and up in the image. A region hangs together by its pixels'
        edges.

    Raises:
        ValueError: a count below 1, or a compactness that is not above 0.
    """
    if count < 1 or not compactness > 0:
        raise ValueError(
            "Superpixels need a count of at least 1 and a compactness above 0, not "
            f"{count} and {compactness}."
        )
    from skimage.segmentation import slic  # a second that only those pay who want regions

    out = np.zeros(image_BSS.shape, np.int32)
    for image_SS, region_SS, inner in zip(image_BSS, out, _rectangles(content_B4), strict=True):
        grey = image_SS[inner].astype(np.float32)
        region_SS[inner] = slic(
            grey, n_segments=count, compactness=compactness, channel_axis=None, start_label=1
        )
    return out


def pooled(heat_BKSS: Tensor, region_BSS: Tensor) -> Tensor:
    """Give every pixel its region's mean of the map: float32, the same shape.

    Args:
        heat_BKSS: floating, at least 0.
        region_BSS: integer, at least 0, on the same device; 0 is no region and becomes 0.
    """
    out_BKSS = _blank(heat_BKSS)
    for image, class_N in _filled(heat_BKSS):
        region_P = region_BSS[image].flatten().long()
        size_R = torch.bincount(region_P).clamp_(min=1)
        for k in class_N:  # in one call for all maps torch is ten times slower
            heat_P = heat_BKSS[image, k].flatten().float()
            mean_R = torch.zeros_like(size_R, dtype=torch.float32)
            mean_R.index_add_(0, region_P, heat_P).div_(size_R)
            mean_R[0] = 0.0
            out_BKSS[image, k] = mean_R.index_select(0, region_P).view_as(heat_BKSS[image, k])
    return out_BKSS


def edge_aware(
    heat_BKSS: Tensor,
    image_BSS: Tensor,
    content_B4: Tensor,
    radius_share: float,
    smoothness: float,
) -> Tensor:
    """Smooth maps but for where the image has edges, by a guided filter: float32, the same shape.

    Args:
        heat_BKSS: floating, at least 0, as the result is; padding becomes 0.
        image_BSS: grey levels 0 to 255, uint8 or floating.
        content_B4: integer (top, bottom, left, right) of the image inside its frame.
        radius_share: of the frame's side, in (0, 1); windows reach as far, at least one pixel.
        smoothness: variance of grey levels (0 to 1) below which a window counts as smooth, above 0.

    Raises:
        ValueError: a radius outside (0, 1), or a smoothness that is not above 0.
    """
    if not (0 < radius_share < 1 and smoothness > 0):
        raise ValueError(
            "An edge-aware filter needs a radius between 0 and 1, as a share of the frame, and a "
            f"smoothness above 0, not {radius_share} and {smoothness}."
        )
    out_BKSS, side = _blank(heat_BKSS), heat_BKSS.shape[-1]
    inside_BSS = content_mask(content_B4.to(heat_BKSS.device), side, side)
    # Image by image: its maps share what is known of the guide, and they are few enough to hold.
    for image, class_N in _filled(heat_BKSS):
        inside_SS = inside_BSS[image]
        smooth_1NSS = guided_filter(
            heat_BKSS[image, class_N][None].float(),
            image_BSS[image][None].to(heat_BKSS.device).float() / 255.0,
            radius=max(1, round(radius_share * side)),
            smoothness=smoothness,
            inside_NSS=inside_SS[None],
        )
        out_BKSS[image, class_N] = smooth_1NSS[0].clamp_(min=0.0) * inside_SS
    return out_BKSS


def without_small(mask_BKSS: NDArray[np.bool_], smallest: float) -> NDArray[np.bool_]:
    """Return masks without their regions below a share of the frame's pixels.

    A region is what hangs together by its pixels' edges. A mask whose regions are all too small
    becomes empty: scattered pixels are no object.

    Args:
        smallest: in [0, 1); 0 changes nothing.
    """
    if smallest <= 0:
        return mask_BKSS
    least = smallest * mask_BKSS.shape[-1] ** 2
    out = np.zeros_like(mask_BKSS)
    for place in np.argwhere(mask_BKSS.any(axis=(2, 3))):
        region_SS, _ = ndimage.label(mask_BKSS[tuple(place)])
        large = np.bincount(region_SS.ravel()) >= least
        large[0] = False  # what is no region
        out[tuple(place)] = large[region_SS]
    return out


def ignore_band(
    mask_BKSS: NDArray[np.bool_], width: float, content_B4: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return the pixels around each object: outside it, and no farther from it than a width.

    Distances are Euclidean, between the pixels' centres. Padding is in no band, and an empty mask
    has none.

    Args:
        width: share of the frame's side, in [0, 1); above 0 it is one pixel at least.
        content_B4: (top, bottom, left, right) of each image inside its frame.

    Raises:
        ValueError: a width outside [0, 1).
    """
    if not 0 <= width < 1:
        raise ValueError(f"A band's width is a share of the frame in [0, 1), not {width}.")
    out = np.zeros_like(mask_BKSS)
    if width == 0:
        return out
    reach, inner = max(1.0, width * mask_BKSS.shape[-1]), _rectangles(content_B4)
    for b, k in np.argwhere(mask_BKSS.any(axis=(2, 3))):
        # Distances are needed near the object only, which is a fraction of the frame.
        near = _around(mask_BKSS[b, k], math.floor(reach))
        far = ndimage.distance_transform_edt(~mask_BKSS[b, k][near])
        band_SS = np.zeros_like(mask_BKSS[b, k])
        band_SS[near] = (far > 0) & (far <= reach)
        out[b, k][inner[b]] = band_SS[inner[b]]
    return out


def _blank(heat_BKSS: Tensor) -> Tensor:
    """What a step starts from: 0, and NaN for a map that is not finite."""
    high_BK11 = heat_BKSS.amax(dim=(2, 3), keepdim=True).float()
    return torch.where(high_BK11.isfinite(), 0.0, torch.nan).expand(heat_BKSS.shape).clone()


def _filled(heat_BKSS: Tensor) -> Iterator[tuple[int, list[int]]]:
    """Yield each image that has finite maps above 0, and their classes."""
    high_BK = heat_BKSS.amax(dim=(2, 3))  # not a number where one pixel is none
    for image, filled_K in enumerate((high_BK.isfinite() & (high_BK > 0)).tolist()):
        if any(filled_K):
            yield image, [k for k, filled in enumerate(filled_K) if filled]


def _rectangles(content_B4: NDArray[np.int64]) -> list[tuple[slice, slice]]:
    return [
        (slice(top, bottom), slice(left, right)) for top, bottom, left, right in content_B4.tolist()
    ]


def _around(mask_SS: NDArray[np.bool_], reach: int) -> tuple[slice, slice]:
    """The smallest rectangle around a mask that is not empty, larger by `reach` on each side."""
    rows, columns = (np.flatnonzero(mask_SS.any(axis=axis)) for axis in (1, 0))
    return (
        slice(max(0, rows[0] - reach), rows[-1] + reach + 1),
        slice(max(0, columns[0] - reach), columns[-1] + reach + 1),
    )
