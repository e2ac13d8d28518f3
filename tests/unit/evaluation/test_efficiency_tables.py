"""A label-efficiency experiment as text, CSV rows and JSON."""

import json
import math
from dataclasses import replace

import pytest
from chexseg_platform.evaluation.bootstrap import Estimate
from chexseg_platform.evaluation.efficiency import (
    Difference,
    HeldOut,
    LabelEfficiency,
    Value,
)
from chexseg_platform.evaluation.efficiency_tables import COLUMNS, markdown, rows, text, to_json
from chexseg_platform.evaluation.steps import Efficiency, Steps


def value(initialisation, fraction, estimate, *by_seed, name="Mean"):
    return Value(
        task="heart",
        fraction=fraction,
        images=round(100 * fraction),
        initialisation=initialisation,
        metric="dice_union",
        name=name,
        estimate=estimate,
        by_seed=by_seed,
    )


def steps(initialisation, fraction, ratio, *found):
    seeds = tuple(Steps(seed, 0.8, step) for seed, step in enumerate(found))
    return Efficiency(
        task="heart", fraction=fraction, initialisation=initialisation, seeds=seeds, ratio=ratio
    )


@pytest.fixture
def result():
    return LabelEfficiency(
        proposed="doll",
        metrics=("dice_union",),
        tested=(HeldOut(task="heart", classes=("Heart",), images=1, patients=1, notes=("Few.",)),),
        values=(
            value("random", 0.05, Estimate(0.5, 0.4, 0.6), 0.4, 0.6),
            value("doll", 0.05, Estimate(0.75, 0.7, 0.8), 0.75, 0.75),
            value("doll", 0.05, Estimate(0.7, 0.7, 0.8), 0.7, 0.7, name="Heart"),
            value("doll", 1.0, Estimate(math.nan), math.nan, math.nan),
        ),
        differences=(
            Difference(
                task="heart",
                fraction=0.05,
                reference="random",
                metric="dice_union",
                name="Mean",
                estimate=Estimate(0.25, 0.1, 0.4),
                p=0.002,
                p_holm=0.004,
            ),
        ),
        steps=(
            steps("random", 0.05, None, 2000, None, None),
            steps("doll", 0.05, 0.5, 900, 1000, 1100),
        ),
        cluster="patient",
        resamples=1000,
        seed=0,
        level=0.95,
    )


def test_a_person_reads_values_differences_and_steps(result):
    blocks = [block.splitlines() for block in text(result).split("\n\n")]
    heading, task, values, differences, found, note = blocks
    assert "95 % intervals: 1,000 resamples of patients" in heading[0]
    assert task == ["heart: Heart", "════════════", "1 test image of 1 patient."]
    assert values[0].startswith("Dice B: mean over images")
    assert [line.split() for line in values[1:]] == [
        ["5", "%", "(5)", "100", "%", "(100)"],
        [values[2]],
        ["random", ".500", "[.40,", ".60]", "–"],
        ["doll", ".750", "[.70,", ".80]", "–"],
    ]
    assert differences[0].startswith("Dice B, paired differences of doll to each other; p after")
    assert differences[1].split() == ["doll", "against", "5", "%"]
    assert differences[3].split() == ["random", "+.250", "[+.100,", "+.400]", "p", ".004"]
    assert found[:2] == [
        "Steps until the validation score is 95 % of the best that any initialisation reached:",
        "median over seeds (how many got there), × that of random",
    ]
    assert [line.split() for line in found[4:]] == [
        ["random", "never", "(1", "of", "3)"],
        ["doll", "1,000", "(3", "of", "3)", "×0.50"],
    ]
    assert note == ["Note. Few."]


def test_markdown_has_a_table_a_task(result):
    head, rule, *rows = markdown(result).splitlines()
    assert head == "| heart: Dice B | 5 % (5) | 100 % (100) |"
    assert rule.startswith("| --- | ---: |")
    assert rows == ["| random | .500 [.40, .60] | – |", "| doll | .750 [.70, .80] | – |"]
    assert len({line.count("|") for line in (head, rule, *rows)}) == 1


def test_what_is_not_there_takes_no_room(result):
    alone = replace(result, differences=(), values=result.values[1:2], steps=result.steps[1:])
    assert "paired" not in text(alone)


def test_too_few_resamples_are_told(result):
    assert "With 20 resamples no p-value of a mean can fall below 0.10" in text(
        replace(result, resamples=20)
    )


def test_rows_hold_every_number(result):
    found = rows(result)
    assert all(tuple(row) == COLUMNS for row in found)
    assert [row["kind"] for row in found] == ["score"] * 4 + ["difference"] + ["steps"] * 2
    assert {key: value for key, value in found[0].items() if value is not None} == {
        "kind": "score",
        "task": "heart",
        "fraction": 0.05,
        "images": 5,
        "initialisation": "random",
        "metric": "dice_union",
        "class": "Mean",
        "value": 0.5,
        "low": 0.4,
        "high": 0.6,
        "seeds": 2,
        "seed_sd": pytest.approx(0.2 / math.sqrt(2)),
    }
    assert (found[3]["value"], found[3]["seed_sd"]) == (None, None)
    assert [found[4][key] for key in ("initialisation", "reference", "images", "value")] == [
        "doll",
        "random",
        5,
        0.25,
    ]
    assert [found[4][key] for key in ("p", "p_holm")] == [0.002, 0.004]
    kept = ("initialisation", "metric", "value", "seeds", "reached", "ratio", "images")
    assert [[row[key] for key in kept] for row in found[5:]] == [
        ["random", "steps", None, 3, 1, None, 5],
        ["doll", "steps", 1000, 3, 3, 0.5, 5],
    ]


def test_json_has_no_nan_and_no_infinity(result):
    content = json.loads(json.dumps(to_json(result), allow_nan=False))
    assert content["steps"][0]["median"] is None
    assert content["steps"][0]["seeds"][1] == {"seed": 1, "target": 0.8, "step": None}
    assert (content["steps"][1]["median"], content["steps"][1]["reached"]) == (1000, 3)
    assert content["values"][3]["estimate"]["value"] is None
    assert content["values"][0]["by_seed"] == [0.4, 0.6]
    assert content["proposed"] == "doll"
    assert content["titles"]["dice_union"].startswith("Dice B")
