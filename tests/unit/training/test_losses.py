"""Masked Dice and cross-entropy: by hand, against other implementations, and where unlabelled."""

import math

import pytest
import torch
import torch.nn.functional as F
from chexseg_platform.training.losses import (
    LOSSES,
    dice_bce,
    loss_by_name,
    masked_bce,
    soft_dice,
)
from segmentation_models_pytorch.losses import DiceLoss
from torch import Tensor


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 4, 8, 8, generator=generator) * 2
    return logits, torch.rand(3, 4, 8, 8, generator=generator) < 0.3


def test_dice_by_hand() -> None:
    logits = torch.zeros(2, 1, 1, 2)  # p = 1/2 in all four pixels
    truth = torch.tensor([[[[1, 0]]], [[[0, 0]]]])
    # overlap 1/2, sizes 2 + 1: (2 * 1/2 + 1) / (3 + 1)
    assert soft_dice(logits, truth).item() == pytest.approx(1 - 2 / 4)
    known = torch.tensor([[True], [False]])
    # of the first image only: overlap 1/2, sizes 1 + 1
    assert soft_dice(logits, truth, known).item() == pytest.approx(1 - 2 / 3)


def test_equals_smp_where_everything_is_labelled() -> None:
    logits, truth = batch()
    assert truth.flatten(2).any(-1).any(0).all()
    # Theirs is the Tversky form, whose smoothing counts twice.
    smp = DiceLoss("multilabel", smooth=0.5)(logits, truth.float())
    torch.testing.assert_close(soft_dice(logits, truth), smp)
    torch.testing.assert_close(soft_dice(logits, truth, torch.ones(3, 4, dtype=torch.bool)), smp)


def test_bce_equals_torch_where_everything_is_labelled() -> None:
    logits, truth = batch()
    plain = F.binary_cross_entropy_with_logits(logits, truth.float())
    torch.testing.assert_close(masked_bce(logits, truth), plain)
    torch.testing.assert_close(masked_bce(logits, truth, torch.ones(3, 4)), plain)
    torch.testing.assert_close(dice_bce(logits, truth), plain + soft_dice(logits, truth))


@pytest.mark.parametrize("name", LOSSES)
def test_unlabelled_channels_have_exactly_no_say(name: str) -> None:
    loss = loss_by_name(name)
    logits, truth = batch()
    known = torch.rand(3, 4, generator=torch.Generator().manual_seed(4)) < 0.5
    known[:, 3] = False  # a class that nobody in the batch labels
    assert known.any()
    logits.requires_grad_(True)
    value = loss(logits, truth, known)
    value.backward()
    assert logits.grad is not None
    assert logits.grad[~known].eq(0).all()
    assert logits.grad[known].ne(0).any()
    other = truth ^ ~known[:, :, None, None]  # turned over where unlabelled
    torch.testing.assert_close(loss(logits, other, known), value)


@pytest.mark.parametrize("name", LOSSES)
def test_an_unlabelled_class_does_not_dilute_the_others(name: str) -> None:
    loss = loss_by_name(name)
    logits, truth = batch()
    known = torch.ones(3, 4, dtype=torch.bool)
    known[:, 2:] = False
    alone = loss(logits[:, :2], truth[:, :2], None)
    torch.testing.assert_close(loss(logits, truth, known), alone)


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_labelled_is_zero_with_zero_gradient(name: str) -> None:
    logits, truth = batch()
    logits.requires_grad_(True)
    value = loss_by_name(name)(logits, truth, torch.zeros(3, 4, dtype=torch.bool))
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert logits.grad.eq(0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_low_precision_logits_are_scored_in_float32(name: str) -> None:
    logits, truth = batch()
    value = loss_by_name(name)(logits.bfloat16(), truth, None)
    assert value.dtype == torch.float32
    assert math.isfinite(value.item())


def test_a_perfect_and_an_opposite_prediction() -> None:
    _, truth = batch()
    sure = (truth.float() - 0.5) * 60
    assert soft_dice(sure, truth).item() == pytest.approx(0, abs=1e-6)
    assert soft_dice(-sure, truth).item() > 0.97


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match=r"dice, bce, dice\+bce"):
        loss_by_name("jaccard")
