from __future__ import annotations

import re
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

from chexseg_platform.report.content import content_of
from chexseg_platform.report.figures import (
    classifier_chart,
    forest_chart,
    label_chart,
    learning_chart,
    mix_chart,
    segmenter_chart,
)

from .conftest import label_efficiency


def test_a_figure_becomes_part_of_the_page(made: Any) -> None:
    chart = forest_chart(content_of(made.comparison.json("comparison.json")), "iou_union", "run1-f")
    text = str(chart.picture)
    ElementTree.fromstring(text)
    ids = set(re.findall(r' id="([^"]+)"', text))
    assert ids
    assert all(name.startswith("run1-f-") for name in ids)
    assert {*re.findall(r'href="#([^"]+)"', text), *re.findall(r"url\(#([^)]+)\)", text)} == ids
    assert "<style" not in text
    assert "http" not in text
    assert re.findall(r"(?<!, )#[0-9a-f]{6}", text) == []  # each colour has a name of its own
    assert "radiologists" in chart.caption
    assert "Means over findings with 95 % intervals: expert only 0." in text


def test_the_mix_is_drawn_from_the_sweeps_table() -> None:
    rows = [
        {"p": "0.0", "validation mIoU": "0.1", "low": "0.05", "high": "0.2", "seeds": "0.1 0.12"},
        {"p": "0.5", "validation mIoU": "0.3", "low": "", "high": "", "seeds": "0.3"},
        {"p": "1.0", "validation mIoU": "", "low": "", "high": "", "seeds": ""},
    ]
    chart = mix_chart(rows, "p", "0.5", "m")
    assert "at 0.0 0.1; at 0.5 0.3." in str(chart.picture)
    assert "chosen: 0.5" in str(chart.picture)


def test_learning_curves_say_where_they_begin_and_end() -> None:
    history = [{"epoch": 1.0, "loss": 2.0}, {"epoch": 2.0, "loss": 1.0, "auroc mean": 0.75}]
    text = str(segmenter_chart([("mix", 0, history)], "s").picture)
    assert "training loss, mix, seed 0: from 2.000 to 1.000 in 2 epochs." in text
    text = str(classifier_chart([history, history], "c").picture)
    assert "validation AUROC, AUROC, mean of all of classifier 2: from 0.750 to 0.750" in text
    many = [("mix", seed, history) for seed in range(9)]
    assert segmenter_chart(many, "s").caption == "The first of each arm is drawn, 1 of 9."


def test_label_efficiency_says_the_proposed_starts_points() -> None:
    result, _ = label_efficiency()
    chart = label_chart(result, "dice_union", "l")
    ElementTree.fromstring(str(chart.picture))
    assert (
        "doll: organs at 10 % (4) 0.625 [0.56, 0.69]; organs at 100 % (40) 0.750" in chart.picture
    )
    assert chart.caption == "The thickest line is doll. The grey one is random."
    known = tuple(value for value in result.values if value.initialisation != "random")
    chart = label_chart(replace(result, values=known), "dice_union", "l")
    assert chart.caption == "The thickest line is doll."


def test_learning_curves_are_drawn_again_or_shown_as_they_were_or_left_out() -> None:
    result, trained = label_efficiency()
    drawn = learning_chart(result, trained, None, "l")
    assert drawn is not None
    ElementTree.fromstring(str(drawn.picture))
    assert "organs at 10 %, random never; organs at 10 %, doll 20;" in drawn.picture
    stored = learning_chart(result, [], b"a picture", "l")
    assert stored is not None
    assert 'src="data:image/png;base64,YSBwaWN0dXJl" alt="Validation score' in stored.picture
    assert learning_chart(result, [], None, "l") is None
