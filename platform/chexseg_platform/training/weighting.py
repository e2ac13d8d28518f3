"""How much each class counts in the loss, from how often the training rows show it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from chexseg_platform.data import masks
from chexseg_platform.data.store import MaskRows

MOST = 10.0
"""No class counts more than this many times what the one shown most often does."""


def balanced_weights(items: MaskRows, size: int) -> Tensor:
    """Weights in inverse proportion to how often a class is shown: float32 (K,).

    A class's share is the number of rows that label it and show it, in at least one pixel, over
    the number that label it. Shares below a tenth of the largest count as a tenth (`MOST`), for a
    handful of masks must not drown all others. The mean over the classes that are shown is 1; a
    class that no row shows has weight 1.

    Args:
        items: the rows to learn from.
        size: side of their masks.
    """
    # Run lengths of one mask are written in one way, so none need be read.
    empty = masks.encode(np.zeros((size, size), dtype=bool))
    shown_K, labelled_K = np.zeros(len(items.classes)), items.known.sum(axis=0)
    for counts, known_K in zip(items.counts, items.known, strict=True):
        for name, run in counts.items():
            k = items.classes.index(name)
            shown_K[k] += known_K[k] and run != empty
    share_K = shown_K / np.maximum(labelled_K, 1)
    weight_K = np.ones(len(share_K))
    some = share_K > 0
    if some.any():
        inverse = 1 / np.maximum(share_K[some], share_K.max() / MOST)
        weight_K[some] = inverse / inverse.mean()
    return torch.from_numpy(weight_K).float()
