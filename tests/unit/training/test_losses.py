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


def some_ignored(seed: int = 7) -> Tensor:
    """About a third of the pixels, and all of one channel of one image."""
    ignored = torch.rand(3, 4, 8, 8, generator=torch.Generator().manual_seed(seed)) < 0.3
    ignored[1, 2] = True
    return ignored


@pytest.mark.parametrize("name", LOSSES)
def test_ignored_pixels_have_exactly_no_say(name: str) -> None:
    loss = loss_by_name(name, background_weight=0.3)
    logits, truth = batch()
    known, ignored = torch.ones(3, 4, dtype=torch.bool), some_ignored()
    known[0, 1] = False
    silent = ignored | ~known[:, :, None, None]
    logits.requires_grad_(True)
    value = loss(logits, truth, known, ignored)
    value.backward()
    assert logits.grad is not None
    assert logits.grad[silent].eq(0).all()
    assert logits.grad[~silent].ne(0).all()
    with torch.no_grad():
        other = torch.where(silent, logits + 5, logits)
    torch.testing.assert_close(loss(other, truth ^ silent, known, ignored), value)


@pytest.mark.parametrize("name", LOSSES)
def test_ignored_pixels_are_as_if_cut_out(name: str) -> None:
    logits, truth = batch()
    ignored = some_ignored()
    # The reference: a channel is a list of the pixels that are left.
    left = [[~ignored[b, k] for b in range(3)] for k in range(4)]
    dice, bce = [], []
    for k in range(4):
        p = torch.cat([logits[b, k][left[k][b]].sigmoid() for b in range(3)])
        t = torch.cat([truth[b, k][left[k][b]].float() for b in range(3)])
        dice.append(1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1))
        bce += [
            F.binary_cross_entropy_with_logits(logits[b, k][kept], truth[b, k][kept].float())
            for b, kept in enumerate(left[k])
            if kept.any()
        ]
    assert len(bce) == 11
    wanted = {"dice": torch.stack(dice).mean(), "bce": torch.stack(bce).mean()}
    wanted["dice+bce"] = wanted["dice"] + wanted["bce"]
    torch.testing.assert_close(loss_by_name(name)(logits, truth, None, ignored), wanted[name])


def test_ignored_pixels_by_hand() -> None:
    logits = torch.zeros(1, 2, 1, 3)  # p = 1/2 everywhere
    truth = torch.tensor([[[[1, 0, 1]], [[0, 0, 1]]]])
    ignored = torch.tensor([[[[False, False, True]], [[True, True, True]]]])
    # Of the first channel two pixels are left: overlap 1/2, sizes 1 + 1; of the second, none.
    assert soft_dice(logits, truth, None, ignored).item() == pytest.approx(1 - 2 / 3)
    logits[0, 0, 0] = torch.tensor([0.0, math.log(3), 0.0])
    # -log 1/2 and -log(1 - 3/4)
    wanted = (math.log(2) + math.log(4)) / 2
    assert masked_bce(logits, truth, None, ignored).item() == pytest.approx(wanted)


@pytest.mark.parametrize("name", LOSSES)
def test_where_all_is_ignored_the_loss_is_zero_with_zero_gradient(name: str) -> None:
    logits, truth = batch()
    logits.requires_grad_(True)
    value = loss_by_name(name)(logits, truth, None, torch.ones_like(truth))
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert logits.grad.eq(0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_ignored_changes_nothing(name: str) -> None:
    loss = loss_by_name(name)
    logits, truth = batch()
    none = torch.zeros_like(truth)
    torch.testing.assert_close(loss(logits, truth, None, none), loss(logits, truth))


def test_class_weights_by_hand() -> None:
    logits = torch.zeros(1, 2, 1, 2)  # p = 1/2 everywhere
    truth = torch.tensor([[[[1, 1]], [[0, 1]]]])
    weight = torch.tensor([0.5, 1.5])
    # Dice 3/4 = (2 * 1 + 1) / (3 + 1), and 2/3 = (2 * 1/2 + 1) / (2 + 1)
    wanted = (0.5 * 1 / 4 + 1.5 * 1 / 3) / 2
    assert soft_dice(logits, truth, weight_K=weight).item() == pytest.approx(wanted)
    assert masked_bce(logits, truth, weight_K=weight).item() == pytest.approx(math.log(2))
    # A class alone in its batch keeps its weight.
    known = torch.tensor([[False, True]])
    assert soft_dice(logits, truth, known, weight_K=weight).item() == pytest.approx(1.5 / 3)
    bce = masked_bce(logits, truth, known, weight_K=weight)
    assert bce.item() == pytest.approx(1.5 * math.log(2))
    both = loss_by_name("dice+bce", weight_K=weight)(logits, truth, known)
    assert both.item() == pytest.approx(0.5 + 1.5 * math.log(2))


def test_background_weight_by_hand() -> None:
    logits = torch.tensor([0.0, math.log(3), math.log(3)]).view(1, 1, 1, 3)  # p = 1/2, 3/4, 3/4
    truth = torch.tensor([1, 1, 0]).view(1, 1, 1, 3)
    wanted = (math.log(2) + math.log(4 / 3) + 0.1 * math.log(4)) / 3
    assert masked_bce(logits, truth, background_weight=0.1).item() == pytest.approx(wanted)
    ignored = torch.tensor([False, True, False]).view(1, 1, 1, 3)
    wanted = (math.log(2) + 0.1 * math.log(4)) / 2
    value = masked_bce(logits, truth, None, ignored, background_weight=0.1)
    assert value.item() == pytest.approx(wanted)
    named = loss_by_name("dice", background_weight=0.1)(logits, truth)
    assert named.item() == soft_dice(logits, truth).item()
