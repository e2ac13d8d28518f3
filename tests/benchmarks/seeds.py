"""IRNet's seeds on phantoms: the guided filter beside the dense CRF that it stands for.

The maps are as good as a map of 10 x 10 cells can be: the experts' masks, averaged over cells. So
the figures tell what the cuts and their refinement do, and not what a classifier got wrong. The
CRF is there after `pip install pydensecrf2`, which compiles it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import get_args

import torch
import torch.nn.functional as F
from chexseg_platform.data.store import expert_rows
from chexseg_platform.findings import FINDINGS
from chexseg_platform.saliency.seeds import Refine, Seeds, find_seeds
from torch import Tensor

from tests.benchmarks.harness import Row, compare, rate_of
from tests.benchmarks.material import Place

IMAGES, SIZE, CELLS = 400, 320, 10


def run(place: Place) -> list[Row]:
    """Print how good the seeds are, and compare the speeds."""
    store = place.store(IMAGES, SIZE)
    rows = store.rows("valid", expert=True)
    masks = expert_rows(store, rows)
    truth = torch.from_numpy(masks.decode(torch.arange(len(rows)).numpy(), SIZE)).bool()
    grey = torch.from_numpy(store.images[rows].copy())
    content = torch.from_numpy(store.content[rows])
    heat = F.adaptive_avg_pool2d(truth.float(), CELLS)
    there = truth.flatten(2).any(-1)

    def seeds(refine: Refine) -> Seeds:
        return find_seeds(
            heat,
            SIZE,
            refine=refine,
            image_BSS=grey,
            content_B4=content,
            allowed_BK=there,
        )

    ways: list[Refine] = [way for way in get_args(Refine) if way != "dense-crf" or _has_crf()]
    print(quality({way: seeds(way) for way in ways}, truth))
    maps = int(there.sum())
    name = f"IRNet's seeds, {maps} maps at {SIZE}"

    def guided() -> float:
        return rate_of(maps, lambda: seeds("guided"))

    if "dense-crf" not in ways:
        return [Row(name=name, ours=guided(), unit="maps/s")]
    crf = "dense CRF (pydensecrf2)"
    return [
        compare(
            name,
            "maps/s",
            guided,
            lambda: rate_of(maps, lambda: seeds("dense-crf")),
            crf,
            repetitions=1,
        )
    ]


def quality(found: dict[Refine, Seeds], truth_BKSS: Tensor) -> str:
    """Return a table: mean over maps, in percent, of all findings and of each.

    Precision is the share of the foreground seeds that is the finding, recall the share of the
    finding that they cover, lost the share of the finding that the background seeds take.
    """
    head = ["finding", "maps", *(f"{way} {what}" for way, what in product(found, COLUMNS))]
    lines = [head]
    for name, channels in [("all", slice(None)), *((n, [k]) for k, n in enumerate(FINDINGS))]:
        truth = truth_BKSS[:, channels].flatten(0, 1).flatten(1)
        shown = truth.any(1)
        figures = [
            figure
            for seeds in found.values()
            for figure in _figures(
                *(part[:, channels].flatten(0, 1).flatten(1)[shown] for part in seeds),
                truth[shown],
            )
        ]
        lines.append([name, str(int(shown.sum())), *(f"{figure:.1f}" for figure in figures)])
    return _columns(lines)


COLUMNS = ("precision", "recall", "lost")


def _figures(front: Tensor, back: Tensor, truth: Tensor) -> list[float]:
    hit, size = (front & truth).sum(1), truth.sum(1)
    precision = (hit / front.sum(1))[front.any(1)]
    return [
        100 * float(part.mean()) for part in (precision, hit / size, (back & truth).sum(1) / size)
    ]


def _columns(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def _has_crf() -> bool:
    try:
        import pydensecrf.densecrf  # noqa: F401
    except ImportError:
        print("pydensecrf2 is not installed: the guided filter stands alone.")
        return False
    return True
