"""Label efficiency as text for a terminal, CSV rows and JSON; see `efficiency.py`.

Numbers that do not exist are a dash in text, empty in CSV and null in JSON, as in `tables.py`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from chexseg_platform.evaluation.bootstrap import Estimate
from chexseg_platform.evaluation.comparison import MEAN
from chexseg_platform.evaluation.efficiency import Difference, HeldOut, LabelEfficiency, Value
from chexseg_platform.evaluation.metrics import SHORT, TITLES
from chexseg_platform.evaluation.steps import RANDOM, SHARE, Efficiency
from chexseg_platform.evaluation.tables import (
    NOTHING,
    cell,
    grid,
    p_cell,
    plain,
    signed_cell,
    without_zeros,
)

NEVER = "never"
TO_TARGET = "steps"
"""Name of the median step among the metrics of CSV rows."""


def text(result: LabelEfficiency) -> str:
    """The experiment as plain text: means over classes, task by task."""
    blocks = [_heading(result)]
    for tested in result.tested:
        blocks.append(_task_heading(tested))
        for metric in result.metrics:
            blocks.append(_values_block(result, tested.task, metric))
        for metric in result.metrics:
            blocks.append(_differences_block(result, tested.task, metric))
        blocks.append(_steps_block(result, tested.task))
        blocks.append("\n".join(f"Note. {note}" for note in tested.notes))
    few = too_few_resamples(result)
    blocks.append(f"Note. {few}" if few else "")
    return "\n\n".join(block for block in blocks if block) + "\n"


def _heading(result: LabelEfficiency) -> str:
    return (
        f"Values are means over classes. In brackets {100 * result.level:g} % intervals: "
        f"{result.resamples:,} resamples of {result.cluster}s, seed {result.seed}, seeds of the "
        "trainings averaged within each."
    )


def _task_heading(tested: HeldOut) -> str:
    title = f"{tested.task}: {', '.join(tested.classes)}"
    images = f"{tested.images:,} test image{'' if tested.images == 1 else 's'}"
    patients = f"{tested.patients:,} patient{'' if tested.patients == 1 else 's'}"
    return f"{title}\n{'═' * len(title)}\n{images} of {patients}."


def _values_block(result: LabelEfficiency, task: str, metric: str) -> str:
    values = [
        value
        for value in result.values
        if (value.task, value.metric, value.name) == (task, metric, MEAN)
    ]
    columns = {value.fraction: column_name(value.fraction, value.images) for value in values}
    cells = {
        (value.initialisation, value.fraction): without_zeros(cell(value.estimate))
        for value in values
    }
    return _table(TITLES[metric], "", cells, columns)


def _differences_block(result: LabelEfficiency, task: str, metric: str) -> str:
    found = [
        item
        for item in result.differences
        if (item.task, item.metric, item.name) == (task, metric, MEAN)
    ]
    columns = {item.fraction: percent(item.fraction) for item in found}
    cells = {
        (item.reference, item.fraction): f"{_signed(item.estimate)}  p {p_cell(item.p_holm)}"
        for item in found
    }
    title = (
        f"{SHORT[metric]}, paired differences of {result.proposed} to each other; p after Holm's "
        "correction for their number"
    )
    return _table(title, f"{result.proposed} against", cells, columns) if found else ""


def _steps_block(result: LabelEfficiency, task: str) -> str:
    found = [item for item in result.steps if item.task == task]
    columns = {item.fraction: percent(item.fraction) for item in found}
    cells = {(item.initialisation, item.fraction): _steps_cell(item) for item in found}
    title = (
        f"Steps until the validation score is {percent(SHARE)} of the best that any initialisation "
        f"reached:\nmedian over seeds (how many got there), × that of {RANDOM}"
    )
    return _table(title, "", cells, columns)


def markdown(result: LabelEfficiency, metric: str = "dice_union") -> str:
    """A metric's means over classes as Markdown tables, one a task."""
    blocks = []
    for tested in result.tested:
        values = [
            value
            for value in result.values
            if (value.task, value.metric, value.name) == (tested.task, metric, MEAN)
        ]
        columns = {value.fraction: column_name(value.fraction, value.images) for value in values}
        cells = {
            (value.initialisation, value.fraction): without_zeros(cell(value.estimate))
            for value in values
        }
        lines = [[f"{tested.task}: {SHORT[metric]}", *columns.values()]]
        lines.append(["---", *("---:" for _ in columns)])
        for name in dict.fromkeys(name for name, _ in cells):
            lines.append([name, *(cells.get((name, fraction), NOTHING) for fraction in columns)])
        blocks.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(blocks)


Key = tuple[str, float]


