from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from chexseg_platform.evaluation.bootstrap import Estimate
from chexseg_platform.evaluation.comparison import compare
from chexseg_platform.evaluation.counts import CountCube
from chexseg_platform.evaluation.tables import (
    cell,
    csv_rows,
    headline,
    markdown,
    percent_cell,
    signed_cell,
    text,
    to_json,
)

Maker = Callable[..., CountCube]


def test_cells() -> None:
    found = Estimate(0.3124, 0.2812, 0.3444)
    assert cell(found) == "0.312 [0.28, 0.34]"
    assert cell(Estimate(0.3124)) == "0.312 [–]"
    assert cell(Estimate(float("nan"))) == "–"
    assert signed_cell(Estimate(0.034, -0.01, 0.0581)) == "+0.034 [-0.010, +0.058]"
    assert percent_cell(Estimate(0.123, 0.031, 0.21)) == "+12.3 % [+3.1, +21.0]"
    assert percent_cell(Estimate(0.572, 0.48, 0.661), sign=False) == "57.2 % [48.0, 66.1]"
    assert percent_cell(Estimate(float("nan"))) == "–"


def test_text_is_narrow_aligned_and_complete(comparison_cube: Maker) -> None:
    comparison = compare(comparison_cube(), resamples=100)
    whole = text(comparison, width=110)
    assert max(map(len, whole.splitlines())) <= 120
    for words in ("mIoU A: mean over", "mIoU B: mean over", "mIoU C: all images pooled"):
        assert words in whole
    assert "24 images of 12 patients" in whole
    assert "100 resamples of 12 patients, seed 0" in whole
    assert "expert only 2, pseudo only 2, mix 2, radiologists 1" in whole
    assert "Gap from pseudo only to radiologists closed by mix" in whole
    assert "Of 3 findings the mean took: expert only 2" in whole
    assert "nan" not in whole.lower()
    rows = [line for line in whole.splitlines() if line.startswith("Cardiomegaly ")]
    value = comparison.scores["iou_present"]["mix"].findings[0]
    assert cell(value) in rows[0]
    # One table an IoU, and the images behind them.
    assert len(rows) == 4
    tables = whole.split("\n\n")
    lines = [line for line in tables[1].splitlines() if line.startswith(("Card", "Edema", "Mean"))]
    assert len({len(line) for line in lines}) == 1


def test_narrow_text_drops_zeros_and_nothing_else(comparison_cube: Maker) -> None:
    comparison = compare(comparison_cube(), resamples=50)
    wide, narrow = text(comparison, width=200), text(comparison, width=60)
    assert "  0." in wide
    first = narrow.split("\n\n")[1]
    assert " 0." not in first
    assert " ." in first


def test_markdown_has_n_beside_every_number(comparison_cube: Maker) -> None:
    comparison = compare(comparison_cube(), resamples=50)
    page = markdown(comparison)
    lines = [line for line in page.splitlines() if line.startswith("| Cardiomegaly")]
    assert len(lines) == 3
    assert all(line.count("n = ") == 4 for line in lines)
    assert all(line.count("|") == 6 for line in page.splitlines() if line.startswith("|"))


def test_csv_holds_every_number_once(comparison_cube: Maker) -> None:
    comparison = compare(comparison_cube(), resamples=50)
    rows = csv_rows(comparison)
    metrics, findings, methods = 9, 4, 4
    thirds, shown = 3, 3
    scores = metrics * (findings * methods + 2 * 3 * findings + 1)
    assert len(rows) == scores + thirds * shown * methods
    names = ("kind", "metric", "method", "reference", "finding", "subgroup")
    keys = {tuple(row[name] for name in names) for row in rows}
    assert len(keys) == len(rows)
    lesion = next(r for r in rows if r["finding"] == "Lung Lesion" and r["kind"] == "score")
    assert lesion["value"] is None


def test_json_is_strict_and_has_the_values(comparison_cube: Maker) -> None:
    comparison = compare(comparison_cube(), resamples=50)
    back = json.loads(json.dumps(to_json(comparison), allow_nan=False))
    mix = comparison.scores["iou_union"]["mix"].findings
    assert back["scores"]["iou_union"]["mix"]["findings"][0]["value"] == mix[0].value
    assert back["scores"]["iou_present"]["mix"]["findings"][2]["value"] is None
    assert back["seeds"]["mix"] == [0, 1]
    assert back["titles"]["iou_pooled"].startswith("mIoU C")


def test_the_headline_has_the_means_a_row_a_method(comparison_cube: Maker) -> None:
    comparison = compare(comparison_cube(), resamples=50)
    lines = headline(json.loads(json.dumps(to_json(comparison)))).splitlines()
    columns = [title.strip() for title in lines[0].strip("|").split("|")]
    metrics = ["iou_present", "iou_union", "iou_pooled"]
    assert columns[:4] == ["Mean over findings", "mIoU A", "mIoU B", "mIoU C"]
    for line, method in zip(lines[2:], comparison.methods, strict=False):
        means = [cell(comparison.scores[metric][method].findings[-1]) for metric in metrics]
        assert line.startswith("| " + " | ".join([method, *means]) + " |")
    assert lines[-1] == "24 images of 12 patients; 95% intervals over 12 patients."


@pytest.mark.parametrize("form", [text, markdown, csv_rows, to_json])
def test_one_method_on_one_image_can_be_written(cube_of: Maker, form: Callable) -> None:
    truth = np.array([[10, 0]])
    assert form(compare(cube_of(truth, truth, truth), resamples=10))


def test_resamples_that_intervals_do_without_are_told(
    comparison_cube: Maker, cube_of: Maker
) -> None:
    whole = text(compare(comparison_cube(), resamples=200))
    assert "leave out" not in whole
    # Of two patients one has a finding alone, so every fourth resample lacks it.
    truth = np.array([[9, 9], [9, 0]])
    rare = cube_of(truth, truth, truth)
    said = text(compare(rare, resamples=200))
    assert "Intervals of the mean leave out up to" in said
    assert "of 200 resamples, which lack one of its findings" in said
