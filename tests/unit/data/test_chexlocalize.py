"""Expert masks and points: by hand, published ones, broken files, and joining them to images."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from chexseg_platform.data import masks
from chexseg_platform.data.chexlocalize import (
    UnknownImages,
    attach,
    read_annotations,
    read_masks,
    read_points,
    read_segmentations,
)
from chexseg_platform.data.chexpert import read_chexpert
from chexseg_platform.data.entries import (
    NOTHING_DRAWN,
    BrokenAnnotations,
    Entry,
    MaskSet,
    Outlines,
)
from chexseg_platform.findings import CHEXLOCALIZE_NAMES, OBSERVATIONS

SAMPLE = Path(__file__).resolve().parents[4] / "shared/data/chexlocalize_sample"
SQUARE = [[1.0, 1.0], [3.0, 1.0], [3.0, 3.0], [1.0, 3.0]]
ONE, TWO = "patient00001_study1_view1_frontal", "patient00002_study1_view1_frontal"


def drawn():
    mask = np.zeros((6, 8), bool)
    mask[1:4, 1:4] = True
    return mask


def runs(mask):
    return {"size": list(mask.shape), "counts": masks.encode(mask)}


def saved(tmp_path, content):
    file = tmp_path / "gt.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def entry(image_id, *positive, split="valid", blank=False):
    labels = tuple(None if blank else int(name in positive) for name in OBSERVATIONS)
    return Entry(
        image_id=image_id, patient=image_id.split("_")[0], study="study1", view="frontal",
        projection=None, sex=None, age=None, split=split, source="x", path="/x", labels=labels,
    )  # fmt: skip


def test_annotations_become_masks(tmp_path):
    file = saved(tmp_path, {ONE: {"img_size": [6, 8], "Airspace Opacity": [SQUARE]}})
    outlines = read_annotations(file)[ONE]
    assert (outlines.height, outlines.width) == (6, 8)
    assert list(outlines.polygons) == ["Lung Opacity"]
    assert outlines.encoded().counts == {"Lung Opacity": masks.encode(drawn())}


def test_segmentations_leave_out_empty_masks(tmp_path):
    empty = runs(np.zeros((6, 8), bool))
    record = dict.fromkeys(CHEXLOCALIZE_NAMES.values(), empty) | {"Edema": runs(drawn())}
    assert read_segmentations(saved(tmp_path, {ONE: record}))[ONE] == MaskSet(
        6, 8, {"Edema": masks.encode(drawn())}
    )


def test_either_kind_of_file_is_recognised(tmp_path):
    first = read_masks(saved(tmp_path, {ONE: {"img_size": [6, 8], "Edema": [SQUARE]}}))
    assert isinstance(first[ONE], Outlines)
    second = read_masks(saved(tmp_path, {ONE: {"Edema": runs(drawn())}}))
    assert first[ONE].encoded() == second[ONE]


def test_points(tmp_path):
    file = saved(tmp_path, {ONE: {"Airspace Opacity": [[3, 4.5]], "Edema": []}})
    assert read_points(file) == {ONE: {"Lung Opacity": [(3.0, 4.5)], "Edema": []}}


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"Edema": [SQUARE]}, "'img_size': found None"),
        ({"img_size": [0, 8], "Edema": [SQUARE]}, "'img_size'"),
        ({"img_size": [6.5, 8], "Edema": [SQUARE]}, "'img_size'"),
        ({"img_size": [60000, 60000]}, "'img_size'"),
        ({"img_size": [6, 8], "Oedema": [SQUARE]}, "Oedema.*Did you mean 'Edema'"),
        ({"img_size": [6, 8], "Pneumonia": [SQUARE]}, "'Pneumonia' is not drawn"),
        ({"img_size": [6, 8], "Edema": SQUARE}, "'Edema', polygon 1, point 1"),
        ({"img_size": [6, 8], "Edema": [SQUARE, [[1, 2], [1, "a"]]]}, "polygon 2, point 2"),
        ({"img_size": [6, 8], "Edema": [[]]}, "without points"),
        ({"img_size": [6, 8], "Edema": {}}, "list of polygons"),
        ({"img_size": [6, 8], "Edema": [[[1e300, 1]]]}, "point 1"),
    ],
)
def test_broken_annotations_name_the_place(tmp_path, record, says):
    file = saved(tmp_path, {TWO: {"img_size": [6, 8]}, ONE: record})
    with pytest.raises(BrokenAnnotations, match=says) as caught:
        read_annotations(file)
    assert str(file) in str(caught.value)
    assert ONE in str(caught.value)


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        ([1, 2], "'size' and 'counts'"),
        ({"size": [6, 8]}, "'size' and 'counts'"),
        ({"size": [8, 6, 1], "counts": "0"}, "'size'"),
        ({"size": [7, 8], "counts": masks.encode(drawn())}, "cover 48 pixels.*56"),
        ({"size": [6, 8], "counts": masks.encode(drawn())[:-1]}, "cut short"),
        ({"size": [6, 8], "counts": [7, 3, 38]}, "must be a string"),
    ],
)
def test_broken_segmentations_name_the_place(tmp_path, mask, says):
    file = saved(tmp_path, {ONE: {"Edema": mask}})
    with pytest.raises(BrokenAnnotations, match=says) as caught:
        read_segmentations(file)
    assert f"image {ONE!r}, 'Edema'" in str(caught.value)


def test_masks_of_one_image_have_one_size(tmp_path):
    file = saved(tmp_path, {ONE: {"Edema": runs(drawn()), "Cardiomegaly": runs(drawn().T.copy())}})
    with pytest.raises(BrokenAnnotations, match="differ in size"):
        read_segmentations(file)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a": {\n "Edema": [[', "line 2, character 13"),
        ("", "line 1, character 1"),
        ("[]", "must hold an object"),
        ('{"a": []}', "must hold an object"),
        ('{"a": {}, "a": {}}', "'a' comes twice"),
        ('{"a": {"img_size": [NaN, 1]}}', "NaN is no number"),
        ("[" * 200_000, "no usable JSON"),
        ('{"a": {"img_size": [' + "9" * 5000 + "]}}", "no usable JSON"),
    ],
)
def test_files_that_are_no_json_name_the_place(tmp_path, text, says):
    file = saved(tmp_path, text)
    for reader in (read_annotations, read_segmentations, read_points, read_masks):
        with pytest.raises(BrokenAnnotations, match=says) as caught:
            reader(file)
        assert str(file) in str(caught.value)


def test_an_absent_file(tmp_path):
    with pytest.raises(BrokenAnnotations, match="no such file"):
        read_points(tmp_path / "hb_salient_pt_test.json")


def test_masks_join_their_images():
    truth, benchmark = MaskSet(6, 8, {}), Outlines(6, 8, {})
    entries = [entry(ONE, "Edema"), entry(TWO, "Edema")]
    one, two = attach(entries, {ONE: truth}, {TWO: benchmark}, {ONE: {"Edema": [(1.0, 2.0)]}})
    assert (one.masks, one.benchmark_masks) == (truth, None)
    assert one.benchmark_points == {"Edema": [(1.0, 2.0)]}
    assert (two.masks, two.benchmark_masks, two.benchmark_points) == (None, benchmark, None)
    assert attach(entries) == entries


def test_only_a_negative_image_outside_training_counts_as_read():
    three, four = TWO.replace("2", "3", 1), TWO.replace("2", "4", 1)
    entries = [
        entry(ONE, "Fracture", "No Finding"),
        entry(TWO, "Edema"),
        entry(three, split="train"),
        entry(four, blank=True),
    ]
    assert [e.masks for e in attach(entries, {})] == [NOTHING_DRAWN, None, None, None]
    assert [e.masks for e in attach(entries)] == [None] * 4


def test_masks_of_unknown_images_are_listed():
    masks_of = {f"patient{n:05d}_study1_view1_frontal": MaskSet(6, 8, {}) for n in range(1, 9)}
    with pytest.raises(
        UnknownImages, match=r"7 of the 8 images of the benchmark.*\.\.\."
    ) as caught:
        attach([entry(ONE)], benchmark=masks_of)
    assert len(caught.value.image_ids) == 7
    (one,) = attach([entry(ONE)], benchmark=masks_of, allow_unknown=True)
    assert one.benchmark_masks == masks_of[ONE]


def test_published_files_agree_with_each_other_and_with_their_images():
    if not SAMPLE.is_dir():
        pytest.skip("shared/data/chexlocalize_sample is not beside the repository")
    outlines = read_masks(SAMPLE / "gt_annotations_val.json")
    runs_of = read_masks(SAMPLE / "gt_segmentations_val.json")
    assert {image_id: drawn.encoded() for image_id, drawn in outlines.items()} == runs_of
    entries = attach(read_chexpert(SAMPLE, split="valid"), outlines)
    assert [set(e.masks.encoded().counts) for e in entries] == [
        {"Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity"},
        {"Support Devices"},
    ]
    assert replace(entries[0], masks=None) in read_chexpert(SAMPLE, split="valid")
