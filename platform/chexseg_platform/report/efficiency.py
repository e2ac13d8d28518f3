"""A grid of fine-tunings as its `finetuning.json` says it, and what its numbers become on the page.

Read as leniently as a comparison (`content.py`): a metric that this version does not know is kept
and shown, and what an older file lacks is empty.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from chexseg_platform.evaluation.comparison import MEAN
from chexseg_platform.evaluation.efficiency import Difference, HeldOut, LabelEfficiency, Value
from chexseg_platform.evaluation.efficiency_tables import NEVER, images_of, percent
from chexseg_platform.evaluation.steps import RANDOM, SHARE, Efficiency, Steps
from chexseg_platform.evaluation.tables import NOTHING
from chexseg_platform.report.content import estimate, short
from chexseg_platform.report.numbers import Card, Cell, number, p_text

METRIC = "dice_union"
"""The metric of headline figures and of the chart."""
NARROW = "\u202f"
"""A space at which no line breaks."""

Kept = TypeVar("Kept", Value, Difference, HeldOut, Efficiency)
Scored = TypeVar("Scored", Value, Difference)
Place = tuple[str, float]
"""A task and a fraction of its images."""


def efficiency_of(raw: Mapping[str, Any]) -> LabelEfficiency:
    """Read what `evaluation.efficiency_tables.to_json` gave."""
    values = [
        entry | {"by_seed": tuple(map(_known, entry["by_seed"]))} | _estimated(entry)
        for entry in raw["values"]
    ]
    differences = [entry | _estimated(entry) for entry in raw.get("differences", ())]
    steps = [
        entry | {"seeds": tuple(_seed(seed) for seed in entry["seeds"])}
        for entry in raw.get("steps", ())
    ]
    tested = [
        entry | {name: tuple(entry[name]) for name in ("classes", "notes")}
        for entry in raw["tested"]
    ]
    return LabelEfficiency(
        metrics=tuple(raw["metrics"]),
        tested=_each(HeldOut, tested),
        values=_each(Value, values),
        differences=_each(Difference, differences),
        steps=_each(Efficiency, steps),
        **{name: raw[name] for name in ("proposed", "cluster", "resamples", "seed", "level")},
    )


def _each(kind: type[Kept], entries: Iterable[Mapping[str, Any]]) -> tuple[Kept, ...]:
    """Entries as what they are; keys that are no field of it follow from the others."""
    names = {field.name for field in fields(kind)}
    return tuple(kind(**{k: v for k, v in entry.items() if k in names}) for entry in entries)


def _estimated(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {"estimate": estimate(entry["estimate"])}


def _known(value: float | None) -> float:
    return math.nan if value is None else value


def _seed(entry: Mapping[str, Any]) -> Steps:
    return Steps(entry["seed"], entry["target"], entry["step"])


@dataclass(frozen=True)
class Row:
    """A line of a table: a task, a fraction, a start and a class; a cell a metric."""

    task: str
    fraction: float
    images: int | None
    start: str
    name: str
    cells: Sequence[Cell]

    @property
    def share(self) -> str:
        return percent(self.fraction)

    @property
    def mean(self) -> bool:
        return self.name == MEAN


@dataclass(frozen=True)
class Timed:
    """How soon a start learned, ready for a table; `key` as `tasks.cell_key` takes it."""

    task: str
    fraction: float
    images: int | None
    start: str
    steps: Cell
    reached: str
    ratio: Cell
    seeds: Sequence[int]

    @property
    def share(self) -> str:
        return percent(self.fraction)


def score_rows(result: LabelEfficiency) -> list[Row]:
    """Return every score: means first, then class by class; cells by `result.metrics`."""
    cells = {
        (item.task, item.name, item.fraction, item.initialisation, item.metric): _score(item)
        for item in result.values
    }
    return _rows(result, cells)


def difference_rows(result: LabelEfficiency) -> list[Row]:
    """Return every paired difference, in the order of the scores; `start` is the other start."""
    cells = {
        (item.task, item.name, item.fraction, item.reference, item.metric): _difference(item)
        for item in result.differences
    }
    return _rows(result, cells)


def _rows(
    result: LabelEfficiency, cells: Mapping[tuple[str, str, float, str, str], Cell]
) -> list[Row]:
    images = images_of(result)
    keys = dict.fromkeys(key[:-1] for key in cells)
    whole, parts = ([k for k in keys if (k[1] == MEAN) == mean] for mean in (True, False))
    return [
        Row(
            task,
            fraction,
            images.get((task, fraction)),
            start,
            name,
            [
                cells.get((task, name, fraction, start, metric), Cell(NOTHING))
                for metric in result.metrics
            ],
        )
        for task, name, fraction, start in [*whole, *_by_class(result, parts)]
    ]


def _by_class(
    result: LabelEfficiency, keys: Sequence[tuple[str, str, float, str]]
) -> list[tuple[str, str, float, str]]:
    """Keys of a class together: the file has them fraction by fraction."""
    places = [(task.task, name) for task in result.tested for name in task.classes]
    order = {place: number for number, place in enumerate(places)}
    return sorted(keys, key=lambda key: order.get((key[0], key[1]), len(order)))


def _score(item: Value) -> Cell:
    found = number(item.estimate)
    spread = "" if item.seed_sd is None else f"± {item.seed_sd:.3f}"
    return replace(found, note=", ".join(part for part in (found.note, spread) if part))


def _difference(item: Difference) -> Cell:
    note = "" if item.p_holm is None else p_text(item.p_holm).replace(" ", NARROW)
    return replace(number(item.estimate, sign=True), note=note)


def step_rows(result: LabelEfficiency) -> list[Timed]:
    """Return how soon each start learned."""
    images = images_of(result)
    return [
        Timed(
            item.task,
            item.fraction,
            images.get((item.task, item.fraction)),
            item.initialisation,
            _median(item),
            f"{item.reached} of {len(item.seeds)}",
            Cell("") if item.ratio is None else Cell(_times(item.ratio), sort=f"{item.ratio:.6g}"),
            [seed.seed for seed in item.seeds],
        )
        for item in result.steps
    ]


def _median(item: Efficiency) -> Cell:
    """The median step; what never got there has nothing to be sorted by, and stands last."""
    if not math.isfinite(item.median):
        return Cell(NEVER)
    return Cell(f"{item.median:,.0f}", sort=f"{item.median:.6g}")


def _times(ratio: float) -> str:
    return f"×{NARROW}{ratio:.2f}"


def cards(result: LabelEfficiency) -> list[Card]:
    """Return the headline figures, a card a task: its smallest and its largest fraction."""
    return [_card(result, tested) for tested in result.tested]


def _card(result: LabelEfficiency, tested: HeldOut) -> Card:
    images = images_of(result)
    fractions = sorted(fraction for task, fraction in images if task == tested.task)
    ends = list(dict.fromkeys([*fractions[:1], *fractions[-1:]]))
    places = [(tested.task, fraction) for fraction in ends]
    metric = short(METRIC)
    about = (
        f"{metric} of {result.proposed} on {tested.images:,} test images of "
        f"{tested.patients:,} patients, mean over {_listed(tested.classes)}. Differences are "
        "paired, p is corrected for the number of other starts."
    )
    rows = [(f"{metric} of {result.proposed}", [_headline(result, place) for place in places])]
    rows += [
        (label, [_against(result, place, best=best) for place in places])
        for label, best in _others(result)
    ]
    share = f"steps to {percent(SHARE)} of the best score"
    rows.append((share, [_soon(result, place) for place in places]))
    columns = [(percent(at[1]), f"{images[at]:,} images to learn from") for at in places]
    return Card(tested.task, about, rows, columns=columns, joint="at")


def _listed(names: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def _others(result: LabelEfficiency) -> list[tuple[str, bool]]:
    """What is compared with: random weights, and the best start besides, where there are both."""
    names = {item.reference for item in result.differences}
    rows = [(f"difference to {RANDOM}", False)] if RANDOM in names else []
    return rows + ([("difference to the best other start", True)] if names - {RANDOM} else [])


def _at(items: Iterable[Scored], place: Place) -> list[Scored]:
    """The means under the headline's metric."""
    return [
        item
        for item in items
        if (item.task, item.fraction) == place and (item.metric, item.name) == (METRIC, MEAN)
    ]


