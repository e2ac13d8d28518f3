"""From a batch of X-rays to rows of seeds: where their maps are sure, for IRNet to learn from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import torch

from chexseg_platform.findings import FINDINGS
from chexseg_platform.saliency.gate import gate
from chexseg_platform.saliency.pseudolabel import PseudoLabeller
from chexseg_platform.saliency.pseudotable import Images
from chexseg_platform.saliency.seeds import encode, find_seeds

SEED_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("split", pa.string()),
        ("finding", pa.string()),
        ("foreground", pa.string()),
        ("background", pa.string()),
    ]
)
"""An (image, finding) with a map that is allowed: COCO counts at model size, null where none."""


class SeedLabeller:
    """Makes seed tables of batches.

    Args:
        labeller: explains the images; its settings say which maps are allowed (`gate`) and how
            seeds are cut (`irnet`). Its own `refine` is "none".
    """

    def __init__(self, labeller: PseudoLabeller) -> None:
        self.labeller = labeller
        self.schemas = {"seeds": SEED_SCHEMA}

    def __call__(self, images: Images) -> tuple[pa.Table, ...]:
        """Return the batch's rows (SEED_SCHEMA), one an allowed map."""
        rows = [row for part in self.labeller.cut(images) for row in self._rows(part)]
        return (pa.Table.from_pylist(rows, schema=SEED_SCHEMA),)

    def _rows(self, images: Images) -> list[dict[str, Any]]:
        settings, wish = self.labeller.settings, self.labeller.settings.irnet
        found = self.labeller.explain(images, self.labeller.wanted(images))
        probability = found.probability_BK[:, self.labeller.places].cpu().numpy()
        allowed, _ = gate(images.labels, probability, settings)
        seeds = find_seeds(
            found.heat_BKhw,
            images.grey.shape[-1],
            foreground=wish.foreground,
            background=wish.background,
            refine=wish.refine,
            image_BSS=torch.from_numpy(images.grey),
            content_B4=torch.from_numpy(images.content),
            allowed_BK=torch.from_numpy(allowed),
        )
        front, back = encode(seeds.foreground), encode(seeds.background)
        return [
            {
                "image_id": images.ids[image],
                "split": images.splits[image],
                "finding": FINDINGS[k],
                "foreground": front[image].get(FINDINGS[k]),
                "background": back[image].get(FINDINGS[k]),
            }
            for image, k in np.argwhere(allowed)
        ]
