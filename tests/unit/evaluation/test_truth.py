"""What experts say of classes, by hand on an image of 2 x 3."""

import numpy as np
import pytest
from chexseg_platform.data.masks import decode, encode
from chexseg_platform.evaluation.truth import Truth, drawn_of, known_classes, truth_of
from chexseg_platform.findings import CLAVICLES, FINDINGS, LUNGS, ORGANS

NOBODY = [None] * 14


def mask(*rows):
    return encode(np.array(rows, bool))


RIGHT, LEFT = mask([1, 0, 0], [1, 0, 0]), mask([0, 0, 1], [0, 0, 0])


def row(drawn, labels=NOBODY):
    listed = None if drawn is None else [{"finding": k, "counts": v} for k, v in drawn.items()]
    return {"height": 2, "width": 3, "masks": listed, "labels": labels}


@pytest.mark.parametrize(("label", "expected"), [(0, {}), (1, None), (None, None), (-1, None)])
def test_an_image_without_masks_is_empty_only_where_its_labels_say_so(label, expected):
    assert drawn_of({"masks": None, "labels": [label] * 14}, "masks") == expected


def test_findings_that_are_not_drawn_are_empty():
    assert truth_of(row({"Edema": RIGHT}), FINDINGS) == Truth({"Edema": RIGHT}, FINDINGS)
    assert truth_of(row(None, [0] * 14), FINDINGS) == Truth({}, FINDINGS)


def test_structures_that_are_not_drawn_are_unknown():
    drawn = {"Heart": mask([0, 0, 0], [0, 0, 0]), "Left Lung": LEFT}
    assert truth_of(row(drawn), ORGANS) == Truth(drawn, ("Left Lung", "Heart"))
    assert truth_of(row(None), ORGANS) == Truth(None, ())
    assert truth_of(row(None, [0] * 14), (*ORGANS, "Edema")) == Truth({}, ("Edema",))


def test_what_has_two_sides_is_their_union():
    found = truth_of(row({"Right Lung": RIGHT, "Left Lung": LEFT}), (LUNGS, CLAVICLES))
    assert found.known == (LUNGS,)
    assert decode(found.masks[LUNGS], 2, 3).tolist() == [[1, 0, 1], [1, 0, 0]]


def test_an_empty_side_is_one_that_is_known():
    empty = mask([0, 0, 0], [0, 0, 0])
    found = truth_of(row({"Right Lung": RIGHT, "Left Lung": empty}), (LUNGS,))
    assert found == Truth({LUNGS: RIGHT}, (LUNGS,))


def test_half_is_not_the_whole_and_the_whole_says_nothing_of_halves():
    assert truth_of(row({"Right Lung": RIGHT}), (LUNGS,)) == Truth({}, ())
    assert truth_of(row({LUNGS: RIGHT}), ("Right Lung", LUNGS)) == Truth({LUNGS: RIGHT}, (LUNGS,))


def test_a_mask_of_the_whole_is_taken_before_its_sides():
    drawn = {LUNGS: LEFT, "Right Lung": RIGHT, "Left Lung": LEFT}
    assert truth_of(row(drawn), (LUNGS,)).masks == {LUNGS: LEFT}


def test_classes_keep_their_order():
    assert known_classes({"Heart", "Tube"}, ("Tube", "Aorta", "Edema", "Heart")) == (
        "Tube",
        "Edema",
        "Heart",
    )
