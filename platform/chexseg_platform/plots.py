"""Charts of a run: learning curves, score against mix ratio, forest plot per finding.

Each function returns a matplotlib `Figure`; `png` and `svg` turn one into bytes or text. Figures
are made without pyplot, which keeps every figure it made in a global list and picks a window
system: these functions run in workers and threads, and nothing has to be closed.

Colours are Okabe and Ito's, told apart by colour-blind readers; methods also differ by marker and
line style. Pictures of masks are in `overlays.py`.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from chexseg_platform.evaluation.bootstrap import Estimate
from chexseg_platform.evaluation.calibration import Calibration
from chexseg_platform.evaluation.comparison import (
    EXPERT_ONLY,
    MEAN,
    MIX,
    PSEUDO_LABELS,
    PSEUDO_ONLY,
    RADIOLOGISTS,
    Roles,
)
from chexseg_platform.evaluation.metrics import SHORT, TITLES


@dataclass(frozen=True)
class Look:
    """How a method is drawn: colour on white, colour on an X-ray, marker, line style."""

    colour: str
    bright: str
    marker: str
    line: str = "-"


LOOKS: dict[str, Look] = {
    EXPERT_ONLY: Look("#0072B2", "#56B4E9", "o", "-"),
    PSEUDO_ONLY: Look("#D55E00", "#E69F00", "s", "--"),
    MIX: Look("#009E73", "#2EE6A8", "D", "-"),
    PSEUDO_LABELS: Look("#A6761D", "#F0C060", "^", ":"),
    RADIOLOGISTS: Look("#666666", "#CC79A7", "P", "-."),
}
OTHERS = (
    Look("#CC79A7", "#CC79A7", "v", "--"),
    Look("#56B4E9", "#9AD1F5", "<", ":"),
    Look("#B8A800", "#F0E442", ">", "-."),
    Look("#000000", "#FFFFFF", "X", "-"),
)
INK, PALE = "#222222", "#DDDDDD"


def look(name: str, position: int = 0) -> Look:
    """The look of a method; of a name that is not known, one by position."""
    return LOOKS.get(name, OTHERS[position % len(OTHERS)])


def png(figure: Figure, *, dpi: int = 120) -> bytes:
    """Draw a figure as PNG."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def svg(figure: Figure) -> str:
    """Draw a figure as SVG whose text stays text; the same figure gives the same bytes."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "chexseg"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def curves(
    series: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]],
    *,
    x_label: str = "epoch",
    title: str = "",
) -> Figure:
    """Learning curves: one panel a metric.

    Args:
        series: metric -> line -> (x, y), for instance "loss" -> "train" -> epochs and losses.
            NaN interrupts a line.
    """
    figure, panels = new_figure(1, max(len(series), 1), 4.2, 3.0)
    styles = line_looks([name for lines in series.values() for name in lines])
    for axes, (metric, lines) in zip(panels, series.items(), strict=False):
        for name, (x, y) in lines.items():
            style = styles[name]
            marker = style.marker if len(x) <= 30 else ""
            axes.plot(x, y, style.line, color=style.colour, marker=marker, ms=3.5, label=name)
        tidy(axes, metric, x_label, "")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(lines) > 1:
            axes.legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=11, color=INK)
    return figure


def line_looks(names: Sequence[str]) -> dict[str, Look]:
    """A look a line: seeds of an arm look alike, as the arm does in every other figure.

    Lines of other names take the looks that are free, so that nine can be told apart.
    """
    arms = {name: name.partition(", seed ")[0] for name in names}
    free = [*OTHERS, *(style for name, style in LOOKS.items() if name not in arms.values())]
    others = [arm for arm in dict.fromkeys(arms.values()) if arm not in LOOKS]
    taken = {arm: free[place % len(free)] for place, arm in enumerate(others)}
    return {name: LOOKS.get(arm) or taken[arm] for name, arm in arms.items()}


Line = tuple[list[float], list[float]]


def training_series(
    histories: Sequence[tuple[str, int, Sequence[Mapping[str, float]]]],
) -> dict[str, dict[str, Line]]:
    """Loss and validation mIoU of segmenters as `curves` takes them.

    Args:
        histories: arm, seed and history of each training. Of more than eight, the first of each
            arm alone is drawn.
    """
    loss: dict[str, Line] = {}
    miou: dict[str, Line] = {}
    for arm, seed, history in histories:
        name = f"{arm}, seed {seed}" if len(histories) <= 8 else arm
        if name in loss:
            continue
        epochs = [row["epoch"] for row in history]
        loss[name] = (epochs, [row["loss"] for row in history])
        if any("miou" in row for row in history):
            miou[name] = (epochs, [row.get("miou", math.nan) for row in history])
    return {"training loss": loss} | ({"validation mIoU": miou} if miou else {})


def mix_ratio(
    ratios: Sequence[float],
    scores: Sequence[Sequence[float]],
    *,
    intervals: Sequence[tuple[float, float] | None] | None = None,
    chosen: float | None = None,
    metric: str = "validation mIoU",
    readers: tuple[float, float, float] | None = None,
) -> Figure:
    """Score against the probability of drawing an expert row.

    Args:
        ratios: x, P values in [0, 1].
        scores: of each ratio, the score of every seed; drawn as points, their mean as a line.
        intervals: of each ratio, the interval of the mean over seeds, drawn as a band.
        chosen: the ratio that was picked.
        readers: radiologists' mean, lower and upper end, drawn as a grey band.
    """
    figure, (axes,) = new_figure(1, 1, 6.4, 4.0)
    order = np.argsort(ratios)
    x = np.asarray(ratios, dtype=float)[order]
    points = [np.asarray(scores[index], dtype=float) for index in order]
    means = [float(np.nanmean(y)) if np.isfinite(y).any() else math.nan for y in points]
    style = look(MIX)
    if readers is not None:
        axes.axhspan(readers[1], readers[2], color=PALE, lw=0, label="radiologists, 95 %")
        axes.axhline(readers[0], color=look(RADIOLOGISTS).colour, lw=1, ls="-.")
    if intervals is not None:
        ends = [intervals[index] or (math.nan, math.nan) for index in order]
        low, high = zip(*ends, strict=True)
        axes.fill_between(x, low, high, color=style.colour, alpha=0.2, lw=0, label="95 % interval")
    axes.plot(x, means, color=style.colour, lw=1.8, label="mean over seeds")
    for index, (position, seeds) in enumerate(zip(x, points, strict=True)):
        name = "one seed" if index == 0 else None
        (dots,) = axes.plot([position] * len(seeds), seeds, "o", ms=4, label=name)
        dots.set(markerfacecolor="white", markeredgecolor=style.colour)
    if chosen is not None:
        axes.axvline(chosen, color=INK, lw=0.8, ls=":")
        axes.annotate(
            f"chosen: {chosen:g}",
            (chosen, 1),
            xycoords=("data", "axes fraction"),
            xytext=(-4, -4),
            textcoords="offset points",
            ha="right",
            va="top",
            fontsize=8,
        )
    tidy(axes, "", "probability of drawing an expert row  (0: pseudo only, 1: expert only)", metric)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


class Scored(Protocol):
    """Estimates of a method under a metric, the mean last."""

    @property
    def findings(self) -> Sequence[Estimate]: ...


class Compared(Protocol):
    """What a forest plot needs of a comparison, computed or read from its JSON."""

    @property
    def roles(self) -> Roles: ...
    @property
    def findings(self) -> Sequence[str]: ...
    @property
    def methods(self) -> Sequence[str]: ...
    @property
    def truth_images(self) -> Sequence[int]: ...
    @property
    def cluster(self) -> str: ...
    @property
    def level(self) -> float: ...
    @property
    def scores(self) -> Mapping[str, Mapping[str, Scored]]: ...


def forest(comparison: Compared, metric: str = "iou_union") -> Figure:
    """Every method's value and interval, finding by finding, radiologists as a grey band."""
    scores = comparison.scores[metric]
    readers = comparison.roles.readers
    methods = [name for name in comparison.methods if name != readers]
    labels = [
        f"{name}  ({count})"
        for name, count in zip(comparison.findings, comparison.truth_images, strict=True)
    ] + [MEAN]
    figure, (axes,) = new_figure(1, 1, 8.0, 1.6 + 0.16 * len(labels) * (len(methods) + 1))
    for row in range(len(labels)):
        if readers in scores:
            _reader_band(axes, row, scores[readers].findings[row])
        for index, name in enumerate(methods):
            height = row + 0.7 * ((index + 0.5) / len(methods) - 0.5)
            _whisker(axes, height, scores[name].findings[row], look(name, index))
    axes.axhline(len(labels) - 1.5, color=INK, lw=0.8)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.45, -0.55)
    axes.set_xlim(left=0)
    what = f"{SHORT[metric]}, {100 * comparison.level:g} % intervals by {comparison.cluster}"
    tidy(axes, TITLES[metric], f"{what}; in brackets, images with the finding", "", "x")
    axes.tick_params(axis="y", length=0)
    handles = [handle(name, look(name, index)) for index, name in enumerate(methods)]
    if readers in scores:
        handles.append(Line2D([], [], color=PALE, lw=8, label=readers))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=8
    )
    return figure


