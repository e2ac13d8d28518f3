from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from chexseg_platform.data.masks import encode
from chexseg_platform.data.overlaps import CorruptPair
from chexseg_platform.evaluation.counts import (
    SCHEMA,
    BrokenCounts,
    Counts,
    ImageFacts,
    ImageMasks,
    count_images,
    count_masks,
    count_table,
    cube,
)
from chexseg_platform.findings import UnknownFinding


def row(**changes: object) -> dict[str, object]:
    plain = {
        "method": "mix",
        "seed": 0,
        "split": "test",
        "image_id": "a",
        "patient": "p",
        "finding": "Edema",
        "height": 4,
        "width": 5,
        "truth": 6,
        "prediction": 4,
        "intersection": 3,
        "hit": 1,
    }
    return plain | changes


def test_masks_are_counted() -> None:
    truth = np.array([[1, 1, 0], [0, 1, 0]], bool)
    prediction = np.array([[0, 1, 1], [0, 1, 1]], bool)
    assert count_masks(truth, prediction) == Counts(3, 4, 2)


def test_bad_masks_are_refused() -> None:
    mask = np.zeros((3, 4), bool)
    with pytest.raises(BrokenCounts, match="restore the prediction"):
        count_masks(mask, np.zeros((4, 3), bool))
    with pytest.raises(BrokenCounts, match="threshold"):
        count_masks(mask, np.zeros((3, 4)))


FINDINGS = ("Edema", "Lung Opacity")


def image(**changes: object) -> ImageMasks:
    facts = ImageFacts(
        image_id="a", patient="p", height=2, width=2, sex="Female", age=61, view="AP"
    )
    plain = {"image": facts, "truth": None, "prediction": {}}
    return ImageMasks(**plain | changes)


def counted(*images: ImageMasks, **settings: object) -> list[dict[str, object]]:
    common = {"method": "mix", "seed": 3, "split": "test", "findings": FINDINGS}
    table = count_images(images, **common | settings)
    assert table.schema == SCHEMA
    return table.to_pylist()


def test_rows_tell_unread_and_unsaid_from_empty() -> None:
    mask = encode(np.ones((2, 2), bool))
    rows = counted(
        image(truth={"Airspace Opacity": mask}, prediction={"Edema": mask}),
        image(prediction={"Edema": mask}),
        image(truth={"Edema": mask}, prediction=None),
        image(truth={}, prediction={"Edema": mask}, unsaid=["Lung Opacity"]),
    )
    assert [(r["truth"], r["prediction"], r["intersection"]) for r in rows] == [
        (0, 4, 0), (4, 0, 0),
        (None, 4, None), (None, 0, None),
        (4, None, None), (0, None, None),
        (0, 4, 0), (0, None, None),
    ]  # fmt: skip


def test_of_what_is_unread_the_truth_is_null_and_structures_keep_their_names() -> None:
    mask = encode(np.ones((2, 2), bool))
    both = {"Lungs": mask, "Heart": mask}
    rows = counted(
        image(truth={"Heart": mask}, prediction=both, unread=["Lungs"]),
        findings=["Lungs", "Heart"],
    )
    assert [(r["truth"], r["prediction"], r["intersection"], r["hd95"]) for r in rows] == [
        (None, 4, None, None),
        (4, 4, 4, 0.0),
    ]


def test_a_mask_of_what_is_not_counted_is_named() -> None:
    mask = encode(np.ones((2, 2), bool))
    with pytest.raises(UnknownFinding, match="Heart"):
        counted(image(truth={}, prediction={"Heart": mask}), findings=["Lungs"])


def test_rows_carry_peaks_hits_and_what_is_known_of_the_image() -> None:
    rows = counted(image(truth={}, peaks={"Edema": (1, 0)}, hits={"Lung Opacity": 1}))
    assert [(r["peak_y"], r["peak_x"], r["hit"]) for r in rows] == [(1, 0, None), (None, None, 1)]
    assert {(r["sex"], r["age"], r["view"]) for r in rows} == {("Female", 61, "AP")}


