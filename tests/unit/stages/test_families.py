"""Families of pseudo-labels beside experts: one table of all."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from chexseg_platform.artifacts import Artifact, Workspace
from chexseg_platform.data import masks
from chexseg_platform.data.store import SMALL_TYPE
from chexseg_platform.stages.families import compare_labels, render, rows_of

SIZE = 8


def square(rows: slice, columns: slice) -> str:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[rows, columns] = True
    return masks.encode(mask)


LEFT, HALF = square(slice(0, 4), slice(0, 4)), square(slice(0, 4), slice(0, 8))


@pytest.fixture
def dataset(tmp_path: Path) -> Artifact:
    drawn = [{"finding": "Edema", "counts": LEFT}]
    rows = pa.table(
        {
            "image_id": ["a", "b", "c"],
            "split": ["test", "test", "valid"],
            "height": [SIZE] * 3,
            "width": [SIZE] * 3,
            "masks": pa.array([drawn, None, drawn], SMALL_TYPE),
            "small_masks": pa.array([drawn, None, drawn], SMALL_TYPE),
        }
    )
    draft = Workspace(tmp_path).draft("dataset", "0" * 16)
    parts = [draft.write("index/00000.parquet", rows)]
    return draft.finish(parts, config={}, inputs={}, summary={"size": SIZE})


def labels(folder: Path, number: int, counts: str | None, split: str = "test") -> Artifact:
    rows = [
        {"image_id": image, "split": split, "finding": "Edema", "counts": counts,
         "peak_row": 0, "peak_column": 0}
        for image in ("a", "b")
    ]  # fmt: skip
    draft = Workspace(folder).draft("pseudolabels", f"{number:016d}")
    return draft.finish(
        [draft.write("masks/00000.parquet", pa.Table.from_pylist(rows))], config={}, inputs={}
    )


def test_families_stand_side_by_side(tmp_path: Path, dataset: Artifact) -> None:
    made = {
        "right": labels(tmp_path, 1, LEFT),
        "wide": labels(tmp_path, 2, HALF),
        "none": labels(tmp_path, 3, None),
        "elsewhere": labels(tmp_path, 4, LEFT, split="valid"),
    }
    found = compare_labels(made, dataset, "test")
    assert list(found) == ["right", "wide", "none"]
    figures = {
        name: [(r["finding"], r["images"], r["iou"], r["precision"], r["recall"]) for r in rows]
        for name, rows in found.items()
    }
    assert figures == {
        "right": [("Edema", 1, 1.0, 1.0, 1.0)],
        "wide": [("Edema", 1, 0.5, 0.5, 1.0)],
        "none": [("Edema", 1, 0.0, None, 0.0)],
    }
    text = render(found, "test")
    assert "pooled IoU  images  right  wide  none" in text
    assert "Edema            1  1.000  .500  .000" in text
    precision = text.split("precision")[1].splitlines()
    assert precision[1].split() == ["Edema", "1", "1.000", ".500", "–"]
    rows = rows_of(found)
    assert [(row["family"], row["finding"]) for row in rows[:2]] == [
        ("right", "Edema"),
        ("right", "Mean"),
    ]
    assert rows[-1]["precision"] is None


def test_without_experts_or_labels_there_is_nothing_to_compare(
    tmp_path: Path, dataset: Artifact
) -> None:
    assert compare_labels({"a": labels(tmp_path, 5, LEFT, "train")}, dataset, "test") == {}
    assert compare_labels({"a": labels(tmp_path, 6, LEFT, "train")}, dataset, "train") == {}
