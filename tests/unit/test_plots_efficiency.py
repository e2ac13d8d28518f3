from __future__ import annotations

import math

import numpy as np
import pytest
from chexseg_platform.evaluation.bootstrap import Estimate
from chexseg_platform.evaluation.efficiency import LabelEfficiency, Value
from chexseg_platform.evaluation.steps import Trained, efficiencies
from chexseg_platform.plots import png
from chexseg_platform.plots_efficiency import (
    BLACK,
    GREY,
    initialisation_looks,
    label_curves,
    learning_curves,
    mean_curve,
)
from matplotlib.axes import Axes

NAMES = ["random", "imagenet", "classifier", "cam", "ig", "doll", "distilled", "boosted"]
FRACTIONS = {0.05: 6, 0.25: 31, 0.5: 62, 1.0: 123}


def training(task: str, name: str, fraction: float, seed: int = 0, *scores: float) -> Trained:
    history = [{"step": 10.0 * (n + 1), "score": score} for n, score in enumerate(scores)]
    return Trained(
        task=task,
        initialisation=name,
        fraction=fraction,
        images=FRACTIONS[fraction],
        seed=seed,
        history=history,
    )


def value(task: str, name: str, fraction: float, estimate: Estimate, *by_seed: float) -> Value:
    return Value(
        task=task,
        fraction=fraction,
        images=FRACTIONS[fraction],
        initialisation=name,
        metric="dice_union",
        name="Mean",
        estimate=estimate,
        by_seed=by_seed,
    )


def experiment(values: list[Value]) -> LabelEfficiency:
    return LabelEfficiency(
        proposed="doll", metrics=("dice_union",), tested=(), values=tuple(values), differences=(),
        steps=(), cluster="patient", resamples=100, seed=0, level=0.95,
    )  # fmt: skip


def line_of(axes: Axes, colour: str) -> list[tuple[float, float]]:
    """Points of the line of a colour; marks and dots have one point or none of its kind."""
    (line,) = [
        line for line in axes.lines if line.get_color() == colour and line.get_linestyle() != "None"
    ]
    return list(zip(line.get_xdata(), line.get_ydata(), strict=True))


def test_nine_initialisations_look_different() -> None:
    looks = initialisation_looks([*NAMES, "one more"], "doll")
    assert len({(look.colour, look.marker) for look in looks.values()}) == 9
    assert (looks["random"], looks["doll"]) == (GREY, BLACK)


def test_random_may_be_proposed() -> None:
    assert initialisation_looks(["random"], "random") == {"random": BLACK}


def test_label_curves_draw_means_intervals_and_seeds() -> None:
    values = [
        value(
            "heart", name, fraction, Estimate(level + fraction / 10, level, level + 0.2), 0.4, 0.6
        )
        for name, level in (("random", 0.5), ("doll", 0.7))
        for fraction in (1.0, 0.05)
    ]
    (axes,) = label_curves(experiment(values)).axes
    points = line_of(axes, BLACK.colour)
    assert [y for _, y in points] == [pytest.approx(0.705), pytest.approx(0.8)]
    # Side by side around the fraction's own place, in the order of the names.
    pale = [x for x, _ in line_of(axes, GREY.colour)]
    assert [math.sqrt(a * b) for a, (b, _) in zip(pale, points, strict=True)] == [
        pytest.approx(6),
        pytest.approx(123),
    ]
    assert pale[0] < 6 < points[0][0]
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["123\n100 %", "6\n5 %"]
    ends = sorted(tuple(segment[:, 1]) for c in axes.collections for segment in c.get_segments())
    assert ends == [(0.5, 0.7)] * 2 + [(0.7, pytest.approx(0.9))] * 2
    dots = [line for line in axes.lines if line.get_marker() == "."]
    assert [list(line.get_ydata()) for line in dots] == [[0.4, 0.6]] * 4


def test_label_curves_do_without_seeds_intervals_and_values() -> None:
    values = [
        value("heart", "doll", 0.05, Estimate(math.nan), math.nan),
        value("lungs", "doll", 1.0, Estimate(0.5), 0.5),
    ]
    figure = label_curves(experiment(values))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["heart", "lungs"]
    assert not figure.axes[1].collections
    assert png(figure)
    assert png(label_curves(experiment([])))


def test_tasks_go_in_rows_of_three() -> None:
    tasks = ["a", "b", "c", "d"]
    values = [value(task, "doll", 1.0, Estimate(0.5, 0.4, 0.6), 0.5) for task in tasks]
    figure = label_curves(experiment(values))
    assert [axes.get_visible() for axes in figure.axes] == [True] * 4 + [False] * 2
    assert figure.get_figwidth() == 10


def test_learning_curves_mark_where_the_target_is_reached() -> None:
    trained = [
        training("heart", "doll", 0.05, 0, 0.5, 0.9, 1.0),  # the target of seed 0: 0.95
        training("heart", "doll", 0.05, 1, 0.7, 0.8, 0.6),  # of seed 1: 0.76
        training("heart", "random", 0.05, 0, 0.1, 0.2, 0.4),
        training("heart", "random", 0.05, 1, 0.3, 0.4, 0.4),
    ]
    assert [item.median for item in efficiencies(trained)] == [25, math.inf]
    (axes,) = learning_curves(trained, proposed="doll").axes
    assert line_of(axes, GREY.colour) == [
        (10, pytest.approx(0.2)),
        (20, pytest.approx(0.3)),
        (30, pytest.approx(0.4)),
    ]
    marks = [line for line in axes.lines if line.get_marker() not in ("", "None")]
    assert [line.get_xydata().tolist() for line in marks] == [[[25.0, pytest.approx(0.825)]]]
    dotted = [line for line in axes.lines if line.get_linestyle() == ":"]
    assert dotted[0].get_ydata()[0] == pytest.approx((0.95 + 0.76) / 2)
    assert axes.get_ylim()[0] <= 0.4 * 0.9 + 1e-9


def test_learning_curves_are_of_three_fractions_a_task() -> None:
    trained = [training("heart", "doll", fraction, 0, 0.5) for fraction in FRACTIONS]
    trained += [training("lungs", "doll", 1.0, 0, 0.5)]
    figure = learning_curves(trained, proposed="doll")
    shown = [axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()]
    assert shown == [
        "heart, 5 % (6 images)",
        "heart, 50 % (62 images)",
        "heart, 100 % (123 images)",
        "lungs, 100 % (123 images)",
    ]
    assert png(figure)


def test_a_training_without_scores_has_no_line() -> None:
    trained = [training("heart", "doll", 1.0), training("heart", "random", 1.0, 0, 0.0, 0.0)]
    (axes,) = learning_curves(trained, proposed="doll").axes
    assert [line.get_color() for line in axes.lines] == [GREY.colour]
    assert png(learning_curves(trained, proposed="doll"))


def test_the_mean_is_over_the_steps_that_all_have_run() -> None:
    first = training("heart", "doll", 1.0, 0, 0.2, 0.4, 0.6)
    other = Trained(
        task="heart",
        initialisation="doll",
        fraction=1.0,
        images=1,
        seed=1,
        history=[{"step": 15, "score": 0.5}, {"step": 25, "score": 0.7}, {"step": 26}],
    )
    x, y = mean_curve([first, other])
    np.testing.assert_allclose(x, [15, 20, 25])
    np.testing.assert_allclose(y, [(0.3 + 0.5) / 2, (0.4 + 0.6) / 2, (0.5 + 0.7) / 2])
    assert not len(mean_curve([first, training("heart", "doll", 1.0)])[0])