def test_outlines_are_measured_where_both_masks_are_there() -> None:
    one, other = np.zeros((2, 2), bool), np.zeros((2, 2), bool)
    one[0, 0] = other[0, 1] = True
    both = image(truth={"Edema": encode(one)}, prediction={"Edema": encode(other)})
    assert [r["hd95"] for r in counted(both)] == [1.0, None]
    assert [r["hd95"] for r in counted(both, boundary=False)] == [None, None]


def test_a_mask_of_another_size_is_named() -> None:
    mask = encode(np.ones((3, 3), bool))
    with pytest.raises(CorruptPair) as caught:
        counted(image(truth={}, prediction={}), image(truth={}, prediction={"Edema": mask}))
    assert (caught.value.index, caught.value.second) == (2, True)


def test_cube_places_every_row() -> None:
    rows = [
        row(image_id="b", seed=1, truth=9, prediction=9, intersection=9),
        row(image_id="a", seed=0),
        row(image_id="a", seed=1, finding="Cardiomegaly", truth=None, intersection=None, hit=None),
        row(image_id="a", method="radiologists", prediction=5),
    ]
    dense = cube(count_table(rows))
    assert dense.runs == (("mix", 0), ("mix", 1), ("radiologists", 0))
    assert dense.methods == ("mix", "radiologists")
    assert dense.seeds("mix") == (0, 1)
    assert (dense.image_ids, dense.findings) == (("b", "a"), ("Edema", "Cardiomegaly"))
    assert dense.truth[:, :, 0].tolist() == [[0, 6], [9, 0], [0, 6]]
    assert dense.known[:, :, 0].tolist() == [[False, True], [True, False], [False, True]]
    assert not dense.known[:, :, 1].any()
    assert dense.hit[0, 1, 0] == 1
    assert dense.pixels.tolist() == [20, 20]
    assert np.isnan(dense.hit[0, 0, 0])


def test_cube_survives_any_order_of_rows_and_chunks() -> None:
    rows = [
        row(image_id=image, finding=finding, truth=10 + index, prediction=3)
        for index, (image, finding) in enumerate(
            (i, f) for i in "abc" for f in ("Edema", "Fracture")
        )
    ]
    straight = cube(count_table(rows))
    mixed = cube(pa.concat_tables([count_table(rows[4:]), count_table(rows[:4])]))
    order = [mixed.image_ids.index(name) for name in straight.image_ids]
    assert (mixed.truth[:, order] == straight.truth).all()


def test_aligned_keeps_what_all_runs_have_and_left_out_names_the_rest() -> None:
    rows = [row(image_id=image, method=m) for m in ("mix", "radiologists") for image in "ab"]
    rows[2] |= {"truth": None, "intersection": None}
    dense = cube(count_table(rows))
    assert dense.left_out() == {"mix": (), "radiologists": ("a",)}
    assert dense.aligned().known[:, :, 0].tolist() == [[False, True], [False, True]]
    assert dense.select(["mix"]).aligned().known.all()
    with pytest.raises(BrokenCounts, match="no method 'expert'"):
        dense.select(["expert"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no rows"),
        ([row(), row()], "two rows"),
        ([row(), row(image_id="b", split="valid")], "say which"),
        ([row(), row(finding="Fracture", patient="q")], "two patients"),
        ([row(intersection=5)], "overlap larger"),
        ([row(prediction=-1, intersection=-1)], "overlap larger"),
    ],
)
def test_broken_tables_are_refused(rows: list[dict[str, object]], message: str) -> None:
    with pytest.raises(BrokenCounts, match=message):
        cube(count_table(rows))


def test_one_split_can_be_chosen_and_a_lost_column_is_named() -> None:
    table = count_table([row(), row(image_id="b", split="valid")])
    assert cube(table, split="valid").image_ids == ("b",)
    with pytest.raises(BrokenCounts, match="no rows of split 'train'"):
        cube(table, split="train")
    with pytest.raises(BrokenCounts, match="'hit'"):
        cube(table.drop_columns(["hit"]))
