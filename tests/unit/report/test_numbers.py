"""What a comparison's JSON becomes: headline cards, cells, and whatever else the file holds."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
from chexseg_platform.evaluation.bootstrap import Estimate
from chexseg_platform.report.content import content_of
from chexseg_platform.report.numbers import all_rows, cards, further, means, number


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
    content["gains"]["iou_union"][0] |= {"p": [0.5, 0.034], "p_adjusted": 0.1}
    content["gains"]["iou_union"][0]["absolute"][-1]["q"] = 1  # an estimate with more than we know
    found = cards(content_of(content))[0].figures
    assert found["mIoU B"].note == "p = 0.034, adjusted p = 0.1"
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


def test_what_has_no_place_on_the_page_is_listed_as_it_is(raw: Any) -> None:
    raw["subgroups"] = {"sex": {"F": {"value": 0.5, "low": 0.4, "high": 0.6}, "M": [1, 2.5]}}
    raw["calibration"] = [{"bin": 1, "share": None}] * 500
    sub, calibration = further(content_of(raw))
    assert sub.title == "Subgroups"
    assert [(name, cell.value, cell.interval) for name, cell in sub.rows] == [
        ("sex / F", "0.500", "[0.40, 0.60]"), ("sex / M", "1, 2.5", ""),
    ]  # fmt: skip
    assert (len(calibration.rows), calibration.cut) == (400, 100)
