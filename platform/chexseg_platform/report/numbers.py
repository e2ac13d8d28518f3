"""What a comparison's numbers become on the page: headline cards, means, and the table of all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from chexseg_platform.evaluation.bootstrap import Estimate
from chexseg_platform.evaluation.calibration import Calibration
from chexseg_platform.evaluation.comparison import EXPERT_ONLY, MEAN, PSEUDO_ONLY
from chexseg_platform.evaluation.subgroups import SubgroupScore
from chexseg_platform.evaluation.tables import (
    NOTHING,
    cell,
    differing,
    p_cell,
    percent_cell,
    signed_cell,
)
from chexseg_platform.report.content import Content, Gain, short

IOUS = ("iou_present", "iou_union", "iou_pooled")
RULES = {
    "mean": "upper end of its interval at or above their mean",
    "interval": "upper end of its interval at or above the lower end of theirs",
    "paired": "interval of the paired difference reaches 0",
}
PAPER = {EXPERT_ONLY: "+9.7 %", PSEUDO_ONLY: "+73.1 %", "gap": "57.2 %", "reached": "3 of 10"}
"""What CheXseg reports, of DenseNet-121 and DeepLabV3+ on CheXpert and CheXlocalize."""


@dataclass(frozen=True)
class Cell:
    """A number as it is shown, and by what it is sorted."""

    value: str
    interval: str = ""
    note: str = ""
    sort: str = ""


@dataclass(frozen=True)
class Card:
    """One headline figure.

    Attributes:
        title: what it is.
        about: the same in a sentence.
        rows: (label, numbers), a row a metric.
        paper: what CheXseg reports.
        columns: what each number of a row is, where there are several; with what it means.
        joint: the word between a row's label and a column's, where they become one.
    """

    title: str
    about: str
    rows: Sequence[tuple[str, list[Cell]]]
    paper: str = ""
    columns: Sequence[tuple[str, str]] = ()
    joint: str = "by"

    @property
    def figures(self) -> dict[str, Cell]:
        """Every number by one label."""
        names = [f", {self.joint} {column}" for column, _ in self.columns] or [""]
        return {
            label + name: found
            for label, cells in self.rows
            for name, found in zip(names, cells, strict=True)
        }


@dataclass(frozen=True)
class Row:
    """A line of the table of all numbers: a method and a finding, a cell a metric."""

    method: str
    finding: str
    images: int | None
    cells: Sequence[Cell]
    mean: bool


def number(found: Estimate, *, sign: bool = False, percent: bool = False) -> Cell:
    """Return a value and its interval apart, "0.312" and "[0.28, 0.34]"."""
    signed = signed_cell if sign else cell
    text = percent_cell(found, sign=sign) if percent else signed(found)
    value, _, ends = text.partition(" [")
    behind = "" if found.images is None else f"n = {found.images:.0f}"
    known = "" if math.isnan(found.value) else f"{found.value:.6g}"
    return Cell(
        value.replace("-", "−"), f"[{ends}".replace("-", "−") if ends else "", behind, known
    )


def cards(content: Content) -> list[Card]:
    """Return the headline figures that the comparison holds, in the paper's order."""
    shown = [metric for metric in IOUS if metric in content.scores]
    made = [_gain_card(content, name, shown) for name in _references(content, shown)]
    if any(metric in content.gap_closed for metric in shown):
        made.append(_gap_card(content, [m for m in shown if m in content.gap_closed]))
    if any(content.reached.get(metric) for metric in shown):
        made.append(_reached_card(content, shown))
    return made


def _references(content: Content, metrics: Sequence[str]) -> list[str]:
    """Methods to be gained over: the paper's two first, readers left to the other cards."""
    names = [g.reference for m in metrics[:1] for g in content.gains.get(m, ())]
    first = [name for name in (EXPERT_ONLY, PSEUDO_ONLY) if name in names]
    others = [name for name in names if name not in (*first, content.roles.readers)]
    return [*first, *others]


def _gain_card(content: Content, reference: str, metrics: Sequence[str]) -> Card:
    rows = []
    for metric in metrics:
        gain = next((g for g in content.gains[metric] if g.reference == reference), None)
        if gain is not None:
            found = number(gain.relative[-1], sign=True, percent=True)
            note = _tested(gain, content.level)
            rows.append((short(metric), [Cell(found.value, found.interval, note)]))
    about = (
        f"How much higher the mean of {content.roles.proposed} is, in per cent, over the findings "
        "that both methods have; the table of means takes all that each has."
    )
    return Card(f"Gain over {reference}", about, rows, PAPER.get(reference, ""))


