"""What a method's maps and masks count as, row by row."""

import numpy as np
import pytest
from chexseg_platform.data.masks import encode
from chexseg_platform.evaluation.methods import _hits, drawn_of
from chexseg_platform.findings import FINDINGS


def mask(*cells):
    drawn = np.zeros((4, 4), bool)
    for cell in cells:
        drawn[cell] = True
    return encode(drawn)


ROW = {"height": 4, "width": 4, "benchmark_points": None}


def test_a_map_without_a_maximum_is_a_miss_where_there_is_something_to_hit():
    truth = {"Edema": mask((1, 1)), "Cardiomegaly": mask((2, 2))}
    found = _hits(ROW, truth, {"Edema": (1, 1), "Atelectasis": (0, 0)}, readers=False)
    assert found["Edema"] == 1
    assert found["Cardiomegaly"] == 0
    assert [found[name] for name in FINDINGS if name not in truth] == [None] * 8


def test_nothing_is_hit_or_missed_without_truth_or_maps():
    assert _hits(ROW, None, {"Edema": (1, 1)}, readers=False) is None
    assert _hits(ROW, {"Edema": mask((1, 1))}, None, readers=False) is None


@pytest.mark.parametrize(("label", "expected"), [(0, {}), (1, None), (None, None), (-1, None)])
def test_an_image_without_masks_is_empty_only_where_its_labels_say_so(label, expected):
    assert drawn_of({"masks": None, "labels": [label] * 14}, "masks") == expected
