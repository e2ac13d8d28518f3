"""The platform's charts as parts of a page: inline SVG that follows its light and dark colours.

Matplotlib writes a document of its own: with a prolog, names that clash with those of the next
figure, a style sheet that speaks of the whole page, and colours for white paper.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape
from matplotlib.figure import Figure

from chexseg_platform import plots, plots_efficiency
from chexseg_platform.evaluation.calibration import Calibration
from chexseg_platform.evaluation.comparison import MEAN, RADIOLOGISTS
from chexseg_platform.evaluation.efficiency import LabelEfficiency
from chexseg_platform.evaluation.efficiency_tables import NEVER, column_name, percent
from chexseg_platform.evaluation.steps import RANDOM, SHARE, Trained
from chexseg_platform.evaluation.tables import cell
from chexseg_platform.report.content import Content, short

AUROCS = {"auroc competition": "AUROC, mean of the five", "auroc mean": "AUROC, mean of all"}
LARGEST = 1.5
"""Pixels of a page to a point of a figure, at most."""


@dataclass(frozen=True)
class Chart:
    """A figure with its title, and a caption that stands below it."""

    title: str
    picture: Markup
    caption: str


def inline(figure: Figure, name: str, alt: str) -> Markup:
    """Return a figure for a page.

    Args:
        name: of the figure within the page, before every name within the figure.
        alt: what a reader hears instead.
    """
    text = plots.svg(figure)
    text = text[text.index("<svg") :]
    text = re.sub(
        r"<metadata>.*?</metadata>\s*|<style.*?</style>\s*|<!--.*?-->\s*", "", text, flags=re.S
    )
    view = re.search(r'viewBox="\S+ \S+ (\S+) [^"]*"', text)
    assert view is not None
    body = text[text.index(">") + 1 :].replace("xlink:href", "href")
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', body))
    body = re.sub(r'\s+id="([^"]+)"', lambda m: _named(m, used, name), body)
    body = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", body)
    # A colour is looked up in the page's style, which gives dark ones where it is dark.
    body = re.sub(r"#([0-9a-f]{6})\b", r"var(--c-\1, #\1)", body)
    width = float(view[1])
    size = f'style="max-width: {LARGEST * width:.0f}px"'
    head = f'<svg class="chart" {view[0]} {size} role="img" aria-label="{escape(alt)}">'
    return Markup(head + re.sub(r"\n\s*", "\n", body).strip())


def _named(match: re.Match[str], used: set[str], name: str) -> str:
    return f' id="{name}-{match[1]}"' if match[1] in used else ""


def forest_chart(content: Content, metric: str, name: str) -> Chart:
    """Return the forest plot of a metric."""
    means = "; ".join(
        f"{method} {cell(score.findings[-1])}" for method, score in content.scores[metric].items()
    )
    alt = (
        f"{content.titles[metric]}. Means over findings with {content.level_percent} intervals: "
        f"{means}. The numbers of each finding are in the table of all numbers."
    )
    readers = content.roles.readers in content.methods
    caption = f"Points are values, bars {content.level_percent} intervals by {content.cluster}."
    if readers:
        caption += (
            f" The grey band is the interval of the {RADIOLOGISTS}, the line in it their value."
        )
    return Chart(short(metric), inline(plots.forest(content, metric), name, alt), caption)


def mix_chart(rows: Sequence[Mapping[str, str]], field: str, chosen: str, name: str) -> Chart:
    """Return validation mIoU against the mix.

    Args:
        rows: those of a sweep's table.
        field: its column with the ratio.
        chosen: the ratio that was picked.
    """
    known = [row for row in rows if row["validation mIoU"]]
    intervals = [
        (float(row["low"]), float(row["high"])) if row["low"] and row["high"] else None
        for row in known
    ]
    figure = plots.mix_ratio(
        [float(row[field]) for row in known],
        [[float(score) for score in row["seeds"].split()] or [float("nan")] for row in known],
        intervals=intervals,
        chosen=float(chosen),
        metric="validation mIoU (pooled)",
    )
    points = "; ".join(f"at {row[field]} {row['validation mIoU']}" for row in known)
    alt = f"Validation mIoU against the probability of drawing an expert row: {points}."
    caption = f"Chosen on validation patients: {chosen}. The band is the interval over patients."
    return Chart("mIoU against the mix", inline(figure, name, alt), caption)


def reliability_chart(found: Sequence[Calibration], name: str) -> Chart:
    """Return what is true against what is claimed, a panel a finding."""
    errors = "; ".join(f"{item.method}, {item.finding} {cell(item.error)}" for item in found)
    alt = f"Reliability of probabilities. Expected calibration errors: {errors}."
    caption = "On the diagonal claims are true; below it, a method claims more than is there."
    return Chart("Calibration", inline(plots.reliability(found), name, alt), caption)


History = Sequence[Mapping[str, Any]]


def segmenter_chart(histories: Sequence[tuple[str, int, History]], name: str) -> Chart:
    """Return loss and validation mIoU of segmenters: (arm, seed, history) each."""
    series = plots.training_series(histories)
    drawn, made = len(series["training loss"]), len(histories)
    caption = f"The first of each arm is drawn, {drawn} of {made}." if drawn < made else ""
    return _curves("Segmenters", series, name, caption)


def classifier_chart(histories: Sequence[History], name: str) -> Chart:
    """Return loss and validation AUROC of classifiers."""
    series: dict[str, dict[str, plots.Line]] = {"training loss": {}, "validation AUROC": {}}
    for number, rows in enumerate(histories, start=1):
        of = f" of classifier {number}" if len(histories) > 1 else ""
        lines = {("training loss", f"loss{of}"): "loss"}
        lines |= {("validation AUROC", f"{title}{of}"): key for key, title in AUROCS.items()}
        for (panel, title), key in lines.items():
            known = [row for row in rows if row.get(key) is not None]
            if known:
                series[panel][title] = [row["epoch"] for row in known], [row[key] for row in known]
    return _curves("Classifier", {k: v for k, v in series.items() if v}, name, "")


def _curves(
    title: str, series: Mapping[str, Mapping[str, plots.Line]], name: str, caption: str
) -> Chart:
    ends = "; ".join(
        f"{metric}, {line}: from {y[0]:.3f} to {y[-1]:.3f} in {x[-1]:g} epochs"
        for metric, lines in series.items()
        for line, (x, y) in lines.items()
    )
    alt = f"Learning curves. {ends}."
    return Chart(title, inline(plots.curves(series), name, alt), caption)


def label_chart(result: LabelEfficiency, metric: str, name: str) -> Chart:
    """Return scores against labelled images, a panel a task."""
    points = "; ".join(
        f"{v.task} at {column_name(v.fraction, v.images)} {cell(v.estimate)}"
        for v in result.values
        if (v.metric, v.name, v.initialisation) == (metric, MEAN, result.proposed)
    )
    alt = (
        f"{short(metric)} against labelled images. Means over classes of {result.proposed}: "
        f"{points}. Those of every start are in the table of all scores."
    )
    caption = f"The thickest line is {result.proposed}."
    if any(value.initialisation == RANDOM for value in result.values):
        caption += f" The grey one is {RANDOM}."
    figure = plots_efficiency.label_curves(result, metric)
    return Chart("Label efficiency", inline(figure, name, alt), caption)


def learning_chart(
    result: LabelEfficiency, trained: Sequence[Trained], stored: bytes | None, name: str
) -> Chart | None:
    """Return validation scores against steps, a row of panels a task.

    Args:
        trained: every training of the grid; empty where one is not there any more.
        stored: the chart as it was drawn then, a PNG, to be shown in that case.
    """
    shown = (RANDOM, result.proposed)
    soon = "; ".join(
        f"{s.task} at {percent(s.fraction)}, {s.initialisation} {_step(s.median)}"
        for s in result.steps
        if s.initialisation in shown
    )
    alt = (
        f"Validation score against step. Steps to {percent(SHARE)} of the best score: {soon}. "
        "Those of every start are in the table of steps."
    )
    if trained:
        figure = plots_efficiency.learning_curves(trained, proposed=result.proposed)
        picture = inline(figure, name, alt)
    elif stored:
        picture = _embedded(stored, alt)
    else:
        return None
    caption = "A line without a mark does not get there in half of its seeds."
    return Chart("Learning curves", picture, caption)


def _step(median: float) -> str:
    return f"{median:,.0f}" if math.isfinite(median) else NEVER


def _embedded(png: bytes, alt: str) -> Markup:
    """A chart that cannot be drawn again: it keeps the colours it has on white paper."""
    address = f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
    return Markup(f'<img class="chart" src="{address}" alt="{escape(alt)}">')
