"""Cases to look at, chosen by a rule and not by hand: for each finding best, median and worst."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup
from numpy.typing import NDArray

from chexseg_platform.artifacts import Artifact
from chexseg_platform.data import geometry, masks
from chexseg_platform.data.pictures import Picture, framed_mask, pictures_of
from chexseg_platform.data.store import index_part
from chexseg_platform.evaluation.comparison import PSEUDO_LABELS
from chexseg_platform.overlays import TRUTH
from chexseg_platform.plots import look
from chexseg_platform.report import drawing

RULE = (
    "For each finding the images on which the experts drew it are ranked by the IoU of {method}, "
    "seed {seed}, at original size, from high to low, equal ones by image id. Shown are the first "
    "(best), the middle one (median; of an even number the better of the two) and the last "
    "(worst); nobody chose."
)
SIDE, SIDE_OF_SEVERAL = 384, 224
"""Longest side of an X-ray on a page of one run, and on a page of several."""

PEAKS: dict[int | None, str] = {1: "peak inside", 0: "peak outside"}

Heat = Mapping[tuple[str, str], NDArray[np.floating]]


@dataclass(frozen=True)
class Choice:
    """An image and a finding that the rule picked; `rank` counts from 1, of `images`."""

    finding: str
    place: str
    image_id: str
    iou: float
    rank: int
    images: int


@dataclass(frozen=True)
class Tile:
    """A picture with its title and what stands below it."""

    title: str
    picture: Markup
    note: str


@dataclass(frozen=True)
class Case:
    """A choice, drawn."""

    choice: Choice
    tiles: tuple[Tile, ...]


def choose(counts: pa.Table, method: str, seed: int) -> list[Choice]:
    """Apply the rule to a count table; findings that no image shows are passed over."""
    mine = pc.and_(pc.equal(counts["method"], method), pc.equal(counts["seed"], seed))
    shown = pc.fill_null(pc.greater(counts["truth"], 0), False)
    ranked: dict[str, list[tuple[float, str]]] = {}
    for row in counts.filter(pc.and_(mine, shown)).to_pylist():
        iou = row["intersection"] / (row["truth"] + row["prediction"] - row["intersection"])
        ranked.setdefault(row["finding"], []).append((-iou, row["image_id"]))
    return [choice for name, rows in ranked.items() for choice in _picked(name, sorted(rows))]


def _picked(finding: str, ranked: Sequence[tuple[float, str]]) -> list[Choice]:
    count = len(ranked)
    places = {"best": 0, "worst": count - 1, "median": (count - 1) // 2}
    if count < 3:
        del places["median"]
    if count < 2:
        places = {"only": 0}
    return [
        Choice(finding, place, ranked[at][1], -ranked[at][0] + 0.0, at + 1, count)
        for place, at in sorted(places.items(), key=lambda item: item[1])
    ]


@dataclass(frozen=True)
class Sources:
    """Where cases are drawn from; without pseudo-labels they have no saliency.

    Attributes:
        counts: the comparison's.
        evaluation: the method's, of the seed that is shown.
        heat: (image, finding) -> map in the frame, (S, S).
    """

    method: str
    seed: int
    counts: pa.Table
    evaluation: Artifact
    dataset: Artifact
    pseudolabels: Artifact | None
    heat: Heat


def draw(sources: Sources, choices: Sequence[Choice], *, side: int, prefix: str) -> list[Case]:
    """Draw choices.

    Args:
        side: longest side of an X-ray, in pixels.
        prefix: of the names that pictures have within the page.
    """
    wanted = [choice.image_id for choice in choices]
    pictures = pictures_of(sources.dataset, wanted)
    predictions = sources.evaluation.tables("predictions/")
    pseudo = pseudo_rows(sources.pseudolabels, sources.dataset, choices)
    counted = _counted(sources.counts, wanted)
    cases = []
    for number, choice in enumerate(choices):
        seen, key = pictures[choice.image_id], (choice.image_id, choice.finding)
        mask = framed_mask(predictions, *key, seen.box)
        sheet = _Sheet(sources, choice, seen, f"{prefix}-{number}", counted, side)
        tiles = [sheet.xray(), sheet.truth(), sheet.prediction(mask)]
        if key in pseudo:
            tiles.append(sheet.saliency(pseudo[key]))
        cases.append(Case(choice, tuple(tiles)))
    return cases


def pseudo_rows(
    pseudolabels: Artifact | None, dataset: Artifact, choices: Sequence[Choice]
) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the pseudo-labels' rows of some choices, by (image, finding)."""
    wanted = {(choice.image_id, choice.finding) for choice in choices}
    ids = pa.array(sorted({image_id for image_id, _ in wanted}), pa.string())
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for part in dataset.parts("rows/") if pseudolabels else ():
        here = index_part(dataset, part.name, ["image_id"])["image_id"]
        if not pc.any(pc.is_in(here, ids)).as_py():
            continue
        assert pseudolabels is not None
        table = pseudolabels.table(f"masks/{part.name.rpartition('/')[2]}")
        for row in table.filter(pc.is_in(table["image_id"], ids)).to_pylist():
            if (row["image_id"], row["finding"]) in wanted:
                found[row["image_id"], row["finding"]] = row
    return found


