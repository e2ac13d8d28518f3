"""Tables of predictions, as programs read them."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
from chexseg_platform.data.chexlocalize import read_segmentations
from chexseg_platform.findings import FINDINGS, PLACED
from chexseg_platform.prediction.inputs import Input
from chexseg_platform.prediction.predicted import Failure
from chexseg_platform.prediction.tables import chexlocalize_file, csv_table, write_failures

BOX = np.zeros((6, 4), bool)
BOX[2:5, 1:3] = True


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as stream:
        return list(csv.DictReader(stream))


def test_a_row_an_image_and_finding(tmp_path: Path, make_predicted: Callable) -> None:
    with csv_table(tmp_path / "p.csv", dict.fromkeys(FINDINGS, 0.35)) as add:
        add(make_predicted("a", {"Edema": BOX}))
        add(make_predicted("b", {}))
    rows = rows_of(tmp_path / "p.csv")
    assert [(row["image"], row["finding"]) for row in rows] == [
        (name, finding) for name in "ab" for finding in FINDINGS
    ]
    assert rows[4] == {
        "image": "a",
        "height": "6",
        "width": "4",
        "finding": "Edema",
        "threshold": "0.35",
        "pixels": "6",
        "share": "0.250000",
        "max_probability": "0.400000",
        "peak_x": "2",
        "peak_y": "1",
    }
    assert {row["pixels"] for row in rows[5:]} == {"0"}


def test_rows_are_of_the_segmenters_classes(tmp_path: Path, make_predicted: Callable) -> None:
    names = ("Heart", 'a,"b')
    with csv_table(tmp_path / "p.csv", {"Heart": 0.5, names[1]: 0.25}) as add:
        add(make_predicted("a", {names[1]: BOX}, classes=names))
    rows = rows_of(tmp_path / "p.csv")
    assert [(row["finding"], row["threshold"], row["pixels"]) for row in rows] == [
        ("Heart", "0.5", "0"), (names[1], "0.25", "6"),
    ]  # fmt: skip


def test_chexlocalizes_file_holds_its_findings_alone(
    tmp_path: Path, make_predicted: Callable
) -> None:
    with chexlocalize_file(tmp_path / "p.json") as add:
        add(make_predicted("a", {"Fracture": BOX, "Edema": BOX}, classes=PLACED))
    assert list(read_segmentations(tmp_path / "p.json")["a"].counts) == ["Edema"]


def test_chexlocalizes_file_is_read_back(tmp_path: Path, make_predicted: Callable) -> None:
    images = [make_predicted("a", {"Lung Opacity": BOX}), make_predicted("b", {}, 3, 9)]
    with chexlocalize_file(tmp_path / "p.json") as add:
        for image in images:
            add(image)
    read = read_segmentations(tmp_path / "p.json")
    assert list(read) == ["a", "b"]
    assert read["a"].counts == images[0].masks
    assert (read["b"].height, read["b"].width, read["b"].counts) == (3, 9, {})


def test_names_of_any_bytes_are_listed(tmp_path: Path) -> None:
    odd = Path('x,"\udcff.png')
    failed = Failure(Input("x", odd, odd.name), "reading", "cut, short")
    write_failures(tmp_path / "f.csv", [failed])
    assert rows_of(tmp_path / "f.csv") == [
        {"image": "x", "file": str(odd), "failed": "reading", "reason": "cut, short"}
    ]
