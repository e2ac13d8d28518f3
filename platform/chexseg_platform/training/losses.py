"""Segmentation losses that know which channels a row labels, and which of their pixels.

A mix holds rows of different label sets: experts that read ten findings, pseudo-labels for those
that the image's labels allow, organs from another data set. A channel that a row does not label
says nothing, and must not be taken for an empty mask. So every loss takes `known_BK`, and the
gradient of an unlabelled channel is exactly zero. Inside a labelled channel some pixels may say
nothing either, such as those of which an explanation is not sure: `ignored_BKSS`. They have no
gradient and no part in any sum or mean, as if they had been cut out.

Dice is CheXseg's: for each class sums over batch, height and width, smooth 1, and the mean over
classes (the released code; equal to segmentation_models_pytorch's multilabel DiceLoss with
smooth 0.5, which it counts twice, where every channel is labelled and has a positive). Per-image
Dice would let every empty mask count as much as a full one.

Weights of classes and of background multiply what they weigh, and the number that a mean divides
by stays the number of channels and pixels. So a rare class weighs the same in a batch where it is
the only one labelled, and a mask without foreground weighs as little as its background.

Shapes: B images, K channels, S side.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

LossName = Literal["dice", "bce", "dice+bce"]
Loss = Callable[..., Tensor]
"""(logit_BKSS, truth_BKSS, known_BK=None, ignored_BKSS=None) -> a float32 scalar."""


def soft_dice(
    logit_BKSS: Tensor,
    truth_BKSS: Tensor,
    known_BK: Tensor | None = None,
    ignored_BKSS: Tensor | None = None,
    *,
    weight_K: Tensor | None = None,
    smooth: float = 1.0,
) -> Tensor:
    """1 - soft Dice, averaged over the channels that at least one image of the batch labels.

    Args:
        logit_BKSS: before the sigmoid, any floating dtype; computed in float32.
        truth_BKSS: bool or floating in [0, 1].
        known_BK: bool, which channels each image labels; None for all.
        ignored_BKSS: bool, pixels that say nothing; None for none. A channel of which an image
            ignores all pixels is one that it does not label.
        weight_K: of each class; None for 1.
        smooth: added to numerator and denominator.

    Returns:
        A float32 scalar, in [0, 1] where no class has a weight; 0, with zero gradient, where
        nothing is labelled.
    """
    p_BKSS, truth = logit_BKSS.float().sigmoid(), truth_BKSS.float()
    if ignored_BKSS is not None:
        p_BKSS, truth = (each.masked_fill(ignored_BKSS, 0.0) for each in (p_BKSS, truth))
    said_BK = _said(logit_BKSS, known_BK, ignored_BKSS)
    overlap_K = ((p_BKSS * truth).sum(dim=(2, 3)) * said_BK).sum(0)
    size_K = ((p_BKSS.sum(dim=(2, 3)) + truth.sum(dim=(2, 3))) * said_BK).sum(0)
    labelled_K = said_BK.amax(dim=0)
    missed_K = 1 - (2 * overlap_K + smooth) / (size_K + smooth)
    return _mean(missed_K, labelled_K, weight_K)


def masked_bce(
    logit_BKSS: Tensor,
    truth_BKSS: Tensor,
    known_BK: Tensor | None = None,
    ignored_BKSS: Tensor | None = None,
    *,
    weight_K: Tensor | None = None,
    background_weight: float = 1.0,
) -> Tensor:
    """Binary cross-entropy: its mean over the pixels of a channel, averaged over those labelled.

    Arguments and the empty case as in `soft_dice`.

    Args:
        background_weight: of a pixel that is not foreground; one that is has 1.
    """
    truth = truth_BKSS.float()
    weight = None if background_weight == 1.0 else truth + background_weight * (1 - truth)
    each = F.binary_cross_entropy_with_logits(
        logit_BKSS.float(), truth, weight=weight, reduction="none"
    )
    if ignored_BKSS is None:
        mean_BK = each.mean(dim=(2, 3))
    else:
        kept_BK = (~ignored_BKSS).sum(dim=(2, 3)).clamp(min=1)
        mean_BK = each.masked_fill(ignored_BKSS, 0.0).sum(dim=(2, 3)) / kept_BK
    return _mean(mean_BK, _said(logit_BKSS, known_BK, ignored_BKSS), weight_K)


def dice_bce(
    logit_BKSS: Tensor,
    truth_BKSS: Tensor,
    known_BK: Tensor | None = None,
    ignored_BKSS: Tensor | None = None,
    *,
    weight_K: Tensor | None = None,
    background_weight: float = 1.0,
) -> Tensor:
    """Sum of `soft_dice` and `masked_bce`."""
    said = (logit_BKSS, truth_BKSS, known_BK, ignored_BKSS)
    dice = soft_dice(*said, weight_K=weight_K)
    return dice + masked_bce(*said, weight_K=weight_K, background_weight=background_weight)


LOSSES: dict[str, Loss] = {"dice": soft_dice, "bce": masked_bce, "dice+bce": dice_bce}


def loss_by_name(
    name: str, *, weight_K: Tensor | None = None, background_weight: float = 1.0
) -> Loss:
    """The loss "dice", "bce" or "dice+bce", with its weights; ValueError for any other name.

    Args:
        weight_K, background_weight: as in `masked_bce`; Dice counts no background.
    """
    if name not in LOSSES:
        raise ValueError(f"Unknown loss {name!r}; choose one of {', '.join(get_args(LossName))}.")
    if name == "dice":
        return partial(soft_dice, weight_K=weight_K)
    return partial(LOSSES[name], weight_K=weight_K, background_weight=background_weight)


def _said(logit_BKSS: Tensor, known_BK: Tensor | None, ignored_BKSS: Tensor | None) -> Tensor:
    """Float (B, K): 1 for a channel that its image labels in at least one pixel, else 0."""
    shape, device = logit_BKSS.shape[:2], logit_BKSS.device
    said_BK = torch.ones(shape, device=device) if known_BK is None else known_BK.float()
    if ignored_BKSS is not None:
        said_BK = said_BK * ~ignored_BKSS.flatten(2).all(dim=2)
    return said_BK


def _mean(value: Tensor, said: Tensor, weight_K: Tensor | None) -> Tensor:
    """Mean of (..., K) values over those that are said, each times its class's weight."""
    kept = value * said if weight_K is None else value * said * weight_K
    return kept.sum() / said.sum().clamp(min=1.0)
