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
    maps: Sequence[Tensor],
    how: Combine = "mean",
    weight_MK: Tensor | None = None,
    trust_MBK: Tensor | None = None,
) -> Tensor:
    """Combine maps of several models pixel by pixel: (B, K, h, w), each of this shape.

    Args:
        how: "auroc" is a mean weighted by `weight_MK`.
        weight_MK: at least 0, how far each model is trusted with each class (`trust`); a class with
            which no model is trusted gets the plain mean.
        trust_MBK: at least 0, how far each single map is trusted (`completeness_weight`): the
            weights of either mean are multiplied by it. A map that gets no weight has no say,
            whatever it holds, not in the median either; without any that has, the result is NaN.

    Raises:
        ValueError: without maps, or "auroc" without weights.
    """
    if not maps:
        raise ValueError("there are no maps to combine")
    stack_MBKhw = torch.stack(list(maps))
    if trust_MBK is not None:
        return _trusted(stack_MBKhw, how, weight_MK, trust_MBK.to(stack_MBKhw))
    if how == "mean":
        return stack_MBKhw.mean(0)
    if how == "median":
        return _median(stack_MBKhw)
    share_MK = _shares(weight_MK, stack_MBKhw)
    # 0 times what is not a number would be none either.
    said_MBKhw = torch.where(share_MK[:, None, :, None, None] > 0, stack_MBKhw, 0.0)
    return torch.einsum("mbkhw,mk->bkhw", said_MBKhw, share_MK)


def trust(auroc_MK: Tensor) -> Tensor:
    """Return weights of AUROCs: what each is above chance, 0 where it is not or is not known."""
    return (auroc_MK - 0.5).clamp(min=0.0).nan_to_num(nan=0.0)


def completeness_weight(error_MBK: Tensor, limit: float) -> Tensor:
    """Return weights in [0, 1] of completeness errors: 1 without one, 0 from the limit on.

    An error that is not a number weighs 1. It stands for a map that was not asked for, or of a
    method without such a test, and says nothing against it; and where the scores themselves are
    broken the map is, too, which must not go unseen.

    Args:
        error_MBK: at least 0, relative (`integrated_gradients`).
        limit: above 0.

    Raises:
        ValueError: a limit that is not above 0.
    """
    if not limit > 0:
        raise ValueError(f"The limit of a completeness error is a number above 0, not {limit}.")
    return (1.0 - error_MBK / limit).clamp(min=0.0).nan_to_num(nan=1.0)


def _shares(weight_MK: Tensor | None, like: Tensor) -> Tensor:
    """Each model's share of each class; equal ones where no model has a weight."""
    if weight_MK is None:
        raise ValueError("combining by AUROC needs the AUROC of each model")
    weight = weight_MK.to(like)
    weight = torch.where(weight.sum(0) > 0, weight, 1.0)
    return weight / weight.sum(0)


def _trusted(
    stack_MBKhw: Tensor, how: Combine, weight_MK: Tensor | None, trust_MBK: Tensor
) -> Tensor:
    if how == "auroc":
        trust_MBK = trust_MBK * _shares(weight_MK, stack_MBKhw)[:, None]
    counted_MBK = trust_MBK > 0
    if how == "median":
        return _median(stack_MBKhw, counted_MBK)
    share_MBK = trust_MBK / trust_MBK.sum(0)  # 0 / 0, not a number, where nobody is trusted
    said_MBKhw = torch.where(counted_MBK[..., None, None], stack_MBKhw, 0.0)
    return torch.einsum("mbkhw,mbk->bkhw", said_MBKhw, share_MBK)


def _median(stack_MBKhw: Tensor, counted_MBK: Tensor | None = None) -> Tensor:
    """The middle of the counted maps, or the mean of both in the middle.

    Not a number where one of them is not, or none is counted.
    """
    if counted_MBK is None:
        counted_MBK = stack_MBKhw.new_ones(stack_MBKhw.shape[:3], dtype=torch.bool)
    counted_MBK11 = counted_MBK[..., None, None]
    # Those that do not count lie at the far end, behind the middle of the others.
    ordered_MBKhw = stack_MBKhw.masked_fill(~counted_MBK11, torch.inf).sort(dim=0).values
    number_BK11 = counted_MBK11.sum(dim=0)
    low, high = (
        ordered_MBKhw.gather(0, place.clamp(min=0).expand_as(ordered_MBKhw[:1]))[0]
        for place in ((number_BK11[None] - 1) // 2, number_BK11[None] // 2)
    )
    broken_BKhw = (stack_MBKhw.isnan() & counted_MBK11).any(dim=0) | (number_BK11 == 0)
    return torch.where(broken_BKhw, torch.nan, (low + high) / 2)
