"""Rows: made from real files on disk, and through Arrow and Parquet without change."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chexseg_platform.data import masks
from chexseg_platform.data.chexlocalize import attach, read_masks
from chexseg_platform.data.chexpert import read_chexpert
from chexseg_platform.data.decode import UnreadableInput
from chexseg_platform.data.entries import NOTHING_DRAWN, Entry, MaskSet, MaskSizeError
from chexseg_platform.data.rows import (
    REJECTED,
    SCHEMA,
    ImageRow,
    make_row,
    rejection,
    to_table,
)
from PIL import Image

SAMPLE = Path(__file__).resolve().parents[4] / "shared/data/chexlocalize_sample"


@pytest.fixture
def entry(tmp_path):
    image = np.zeros((40, 80), np.uint8)
    image[10:30, 20:60] = 200
    Image.fromarray(image).save(tmp_path / "view1_frontal.png")
    return Entry(
        image_id="patient00001_study1_view1_frontal", patient="patient00001", study="study1",
        view="frontal", projection=None, sex="Female", age=0, split="train",
        source="train/patient00001/study1/view1_frontal.jpg",
        path=str(tmp_path / "view1_frontal.jpg"), labels=(1, 0, -1) + (None,) * 11,
    )  # fmt: skip


def full(mask_height, mask_width):
    mask = np.zeros((mask_height, mask_width), bool)
    mask[: mask_height // 2] = True
    return MaskSet(mask_height, mask_width, {"Edema": masks.encode(mask)})


def test_a_row_by_hand(entry):
    row = make_row(entry, 20)
    assert (row.height, row.width, len(row.image)) == (40, 80, 400)
    frame = row.pixels()
    assert not frame[:5].any()
    assert not frame[15:].any()
    assert (frame[9:11, 7:13] == 200).all()
    assert row.labels == entry.labels
    assert (row.masks, row.benchmark_masks, row.benchmark_points) == (None, None, None)


def test_masks_and_points_follow_the_image(entry):
    drawn = replace(
        entry, masks=full(80, 160), benchmark_masks=NOTHING_DRAWN,
        benchmark_points={"Edema": [(100.0, 40.0)], "Cardiomegaly": []},
    )  # fmt: skip
    row = make_row(drawn, 20)
    assert row.masks == full(40, 80).counts
    assert row.benchmark_masks == {}
    assert row.benchmark_points == (("Edema", 50.0, 20.0),)


def test_what_cannot_be_taken_says_why(entry, tmp_path):
    with pytest.raises(MaskSizeError) as wrong:
        make_row(replace(entry, masks=full(80, 80)), 20)
    absent = replace(entry, path=str(tmp_path / "absent.jpg"))
    with pytest.raises(UnreadableInput) as missing:
        make_row(absent, 20)
    listed = [rejection(entry, wrong.value), rejection(absent, missing.value)]
    table = pa.Table.from_pylist(listed, schema=REJECTED)
    assert table["reason"].to_pylist() == ["mask-size", "missing"]
    assert "80 x 80" in listed[0]["message"]
    with pytest.raises(UnreadableInput) as large:
        make_row(entry, 20, max_pixels=100)
    assert large.value.reason == "too-large"


def test_rows_go_through_parquet_unchanged(entry, tmp_path):
    rows = [
        make_row(entry, 16),
        make_row(replace(entry, masks=full(40, 80), benchmark_masks=NOTHING_DRAWN), 16),
        make_row(replace(entry, benchmark_points={"Edema": [(1.5, 2.0)]}, age=None), 16),
    ]
    pq.write_table(to_table(rows, 16), tmp_path / "part.parquet")
    table = pq.read_table(tmp_path / "part.parquet")
    assert table.schema.equals(SCHEMA(16), check_metadata=True)
    assert table.schema.metadata[b"chexseg.size"] == b"16"
    assert table.equals(to_table(rows, 16))
    first, second, third = table.to_pylist()
    assert first["image"] == rows[0].image
    assert tuple(first["labels"]) == rows[0].labels
    assert second["benchmark_masks"] == []
    assert {m["finding"]: m["counts"] for m in second["masks"]} == rows[1].masks
    assert [tuple(p.values()) for p in third["benchmark_points"]] == list(rows[2].benchmark_points)
    assert third["age"] is None
    assert to_table([], 16).num_rows == 0


def test_rows_of_another_size_are_refused(entry):
    with pytest.raises(ValueError, match="not 32 x 32"):
        to_table([make_row(entry, 16)], 32)


def test_a_published_image_with_its_masks():
    if not SAMPLE.is_dir():
        pytest.skip("shared/data/chexlocalize_sample is not beside the repository")
    entries = attach(
        read_chexpert(SAMPLE, split="valid"), read_masks(SAMPLE / "gt_annotations_val.json")
    )
    rows = [make_row(entry, 64) for entry in entries]
    assert all(isinstance(row, ImageRow) for row in rows)
    assert (rows[0].height, rows[0].width) == (2320, 2828)
    area = masks.area(rows[0].masks["Cardiomegaly"], 2320, 2828)
    assert area == 867_107
