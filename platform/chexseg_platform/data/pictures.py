"""Some images of a dataset, and masks of them, as a person looks at them: in the model's frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from chexseg_platform.artifacts import Artifact
from chexseg_platform.data import geometry, masks
from chexseg_platform.data.store import index_part, label_array


@dataclass(frozen=True)
class Picture:
    """An image in its frame.

    Attributes:
        image: uint8 (S, S).
        box: where the image lies in the frame.
        truth: finding -> COCO counts of the expert's mask, in the frame.
        labels: float32 (14,), NaN where nothing is said.
    """

    image: NDArray[np.uint8]
    box: geometry.Letterbox
    truth: dict[str, str]
    labels: NDArray[np.float32]


def pictures_of(dataset: Artifact, wanted: Sequence[str]) -> dict[str, Picture]:
    """Read some images by their ids; of the shards only those that hold one are opened."""
    size, found = int(dataset.summary["size"]), dict[str, Picture]()
    ids = pa.array(list(wanted), pa.string())
    for part in dataset.parts("rows/"):
        columns = ["image_id", "height", "width", "small_masks", "labels"]
        index = index_part(dataset, part.name, columns)
        mine = pc.is_in(index["image_id"], ids)
        if not pc.any(mine).as_py():
            continue
        images = dataset.table(part.name, ["image"]).filter(mine)["image"].to_pylist()
        some = index.filter(mine)
        labels = label_array(some["labels"])
        for row, pixels, said in zip(some.to_pylist(), images, labels, strict=True):
            image = np.frombuffer(pixels, np.uint8).reshape(size, size)
            box = geometry.Letterbox(row["height"], row["width"], size)
            truth = {item["finding"]: item["counts"] for item in row["small_masks"] or []}
            found[row["image_id"]] = Picture(image, box, truth, said)
    return found


def framed_mask(
    predictions: pa.Table, image_id: str, finding: str, box: geometry.Letterbox
) -> NDArray[np.bool_]:
    """Return a predicted mask, which is kept at original size, in the frame."""
    rows = predictions.filter(
        pc.and_(
            pc.equal(predictions["image_id"], image_id), pc.equal(predictions["finding"], finding)
        )
    )
    counts = rows["counts"][0].as_py() if rows.num_rows else None
    if counts is None:
        return np.zeros((box.size, box.size), dtype=bool)
    return geometry.letterbox_mask(masks.decode(counts, box.height, box.width), box)
