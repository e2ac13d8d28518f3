"""Heat map -> mask: upsample, normalise, and cut at a threshold taken from a histogram.

Maps are cut on 256 levels, `floor(255 * value)`, as CheXlocalize does: a pixel is foreground where
its level is above the threshold's. One 256-bin histogram a map then holds all there is to know:
Otsu's threshold (Otsu 1979), every fixed threshold, and, split by an expert's truth, the IoU of
every threshold at once. Everything is batched on the device; no loop over maps or thresholds.

A threshold t is a number in [0, 1] that stands for level round(255 t), so the one that is stored
beside a mask makes it again, whatever method found it. Letterbox padding takes no part: not in the
normalisation, not in the histogram, not in the mask. A map that is flat or not finite gives an
empty mask, whatever the method.

Shapes: B images, K classes, h x w cells of a heat map, S side of the frame.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from chexseg_platform.models.preprocess import content_mask
from chexseg_platform.saliency.histogram import LEVELS, histogram, to_level

Method = Literal["otsu", "mass", "fixed", "tuned"]
CACHED = 2**18
"""Pixels worked on at once on a CPU: larger temporaries leave its cache and cost twice the time."""
FLAT = 1e-6
"""A map whose range is below this share of its maximum has no shape worth cutting."""


class Masks(NamedTuple):
    """What `heat_to_mask` gives.

    mask_BKSS: bool. threshold_BK: float32 in [0, 1], NaN where no mask was cut. usable_BK: bool,
    whether one was: the map was allowed, finite and not flat.
    """

    mask_BKSS: Tensor
    threshold_BK: Tensor
    usable_BK: Tensor


class Tuned(NamedTuple):
    """What `tune` gives: threshold (K,), its pooled IoU (K,), and IoU of every threshold (K, T)."""

    threshold_K: Tensor
    iou_K: Tensor
    curve_KT: Tensor


def heat_to_mask(
    heat_BKhw: Tensor,
    size: int,
    method: Method = "otsu",
    *,
    threshold: float | Tensor | None = None,
    content_B4: Tensor | None = None,
    allowed_BK: Tensor | None = None,
) -> Masks:
    """Turn a batch of heat maps into masks at model size.

    Args:
        heat_BKhw: >= 0, any scale.
        size: S, the side of the masks.
        method: "otsu"; "mass" with the share of a map's sum that its mask holds; "fixed" with one
            threshold; "tuned" with one a class, from `tune`.
        threshold: in [0, 1], a number or (K,); NaN entries (a class that could not be tuned)
            fall back to Otsu.
        content_B4: integer (top, bottom, left, right) of the image inside its frame.
        allowed_BK: bool, where a mask may be made at all (the label, or the probability, says
            the finding is there); elsewhere the mask is empty.

    Raises:
        ValueError: for an unknown method, or a threshold that is missing or outside [0, 1].
    """
    batch, classes = heat_BKhw.shape[:2]
    given_K = _check_threshold(method, threshold, classes)
    if allowed_BK is None:
        allowed_BK = torch.ones(batch, classes, dtype=torch.bool)
    wanted_BK = allowed_BK.to(heat_BKhw.device)
    image_N, class_N = wanted_BK.nonzero(as_tuple=True)
    mask_BKSS = heat_BKhw.new_zeros((batch, classes, size, size), dtype=torch.bool)
    used_BK = heat_BKhw.new_full((batch, classes), torch.nan, dtype=torch.float32)
    # Only maps that may become masks are worked on, a few at a time where memory is cached.
    for image, klass in zip(*(_chunks(index, size) for index in (image_N, class_N)), strict=True):
        content_N4 = None if content_B4 is None else content_B4.to(image.device)[image]
        given_N = None if given_K is None else given_K.to(image.device)[klass]
        made = _cut_maps(
            heat_BKhw[image, klass][:, None], size, content_N4, given_N, method == "mass"
        )
        mask_BKSS[image, klass], used_BK[image, klass] = made
    return Masks(mask_BKSS, used_BK, ~used_BK.isnan())


def upsample(heat_BKhw: Tensor, size: int) -> Tensor:
    """Bilinear (align_corners=False) to size x size, float32."""
    return F.interpolate(heat_BKhw.float(), size=(size, size), mode="bilinear", align_corners=False)


def box_mean(heat_BKSS: Tensor, share: float, content_B4: Tensor | None = None) -> Tensor:
    """Average each map over a square box around every pixel: float32, the same shape.

    Attributions of single pixels are speckles; what they say of a place is their mean around it.
    Only pixels of the image count, so that a map does not fade towards its borders.

    Args:
        share: of the frame's side, in (0, 1); the box has the nearest odd number of pixels.
        content_B4: as in `heat_to_mask`; padding becomes 0.

    Raises:
        ValueError: a share outside (0, 1).
    """
    if not 0 < share < 1:
        raise ValueError(f"A box is a share of the frame between 0 and 1, not {share}.")
    side = heat_BKSS.shape[-1]
    reach = round((share * side - 1) / 2)
    if content_B4 is None:
        inside_B1SS = heat_BKSS.new_ones((1, 1, side, side), dtype=torch.float32)
    else:
        inside_B1SS = content_mask(content_B4.to(heat_BKSS.device), side, side)[:, None].float()
    heat = torch.where(inside_B1SS > 0, heat_BKSS.float(), 0.0)
    return _box(heat, reach) / _box(inside_B1SS, reach).clamp(min=1e-12) * inside_B1SS


def peaks(heat_BKhw: Tensor, size: int, content_B4: Tensor) -> Tensor:
    """Where each map, brought to size x size, is highest within its image; the first such pixel.

    Returns:
        int64 (B, K, 2), row and column; -1 where a map is flat or not finite.
    """
    images = len(heat_BKhw)
    if heat_BKhw.device.type == "cpu":
        images = max(1, CACHED // (heat_BKhw.shape[1] * size**2))
    parts = zip(heat_BKhw.split(images), content_B4.split(images), strict=True)
    return torch.cat([_peaks(heat, size, content) for heat, content in parts])


def normalise(heat_BKSS: Tensor, content_B4: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Min-max each map over its image region to [0, 1]; padding, flat and bad maps become 0.

    Returns:
        unit (B, K, S, S) float32, and usable (B, K): finite and not flat.
    """
    finite_BK = heat_BKSS.isfinite().all(dim=3).all(dim=2)
    heat = torch.where(finite_BK[:, :, None, None], heat_BKSS, 0.0)
    if content_B4 is None:
        low, high = heat.amin(dim=(2, 3)), heat.amax(dim=(2, 3))
    else:
        inside = content_mask(content_B4.to(heat.device), *heat.shape[2:])[:, None]
        low = heat.masked_fill(~inside, torch.inf).amin(dim=(2, 3))
        high = heat.masked_fill(~inside, -torch.inf).amax(dim=(2, 3))
    usable_BK = finite_BK & _has_shape(low, high)
    scale = torch.where(usable_BK, 1.0 / (high - low), 0.0)
    unit = ((heat - low[:, :, None, None]) * scale[:, :, None, None]).clamp_(0.0, 1.0)
    unit = torch.where(usable_BK[:, :, None, None], unit, 0.0)
    if content_B4 is not None:
        unit = unit * inside
    return unit, usable_BK


