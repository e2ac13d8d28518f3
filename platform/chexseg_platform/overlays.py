"""Pictures of masks on X-rays: a sheet of cases, a page of saliency maps, an image's outlines.

Masks are drawn as contours with a dark edge, never filled: a filled mask hides the image that it
is about, and a thin light line vanishes on bone. Arrays are best at the model's size; a picture
shows no more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from colorsys import hsv_to_rgb
from dataclasses import dataclass
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from chexseg_platform.evaluation.comparison import PSEUDO_LABELS
from chexseg_platform.evaluation.counts import count_masks
from chexseg_platform.findings import FINDINGS
from chexseg_platform.plots import INK, Look, look, new_figure

MAX_ROWS, MAX_COLUMNS = 8, 5
"""A contact sheet is at most this large; more is no longer looked at."""

TRUTH = "#FFFFFF"
FINDING_COLOURS = dict(
    zip(
        FINDINGS,
        (
            "#F0E442", "#E69F00", "#FF5A36", "#56B4E9", "#CC79A7",
            "#2EE6A8", "#B39DFF", "#FFFFFF", "#00D0E0", "#9BE52E",
        ),
        strict=True,
    )
)  # fmt: skip
"""Ten colours that are bright on an X-ray; more cannot all be told apart, so legends name them."""

BRIGHT = tuple(
    to_hex(hsv_to_rgb(hue / 24, saturation, 1.0))
    for saturation in (0.6, 0.4, 0.2)
    for hue in range(24)
)
"""Further colours, for classes that are no findings and come after the ten."""
LONGEST = 30
"""Letters of a name in a legend."""


@dataclass(frozen=True)
class Case:
    """One row of a contact sheet.

    Attributes:
        title: image and finding.
        image: uint8 (H, W).
        truth: bool (H, W), or None if no expert drew it.
        masks: method -> bool (H, W).
    """

    title: str
    image: np.ndarray
    truth: np.ndarray | None
    masks: Mapping[str, np.ndarray]


def contact_sheet(cases: Sequence[Case], *, title: str = "") -> Figure:
    """Rows of cases: the image with the expert's contour, then one tile a method with both.

    At most 8 rows and 5 columns are drawn. The IoU in a tile is that of the masks as given, at
    the picture's size; the count table has the one at the original size.
    """
    rows = list(cases)[:MAX_ROWS]
    methods = list(dict.fromkeys(name for case in rows for name in case.masks))[: MAX_COLUMNS - 1]
    figure, grid = _tiles(max(len(rows), 1), 1 + len(methods), 2.1, 2.25)
    for tiles, case in zip(grid, rows, strict=False):
        _tile(tiles[0], case.image, case.truth)
        tiles[0].set_title(case.title, fontsize=7, loc="left", color=INK)
        for index, (axes, name) in enumerate(zip(tiles[1:], methods, strict=True)):
            mask = case.masks.get(name)
            _tile(axes, case.image, case.truth, mask, look(name, index))
            axes.set_title(name, fontsize=7, color=INK)
            _note(axes, _overlap_text(case.truth, mask))
    handles = [_contour_handle("expert mask", TRUTH)]
    handles += [_contour_handle(n, look(n, i).bright) for i, n in enumerate(methods)]
    _legend(figure, handles, columns=len(handles))
    figure.suptitle(title, fontsize=10, color=INK)
    return figure


@dataclass(frozen=True)
class MapCase:
    """One row of a saliency page: an image and a finding.

    Attributes:
        title: finding and image.
        image: uint8 (H, W).
        heat: float (H, W), drawn from 0 to its own maximum; a cross marks the peak.
        mask: the pseudo-mask, bool (H, W).
        truth: the expert's mask, bool (H, W), or None if no expert looked.
    """

    title: str
    image: np.ndarray
    heat: np.ndarray
    mask: np.ndarray
    truth: np.ndarray | None


def saliency_page(cases: Sequence[MapCase], *, title: str = "") -> Figure:
    """One row a case, 8 at most: image, map over it, pseudo-mask, and the expert's mask."""
    rows = list(cases)[:MAX_ROWS]
    figure, grid = _tiles(max(len(rows), 1), 4, 2.2, 2.35)
    for tiles, case in zip(grid, rows, strict=False):
        _tile(tiles[0], case.image)
        _tile(tiles[1], case.image)
        _heat(tiles[1], case.heat)
        _tile(tiles[2], case.image, None, case.mask, look(PSEUDO_LABELS))
        _tile(tiles[3], case.image, case.truth, case.mask, look(PSEUDO_LABELS))
        _note(tiles[2], "" if case.mask.any() else "empty mask")
        _note(tiles[3], _overlap_text(case.truth, case.mask))
        tiles[0].set_title(case.title, fontsize=7, loc="left", color=INK)
        for axes, head in zip(tiles[1:], ("saliency", "pseudo-mask", "and expert"), strict=True):
            axes.set_title(head, fontsize=7, color=INK)
    figure.suptitle(title, fontsize=10, color=INK)
    return figure


