"""Charts of a label-efficiency experiment: score against labelled images, and against steps.

Made as all charts are (`plots.py`). The proposed initialisation is black, with a thicker line above
the others; "random", which they are measured against, is grey.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import NDArray

from chexseg_platform.evaluation.comparison import MEAN, RADIOLOGISTS
from chexseg_platform.evaluation.efficiency import LabelEfficiency, Value
from chexseg_platform.evaluation.efficiency_tables import percent
from chexseg_platform.evaluation.metrics import SHORT
from chexseg_platform.evaluation.steps import RANDOM, SHARE, Efficiency, Trained, efficiencies
from chexseg_platform.plots import INK, LOOKS, OTHERS, Look, new_figure, tidy

GREY = LOOKS[RADIOLOGISTS]
BLACK = next(style for style in OTHERS if style.colour == "#000000")
COLOURED = tuple(style for style in (*LOOKS.values(), *OTHERS) if style not in (GREY, BLACK))
WIDTH = 10.0
"""Inches of a figure: 1,200 pixels."""
PANELS = 3
"""Side by side, at most."""
SPREAD, WIDEST = 0.5, 0.35
"""Share of the space between two fractions over which the initialisations' bars are spread, and
the most of it, as a logarithm of the number of images."""


def initialisation_looks(names: Sequence[str], proposed: str) -> dict[str, Look]:
    """A look an initialisation, by its place among all: seven besides these two differ."""
    looks = {RANDOM: GREY, proposed: BLACK}
    others = [name for name in dict.fromkeys(names) if name not in looks]
    looks |= {name: COLOURED[place % len(COLOURED)] for place, name in enumerate(others)}
    return {name: looks[name] for name in names}


def label_curves(result: LabelEfficiency, metric: str = "dice_union") -> Figure:
    """Score on test images against labelled images, a panel a task, a line an initialisation.

    A point is the mean over classes and seeds with its interval, a pale dot that of one seed.
    Points of one fraction stand side by side, so that their intervals can be told apart.
    """
    values = [item for item in result.values if (item.metric, item.name) == (metric, MEAN)]
    tasks = list(dict.fromkeys(item.task for item in values))
    names = list(dict.fromkeys(item.initialisation for item in values))
    columns = max(1, min(PANELS, len(tasks)))
    rows = max(1, math.ceil(len(tasks) / columns))
    figure, panels = new_figure(rows, columns, WIDTH / columns, 3.9)
    for axes, task in zip(panels, tasks, strict=False):
        mine = [item for item in values if item.task == task]
        tidy(axes, task, "labelled images", f"{SHORT[metric]}, mean over classes")
        _label_panel(axes, mine, names, result.proposed)
    for axes in panels[len(tasks) :]:
        axes.set_visible(False)
    _legend(figure, names, result.proposed)
    title = f"{SHORT[metric]} on test images; bars {percent(result.level)} intervals over "
    figure.suptitle(f"{title}{result.cluster}s, pale dots single seeds", fontsize=10, color=INK)
    return figure


def _label_panel(axes: Axes, values: Sequence[Value], names: Sequence[str], proposed: str) -> None:
    looks = initialisation_looks(names, proposed)
    places = {item.fraction: item.images for item in values}
    axes.set_xscale("log")
    for place, name in enumerate(names):
        mine = sorted(
            (item for item in values if item.initialisation == name), key=lambda item: item.fraction
        )
        shift = _shift(list(places.values()), (place + 0.5) / len(names) - 0.5)
        x = np.array([item.images for item in mine]) * shift
        _label_line(axes, x, mine, looks[name], name == proposed)
    labels = [f"{images:,}\n{percent(fraction)}" for fraction, images in places.items()]
    axes.set_xticks(list(places.values()), labels)
    axes.xaxis.set_minor_locator(NullLocator())


def _shift(images: Sequence[int], share: float) -> float:
    """Factor that moves a point along a logarithmic axis by a share of its spread."""
    gaps = np.diff(np.log(sorted(set(images))))
    spread = min(SPREAD * (gaps.min() if len(gaps) else 1.0), WIDEST)
    return float(np.exp(share * spread))


def _label_line(
    axes: Axes, x: NDArray[np.floating], values: Sequence[Value], style: Look, bold: bool
) -> None:
    for place, item in zip(x, values, strict=True):
        found = item.estimate
        seeds = list(item.by_seed) if len(item.by_seed) > 1 else []
        axes.plot([place] * len(seeds), seeds, ".", color=style.colour, alpha=0.35, ms=4, zorder=1)
        if found.low is not None and found.high is not None:
            axes.vlines(place, found.low, found.high, color=style.colour, lw=1.4, zorder=2)
    axes.plot(
        x,
        [item.estimate.value for item in values],
        style.line,
        color=style.colour,
        marker=style.marker,
        ms=6 if bold else 4.5,
        lw=2.4 if bold else 1.1,
        zorder=4 if bold else 3,
    )


def learning_curves(trained: Sequence[Trained], *, proposed: str) -> Figure:
    """Validation score against step: a row a task, a column a fraction, a line an initialisation.

    Lines are means over seeds. A mark stands at the median step at which the target is reached,
    95 % of the best score (the dotted line, its mean over seeds); a line without one does not reach
    it in half of its seeds. What lies far below the target is cut off. Of more than three fractions
    the smallest, the middle and the largest are drawn.
    """
    steps = efficiencies(trained)
    names = list(dict.fromkeys(item.initialisation for item in trained))
    shown = {
        task: _some(sorted({item.fraction for item in trained if item.task == task}))
        for task in dict.fromkeys(item.task for item in trained)
    }
    columns = max((len(fractions) for fractions in shown.values()), default=1)
    figure, panels = new_figure(max(1, len(shown)), columns, WIDTH / columns, 2.9)
    for row, (task, fractions) in enumerate(shown.items()):
        here = panels[row * columns : (row + 1) * columns]
        for axes, fraction in zip(here, fractions, strict=False):
            mine = [item for item in trained if (item.task, item.fraction) == (task, fraction)]
            found = [item for item in steps if (item.task, item.fraction) == (task, fraction)]
            title = f"{task}, {percent(fraction)} ({mine[0].images:,} images)"
            tidy(axes, title, "step", "validation score" if axes is here[0] else "")
            _learning_panel(axes, mine, found, names, proposed)
        for axes in here[len(fractions) :]:
            axes.set_visible(False)
    _legend(figure, names, proposed)
    title = f"Mean over seeds; marks where {percent(SHARE)} of the best score is reached (dotted)"
    figure.suptitle(title, fontsize=10, color=INK)
    return figure


def _some(fractions: Sequence[float]) -> list[float]:
    """The smallest, the middle and the largest of many."""
    if len(fractions) <= PANELS:
        return list(fractions)
    return [fractions[0], fractions[len(fractions) // 2], fractions[-1]]


def _learning_panel(
    axes: Axes,
    trained: Sequence[Trained],
    steps: Sequence[Efficiency],
    names: Sequence[str],
    proposed: str,
) -> None:
    looks = initialisation_looks(names, proposed)
    highest = []
    for item in steps:
        style, bold = looks[item.initialisation], item.initialisation == proposed
        x, y = mean_curve([t for t in trained if t.initialisation == item.initialisation])
        if not len(x):
            continue
        highest.append(y.max())
        order = 4 if bold else 3
        axes.plot(x, y, style.line, color=style.colour, lw=2.2 if bold else 1.1, zorder=order)
        if math.isfinite(item.median):
            height = np.interp(item.median, x, y)
            axes.vlines(item.median, 0, height, color=style.colour, lw=0.8, alpha=0.5, zorder=1)
            (mark,) = axes.plot(item.median, height, style.marker, ms=7, zorder=order + 2)
            mark.set(markerfacecolor=style.colour, markeredgecolor="white", markeredgewidth=0.7)
    targets = [seed.target for item in steps for seed in item.seeds if seed.target is not None]
    if targets and highest:
        target = float(np.mean(targets))
        axes.axhline(target, color=INK, lw=0.9, ls=":")
        axes.set_ylim(min(0.5 * target, 0.9 * min(highest)), 1.05 * max(*highest, target))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def mean_curve(
    trained: Sequence[Trained],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean score over seeds: steps and scores, float64 (P,), over the steps that all have run.

    Between its validations a training's score is taken to be on a straight line. Both are empty
    where a training has no score.
    """
    curves = [
        np.array([(row["step"], row["score"]) for row in item.history if "score" in row])
        for item in trained
    ]
    if not curves or any(not len(curve) for curve in curves):
        return np.empty(0), np.empty(0)
    first, last = max(c[0, 0] for c in curves), min(c[-1, 0] for c in curves)
    every = np.unique(np.concatenate([curve[:, 0] for curve in curves]))
    x = every[(every >= first) & (every <= last)]
    return x, np.mean([np.interp(x, *curve.T) for curve in curves], axis=0)


def _legend(figure: Figure, names: Sequence[str], proposed: str) -> None:
    handles = [
        Line2D([], [], color=style.colour, ls=style.line, marker=style.marker, ms=5, label=name)
        for name, style in initialisation_looks(names, proposed).items()
    ]
    for handle in handles:
        handle.set_linewidth(2.4 if handle.get_label() == proposed else 1.1)
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(4, max(1, len(handles))),
        frameon=False,
        fontsize=9,
        handlelength=3.2,
    )
