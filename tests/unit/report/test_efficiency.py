"""The numbers of a fine-tuning, from its file to the page."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from chexseg_platform.evaluation.bootstrap import Estimate
from chexseg_platform.evaluation.efficiency import LabelEfficiency
from chexseg_platform.evaluation.efficiency_tables import to_json
from chexseg_platform.report.efficiency import (
    NARROW,
    cards,
    difference_rows,
    efficiency_of,
    score_rows,
    step_rows,
)
from chexseg_platform.report.numbers import Card, Cell

from .conftest import label_efficiency


@pytest.fixture
def result() -> LabelEfficiency:
    return label_efficiency()[0]


def test_what_was_written_is_read(result: LabelEfficiency) -> None:
    assert efficiency_of(json.loads(json.dumps(to_json(result)))) == result


def test_what_a_file_lacks_is_empty_and_what_is_new_is_left(result: LabelEfficiency) -> None:
    raw = json.loads(json.dumps(to_json(result)))
    raw["values"][0] |= {"by_seed": [None], "of another version": 1}
    raw["values"][0]["estimate"]["value"] = None
    del raw["differences"], raw["steps"]
    found = efficiency_of(raw)
    assert (found.differences, found.steps) == ((), ())
    assert math.isnan(found.values[0].estimate.value)
    assert math.isnan(found.values[0].by_seed[0])
    assert difference_rows(found) == []
    labels = [label for label, _ in cards(found)[0].rows]
    assert labels == ["Dice B of doll", "steps to 95 % of the best score"]


def by_label(card: Card) -> dict[str, list[Cell]]:
    return {label: list(cells) for label, cells in card.rows}


def test_headlines_are_of_the_smallest_and_the_largest_fraction(result: LabelEfficiency) -> None:
    organs, spots = cards(result)
    assert organs.title == "organs"
    assert organs.columns == [
        ("10 %", "4 images to learn from"),
        ("100 %", "40 images to learn from"),
    ]
    assert spots.columns == [("100 %", "1,200 images to learn from")]
    assert "9 test images of 8 patients, mean over Heart and Left Lung." in organs.about
    assert "mean over COVID-19 Infection." in spots.about
    rows = by_label(organs)
    assert [cell.value for cell in rows["Dice B of doll"]] == ["0.625", "0.750"]
    assert rows["Dice B of doll"][0].interval == "[0.56, 0.69]"
    random = rows["difference to random"][0]
    assert (random.value, random.interval) == ("+0.125", "[+0.062, +0.188]")
    assert random.note.replace(NARROW, " ") == "p = .020"
    best = rows["difference to the best other start"][0]
    assert (best.value, best.interval) == ("−0.125", "[−0.188, −0.062]")
    assert best.note.replace(NARROW, " ") == "imagenet, p = .020"
    steps = rows["steps to 95 % of the best score"][0]
    assert (steps.value, steps.note) == ("20", "random never")
    assert "difference to random, at 10 %" in organs.figures


def test_the_steps_of_random_stand_beside(result: LabelEfficiency) -> None:
    halved = [replace(s, ratio=0.5) for s in result.steps if s.initialisation == "doll"]
    there = [replace(s, initialisation="random") for s in halved]
    (steps,) = by_label(cards(replace(result, steps=(*halved, *there)))[1])[
        "steps to 95 % of the best score"
    ]
    assert (steps.value, steps.note.replace(NARROW, " ")) == ("20", "random 20, × 0.50")


def test_without_random_weights_there_is_no_difference_to_them(result: LabelEfficiency) -> None:
    others = [item for item in result.differences if item.reference != "random"]
    rows = by_label(cards(replace(result, differences=tuple(others)))[0])
    assert "difference to random" not in rows
    assert rows["difference to the best other start"][0].value == "−0.125"
    only = [item for item in result.differences if item.reference == "random"]
    rows = by_label(cards(replace(result, differences=tuple(only)))[0])
    assert rows["difference to random"][0].value == "+0.125"
    assert "difference to the best other start" not in rows


def test_a_headline_that_does_not_exist_is_a_dash(result: LabelEfficiency) -> None:
    nothing = tuple(replace(v, estimate=Estimate(math.nan), by_seed=()) for v in result.values)
    rows = by_label(cards(replace(result, values=nothing))[0])
    assert rows["Dice B of doll"][0] == Cell("–")
    assert rows["difference to the best other start"][0] == Cell("–")


def test_every_score_is_in_the_table_once_means_first(result: LabelEfficiency) -> None:
    rows = score_rows(result)
    assert sum(len(row.cells) for row in rows) == len(result.values)
    assert [(r.task, r.share, r.images, r.start, r.name) for r in rows[:4]] == [
        ("organs", "10 %", 4, "random", "Mean"),
        ("organs", "10 %", 4, "imagenet", "Mean"),
        ("organs", "10 %", 4, "doll", "Mean"),
        ("organs", "100 %", 40, "random", "Mean"),
    ]
    assert [row.mean for row in rows] == [True] * 9 + [False] * (len(rows) - 9)
    assert [row.name for row in rows[9:]] == (
        ["Heart"] * 6 + ["Left Lung"] * 6 + ["COVID-19 Infection"] * 3
    )
    # The seeds' scores are 1/8 apart: their standard deviation is 1/8 over the root of 2.
    assert rows[0].cells[0] == Cell("0.500", "[0.44, 0.56]", "± 0.088", "0.5")
    assert rows[9].cells[1].note == "n = 9, ± 0.088"
    assert rows[-1].cells[1].note == "n = 9"


def test_differences_are_in_the_order_of_the_scores(result: LabelEfficiency) -> None:
    rows = difference_rows(result)
    assert sum(len(row.cells) for row in rows) == len(result.differences)
    assert [(r.task, r.fraction, r.start) for r in rows[:2]] == [
        ("organs", 0.1, "random"),
        ("organs", 0.1, "imagenet"),
    ]
    assert rows[1].cells[0].value == "−0.125"
    assert rows[1].cells[0].sort == "-0.125"


def test_steps_that_were_never_reached_sort_last(result: LabelEfficiency) -> None:
    rows = {(row.task, row.fraction, row.start): row for row in step_rows(result)}
    assert len(rows) == 9
    random, doll = rows["organs", 0.1, "random"], rows["organs", 0.1, "doll"]
    assert (random.steps, random.reached, random.ratio) == (Cell("never"), "0 of 2", Cell(""))
    assert (doll.steps, doll.reached) == (Cell("20", sort="20"), "2 of 2")
    assert (doll.seeds, doll.images) == ([0, 1], 4)
