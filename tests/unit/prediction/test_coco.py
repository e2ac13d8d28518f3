"""What pycocotools makes of our COCO file."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from chexseg_platform.findings import FINDINGS
from chexseg_platform.prediction.coco import coco_file
from pycocotools.coco import COCO

BOX = np.zeros((6, 4), bool)
BOX[2:5, 1:3] = True
WIDE = np.zeros((3, 9), bool)
WIDE[0, 0] = WIDE[2, 8] = True


@pytest.fixture
def written(tmp_path: Path, make_predicted: Callable) -> Path:
    path = tmp_path / "coco.json"
    with coco_file(path, FINDINGS) as add:
        add(make_predicted("a", {"Edema": BOX, "Cardiomegaly": ~BOX}))
        add(make_predicted("b", {}))
        add(make_predicted("c", {"Support Devices": WIDE}, 3, 9))
    return path


def test_masks_come_back_exactly(written: Path) -> None:
    read = COCO(str(written))
    assert [read.cats[number]["name"] for number in range(1, 11)] == list(FINDINGS)
    assert [read.imgs[number]["name"] for number in (1, 2, 3)] == ["a", "b", "c"]
    drawn = {(a["image_id"], read.cats[a["category_id"]]["name"]): a for a in read.anns.values()}
    expected = {(1, "Edema"): BOX, (1, "Cardiomegaly"): ~BOX, (3, "Support Devices"): WIDE}
    assert drawn.keys() == expected.keys()
    for key, mask in expected.items():
        np.testing.assert_array_equal(read.annToMask(drawn[key]).astype(bool), mask)
        assert drawn[key]["area"] == mask.sum()


def test_annotations_say_what_scoring_needs(written: Path) -> None:
    whole = json.loads(written.read_text())
    edema = whole["annotations"][0]
    assert edema["bbox"] == [1.0, 2.0, 2.0, 3.0]
    assert edema["score"] == 0.4
    assert [item["id"] for item in whole["annotations"]] == [1, 2, 3]
    assert {item["iscrowd"] for item in whole["annotations"]} == {0}
    results = COCO(str(written)).loadRes(whole["annotations"])
    assert len(results.anns) == 3


def test_no_images_are_a_file_too(tmp_path: Path) -> None:
    with coco_file(tmp_path / "coco.json", FINDINGS):
        pass
    assert COCO(str(tmp_path / "coco.json")).imgs == {}


def test_an_error_leaves_no_file(tmp_path: Path, make_predicted: Callable) -> None:
    with pytest.raises(RuntimeError), coco_file(tmp_path / "coco.json", FINDINGS) as add:  # noqa: PT012
        add(make_predicted("a", {"Edema": BOX}))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_images_are_written_as_they_come(tmp_path: Path, make_predicted: Callable) -> None:
    with coco_file(tmp_path / "coco.json", FINDINGS) as add:
        (partial,) = tmp_path.iterdir()
        for number in range(400):
            add(make_predicted(f"{number:04d}", {"Edema": BOX}))
        assert partial.stat().st_size > 40_000


def test_categories_are_the_segmenters_classes(tmp_path: Path, make_predicted: Callable) -> None:
    with coco_file(tmp_path / "coco.json", ("Heart", "Pneumonia", "a/b")) as add:
        add(make_predicted("a", {"a/b": BOX, "Heart": ~BOX}, classes=("Heart", "Pneumonia", "a/b")))
    read = COCO(str(tmp_path / "coco.json"))
    assert list(read.cats.values()) == [
        {"id": 1, "name": "Heart", "supercategory": "structure"},
        {"id": 2, "name": "Pneumonia", "supercategory": "finding"},
        {"id": 3, "name": "a/b", "supercategory": "structure"},
    ]
    assert [(a["category_id"], a["score"]) for a in read.anns.values()] == [(3, 0.2), (1, 0.0)]
    np.testing.assert_array_equal(read.annToMask(read.anns[1]).astype(bool), BOX)
