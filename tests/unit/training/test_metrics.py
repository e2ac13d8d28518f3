"""Pooled IoU and study AUROC against plain references."""

import numpy as np
import pytest
import torch
from chexseg_platform.training.metrics import PooledIoU, auroc, binarise, study_auroc
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc


def batch(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    probability = torch.rand(4, 3, 16, 16, generator=generator)
    noise = torch.rand(4, 3, 16, 16, generator=generator)
    return probability, probability + noise > 1.2


def test_equals_trying_every_threshold() -> None:
    metric = PooledIoU(3)
    batches = [batch(seed) for seed in range(3)]
    for probability, truth in batches:
        metric.update(probability, truth)
    p = torch.cat([pair[0] for pair in batches]).transpose(0, 1).flatten(1).double()
    t = torch.cat([pair[1] for pair in batches]).transpose(0, 1).flatten(1)
    for i in range(20):
        predicted = p >= i * 0.05
        wanted = (predicted & t).sum(1) / (predicted | t).sum(1).double()
        torch.testing.assert_close(metric.curve()[:, i], wanted)
        torch.testing.assert_close(metric.at(i * 0.05), wanted)
    threshold, iou = metric.best()
    torch.testing.assert_close(iou, metric.curve().amax(1))
    torch.testing.assert_close(metric.at(threshold), iou)


def test_masks_at_the_chosen_threshold_have_the_promised_iou() -> None:
    metric = PooledIoU(3, bins=100)
    probability, truth = batch(5)
    metric.update(probability, truth)
    threshold, iou = metric.best()
    mask = binarise(probability, threshold)
    got = (mask & truth).sum((0, 2, 3)) / (mask | truth).sum((0, 2, 3)).double()
    torch.testing.assert_close(got, iou, atol=1e-6, rtol=0)


def test_unlabelled_channels_and_padding_are_not_counted() -> None:
    probability, truth = batch(1)
    known = torch.rand(4, 3) < 0.6
    content = torch.tensor([[0, 16, 2, 14]] * 4)
    metric = PooledIoU(3)
    metric.update(probability, truth, known_BK=known, content_B4=content)
    assert metric.counts_2KT.sum((0, 2)).tolist() == (known.sum(0) * 16 * 12).tolist()
    spoilt_p, spoilt_t = probability.clone(), truth.clone()
    spoilt_p[..., :2], spoilt_t[..., :2] = 1.0, False
    spoilt_p[~known], spoilt_t[~known] = 0.0, True
    again = PooledIoU(3)
    again.update(spoilt_p, spoilt_t, known_BK=known, content_B4=content)
    assert torch.equal(metric.counts_2KT, again.counts_2KT)


@pytest.mark.parametrize("bins", [20, 1000])
def test_ignored_pixels_are_not_counted(bins: int) -> None:
    probability, truth = batch(1)
    known = torch.rand(4, 3, generator=torch.Generator().manual_seed(2)) < 0.6
    content = torch.tensor([[0, 16, 2, 14]] * 4)
    ignored = probability > 0.7
    ignored[:, 2] = True  # a class of which nothing is left
    metric = PooledIoU(3, bins)
    metric.update(probability, truth, known_BK=known, content_B4=content, ignored_BKSS=ignored)
    kept = ~ignored & known[:, :, None, None]
    kept[..., :2] = kept[..., 14:] = False
    wanted = torch.zeros(2, 3, bins, dtype=torch.int64)
    for b, k, row, column in kept.nonzero().tolist():
        level = int(probability[b, k, row, column] * bins)
        wanted[int(truth[b, k, row, column]), k, level] += 1
    assert torch.equal(metric.counts_2KT, wanted)
    assert wanted[:, :2].any()
    plain, none = PooledIoU(3, bins), PooledIoU(3, bins)
    plain.update(probability, truth)
    none.update(probability, truth, ignored_BKSS=torch.zeros_like(truth))
    assert torch.equal(plain.counts_2KT, none.counts_2KT)


def test_counts_add_up_over_workers() -> None:
    whole, left, right = PooledIoU(3), PooledIoU(3), PooledIoU(3)
    for seed in range(4):
        whole.update(*batch(seed))
        (left if seed % 2 else right).update(*batch(seed))
    left.counts_2KT += right.counts_2KT
    assert torch.equal(left.counts_2KT, whole.counts_2KT)


def test_a_class_without_a_positive_keeps_the_default() -> None:
    probability, truth = batch(0)
    truth[:, 1] = False
    metric = PooledIoU(3)
    metric.update(probability, truth)
    threshold, iou = metric.best(default=0.35)
    assert threshold[1].item() == pytest.approx(0.35)
    assert iou.isnan().tolist() == [False, True, False]
    assert PooledIoU(2).best()[1].isnan().all()


def test_plateaus_give_their_middle() -> None:
    metric = PooledIoU(1)
    value = torch.tensor([0.02, 0.97]).view(1, 1, 1, 2)
    metric.update(value, value > 0.5)
    threshold, iou = metric.best()
    # 0.05 to 0.95 are all perfect: nineteen thresholds, of which 0.5 is the tenth
    assert (threshold.item(), iou.item()) == (pytest.approx(0.5), 1.0)


def test_auroc_equals_torchmetrics_with_ties() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        score = generator.integers(0, 6, 40) / 5
        positive = generator.random(40) < 0.4
        wanted = binary_auroc(torch.from_numpy(score), torch.from_numpy(positive).long())
        assert auroc(score, positive) == pytest.approx(wanted.item(), abs=1e-6)


def test_study_auroc_takes_the_maximum_over_views() -> None:
    score = np.array([[0.1, 0.5], [0.9, 0.5], [0.4, 0.5], [0.3, 0.5]])
    label = np.array([[1, 1], [1, 1], [0, 0], [0, 0]])
    study = ["p1/s1", "p1/s1", "p1/s2", "p2/s1"]
    assert study_auroc(score, label, study).tolist() == [1.0, 0.5]


def test_study_auroc_leaves_unknown_labels_out() -> None:
    score = np.array([[0.9], [0.2], [0.5], [0.1]])
    label = np.array([[1.0], [0.0], [-1.0], [np.nan]])
    assert study_auroc(score, label, ["a", "b", "c", "d"]).tolist() == [1.0]
    assert np.isnan(study_auroc(score, np.ones((4, 1)), ["a", "b", "c", "d"])).all()


def test_study_auroc_refuses_what_means_nothing() -> None:
    with pytest.raises(ValueError, match="diverged"):
        study_auroc(np.array([[np.nan]]), np.array([[1.0]]), ["a"])
    with pytest.raises(ValueError, match="2 studies"):
        study_auroc(np.ones((1, 1)), np.ones((1, 1)), ["a", "b"])
