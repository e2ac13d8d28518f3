"""Segmentation losses that know which channels a row labels.

A mix holds rows of different label sets: experts that read ten findings, pseudo-labels for those
that the image's labels allow, organs from another data set. A channel that a row does not label
says nothing, and must not be taken for an empty mask. So every loss takes `known_BK`, and the
gradient of an unlabelled channel is exactly zero.

Dice is CheXseg's: for each class sums over batch, height and width, smooth 1, and the mean over
classes (the released code; equal to segmentation_models_pytorch's multilabel DiceLoss with
smooth 0.5, which it counts twice, where every channel is labelled and has a positive). Per-image
Dice would let every empty mask count as much as a full one.

Shapes: B images, K channels, S side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor

LossName = Literal["dice", "bce", "dice+bce"]
Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def soft_dice(
    logit_BKSS: Tensor, truth_BKSS: Tensor, known_BK: Tensor | None = None, smooth: float = 1.0
) -> Tensor:
    """1 - soft Dice, averaged over the channels that at least one image of the batch labels.

    Args:
        logit_BKSS: before the sigmoid, any floating dtype; computed in float32.
        truth_BKSS: bool or floating in [0, 1].
        known_BK: bool, which channels each image labels; None for all.
        smooth: added to numerator and denominator.

    Returns:
        A float32 scalar in [0, 1]; 0, with zero gradient, where nothing is labelled.
    """
    p_BKSS, truth = logit_BKSS.float().sigmoid(), truth_BKSS.float()
    overlap_BK = (p_BKSS * truth).sum(dim=(2, 3))
    size_BK = p_BKSS.sum(dim=(2, 3)) + truth.sum(dim=(2, 3))
    if known_BK is None:
        dice_K = (2 * overlap_BK.sum(0) + smooth) / (size_BK.sum(0) + smooth)
        return (1 - dice_K).mean()
    known = known_BK.float()
    overlap_K, size_K = (overlap_BK * known).sum(0), (size_BK * known).sum(0)
    labelled_K = known.amax(dim=0)
    dice_K = (2 * overlap_K + smooth) / (size_K + smooth)
    return ((1 - dice_K) * labelled_K).sum() / labelled_K.sum().clamp(min=1.0)


def masked_bce(logit_BKSS: Tensor, truth_BKSS: Tensor, known_BK: Tensor | None = None) -> Tensor:
    """Binary cross-entropy averaged over the pixels of labelled channels.

    Arguments and the empty case as in `soft_dice`.
    """
    each = F.binary_cross_entropy_with_logits(
        logit_BKSS.float(), truth_BKSS.float(), reduction="none"
    ).mean(dim=(2, 3))
    if known_BK is None:
        return each.mean()
    known = known_BK.float()
    return (each * known).sum() / known.sum().clamp(min=1.0)


def dice_bce(logit_BKSS: Tensor, truth_BKSS: Tensor, known_BK: Tensor | None = None) -> Tensor:
    """Sum of `soft_dice` and `masked_bce`."""
    dice = soft_dice(logit_BKSS, truth_BKSS, known_BK)
    return dice + masked_bce(logit_BKSS, truth_BKSS, known_BK)


LOSSES: dict[str, Loss] = {"dice": soft_dice, "bce": masked_bce, "dice+bce": dice_bce}


def loss_by_name(name: str) -> Loss:
    """The loss "dice", "bce" or "dice+bce"; ValueError for any other name."""
    if name not in LOSSES:
        raise ValueError(f"Unknown loss {name!r}; choose one of {', '.join(get_args(LossName))}.")
    return LOSSES[name]