def _gap_card(content: Content, metrics: Sequence[str]) -> Card:
    weak, rows = content.roles.weak, []
    for metric in metrics:
        rows.append((short(metric), [number(content.gap_closed[metric], percent=True)]))
    about = f"The part of the way to the {content.roles.readers} that {content.roles.proposed} has "
    # From pseudo-masks themselves to radiologists is another way than the paper's.
    paper = PAPER["gap"] if weak == PSEUDO_ONLY else ""
    return Card(f"Gap from {weak} closed", f"{about}gone.", rows, paper)


def _tested(gain: Gain, level: float) -> str:
    """The mean's p, and on how many findings the difference stands after correction."""
    if not gain.p or gain.p[-1] is None:
        return ""
    higher, lower, compared = differing(gain, level)
    p = p_text(gain.p[-1])
    return f"{p}; higher on {higher}, lower on {lower} of {compared} findings"


def p_text(p: float) -> str:
    """Return a p-value with its name, "p = .012" or "p < .001"."""
    said = p_cell(p)
    return f"p {said}" if said.startswith("<") else f"p = {said}"


def _reached_card(content: Content, metrics: Sequence[str]) -> Card:
    known = dict.fromkeys(how for metric in metrics for how in content.reached.get(metric, {}))
    whole = len(content.findings)
    rows = []
    for metric in metrics:
        found = [content.reached.get(metric, {}).get(how, ()) for how in known]
        cells = [Cell(f"{len(names)} of {whole}", "", ", ".join(names)) for names in found]
        rows.append((short(metric), cells))
    about = (
        f"On how many findings {content.roles.proposed} reaches the {content.roles.readers}, by "
        "three readings of an interval. A wide interval reaches anything."
    )
    columns = [(how, RULES.get(how, "")) for how in known]
    return Card(f"Reaches the {content.roles.readers}", about, rows, PAPER["reached"], columns)


def means(content: Content) -> list[tuple[str, list[Cell], list[str]]]:
    """Return (method, mean under each metric, spread over seeds under each), a row a method."""
    rows = []
    for method in content.methods:
        mine = [by_method.get(method) for by_method in content.scores.values()]
        found = [number(s.findings[-1]) if s else Cell(NOTHING) for s in mine]
        spread = ["" if s is None or s.seed_sd is None else f"± {s.seed_sd:.3f}" for s in mine]
        rows.append((method, found, spread))
    return rows


def all_rows(content: Content) -> list[Row]:
    """Return every score: a row a method and finding, the means first."""
    names = [*zip(content.findings, content.truth_images, strict=True), (MEAN, None)]
    places = [len(names) - 1, *range(len(names) - 1)]
    return [
        Row(method, names[place][0], names[place][1], _cells(content, method, place), not order)
        for order, place in enumerate(places)
        for method in content.methods
    ]


def _cells(content: Content, method: str, place: int) -> list[Cell]:
    scores = [by_method.get(method) for by_method in content.scores.values()]
    return [number(s.findings[place]) if s else Cell(NOTHING) for s in scores]


def subgroup_rows(content: Content) -> tuple[str, list[tuple[SubgroupScore, list[Cell]]]]:
    """Return a metric, and under it a row a subgroup with a cell a method; none without any."""
    metrics = [metric for group in content.subgroups[:1] for metric in group.scores]
    if not metrics:
        return "", []
    metric = "iou_pooled" if "iou_pooled" in metrics else metrics[0]
    rows = []
    for group in content.subgroups:
        found = [group.scores[metric].get(method) for method in content.methods]
        rows.append((group, [Cell(NOTHING) if one is None else number(one) for one in found]))
    return metric, rows


def calibration_rows(
    found: Sequence[Calibration],
) -> tuple[list[str], list[tuple[str, list[Cell]]]]:
    """Return columns (method, unit) and, a row a finding, expected calibration errors."""
    methods = {item.method: f"{item.method} ({item.unit}s)" for item in found}
    by_place = {(item.finding, item.method): number(item.error) for item in found}
    findings = dict.fromkeys(item.finding for item in found)
    rows = [
        (finding, [by_place.get((finding, method), Cell(NOTHING)) for method in methods])
        for finding in findings
    ]
    return list(methods.values()), rows