def otsu(counts: Tensor) -> Tensor:
    """Otsu's level of histograms (..., 256): foreground is above it; ties go to the lowest.

    It maximises the variance between the two groups, w0 w1 (m0 - m1)^2. A histogram of one
    level only has none, and gives 0.
    """
    mass = counts.double()
    level = torch.arange(counts.shape[-1], device=counts.device, dtype=torch.float64)
    below, moment = mass.cumsum(-1), (mass * level).cumsum(-1)
    total, whole = below[..., -1:], moment[..., -1:]
    above = total - below
    # (whole * below - moment * total)^2 / (below * above): the variance up to a factor, exact in
    # whole numbers above the line, so equal splits really tie.
    spread = (whole * below - moment * total).square() / (below * above)
    return torch.where(below * above > 0, spread, 0.0).argmax(dim=-1)


def mass_level(counts: Tensor, share: Tensor) -> Tensor:
    """The highest level above which histograms (..., 256) hold a share of their mass.

    The mass of a pixel is its level; so the mask is the smallest set of highest pixels that has
    the share, up to pixels of the same level.

    Args:
        share: in [0, 1], (...) as the histograms.
    """
    level = torch.arange(counts.shape[-1], device=counts.device, dtype=torch.float64)
    mass = counts.double() * level
    above = mass.flip(-1).cumsum(-1).flip(-1) - mass  # of the levels above each
    enough = above >= share.double()[..., None] * mass.sum(-1, keepdim=True)
    # Level 0 has all mass above it; the levels that have enough are the lowest ones.
    return (enough.sum(-1) - 1).clamp(min=0)


def pooled_iou(counts_2KT: Tensor) -> Tensor:
    """IoU, pooled over all counted pixels, where bins >= i are foreground: (K, T) float64.

    Args:
        counts_2KT: from `split_histogram`: [0] where truth is negative, [1] where positive.

    Returns:
        NaN for a class without a positive pixel: nothing can be said of its thresholds.
    """
    above_2KT = counts_2KT.flip(-1).cumsum(-1).flip(-1).double()
    positives_K1 = counts_2KT[1].sum(-1, keepdim=True).double()
    iou_KT = above_2KT[1] / (above_2KT[0] + positives_K1)
    return torch.where(positives_K1 > 0, iou_KT, torch.nan)