def _headline(result: LabelEfficiency, place: Place) -> Cell:
    mine = (v for v in _at(result.values, place) if v.initialisation == result.proposed)
    return next(map(_score, mine), Cell(NOTHING))


def _against(result: LabelEfficiency, place: Place, *, best: bool) -> Cell:
    """The difference to random weights, or to the start with the highest mean of the others."""
    found = _at(result.differences, place)
    if not best:
        return next((_difference(d) for d in found if d.reference == RANDOM), Cell(NOTHING))
    scores = {v.initialisation: v.estimate.value for v in _at(result.values, place)}
    known = [d for d in found if not math.isnan(scores.get(d.reference, math.nan))]
    if not known:
        return Cell(NOTHING)
    item = max(known, key=lambda d: scores[d.reference])
    shown = _difference(item)
    note = ", ".join(part for part in (item.reference, shown.note) if part)
    return replace(shown, note=note)


def _soon(result: LabelEfficiency, place: Place) -> Cell:
    """The proposed start's steps, and beside them those of random weights."""
    here = {s.initialisation: s for s in result.steps if (s.task, s.fraction) == place}
    mine, random = here.get(result.proposed), here.get(RANDOM)
    if mine is None:
        return Cell(NOTHING)
    found = _median(mine)
    if random is None or result.proposed == RANDOM:
        return found
    ratio = "" if mine.ratio is None else f", {_times(mine.ratio)}"
    return replace(found, note=f"{RANDOM} {_median(random).value}{ratio}")
