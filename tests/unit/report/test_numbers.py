"""What a comparison's JSON becomes: headline cards, cells, and whatever else the file holds."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
from chexseg_platform.evaluation.bootstrap import Estimate
from chexseg_platform.report.content import calibrations_of, content_of
from chexseg_platform.report.numbers import (
    all_rows,
    calibration_rows,
    cards,
    means,
    number,
    subgroup_rows,
)


@pytest.fixture
def raw(made: Any) -> dict[str, Any]:
    return made.comparison.json("comparison.json")


def test_a_number_and_its_interval_stand_apart() -> None:
    found = number(Estimate(0.3126, 0.2, 0.4, 12.0))
    assert (found.value, found.interval, found.note) == ("0.313", "[0.20, 0.40]", "n = 12")
    assert found.sort == "0.3126"
    gain = number(Estimate(-0.118, -0.24, 0.011), sign=True, percent=True)
    assert (gain.value, gain.interval) == ("−11.8 %", "[−24.0, +1.1]")
    assert number(Estimate(0.5)).interval == "[–]"
    nothing = number(Estimate(math.nan))
    assert (nothing.value, nothing.interval, nothing.sort) == ("–", "", "")


def test_the_headline_is_the_papers_three_figures_and_the_findings_that_reach(raw: Any) -> None:
    content = content_of(raw)
    made = cards(content)
    assert [card.title for card in made] == [
        "Gain over expert only", "Gain over pseudo only", "Gain over pseudo-labels",
        "Gap from pseudo only closed", "Reaches the radiologists",
    ]  # fmt: skip
    assert [card.paper for card in made] == ["+9.7 %", "+73.1 %", "", "57.2 %", "3 of 10"]
    assert all([label for label, _ in card.rows] == ["mIoU A", "mIoU B", "mIoU C"] for card in made)
    gain = raw["gains"]["iou_pooled"][0]["relative"][-1]
    assert made[0].figures["mIoU C"].value == f"{100 * gain['value']:+.1f} %".replace("-", "−")
    reached = raw["reached"]["iou_union"]["paired"]
    cell = made[-1].figures["mIoU B, by paired"]
    assert (cell.value, cell.note) == (f"{len(reached)} of 10", ", ".join(reached))


def test_p_values_are_told_where_the_file_has_them(raw: Any) -> None:
    content = copy.deepcopy(raw)
    gain = content["gains"]["iou_union"][0]
    count = len(gain["absolute"])
    for place, value in enumerate((0.2, -0.1, 0.3)):
        gain["absolute"][place]["value"] = value
    gain["p"] = [0.5] * (count - 1) + [0.034]
    gain["p_holm"] = [0.01, 0.02, 0.4] + [None] * (count - 4) + [0.034]
    content["gains"]["iou_present"][0]["p"] = []
    found = cards(content_of(content))[0].figures
    assert found["mIoU B"].note == "p = .034; higher on 1, lower on 1 of 3 findings"
    assert found["mIoU A"].note == ""


def test_every_metric_of_the_file_is_shown_known_or_not(raw: Any) -> None:
    content = copy.deepcopy(raw)
    content["scores"]["tumour_score"] = content["scores"]["iou_union"]
    content["titles"]["tumour_score"] = "A new one"
    read = content_of(content)
    assert read.titles["tumour_score"] == "A new one"
    rows = all_rows(read)
    assert len(rows) == 5 * 11
    assert all(len(row.cells) == len(content["scores"]) for row in rows)
    assert [row.finding for row in rows[:6]] == ["Mean"] * 5 + ["Enlarged Cardiomediastinum"]
    assert rows[0].cells[-1] == rows[0].cells[list(content["scores"]).index("iou_union")]
    mix = next(row for row in means(read) if row[0] == "mix")
    assert mix[2][0].startswith("± ")  # two seeds


def test_an_older_or_smaller_file_is_read() -> None:
    estimate = {"value": None, "low": None, "high": None}
    read = content_of(
        {
            "roles": {"proposed": "mix", "references": [], "weak": "w", "readers": "r", "new": 1},
            "findings": ["Edema"], "methods": ["mix"], "seeds": {"mix": [0]}, "truth_images": [3],
            "images": 3, "patients": 3, "cluster": "patient", "clusters": 3, "resamples": 100,
            "seed": 0, "level": 0.9, "rule": "percentile",
            "scores": {"precision": {"mix": {"findings": [estimate, estimate]}}},
        }
    )  # fmt: skip
    assert cards(read) == []
    assert read.titles == {"precision": "precision"}
    assert read.level_percent == "90 %"
    assert means(read)[0][1][0].value == "–"


def test_subgroups_have_a_row_each_and_a_cell_a_method(raw: Any) -> None:
    found = {"value": 0.5, "low": 0.4, "high": 0.6}
    group = {"trait": "sex", "name": "Female", "images": 4, "patients": 3, "findings": 2}
    raw["subgroups"] = [group | {"scores": {"iou_union": {"mix": found}}}]
    metric, rows = subgroup_rows(content_of(raw))
    assert metric == "iou_union"
    ((score, cells),) = rows
    assert (score.trait, score.name, score.patients) == ("sex", "Female", 3)
    shown = dict(zip(raw["methods"], cells, strict=True))
    assert (shown["mix"].value, shown["mix"].interval) == ("0.500", "[0.40, 0.60]")
    assert shown["radiologists"].value == "–"
    raw["subgroups"] = []
    assert subgroup_rows(content_of(raw)) == ("", [])


def test_calibration_errors_have_a_column_a_method() -> None:
    entry = {"method": "mix", "unit": "pixel", "count": [4], "claimed": [0.3], "true": [0.5]}
    error = {"value": 0.2, "low": None, "high": None}
    raw = [entry | {"finding": name, "error": error} for name in ("Edema", "Cardiomegaly")]
    columns, rows = calibration_rows(calibrations_of(raw))
    assert columns == ["mix (pixels)"]
    assert [(name, cells[0].value) for name, cells in rows] == [
        ("Edema", "0.200"), ("Cardiomegaly", "0.200"),
    ]  # fmt: skip
