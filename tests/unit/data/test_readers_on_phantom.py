"""The readers on the phantom: it writes the real layouts, so nothing here knows it is one."""

from collections import Counter

import pytest
from chexseg_platform.data.chexlocalize import (
    attach,
    read_annotations,
    read_masks,
    read_points,
    read_segmentations,
)
from chexseg_platform.data.chexpert import read_chexpert
from chexseg_platform.data.rows import make_row, to_table
from chexseg_platform.data.splits import assert_disjoint


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    phantom = pytest.importorskip("chexseg_platform.data.phantom")
    out = tmp_path_factory.mktemp("phantom")
    phantom.write_phantom(out, train=12, valid=4, test=4, size=96, seed=1, workers=1)
    return out


def test_every_image_becomes_a_row(root):
    local = root / "CheXlocalize"
    splits = {
        "train": read_chexpert(root),
        "valid": attach(
            read_chexpert(root, split="valid"), read_masks(local / "gt_annotations_val.json")
        ),
        "test": attach(
            read_chexpert(local, split="test"),
            read_masks(local / "gt_segmentations_test.json"),
            read_masks(local / "hb_segmentations_test.json"),
            read_points(local / "hb_salient_pt_test.json"),
        ),
    }
    assert_disjoint(splits)
    rows = [make_row(entry, 32) for entries in splits.values() for entry in entries]
    assert Counter(row.split for row in rows) == {"train": 12, "valid": 4, "test": 4}
    assert all(row.masks is None for row in rows if row.split == "train")
    # Labels of valid and test are those of the experts: a positive one has a mask.
    assert all(row.masks is not None for row in rows if row.split != "train")
    table = to_table(rows, 32)
    assert table["image_id"].to_pylist() == [row.image_id for row in rows]
    assert table["image"].to_pylist() == [row.image for row in rows]


def test_annotations_and_segmentations_are_the_same_masks(root):
    local = root / "CheXlocalize"
    for name in ("gt_{}_val", "gt_{}_test", "hb_{}_test"):
        outlines = read_annotations(local / f"{name.format('annotations')}.json")
        runs = read_segmentations(local / f"{name.format('segmentations')}.json")
        assert {key: drawn.encoded() for key, drawn in outlines.items()} == runs
