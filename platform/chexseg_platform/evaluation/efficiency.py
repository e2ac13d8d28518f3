"""Label efficiency: how well segmenters learn from few labels that start from different weights.

Per task and fraction of its training images: Dice and IoU on test images with intervals, the paired
differences of one initialisation, the proposed one, to every other, and how soon each learned
(`steps.py`). An interval speaks of other patients (`bootstrap.py`), `by_seed` of other trainings
and, as the images of a fraction are drawn anew for each seed, of other images to learn from.
`efficiency_tables.py` writes all of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import pyarrow as pa

from chexseg_platform.evaluation.bootstrap import Cluster, Estimate
from chexseg_platform.evaluation.comparison import MEAN, Comparison, Roles, compare
from chexseg_platform.evaluation.counts import CountCube, cube
from chexseg_platform.evaluation.metrics import mean_defined, score
from chexseg_platform.evaluation.significance import holm
from chexseg_platform.evaluation.steps import (
    BrokenGrid,
    Efficiency,
    Trained,
    efficiencies,
    initialisations,
)

METRICS = ("dice_union", "dice_pooled", "iou_union", "iou_pooled")
"""Keys of `metrics.METRICS` that the experiment reports."""


@dataclass(frozen=True, kw_only=True)
class Value:
    """A metric of an initialisation on the test images; `name` is a class or MEAN.

    Attributes:
        images: how many it learned from (the median over seeds, should they differ).
        by_seed: the value of each seed; NaN where nothing can be averaged.
    """

    task: str
    fraction: float
    images: int
    initialisation: str
    metric: str
    name: str
    estimate: Estimate
    by_seed: tuple[float, ...]

    @property
    def seed_sd(self) -> float | None:
        """Standard deviation over seeds (n - 1); None with fewer than two."""
        there = [value for value in self.by_seed if not math.isnan(value)]
        return float(np.std(there, ddof=1)) if len(there) > 1 else None


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The proposed initialisation less another, paired; `name` is a class or MEAN.

    Attributes:
        p: two-sided; None where there is no interval.
        p_holm: corrected, for a mean for the number of other initialisations at this task,
            fraction and metric, for a class for the number of classes.
    """

    task: str
    fraction: float
    reference: str
    metric: str
    name: str
    estimate: Estimate
    p: float | None
    p_holm: float | None


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The images that a task was tested on, and what is to be kept in mind of it."""

    task: str
    classes: tuple[str, ...]
    images: int
    patients: int
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class LabelEfficiency:
    """All numbers of the experiment; tasks, fractions and initialisations in their order.

    Attributes:
        cluster, resamples, seed, level: of the intervals.
    """

    proposed: str
    metrics: tuple[str, ...]
    tested: tuple[HeldOut, ...]
    values: tuple[Value, ...]
    differences: tuple[Difference, ...]
    steps: tuple[Efficiency, ...]
    cluster: Cluster
    resamples: int
    seed: int
    level: float


def label_efficiency(
    trained: Sequence[Trained],
    tables: Mapping[tuple[str, float], pa.Table],
    *,
    proposed: str,
    metrics: Sequence[str] = METRICS,
    cluster: Cluster = "patient",
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> LabelEfficiency:
    """Reduce a grid of trainings, counted on test images, to the numbers of the experiment.

    Args:
        trained: the trainings, seeds of an initialisation among them.
        tables: (task, fraction) -> counts (`counts.SCHEMA`) of one split, with initialisations as
            methods.
        proposed: the initialisation that is compared with every other.

    Raises:
        BrokenGrid: where trainings are there twice, a table has none, or `proposed` is none.
        BrokenCounts: for a table that is empty or contradicts itself.
    """
    names = initialisations(trained)
    if proposed not in names:
        raise BrokenGrid(f"{proposed!r} is no initialisation; there are {', '.join(names)}")
    steps = efficiencies(trained)
    roles = Roles(proposed=proposed, references=tuple(n for n in names if n != proposed))
    tested: dict[str, HeldOut] = {}
    values, differences = list[Value](), list[Difference]()
    for (task, fraction), table in tables.items():
        counts = cube(table.filter(table["truth"].is_valid()))
        found = compare(
            counts,
            roles=roles,
            metrics=metrics,
            cluster=cluster,
            resamples=resamples,
            seed=seed,
            level=level,
        )
        images = _images(trained, task, fraction)
        for metric in metrics:
            ordered = [name for name in names if name in found.methods]
            values += _values(found, counts, metric, ordered, task, fraction, images)
            differences += _differences(found, metric, task, fraction)
        tested.setdefault(task, _tested(found, task))
    return LabelEfficiency(
        proposed=proposed,
        metrics=tuple(metrics),
        tested=tuple(tested.values()),
        values=tuple(values),
        differences=tuple(differences),
        steps=tuple(steps),
        cluster=cluster,
        resamples=resamples,
        seed=seed,
        level=level,
    )


def _images(trained: Sequence[Trained], task: str, fraction: float) -> int:
    images = [item.images for item in trained if (item.task, item.fraction) == (task, fraction)]
    if not images:
        raise BrokenGrid(
            f"There are counts of {task} with {fraction:.3g} of its images and no training of it: "
            "give all trainings that were counted"
        )
    return round(median(images))


def _values(
    found: Comparison,
    counts: CountCube,
    metric: str,
    initialisations: Sequence[str],
    task: str,
    fraction: float,
    images: int,
) -> Iterator[Value]:
    by_run = score(counts, metric)
    by_run = np.concatenate([by_run, mean_defined(by_run, axis=1)[:, None]], axis=1)
    for initialisation in initialisations:
        runs = [run for run, (name, _) in enumerate(counts.runs) if name == initialisation]
        estimates = found.scores[metric][initialisation].findings
        for index, name in enumerate((*found.findings, MEAN)):
            yield Value(
                task=task,
                fraction=fraction,
                images=images,
                initialisation=initialisation,
                metric=metric,
                name=name,
                estimate=estimates[index],
                by_seed=tuple(by_run[runs, index].tolist()),
            )


def _differences(
    found: Comparison, metric: str, task: str, fraction: float
) -> Iterator[Difference]:
    gains = found.gains[metric]
    of_means = holm([gain.p[-1] for gain in gains])
    for gain, corrected in zip(gains, of_means, strict=True):
        for index, name in enumerate((*found.findings, MEAN)):
            yield Difference(
                task=task,
                fraction=fraction,
                reference=gain.reference,
                metric=metric,
                name=name,
                estimate=gain.absolute[index],
                p=gain.p[index],
                p_holm=corrected if name == MEAN else gain.p_holm[index],
            )


def _tested(found: Comparison, task: str) -> HeldOut:
    """A task's test images, the same for every fraction of its training images."""
    of_methods = tuple(f"{method}: " for method in found.left_out)  # told once, below
    notes = [note for note in found.notes if not note.startswith(of_methods)]
    partly = {image for images in found.left_out.values() for image in images}
    if partly:
        notes.append(
            f"{len(partly)} of {found.images} images do not count everywhere: they lack a mask of "
            "some class, or were not predicted."
        )
    return HeldOut(
        task=task,
        classes=found.findings,
        images=found.images,
        patients=found.patients,
        notes=tuple(notes),
    )
