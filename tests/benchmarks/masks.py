"""Run-length masks to arrays, as a training batch needs them, beside pycocotools' own decoder."""

from __future__ import annotations

import numpy as np
from chexseg_platform.data.store import MaskRows, Store, expert_rows
from chexseg_platform.findings import FINDINGS
from pycocotools import mask as coco

from tests.benchmarks.harness import Row, compare, rate_of
from tests.benchmarks.material import Place

SIZE, IMAGES, PASSES = 128, 800, 5


def run(place: Place) -> list[Row]:
    """Decode expert masks, all of a batch's channels, over and over."""
    store = place.store(IMAGES, SIZE)
    masks = expert_rows(store, store.rows("valid", expert=True))
    count = len(masks) * PASSES
    return [
        compare(
            "masks",
            "images/s",
            lambda: rate_of(count, lambda: _ours(masks, store)),
            lambda: rate_of(count, lambda: _peer(masks)),
            "pycocotools, unchecked",
        )
    ]


def _ours(masks: MaskRows, store: Store) -> None:
    for _ in range(PASSES):
        masks.decode(np.arange(len(masks)), store.size)


def _peer(masks: MaskRows) -> None:
    for _ in range(PASSES):
        out = np.zeros((len(masks), len(FINDINGS), SIZE, SIZE), dtype=np.uint8)
        for place, counts in enumerate(masks.counts):
            runs = [{"size": [SIZE, SIZE], "counts": text.encode()} for text in counts.values()]
            if runs:
                channels = [FINDINGS.index(name) for name in counts]
                out[place, channels] = coco.decode(runs).transpose(2, 0, 1)
