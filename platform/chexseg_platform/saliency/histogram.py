"""Histograms of levels: of every map, or of every class split by an expert's truth.

A value in [0, 1] has one of 256 levels, `floor(255 * value)`, as in CheXlocalize. On a GPU all
pixels are counted by one `bincount` over (group, level). A CPU is another matter: there a counter
that was just raised cannot be raised again for some three nanoseconds, and neighbouring pixels have
the same level, so `bincount` waits at nearly every pixel. Pillow counts the four bands of an RGBA
image in four tables. Bytes that are handed to it as such an image are counted four times as fast.

Letterbox padding is not counted. Shapes: B images, K classes, S side of the frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from chexseg_platform.models.preprocess import content_mask

LEVELS = 256
MAP_BINS = 128
"""Bins of heat split by truth: two levels each, so that bin and truth fit one byte."""
CPU = "cpu"
COUNTED = 2**20
"""Bytes that a CPU counts at once: many, for reading a table out takes as long as 100,000."""

Map = NDArray[Any]
Split = tuple[Map, NDArray[np.bool_]]


def to_level(unit: Tensor) -> Tensor:
    """[0, 1] -> 0 to 255, uint8, rounded down."""
    return (unit * (LEVELS - 1)).to(torch.uint8)


def histogram(level_BKSS: Tensor, content_B4: Tensor | None = None) -> Tensor:
    """256-bin histogram of every map over its image region: (B, K, 256) int64."""
    batch, classes = level_BKSS.shape[:2]
    if level_BKSS.device.type == CPU:
        rows = zip(level_BKSS.numpy(), _boxes(content_B4, batch), strict=True)
        counts = [count(level_SS[box].ravel()) for level_KSS, box in rows for level_SS in level_KSS]
        return torch.from_numpy(np.array(counts).reshape(batch, classes, LEVELS))
    group = torch.arange(batch * classes, device=level_BKSS.device).view(batch, classes, 1, 1)
    return _count_groups(level_BKSS, group, batch * classes, content_B4).view(
        batch, classes, LEVELS
    )


def split_histogram(
    unit_BKSS: Tensor,
    truth_BKSS: Tensor,
    *,
    content_B4: Tensor | None = None,
    counted_BK: Tensor | None = None,
    bins: int = MAP_BINS,
) -> Tensor:
    """Histogram of values by class, split by truth: (2, K, bins) int64, additive over batches.

    Args:
        unit_BKSS: in [0, 1]: normalised heat, or probabilities.
        truth_BKSS: bool, on the same device.
        content_B4: the image region; padding is not counted.
        counted_BK: bool, maps that count (an expert has read this class).
        bins: 128 for heat, and bin i holds levels 2i and 2i + 1; any other number, and bin i
            holds [i / bins, (i + 1) / bins), the last also 1. On a CPU more than 128 are slow.
    """
    batch, classes = unit_BKSS.shape[:2]
    if unit_BKSS.device.type != CPU or bins > MAP_BINS:
        level = (unit_BKSS * _scale(bins)).long().clamp_(0, bins - 1)
        klass = torch.arange(classes, device=unit_BKSS.device)[None, :, None, None]
        group = klass + truth_BKSS.long() * classes
        counts = _count_groups(level, group, 2 * classes, content_B4, counted_BK, bins)
        return counts.view(2, classes, bins)
    unit, truth, boxes = unit_BKSS.numpy(), truth_BKSS.numpy(), _boxes(content_B4, batch)
    counted = np.ones((batch, classes), bool) if counted_BK is None else counted_BK.cpu().numpy()

    def of_class(k: int) -> NDArray[np.int64]:
        images = counted[:, k].nonzero()[0]
        return _count_split(((unit[b, k][boxes[b]], truth[b, k][boxes[b]]) for b in images), bins)

    return torch.from_numpy(np.stack(list(_in_threads(of_class, classes)), axis=1))


def count(level_N: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Histogram (256,) of contiguous bytes, on a CPU."""
    whole = len(level_N) // 4 * 4
    counts = np.bincount(level_N[whole:], minlength=LEVELS)
    if whole:
        pixels = level_N[:whole]
        image = Image.frombuffer("RGBA", (whole // 4, 1), pixels, "raw", "RGBA", 0, 1)
        counts += np.array(image.histogram()).reshape(4, LEVELS).sum(axis=0)
    return counts


def _count_split(maps: Iterable[Split], bins: int) -> NDArray[np.int64]:
    """Histogram (2, bins) of one class's maps: a byte is a pixel's bin, its top bit the truth."""
    counts = np.zeros(LEVELS, np.int64)
    for part in _packed(maps):
        key, start = np.empty(sum(unit.size for unit, _ in part), np.uint8), 0
        for unit, truth in part:
            here = key[start : start + unit.size].reshape(unit.shape)
            # In float32, as on any other device; numpy casts while the product is in cache.
            np.multiply(unit, np.float32(_scale(bins)), out=here, casting="unsafe")
            here |= truth.view(np.uint8) << 7
            start += unit.size
        counts += count(key)
    split = counts.reshape(2, MAP_BINS)
    split[:, bins - 1] += split[:, bins:].sum(axis=1)
    return split[:, :bins]


def _packed(maps: Iterable[Split]) -> Iterator[list[Split]]:
    part: list[Split] = []
    for pair in maps:
        part.append(pair)
        if sum(unit.size for unit, _ in part) >= COUNTED:
            yield part
            part = []
    if part:
        yield part


def _in_threads(work: Any, number: int) -> Iterator[Any]:
    """Results of work(0) to work(number - 1), on as many threads as torch may use."""
    threads = min(torch.get_num_threads(), number)
    if threads < 2:
        yield from map(work, range(number))
        return
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(work, range(number))


def _scale(bins: int) -> float:
    return (LEVELS - 1) / 2 if bins == MAP_BINS else bins


def _boxes(content_B4: Tensor | None, batch: int) -> list[tuple[slice, slice]]:
    if content_B4 is None:
        return [(slice(None), slice(None))] * batch
    return [
        (slice(top, bottom), slice(left, right)) for top, bottom, left, right in content_B4.tolist()
    ]


def _count_groups(
    level: Tensor,
    group: Tensor,
    groups: int,
    content_B4: Tensor | None = None,
    counted_BK: Tensor | None = None,
    bins: int = LEVELS,
) -> Tensor:
    """Count levels by group in one pass; pixels that do not count go to a bin of their own."""
    index = level.long() + group * bins
    if content_B4 is not None:
        inside = content_mask(content_B4.to(level.device), *level.shape[2:])[:, None]
        index = torch.where(inside, index, groups * bins)
    if counted_BK is not None:
        index = torch.where(counted_BK.to(level.device)[:, :, None, None], index, groups * bins)
    return torch.bincount(index.flatten(), minlength=groups * bins + 1)[: groups * bins]