def class_colours(classes: Sequence[str]) -> dict[str, str]:
    """Return a colour for each class: a finding has its own, wherever it is drawn.

    The other classes take what is left of the ten, in order, then, of `BRIGHT`, what differs most
    from all that are taken; where that has been used up too, colours come again.
    """
    colours = {name: FINDING_COLOURS[name] for name in classes if name in FINDING_COLOURS}
    others = [name for name in classes if name not in colours]
    free = [colour for colour in FINDING_COLOURS.values() if colour not in colours.values()]
    further = len(others) - len(free)
    free += _most_different(list(FINDING_COLOURS.values()), min(max(further, 0), len(BRIGHT)))
    colours |= dict(zip(others, cycle(free), strict=False))
    return {name: colours[name] for name in classes}


def _most_different(taken: Sequence[str], count: int) -> list[str]:
    """Choose colours one after another, each the farthest from its nearest among those before."""
    bright = np.array([to_rgb(colour) for colour in BRIGHT])
    nearest = np.full(len(bright), np.inf)
    for colour in taken:
        nearest = np.minimum(nearest, np.linalg.norm(bright - to_rgb(colour), axis=1))
    chosen = []
    for _ in range(count):
        best = int(nearest.argmax())
        chosen.append(BRIGHT[best])
        nearest = np.minimum(nearest, np.linalg.norm(bright - bright[best], axis=1))
    return chosen


def outlines_page(
    image: np.ndarray,
    masks: Mapping[str, np.ndarray],
    colours: Mapping[str, str],
    *,
    title: str = "",
) -> Figure:
    """An image beside itself with everything that was found outlined.

    Args:
        image: uint8 (H, W).
        masks: class -> bool (H, W); those that are empty are not named.
        colours: class -> its colour, in the order in which they are drawn; see `class_colours`.
    """
    shape = image.shape[0] / image.shape[1]
    there = [name for name in colours if name in masks and masks[name].any()]
    # The legend of ten has room; longer ones must not push the image away.
    legend = 0.2 * max(0, -(-len(there) // 4) - 3)
    figure, grid = _tiles(1, 2, 4.2, 4.2 * min(2.0, max(0.4, shape)) + 0.6 + legend)
    for axes in grid[0]:
        _tile(axes, image)
    for name in there:
        _contour(grid[0, 1], masks[name], colours[name], 1.3)
    if not there:
        _note(grid[0, 1], "nothing found")
    _legend(figure, [_contour_handle(_short(name), colours[name]) for name in there], columns=4)
    figure.suptitle(title, fontsize=10, color=INK, parse_math=False)
    return figure


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def _legend(figure: Figure, handles: Sequence[Line2D], columns: int) -> None:
    if handles:
        legend = figure.legend(
            handles=list(handles),
            loc="outside lower center",
            ncols=columns,
            fontsize=8,
            facecolor="#333333",
            labelcolor="white",
            edgecolor="none",
        )
        for text in legend.get_texts():
            text.set_parse_math(False)


def _tiles(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    figure, panels = new_figure(rows, columns, width, height, gap=0.02)
    for axes in panels:
        axes.set_axis_off()
    return figure, np.array(panels).reshape(rows, columns)


def _tile(
    axes: Axes,
    image: np.ndarray,
    truth: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    style: Look | None = None,
) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=255)
    if truth is not None:
        _contour(axes, truth, TRUTH, 1.0)
    if mask is not None and style is not None:
        _contour(axes, mask, style.bright, 1.5)


def _contour(axes: Axes, mask: np.ndarray, colour: str, width: float) -> None:
    if not mask.any():
        return
    # A border of zeros closes contours at the image's edge.
    padded = np.pad(mask.astype(np.float32), 1)
    rows, columns = np.arange(-1, mask.shape[0] + 1), np.arange(-1, mask.shape[1] + 1)
    lines = axes.contour(columns, rows, padded, [0.5], colors=[colour], linewidths=width)
    lines.set_path_effects([withStroke(linewidth=width + 1.2, foreground="black", alpha=0.6)])
    axes.set_xlim(-0.5, mask.shape[1] - 0.5)
    axes.set_ylim(mask.shape[0] - 0.5, -0.5)


def _heat(axes: Axes, heat: np.ndarray) -> None:
    top = float(heat.max())
    if not top > 0:
        _note(axes, "empty map")
        return
    share = np.clip(heat / top, 0, 1)
    axes.imshow(share, cmap="magma", vmin=0, vmax=1, alpha=0.75 * share**0.5)
    row, column = np.unravel_index(int(np.argmax(heat)), heat.shape)
    axes.plot(column, row, "x", color="white", ms=6, mew=1.5)
    _note(axes, f"max {top:.2g}")


def _overlap_text(truth: np.ndarray | None, mask: np.ndarray | None) -> str:
    if truth is None or mask is None:
        return "no expert mask" if truth is None else "no prediction"
    expert, predicted, both = count_masks(truth, mask)
    if not predicted:
        return "both empty" if not expert else "nothing found"
    return f"IoU {both / (expert + predicted - both):.2f}" if expert else "truth is empty"


def _note(axes: Axes, text: str) -> None:
    if text:
        box = {"facecolor": "black", "alpha": 0.6, "edgecolor": "none", "pad": 1.5}
        axes.text(0.02, 0.02, text, transform=axes.transAxes, color="white", fontsize=7, bbox=box)


def _contour_handle(name: str, colour: str) -> Line2D:
    return Line2D([], [], color=colour, lw=1.8, label=name)