Counted = Mapping[tuple[str, int, str, str], Mapping[str, Any]]


def _counted(counts: pa.Table, wanted: Sequence[str]) -> Counted:
    some = counts.filter(pc.is_in(counts["image_id"], pa.array(wanted, pa.string())))
    return {
        (row["method"], row["seed"], row["image_id"], row["finding"]): row
        for row in some.to_pylist()
    }


@dataclass(frozen=True)
class _Sheet:
    """The pictures of one choice: what all of them need."""

    sources: Sources
    choice: Choice
    seen: Picture
    name: str
    counted: Counted
    side: int

    @property
    def _inside(self) -> tuple[slice, slice]:
        return geometry.content(self.seen.box)

    @property
    def _shape(self) -> tuple[int, int]:
        return self.seen.box.inner_height, self.seen.box.inner_width

    def _row(self, method: str, seed: int) -> Mapping[str, Any]:
        return self.counted.get((method, seed, self.choice.image_id, self.choice.finding), {})

    def _drawn(self, *layers: str, below: Sequence[str] = ()) -> list[str]:
        """The X-ray and the experts' mask, with layers below and above the mask."""
        expert = drawing.line(f"{self.name}-truth", TRUTH)
        return [drawing.again(f"{self.name}-image"), *below, expert, *layers]

    def xray(self) -> Tile:
        box, image = self.seen.box, self.seen.image[self._inside]
        size = self.seen.box.size
        truth = masks.decode(self.seen.truth[self.choice.finding], size, size)[self._inside]
        layers = [
            drawing.picture(drawing.shrunk(image, self.side), self._shape, f"{self.name}-image"),
            drawing.definition(f"{self.name}-truth", drawing.outline(truth)),
        ]
        alt = f"X-ray {self.choice.image_id}, {box.width} by {box.height} pixels."
        return Tile("X-ray", drawing.svg(self._shape, alt, layers), f"{box.width} × {box.height}")

    def truth(self) -> Tile:
        note = _share(self._row(self.sources.method, self.sources.seed), "truth")
        alt = f"The experts' mask of {self.choice.finding}: {note}."
        return Tile("Experts", drawing.svg(self._shape, alt, self._drawn()), note)

    def prediction(self, mask: NDArray[np.bool_]) -> Tile:
        method, row = self.sources.method, self._row(self.sources.method, self.sources.seed)
        own = f"{self.name}-mask"
        layers = self._drawn(
            drawing.definition(own, drawing.outline(mask[self._inside])),
            drawing.line(own, look(method).bright),
        )
        overlap = f"IoU {self.choice.iou:.3f}" if row.get("prediction") else "nothing found, IoU 0"
        alt = f"Mask of {method}: {_share(row, 'prediction')}; {overlap} with the experts' mask."
        return Tile(f"Prediction of {method}", drawing.svg(self._shape, alt, layers), overlap)

    def saliency(self, row: Mapping[str, Any]) -> Tile:
        top, left = self._inside[0].start, self._inside[1].start
        layers, below, size = list[str](), list[str](), self.seen.box.size
        heat = self.sources.heat.get((self.choice.image_id, self.choice.finding))
        if heat is not None:
            pixels = drawing.heat_pixels(heat[self._inside])
            below = [drawing.picture(drawing.shrunk(pixels, drawing.HEAT_SIDE), self._shape)]
        own = f"{self.name}-pseudo"
        if row["counts"] is not None:
            mask = masks.decode(row["counts"], size, size)[self._inside]
            layers.append(drawing.definition(own, drawing.outline(mask)))
            layers.append(drawing.line(own, look(PSEUDO_LABELS).bright))
        if row["peak_row"] is not None:
            peak = (row["peak_row"] - top + 0.5, row["peak_column"] - left + 0.5)
            layers.append(drawing.cross(*peak, 0.025 * max(self._shape)))
        note = self._saliency_note(row)
        what = "Saliency" if heat is not None else "Saliency's mask and peak, no map,"
        alt = f"{what} of {self.choice.finding}: {note}."
        drawn = self._drawn(*layers, below=below)
        return Tile("Saliency", drawing.svg(self._shape, alt, drawn), note)

    def _saliency_note(self, row: Mapping[str, Any]) -> str:
        counts = self._row(PSEUDO_LABELS, 0)
        probability = f"probability {row['probability']:.2f}"
        if row["counts"] is None:
            return f"{probability}, no pseudo-mask ({row['status']})"
        peak = PEAKS.get(counts.get("hit"), "")
        return ", ".join(part for part in (probability, peak, _iou(counts)) if part)


def _share(row: Mapping[str, Any], name: str) -> str:
    """Say how much of the image a mask covers."""
    if not row:
        return "not counted"
    return f"{row[name] / (row['height'] * row['width']):.1%} of the image".replace("%", " %")


def _iou(row: Mapping[str, Any]) -> str:
    if not row or row["truth"] is None:
        return ""
    union = row["truth"] + row["prediction"] - row["intersection"]
    return f"IoU\N{NO-BREAK SPACE}{row['intersection'] / union:.3f}" if union else ""