def best_threshold(curve_KT: Tensor) -> Tensor:
    """Index (K,) of the best column; among tied columns the middle one (the lower of two).

    The middle of a plateau is the choice that small changes of the data upset least. A row of
    NaN gives -1.
    """
    top_K1 = curve_KT.nan_to_num(nan=-1.0).amax(dim=-1, keepdim=True)
    tied_KT = curve_KT == top_K1
    number = tied_KT.sum(-1, keepdim=True)
    middle_KT = tied_KT & (tied_KT.cumsum(-1) == (number + 1) // 2)
    found = middle_KT.any(-1)
    return torch.where(found, middle_KT.long().argmax(-1), -1)


def tune(counts_2KT: Tensor) -> Tuned:
    """Choose each class's threshold on heat maps by pooled IoU, from one histogram pass.

    Args:
        counts_2KT: summed `split_histogram` of normalised maps of validation images, 128 bins.

    Returns:
        Thresholds in [0, 1] for `heat_to_mask`; NaN (and NaN IoU) where a class has no positive.
        Column i of the curve is the IoU of threshold (2 i + 1) / 255, i from 0 to 126.
    """
    # Foreground is *above* a level: level 2 i + 1 is below all of bin i + 1 and of no bin after.
    curve_KT = pooled_iou(counts_2KT)[:, 1:]
    best_K = best_threshold(curve_KT)
    iou_K = curve_KT.gather(1, best_K.clamp(min=0)[:, None])[:, 0]
    threshold_K = torch.where(best_K >= 0, (2 * best_K + 1) / (LEVELS - 1.0), torch.nan)
    return Tuned(threshold_K.float(), iou_K, curve_KT)


def _box(image_BKSS: Tensor, reach: int) -> Tensor:
    """Mean over (2 reach + 1) squared pixels, those beyond the frame counted as 0; rows first."""
    width = 2 * reach + 1
    rows = F.avg_pool2d(image_BKSS, (width, 1), stride=1, padding=(reach, 0))
    return F.avg_pool2d(rows, (1, width), stride=1, padding=(0, reach))


def _peaks(heat_BKhw: Tensor, size: int, content_B4: Tensor) -> Tensor:
    # Every cell has a say in some pixel, so cells that are finite give pixels that are.
    finite_BK = heat_BKhw.isfinite().all(dim=3).all(dim=2)
    heat_BKN = upsample(heat_BKhw, size).flatten(2)
    outside_B1N = ~content_mask(content_B4.to(heat_BKhw.device), size, size).flatten(1)[:, None]
    low = heat_BKN.masked_fill(outside_B1N, torch.inf).amin(dim=2)
    place_BK = heat_BKN.masked_fill_(outside_B1N, -torch.inf).argmax(dim=2)
    high = heat_BKN.gather(2, place_BK[:, :, None])[:, :, 0]
    peak = torch.stack([place_BK // size, place_BK % size], dim=-1)
    return peak.masked_fill(~(finite_BK & _has_shape(low, high))[:, :, None], -1)


def _has_shape(low: Tensor, high: Tensor) -> Tensor:
    return high - low > FLAT * torch.maximum(high.abs(), low.abs())


def _cut_maps(
    heat_N1hw: Tensor,
    size: int,
    content_N4: Tensor | None,
    given_N: Tensor | None,
    by_mass: bool,
) -> tuple[Tensor, Tensor]:
    """Masks (N, S, S) and the thresholds used (N,), NaN for an unusable map."""
    unit_N1SS, usable_N1 = normalise(upsample(heat_N1hw, size), content_N4)
    level_N1SS = to_level(unit_N1SS)
    if by_mass and given_N is not None:
        cut_N1 = mass_level(histogram(level_N1SS, content_N4), given_N[:, None])
    else:
        cut_N1 = _cut(level_N1SS, content_N4, given_N)
    mask_N1SS = (level_N1SS > cut_N1[:, :, None, None]) & usable_N1[:, :, None, None]
    used_N1 = (cut_N1 / (LEVELS - 1.0)).float().masked_fill(~usable_N1, torch.nan)
    return mask_N1SS[:, 0], used_N1[:, 0]


def _cut(level_N1SS: Tensor, content_N4: Tensor | None, given_N: Tensor | None) -> Tensor:
    """Level (N, 1) that foreground is above: the given one, Otsu's where it is NaN."""
    if given_N is None:
        return otsu(histogram(level_N1SS, content_N4))
    level_N1 = (given_N.nan_to_num(0.0) * (LEVELS - 1)).round().long()[:, None]
    if bool(given_N.isnan().any()):
        otsu_N1 = otsu(histogram(level_N1SS, content_N4))
        return torch.where(given_N.isnan()[:, None], otsu_N1, level_N1)
    return level_N1


def _chunks(index_N: Tensor, size: int) -> tuple[Tensor, ...]:
    if index_N.device.type != "cpu":
        return (index_N,)
    return index_N.split(max(1, CACHED // size**2))


def _check_threshold(method: str, threshold: float | Tensor | None, classes: int) -> Tensor | None:
    if method not in get_args(Method):
        raise ValueError(f"Masks come by 'otsu', 'fixed' or 'tuned' thresholds, not {method!r}.")
    if method == "otsu":
        return None
    if threshold is None:
        raise ValueError(f"Method {method!r} needs a threshold in [0, 1].")
    given = torch.as_tensor(threshold, dtype=torch.float64)
    if given.numel() not in (1, classes):
        raise ValueError(f"{given.numel()} thresholds were given for {classes} classes.")
    if bool(((given < 0) | (given > 1)).any()):
        raise ValueError(f"Thresholds lie in [0, 1]; got {given.tolist()}.")
    return given.flatten().expand(classes)
