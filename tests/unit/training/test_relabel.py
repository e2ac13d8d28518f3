"""Labels made anew by a segmenter whose masks are known: it sees what is bright."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from chexseg_platform.config import Saliency
from chexseg_platform.data import masks
from chexseg_platform.models.preprocess import Preprocess
from chexseg_platform.saliency.pseudotable import IGNORED, Images, schemas_of
from chexseg_platform.training.relabel import Relabeller
from torch import nn

CPU, SIZE = torch.device("cpu"), 16
NAMES = Saliency().names
EDEMA, LESION = NAMES.index("Edema"), NAMES.index("Lung Lesion")


class Bright(nn.Module):
    """Every class is where the image is brighter than a half."""

    def forward(self, image_B1SS):
        return (20.0 * (image_B1SS - 0.5)).expand(-1, len(NAMES), -1, -1)


def square(rows, columns):
    mask = np.zeros((SIZE, SIZE), bool)
    mask[rows, columns] = True
    return mask


BRIGHT, OLD = square(slice(2, 8), slice(2, 8)), square(slice(4, 12), slice(4, 12))


def rows(image_id, **drawn):
    """Labels of an image: Edema and Lung Lesion have the old mask, all else is empty."""
    found = []
    for name in NAMES:
        there = name in ("Edema", "Lung Lesion")
        row = dict.fromkeys(schemas_of(SETTINGS)["masks"].names)
        row |= {"image_id": image_id, "split": "train", "finding": name, "known": True}
        row |= {"allowed": there, "probability": 0.5, "status": "mask" if there else "not allowed"}
        row["counts"] = masks.encode(OLD) if there else None
        found.append(row)
    return found


SETTINGS = Saliency(ignore=0.05)


def before(image_ids):
    schemas = schemas_of(SETTINGS)
    table = [row for image_id in image_ids for row in rows(image_id)]
    said = [{"image_id": i, "split": "train", "probabilities": [0.5] * 14} for i in image_ids]
    return (
        pa.Table.from_pylist(table, schema=schemas["masks"]),
        pa.Table.from_pylist(said, schema=schemas["images"]),
    )


def relabeller(chosen, **fields):
    wish = SETTINGS.model_copy(update=fields)
    plain = Preprocess(mean=0.0, std=1.0)
    return Relabeller(Bright(), plain, torch.full((10,), 0.5), wish, before, chosen, CPU)


def images(*greys):
    content = np.tile([0, SIZE, 0, SIZE], (len(greys), 1))
    labels = np.ones((len(greys), 14), np.float32)
    ids = [f"image {n}" for n in range(len(greys))]
    return Images(ids, ["train"] * len(greys), np.stack(greys), content, labels)


def grey(mask):
    return np.where(mask, 255, 0).astype(np.uint8)


def test_chosen_classes_get_the_segmenters_masks_where_one_was_allowed():
    table, said = relabeller(["Edema", "Cardiomegaly"])(images(grey(BRIGHT)))
    assert table.schema == schemas_of(SETTINGS)["masks"]
    new = {row["finding"]: row for row in table.to_pylist()}
    np.testing.assert_array_equal(masks.decode(new["Edema"]["counts"], SIZE, SIZE), BRIGHT)
    assert (new["Edema"]["peak_row"], new["Edema"]["peak_column"]) == (2, 2)
    assert (new["Edema"]["status"], new["Edema"]["threshold"]) == ("mask", 0.5)
    ignored = masks.decode(new["Edema"][IGNORED], SIZE, SIZE).astype(bool)
    # A band of one pixel around it: above, below, left and right of the square of six.
    assert ignored.sum() == 4 * 6
    assert not (ignored & BRIGHT).any()
    old = {row["finding"]: row for row in rows("image 0")}
    for name in NAMES:
        if name != "Edema":  # not chosen, or never allowed
            assert new[name] == {**old[name], "probability": pytest.approx(0.5)}
    assert said.equals(before(["image 0"])[1])


def test_what_the_segmenter_does_not_see_becomes_unknown():
    table, _ = relabeller(["Edema"])(images(grey(BRIGHT), grey(square(slice(0, 1), slice(0, 1)))))
    found = [row for row in table.to_pylist() if row["finding"] == "Edema"]
    assert [row["known"] for row in found] == [True, True]
    table, _ = relabeller(["Edema"], smallest=0.02)(
        images(grey(BRIGHT), grey(square(slice(0, 1), slice(0, 1))))
    )
    found = [row for row in table.to_pylist() if row["finding"] == "Edema"]
    assert [row["known"] for row in found] == [True, False]
    assert [row["status"] for row in found] == ["mask", "empty"]
    assert found[1]["counts"] is None


def test_what_is_the_same_everywhere_peaks_nowhere():
    table, _ = relabeller(["Edema"])(images(grey(square(slice(0, 0), slice(0, 0)))))
    (row,) = (row for row in table.to_pylist() if row["finding"] == "Edema")
    assert (row["peak_row"], row["peak_column"], row["counts"]) == (None, None, None)


def test_no_images_are_no_rows():
    nothing = images(grey(BRIGHT)).cut(1)
    empty = next(nothing)
    empty = Images([], [], empty.grey[:0], empty.content[:0], empty.labels[:0])
    tables = relabeller(["Edema"])(empty)
    assert [table.num_rows for table in tables] == [0, 0]
