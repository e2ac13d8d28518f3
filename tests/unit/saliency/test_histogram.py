"""Histograms of levels beside NumPy's, padding, classes and truth by hand."""

import numpy as np
import pytest
import torch
from chexseg_platform.saliency import histogram as module
from chexseg_platform.saliency.histogram import count, histogram, split_histogram, to_level
from torch import Tensor

CONTENT = torch.tensor([[4, 28, 0, 32], [0, 32, 8, 24]])


def test_histogram_equals_numpy_and_leaves_padding_out() -> None:
    level = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    got = histogram(level)
    inside = histogram(level, CONTENT)
    for b, (top, bottom, left, right) in enumerate(CONTENT.tolist()):
        for k in range(3):
            image = level[b, k].numpy()
            assert got[b, k].tolist() == np.bincount(image.ravel(), minlength=256).tolist()
            image = image[top:bottom, left:right]
            assert inside[b, k].tolist() == np.bincount(image.ravel(), minlength=256).tolist()


@pytest.mark.parametrize("size", [0, 1, 3, 4, 7, 1026])
def test_bytes_are_counted_whatever_their_number(size: int) -> None:
    level = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
    assert count(level).tolist() == np.bincount(level, minlength=256).tolist()


def split_by_hand(
    unit: Tensor, truth: Tensor, content: Tensor | None, counted: Tensor | None, bins: int
) -> Tensor:
    """Every pixel by itself."""
    counts = torch.zeros(2, unit.shape[1], bins, dtype=torch.int64)
    for b, k in np.ndindex(*unit.shape[:2]):
        if counted is not None and not counted[b, k]:
            continue
        top, bottom, left, right = (0, 32, 0, 32) if content is None else content[b].tolist()
        for value, true in zip(
            unit[b, k, top:bottom, left:right].flatten(),
            truth[b, k, top:bottom, left:right].flatten(),
            strict=True,
        ):
            level = int(to_level(value)) // 2 if bins == 128 else min(int(value * bins), bins - 1)
            counts[int(true), k, level] += 1
    return counts


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("bins", [1, 20, 127, 128, 1000])
@pytest.mark.parametrize("packed", [1, 2**20])
def test_split_histogram_equals_a_loop_over_pixels(
    bins: int, threads: int, packed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COUNTED", packed)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    generator = torch.Generator().manual_seed(bins)
    unit = torch.rand(2, 3, 32, 32, generator=generator)
    unit[0, 0, 0, :8], unit[0, 1, 5, :4] = 1.0, 0.0
    truth = torch.rand(unit.shape, generator=generator) < 0.3
    truth[:, 2] = False
    counted = torch.tensor([[True, False, True], [True, False, False]])
    plain = split_histogram(unit, truth, bins=bins)
    assert torch.equal(plain, split_by_hand(unit, truth, None, None, bins))
    some = split_histogram(unit, truth, content_B4=CONTENT, counted_BK=counted, bins=bins)
    assert torch.equal(some, split_by_hand(unit, truth, CONTENT, counted, bins))


@pytest.mark.parametrize("bins", [20, 128])
def test_counting_by_groups_as_a_gpu_does_is_the_same(
    bins: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(bins)
    unit = torch.rand(2, 3, 32, 32, generator=generator)
    truth = torch.rand(unit.shape, generator=generator) < 0.3
    counted = torch.tensor([[True, False, True], [True, True, False]])
    fields = {"content_B4": CONTENT, "counted_BK": counted}
    here = split_histogram(unit, truth, bins=bins, **fields)
    maps = histogram(to_level(unit), CONTENT)
    monkeypatch.setattr(module, "CPU", "no device")
    assert torch.equal(split_histogram(unit, truth, bins=bins, **fields), here)
    assert torch.equal(histogram(to_level(unit), CONTENT), maps)


def test_split_histogram_with_other_bins() -> None:
    value = torch.tensor([0.0, 0.049, 0.05, 0.5, 0.99, 1.0]).view(1, 1, 1, 6)
    truth = torch.tensor([False, True, True, False, True, True]).view(1, 1, 1, 6)
    counts = split_histogram(value, truth, bins=20)
    assert counts[0, 0].nonzero()[:, 0].tolist() == [0, 10]
    assert counts[1, 0].nonzero()[:, 0].tolist() == [0, 1, 19]
    assert counts[1, 0, 19] == 2