def _table(title: str, corner: str, cells: dict[Key, str], columns: dict[float, str]) -> str:
    """Initialisations by fractions; a dash where there is no cell."""
    rows = [
        [name, *(cells.get((name, fraction), NOTHING) for fraction in columns)]
        for name in dict.fromkeys(name for name, _ in cells)
    ]
    lines = grid([corner, *columns.values()], rows)
    return "\n".join([title, lines[0], "─" * max(map(len, lines)), *lines[1:]])


def column_name(fraction: float, images: int) -> str:
    """A fraction and how many images it is: "5 % (12)"."""
    return f"{percent(fraction)} ({images:,})"


def percent(fraction: float) -> str:
    """A fraction as a person reads it: "5 %"."""
    return f"{100 * fraction:.3g} %"


def _signed(estimate: Estimate) -> str:
    return without_zeros(signed_cell(estimate))


def _steps_cell(found: Efficiency) -> str:
    step = f"{found.median:,.0f}" if math.isfinite(found.median) else NEVER
    ratio = "" if found.ratio is None else f"  ×{found.ratio:.2f}"
    return f"{step} ({found.reached} of {len(found.seeds)}){ratio}"


def too_few_resamples(result: LabelEfficiency) -> str:
    """Say where p-values are bounded by the number of resamples; empty where it does no harm."""
    others = len({item.reference for item in result.differences})
    least = 2 * others / (result.resamples + 1)
    if least < 1 - result.level:
        return ""
    return (
        f"With {result.resamples:,} resamples no p-value of a mean can fall below "
        f"{least:.2f} after correction for {others} initialisations: take 1,000."
    )


def rows(result: LabelEfficiency) -> list[dict[str, Any]]:
    """Every number as a row of a CSV file; what does not exist is None.

    Keys: kind ("score", "difference", "steps"), task, fraction, images (learned from),
    initialisation, reference, metric, class (or "Mean"), value, low, high, seeds, seed_sd, p,
    p_holm, reached (seeds that reached the target) and ratio (to the steps of "random").
    """
    return [*_scores(result), *_differences(result), *_steps(result)]


def _scores(result: LabelEfficiency) -> Iterator[dict[str, Any]]:
    for item in result.values:
        yield _row("score", item) | {
            "initialisation": item.initialisation,
            "images": item.images,
            "seeds": len(item.by_seed),
            "seed_sd": item.seed_sd,
            **_scored(item),
        }


def _differences(result: LabelEfficiency) -> Iterator[dict[str, Any]]:
    images = images_of(result)
    for item in result.differences:
        yield _row("difference", item) | {
            "initialisation": result.proposed,
            "images": images[item.task, item.fraction],
            "reference": item.reference,
            "p": item.p,
            "p_holm": item.p_holm,
            **_scored(item),
        }


def _steps(result: LabelEfficiency) -> Iterator[dict[str, Any]]:
    images = images_of(result)
    for item in result.steps:
        yield _row("steps", item) | {
            "initialisation": item.initialisation,
            "images": images.get((item.task, item.fraction)),
            "metric": TO_TARGET,
            "value": plain(item.median),
            "seeds": len(item.seeds),
            "reached": item.reached,
            "ratio": item.ratio,
        }


COLUMNS = (
    "kind", "task", "fraction", "images", "initialisation", "reference", "metric", "class", "value",
    "low", "high", "seeds", "seed_sd", "p", "p_holm", "reached", "ratio",
)  # fmt: skip
"""Keys of `rows`."""


def _row(kind: str, item: Value | Difference | Efficiency) -> dict[str, Any]:
    return dict.fromkeys(COLUMNS) | {"kind": kind, "task": item.task, "fraction": item.fraction}


def _scored(item: Value | Difference) -> dict[str, Any]:
    found = item.estimate
    ends = {"value": plain(found.value), "low": found.low, "high": found.high}
    return {"metric": item.metric, "class": item.name, **ends}


def images_of(result: LabelEfficiency) -> dict[tuple[str, float], int]:
    """Return how many images each fraction of each task is."""
    return {(item.task, item.fraction): item.images for item in result.values}


def to_json(result: LabelEfficiency) -> dict[str, Any]:
    """The experiment as JSON values: NaN and infinities become null, tuples lists."""
    steps = [
        dataclasses.asdict(item) | {"median": item.median, "reached": item.reached}
        for item in result.steps
    ]
    values = [dataclasses.asdict(item) | {"seed_sd": item.seed_sd} for item in result.values]
    whole = plain(dataclasses.asdict(result) | {"values": values, "steps": steps})
    assert isinstance(whole, dict)
    return whole | {"titles": {metric: TITLES[metric] for metric in result.metrics}}
