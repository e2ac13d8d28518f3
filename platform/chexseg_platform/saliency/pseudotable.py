"""The tables of pseudo-labels: what a batch of X-rays goes in as, and comes out as.

Shapes: B images, K the classes of the settings, S side of the frame, h x w cells of a map.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco
from torch import Tensor

from chexseg_platform.config import Saliency
from chexseg_platform.data.geometry import Letterbox, restore
from chexseg_platform.saliency.threshold import upsample

MASK_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("split", pa.string()),
        ("finding", pa.string()),
        ("known", pa.bool_()),
        ("allowed", pa.bool_()),
        ("probability", pa.float32()),
        ("threshold", pa.float32()),
        ("counts", pa.string()),
        ("peak_row", pa.int16()),
        ("peak_column", pa.int16()),
        ("steps", pa.int16()),
        ("completeness_error", pa.float32()),
        ("status", pa.string()),
    ]
)
"""A pseudo-label: one image and class. `counts`: COCO RLE at model size, null without a mask;
`peak_*`: the map's first maximum in the frame, null without a usable map; `steps` and
`completeness_error`: of Integrated Gradients, else null; `status`: "mask",
"empty" (nothing above the threshold), "not allowed", "flat", or "not finite", which is said of a
map that is not allowed as well, and of one that is too far from completeness."""

IGNORED = "ignored"
"""The column of pixels that say nothing, where the settings make some: COCO counts as `counts`."""

MAPS = "maps"
MAP_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("finding", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("heat", pa.binary()),
    ]
)
"""A map of an allowed (image, finding): float16, row by row, divided by its own maximum."""

IMAGE_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("split", pa.string()),
        ("probabilities", pa.list_(pa.float32())),
    ]
)


@dataclass(frozen=True)
class Images:
    """A batch: ids, splits, grey uint8 (B, S, S), content int64 (B, 4), labels (B, 14).

    `sides`: original height and width, int64 (B, 2); only needed for maps at original size.
    """

    ids: Sequence[str]
    splits: Sequence[str]
    grey: NDArray[np.uint8]
    content: NDArray[np.int64]
    labels: NDArray[np.float32]
    sides: NDArray[np.int64] | None = None

    def cut(self, most: int) -> Iterator[Images]:
        """Yield the batch in parts of at most `most` images."""
        for start in range(0, len(self.ids), most):
            part = slice(start, start + most)
            yield Images(
                self.ids[part],
                self.splits[part],
                self.grey[part],
                self.content[part],
                self.labels[part],
                None if self.sides is None else self.sides[part],
            )


def schemas_of(settings: Saliency) -> dict[str, pa.Schema]:
    """Return what a labeller makes under some settings: names and schemas of its tables."""
    extra = [pa.field(IGNORED, pa.string())] if settings.ignore else []
    made = {"masks": pa.schema([*MASK_SCHEMA, *extra]), "images": IMAGE_SCHEMA}
    return made if settings.maps == "none" else {**made, MAPS: MAP_SCHEMA}


def map_table(
    images: Images,
    heat_BKhw: Tensor,
    wanted_BK: Tensor,
    classes: Sequence[str],
    original: bool = False,
) -> pa.Table:
    """Return maps as rows (MAP_SCHEMA), in the model's frame or at each image's original size.

    Args:
        heat_BKhw: at least 0; cells of the whole frame.
        wanted_BK: bool, which ones.
        classes: the K classes by name.
        original: padding is cut off and the rest brought to the image's height and width, the
            inverse of the letterbox that made the frame; needs `images.sides`.
    """
    if original and images.sides is None:
        raise ValueError("maps at original size need the images' heights and widths")
    size, rows = images.grey.shape[-1], []
    for image, k in wanted_BK.nonzero().tolist():
        heat = heat_BKhw[image, k].float().cpu()
        if original:
            assert images.sides is not None
            height, width = (int(side) for side in images.sides[image])
            frame_SS = upsample(heat[None, None], size)[0, 0]
            heat = torch.from_numpy(restore(frame_SS, Letterbox(height, width, size)))
        scaled = (heat / heat.max().clamp(min=1e-30)).half().numpy()
        place = {"image_id": images.ids[image], "finding": classes[k]}
        rows.append(
            {**place, "height": scaled.shape[0], "width": scaled.shape[1], "heat": scaled.tobytes()}
        )
    return pa.Table.from_pylist(rows, schema=MAP_SCHEMA)


def mask_table(images: Images, columns: Mapping[str, Any], classes: Sequence[str]) -> pa.Table:
    """Return a batch's rows of MASK_SCHEMA, and IGNORED where it is given, one an image and class.

    Args:
        columns: (B, K) each, by name; `counts` a list of lists, `peak` (B, K, 2).
    """
    batch = len(columns["known"])
    extra = {IGNORED: columns[IGNORED]} if IGNORED in columns else {}
    peak = columns["peak"].reshape(-1, 2)
    threshold = columns["threshold"].ravel()
    table = pa.table(
        {
            "image_id": pa.array(np.repeat(np.array(images.ids, dtype=object), len(classes))),
            "split": pa.array(np.repeat(np.array(images.splits, dtype=object), len(classes))),
            "finding": pa.array(list(classes) * batch),
            "known": pa.array(columns["known"].ravel()),
            "allowed": pa.array(columns["allowed"].ravel()),
            "probability": pa.array(columns["probability"].ravel().astype(np.float32)),
            "threshold": pa.array(threshold.astype(np.float32), mask=np.isnan(threshold)),
            "counts": pa.array([run for row in columns["counts"] for run in row], pa.string()),
            "peak_row": pa.array(peak[:, 0].astype(np.int16), mask=peak[:, 0] < 0),
            "peak_column": pa.array(peak[:, 1].astype(np.int16), mask=peak[:, 1] < 0),
            "steps": _nullable(columns["steps"], pa.int16()),
            "completeness_error": _nullable(columns["error"], pa.float32()),
            "status": pa.array(columns["status"].ravel().tolist()),
        },
        schema=MASK_SCHEMA,
    )
    for name, runs in extra.items():
        table = table.append_column(name, pa.array([r for row in runs for r in row], pa.string()))
    return table


def image_table(images: Images, probabilities: NDArray[np.float32]) -> pa.Table:
    """Return a batch's rows of IMAGE_SCHEMA.

    Args:
        probabilities: (B, 14).
    """
    return pa.table(
        {
            "image_id": list(images.ids),
            "split": list(images.splits),
            "probabilities": probabilities.astype(np.float32).tolist(),
        },
        schema=IMAGE_SCHEMA,
    )


def encode(mask_BKSS: NDArray[np.bool_], filled: NDArray[np.bool_]) -> list[list[str | None]]:
    """Return COCO counts of the masks that hold a pixel, None for the others."""
    out: list[list[str | None]] = [[None] * mask_BKSS.shape[1] for _ in mask_BKSS]
    places = np.argwhere(filled)
    if len(places):
        # Masks one after the other, each down its columns: what the encoder wants, in one copy.
        stack = np.ascontiguousarray(mask_BKSS[filled].transpose(0, 2, 1)).view(np.uint8)
        for (image, k), item in zip(places, coco.encode(stack.transpose(2, 1, 0)), strict=True):
            out[image][k] = item["counts"].decode()
    return out


def status(
    allowed: NDArray[np.bool_],
    finite: NDArray[np.bool_],
    usable: NDArray[np.bool_],
    filled: NDArray[np.bool_],
) -> NDArray[np.str_]:
    """Return what became of each map, by the words of MASK_SCHEMA; all (B, K)."""
    conditions = [~finite, ~allowed, ~usable, filled]
    return np.select(conditions, ["not finite", "not allowed", "flat", "mask"], default="empty")


def _nullable(values: NDArray[np.float32], type_: pa.DataType) -> pa.Array:
    """A column of numbers, null where they are NaN."""
    return pa.array(values.ravel(), pa.float32(), from_pandas=True).cast(type_)