def reliability(found: Sequence[Calibration]) -> Figure:
    """What is true against what is claimed, a panel a finding, a line a method.

    A point is a bin of probability; the diagonal is where claims are true.
    """
    findings = list(dict.fromkeys(item.finding for item in found))
    methods = list(dict.fromkeys(item.method for item in found))
    rows = math.ceil(len(findings) / 5)
    figure, panels = new_figure(rows, min(5, len(findings)), 2.3, 2.5)
    for axes, finding in zip(panels, findings, strict=False):
        axes.plot([0, 1], [0, 1], color=PALE, lw=1)
        for item in (item for item in found if item.finding == finding):
            style = look(item.method, methods.index(item.method))
            pairs = zip(item.claimed, item.true, strict=True)
            points = [(x, y) for x, y in pairs if x is not None and y is not None]
            axes.plot(*zip(*points, strict=True), style.line, color=style.colour,
                      marker=style.marker, ms=3)  # fmt: skip
        tidy(axes, finding, "", "")
        axes.set(xlim=(0, 1), ylim=(0, 1))
    for axes in panels[len(findings) :]:
        axes.set_visible(False)
    figure.supxlabel("probability that is claimed", fontsize=8, color=INK)
    figure.supylabel("share that is true", fontsize=8, color=INK)
    units = {item.method: item.unit for item in found}
    handles = [
        handle(f"{name} ({units[name]}s)", look(name, index)) for index, name in enumerate(methods)
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    return figure


def new_figure(
    rows: int, columns: int, width: float, height: float, *, gap: float = 0.04
) -> tuple[Figure, list[Axes]]:
    """A figure of rows × columns panels, each width × height inches, row by row."""
    layout = ConstrainedLayoutEngine(w_pad=gap, h_pad=gap, wspace=gap / 2, hspace=gap / 2)
    figure = Figure((width * columns, height * rows), layout=layout)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def tidy(axes: Axes, title: str, x_label: str, y_label: str, grid: Literal["x", "y"] = "y") -> None:
    axes.set_title(title, fontsize=9, color=INK, loc="left")
    axes.set_xlabel(x_label, fontsize=8, color=INK)
    axes.set_ylabel(y_label, fontsize=8, color=INK)
    axes.tick_params(labelsize=8, colors=INK)
    axes.grid(axis=grid, color=PALE, lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _reader_band(axes: Axes, row: int, readers: Estimate) -> None:
    if readers.low is not None and readers.high is not None:
        box = Rectangle((readers.low, row - 0.42), readers.high - readers.low, 0.84)
        box.set(facecolor=PALE, edgecolor="none", zorder=0.5)
        axes.add_patch(box)
    if not math.isnan(readers.value):
        axes.vlines(readers.value, row - 0.42, row + 0.42, color=LOOKS[RADIOLOGISTS].colour, lw=1)


def _whisker(axes: Axes, height: float, found: Estimate, style: Look) -> None:
    if math.isnan(found.value):
        return
    if found.low is not None and found.high is not None:
        axes.hlines(height, found.low, found.high, color=style.colour, lw=1.6)
    axes.plot(found.value, height, style.marker, color=style.colour, ms=4.5)


def handle(name: str, style: Look) -> Line2D:
    return Line2D([], [], color=style.colour, marker=style.marker, lw=1.6, ms=4.5, label=name)
