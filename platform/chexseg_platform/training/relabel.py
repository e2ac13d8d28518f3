"""Self-distillation: a segmenter that learned pseudo-labels makes them anew.

A segmenter sees many images' labels and not the quirks of each map, so its masks of the same
images may lie better than those it learned (Xie et al. 2020, arXiv 1911.04252). The labels' own
reasons stay: a mask is made where one was allowed, and nowhere else.

Shapes: B images, K classes, S side of the frame.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from chexseg_platform.config import Saliency
from chexseg_platform.models.preprocess import Preprocess
from chexseg_platform.saliency.boost import ignore_band, without_small
from chexseg_platform.saliency.pseudotable import IGNORED, Images, encode, schemas_of
from chexseg_platform.saliency.threshold import peaks
from chexseg_platform.training.metrics import binarise
from chexseg_platform.training.segmentation import predict_batch

Before = Callable[[Sequence[str]], tuple[pa.Table, pa.Table]]
"""Image ids -> their rows of the labels there are: of the masks, K an image, and of the images."""


class Relabeller:
    """A segmenter on a device, turning batches and their labels into new labels.

    Args:
        model: a segmenter of the settings' classes.
        preprocess: what it was trained with.
        threshold_K: where its probabilities are cut.
        settings: `smallest` and `ignore` are those of the labels before.
        before: the labels that it learned.
        chosen: classes that get its masks; the others keep theirs.
    """

    def __init__(
        self,
        model: nn.Module,
        preprocess: Preprocess,
        threshold_K: Tensor,
        settings: Saliency,
        before: Before,
        chosen: Sequence[str],
        device: torch.device,
    ) -> None:
        self.model = model.to(device).eval()
        self.preprocess, self.threshold_K = preprocess, threshold_K
        self.settings, self.before, self.device = settings, before, device
        self.chosen = np.isin(settings.names, list(chosen))
        plain = settings.model_copy(update={"maps": "none"})
        self.schemas = schemas_of(plain)

    def __call__(self, images: Images) -> tuple[pa.Table, ...]:
        """Return the batch's rows of masks and of images."""
        if not images.ids:
            return tuple(schema.empty_table() for schema in self.schemas.values())
        masks, probabilities = self.before(images.ids)
        return self._relabelled(images, masks), probabilities

    def _relabelled(self, images: Images, table: pa.Table) -> pa.Table:
        """Return the labels with new masks where one is allowed and the class is chosen."""
        shape = (len(images.ids), len(self.settings.names))
        allowed_BK = table["allowed"].to_numpy().reshape(shape) & self.chosen
        content = torch.from_numpy(images.content).to(self.device)
        grey = torch.from_numpy(images.grey).to(self.device)
        probability_BKSS = predict_batch(self.model, self.preprocess, grey, content)
        mask_BKSS = binarise(probability_BKSS, self.threshold_K).cpu().numpy()
        mask_BKSS &= allowed_BK[:, :, None, None]
        mask_BKSS = without_small(mask_BKSS, self.settings.smallest)
        filled_BK = np.any(mask_BKSS, axis=(2, 3))
        found_BK2 = peaks(probability_BKSS, images.grey.shape[-1], content).cpu().numpy()
        peak_BK2 = found_BK2.astype(object)
        peak_BK2[found_BK2 < 0] = None  # flat: the highest place is nowhere
        # A finding that is there and of which nothing is seen is not known to be nowhere.
        new = {
            "known": filled_BK,
            "threshold": np.broadcast_to(self.threshold_K.numpy(), shape),
            "counts": encode(mask_BKSS, filled_BK),
            "peak_row": peak_BK2[..., 0],
            "peak_column": peak_BK2[..., 1],
            "status": np.where(filled_BK, "mask", "empty"),
        }
        if self.settings.ignore:
            band_BKSS = ignore_band(mask_BKSS, self.settings.ignore, images.content)
            new[IGNORED] = encode(band_BKSS, np.any(band_BKSS, axis=(2, 3)))
        return _replaced(table, new, allowed_BK)


def _replaced(table: pa.Table, new: Mapping[str, Any], where_BK: NDArray[np.bool_]) -> pa.Table:
    """Return a table with other values in some columns, in the rows where they are wanted."""
    where = pa.array(where_BK.ravel())
    for name, values in new.items():
        flat = [item for row in np.asarray(values, dtype=object).tolist() for item in row]
        column = pc.if_else(where, pa.array(flat, table.schema.field(name).type), table[name])
        table = table.set_column(table.schema.get_field_index(name), name, column)
    return table
