"""Masks: answers by hand, pycocotools as the reference, the published masks, corrupt counts."""

import json
from pathlib import Path

import numpy as np
import pytest
from chexseg_platform.data import masks
from chexseg_platform.data.overlaps import overlaps
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco

SAMPLE = Path(__file__).resolve().parents[4] / "shared/data/chexlocalize_sample"
SIZES = st.tuples(st.integers(1, 17), st.integers(1, 17))
MASKS = SIZES.flatmap(lambda size: arrays(bool, size))


def test_one_pixel_by_hand():
    mask = np.zeros((5, 4), bool)
    mask[2, 3] = True
    counts = masks.encode(mask)
    # Columns one after the other: 17 of background, 1 of foreground, 2 of background.
    assert masks.run_lengths(counts).tolist() == [17, 1, 2]
    assert masks.area(counts, 5, 4) == 1
    np.testing.assert_array_equal(masks.decode(counts, 5, 4), mask)


def test_empty_and_full_masks():
    for mask in (np.zeros((3, 7), bool), np.ones((3, 7), bool)):
        counts = masks.encode(mask)
        np.testing.assert_array_equal(masks.decode(counts, 3, 7), mask)
        assert masks.area(counts, 3, 7) == mask.sum()


@given(MASKS)
@settings(deadline=None, max_examples=200)
def test_decode_inverts_encode_and_agrees_with_pycocotools(mask):
    height, width = mask.shape
    counts = masks.encode(mask)
    decoded = masks.decode(counts, height, width)
    np.testing.assert_array_equal(decoded, mask)
    reference = coco.decode({"size": [height, width], "counts": counts.encode()})
    np.testing.assert_array_equal(decoded, reference.astype(bool))


def test_rasterise_draws_the_union_and_cuts_at_the_frame():
    square = [(1, 1), (3, 1), (3, 3), (1, 3)]
    beyond = [(3.0, 3.0), (90.0, 3.0), (90.0, 90.0), (3.0, 90.0)]
    expected = np.zeros((6, 6), bool)
    expected[1:4, 1:4] = True
    expected[3:, 3:] = True
    np.testing.assert_array_equal(masks.rasterise([square, beyond], 6, 6), expected)
    assert not masks.rasterise([], 6, 6).any()
    assert masks.rasterise([[(2, 4)]], 6, 6).sum() == 1


def test_rasterise_reproduces_the_published_masks():
    if not SAMPLE.is_dir():
        pytest.skip("shared/data/chexlocalize_sample is not beside the repository")
    polygons = json.loads((SAMPLE / "gt_annotations_val.json").read_text())
    published = json.loads((SAMPLE / "gt_segmentations_val.json").read_text())
    for image_id, classes in published.items():
        height, width = polygons[image_id]["img_size"]
        for name, rle in classes.items():
            drawn = masks.rasterise(polygons[image_id].get(name, []), height, width)
            decoded = masks.decode(rle["counts"], height, width)
            assert np.count_nonzero(drawn != decoded) == 0, (image_id, name)
            assert masks.encode(drawn) == rle["counts"]


@pytest.mark.parametrize(
    ("counts", "says"),
    [
        ("", "empty"),
        ("a01", "cover 18"),
        ("a0", "cover 17"),
        ("a012" * 3, "cover|negative"),
        ("Q", "cut short"),
        ("a01Q", "cut short"),
        ("a01\x00", "never writes"),
        ("a01é", "COCO's characters"),
        ("O", "negative"),
        ("QQQQQQQQQQQQQQQQ0", "longer than any"),
        ("0" * 1000, "too long"),
    ],
)
def test_corrupt_counts_are_refused(counts, says):
    with pytest.raises(masks.CorruptMask, match=says):
        masks.decode(counts, 5, 4)
    with pytest.raises(masks.CorruptMask):
        overlaps([counts], [counts], [5], [4])


def test_counts_of_another_size_are_refused():
    counts = masks.encode(np.ones((5, 4), bool))
    for size in ((4, 4), (5, 5), (0, 20), (100_000, 100_000)):
        with pytest.raises(masks.CorruptMask):
            masks.decode(counts, *size)


@pytest.mark.parametrize("counts", [None, [17, 1, 2], b"a012", 7])
def test_counts_that_are_no_text_are_refused(counts):
    with pytest.raises(masks.CorruptMask, match="must be a string"):
        masks.decode(counts, 5, 4)


@given(st.text(max_size=12) | st.text("0123456789KLMNOabcPQ", max_size=8))
@settings(deadline=None, max_examples=200)
def test_any_text_is_a_mask_or_refused(counts):
    try:
        mask = masks.decode(counts, 3, 4)
    except masks.CorruptMask:
        return
    assert mask.shape == (3, 4)


@pytest.mark.parametrize("mask", [np.zeros((2, 2)), np.zeros(4, bool), np.zeros((0, 3), bool)])
def test_encode_refuses_what_is_no_mask(mask):
    with pytest.raises(masks.CorruptMask):
        masks.encode(mask)


@pytest.mark.parametrize(
    "polygon", [[], [[1, 2, 3]], [[1, float("nan")]], [["a", "b"]], [[1, 2], [3]], [[1e30, 0]]]
)
def test_rasterise_refuses_broken_polygons(polygon):
    with pytest.raises(masks.CorruptMask):
        masks.rasterise([polygon], 4, 4)
