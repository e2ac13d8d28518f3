"""Many maps of one image to one: each brought to a scale of its own, then combined.

Maps of several classifiers, seeds and checkpoints share what the image shows and differ in what
each model happened to latch on to, so their consensus points better than the single map does
(Li et al. 2021, arXiv 2109.00707). Models differ in the size of their scores, too: unscaled, the
most confident one has most of the say.

Shapes: M models, B images, K classes, h x w cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Scale = Literal["none", "maximum", "mass"]
Combine = Literal["mean", "median", "auroc"]


def scaled(heat_BKhw: Tensor, how: Scale) -> Tensor:
    """Return maps, each divided by its own maximum or mean; a map of zeros stays one.

    Args:
        heat_BKhw: floating, at least 0.
        how: "mass": its mean becomes 1, so that maps on coarse and fine grids compare.
    """
    if how == "none":
        return heat_BKhw
    own_BK11 = heat_BKhw.amax(dim=(2, 3), keepdim=True)
    if how == "mass":
        own_BK11 = heat_BKhw.mean(dim=(2, 3), keepdim=True)
    # Not a number stays that: `own` is not above 0 then, and nothing may hide it.
    return torch.where(own_BK11 == 0, heat_BKhw, heat_BKhw / own_BK11)


def combined(
    maps: Sequence[Tensor], how: Combine = "mean", weight_MK: Tensor | None = None
) -> Tensor:
    """Combine maps of several models pixel by pixel: (B, K, h, w), each of this shape.

    Args:
        how: "auroc" is a mean weighted by `weight_MK`.
        weight_MK: at least 0, how far each model is trusted with each class (`trust`); a class with
            which no model is trusted gets the plain mean.

    Raises:
        ValueError: without maps, or "auroc" without weights.
    """
    if not maps:
        raise ValueError("there are no maps to combine")
    stack_MBKhw = torch.stack(list(maps))
    if how == "mean":
        return stack_MBKhw.mean(0)
    if how == "median":
        return _median(stack_MBKhw)
    if weight_MK is None:
        raise ValueError("combining by AUROC needs the AUROC of each model")
    weight = weight_MK.to(stack_MBKhw)
    weight = torch.where(weight.sum(0) > 0, weight, 1.0)
    share_MK = weight / weight.sum(0)
    return torch.einsum("mbkhw,mk->bkhw", stack_MBKhw, share_MK)


def trust(auroc_MK: Tensor) -> Tensor:
    """Return weights of AUROCs: what each is above chance, 0 where it is not or is not known."""
    return (auroc_MK - 0.5).clamp(min=0.0).nan_to_num(nan=0.0)


def _median(stack_MBKhw: Tensor) -> Tensor:
    """The middle map, or the mean of both in the middle; not a number where one model's is not."""
    ordered, half = stack_MBKhw.sort(dim=0).values, len(stack_MBKhw) // 2
    middle = ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
    return torch.where(stack_MBKhw.isnan().any(dim=0), torch.nan, middle)
