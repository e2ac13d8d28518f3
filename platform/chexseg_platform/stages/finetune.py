"""Fine-tuning on few expert masks: a grid of tasks, first weights, fractions and seeds on Ray Tune.

Every cell of the grid is an ordinary training and an ordinary segmenter. All cells of a task have
one budget: the same steps, learning rate and validation images, whatever they start from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from chexseg_platform import config, plan, tasks
from chexseg_platform.artifacts import Artifact
from chexseg_platform.config import Experiment
from chexseg_platform.data import masks
from chexseg_platform.data.fractions import Shown, take_fraction
from chexseg_platform.data.store import of_classes, read_index
from chexseg_platform.findings import OBSERVATIONS, mirrored
from chexseg_platform.locks import once
from chexseg_platform.stages import evaluate, records, tune
from chexseg_platform.stages.context import Context
from chexseg_platform.stages.efficiency import Finetuned, write_tables
from chexseg_platform.stages.ingest import ingest
from chexseg_platform.stages.orders import Masks, Order, start_of
from chexseg_platform.stages.pretrain import Pretrained, pretrain_tracked
from chexseg_platform.stages.report import report_of_run
from chexseg_platform.stages.tracked import Say, Tracked, classify_tracked, ingest_tracked, left_out
from chexseg_platform.tasks import Cell
from chexseg_platform.tracking import RunRef, Tracker


class NothingDrawn(ValueError):
    """A task whose images have no masks to learn, or none to test on."""


@dataclass(frozen=True)
class Work:
    """A task's images, ready: the dataset, its classes, and who is in which split."""

    dataset: Artifact
    classes: tuple[str, ...]
    train: tuple[Shown, ...]
    valid: tuple[str, ...]


@dataclass(frozen=True)
class Starts:
    """What fine-tunings start from, besides random and fetched weights."""

    dataset: Artifact | None = None
    classifier: Artifact | None = None
    pretrained: Mapping[str, Pretrained] = field(default_factory=dict)


def finetune(
    context: Context, experiment: Experiment, cells: Sequence[Cell], tracker: Tracker, say: Say
) -> Artifact:
    """Fine-tune the whole grid, and write its tables; what is finished is not done again.

    Args:
        cells: `tasks.cells_of(experiment, context.workspace)`.

    Raises:
        SweepFailed: where a training failed; the others are kept.
        ClassAbsent, NothingDrawn: before anything is fine-tuned.
    """
    print_ = tasks.grid_print(experiment, cells)
    parent = records.top_run(tracker, experiment, print_, f"{experiment.name} finetune")
    at = Tracked(context, parent, say)
    works = {
        name: _ready(at, experiment, name, task)
        for name, task in tasks.settings_of(experiment).tasks.items()
    }
    images = {cell.print_: _images(works[cell.task], cell) for cell in cells}
    starts = _starts(at, experiment)
    make = partial(
        _finetune, context, experiment, cells, print_, works, images, starts, tracker, parent
    )
    found = once(context.workspace, plan.FINETUNING, print_, make)
    records.finish_finetuning(parent, experiment, found)
    report_of_run(context, experiment.name, found, parent, say)
    parent.finish()
    return found


def _ready(at: Tracked, experiment: Experiment, name: str, task: config.Task) -> Work:
    """Make a task's dataset, and see what its images show."""
    data = tasks.data_of(experiment, task)
    print_ = plan.dataset_print(data, at.context.workspace)
    run = records.stage_run(at.run, "ingest", print_, name)
    dataset = ingest(at.context, data, print_)
    records.finish_dataset(run, dataset)
    columns = ["image_id", "patient", "split", "small_masks"]
    index = read_index(dataset).select(columns)
    classes = tasks.classes_of(name, task) or drawn_classes(index)
    work = Work(
        dataset,
        classes,
        tuple(_shown(index, "train", classes, dataset)),
        tuple(item.image_id for item in _shown(index, "valid", classes, dataset)),
    )
    tested = _shown(index, "test", classes, dataset)
    _check(name, work, tested, flips=bool(experiment.finetuning("random").augment.flip))
    at.say(
        f"{name}  {', '.join(classes)}: {len(work.train)} images to learn from, "
        f"{len(work.valid)} for thresholds and checkpoints, {len(tested)} to test on"
        f"{left_out(dataset)}"
    )
    return work


def drawn_classes(index: pa.Table) -> tuple[str, ...]:
    """Return every structure that some image has a mask file of, in order of appearance."""
    drawn = [item["finding"] for row in index["small_masks"].to_pylist() for item in row or ()]
    return tuple(name for name in dict.fromkeys(drawn) if name not in OBSERVATIONS)


def _shown(index: pa.Table, split: str, classes: Sequence[str], dataset: Artifact) -> list[Shown]:
    """Return the images of a split that have a mask of some class, and what they show."""
    size, found = int(dataset.summary["size"]), list[Shown]()
    for row in index.filter(pc.equal(index["split"], split)).to_pylist():
        drawn = {item["finding"]: item["counts"] for item in row["small_masks"] or ()}
        mine = of_classes(drawn, classes, size)
        if mine:
            seen = frozenset(n for n, counts in mine.items() if masks.area(counts, size, size))
            found.append(Shown(row["image_id"], row["patient"], seen))
    return found


def _check(name: str, work: Work, tested: Sequence[Shown], *, flips: bool) -> None:
    if flips:
        mirrored(work.classes)
    for split, images in (("train", work.train), ("valid", work.valid), ("test", tested)):
        if not images:
            drawn = ", ".join(work.dataset.summary["splits"].get(split, {}).get("drawn", {}))
            raise NothingDrawn(
                f"task {name}: no {split} image has a mask of {', '.join(work.classes)}; there "
                f"{'are masks of ' + drawn if drawn else 'is no mask at all'}. Set its classes, or "
                "give images of every split"
            )


def _images(work: Work, cell: Cell) -> list[str]:
    return take_fraction(work.train, cell.fraction, cell.seed, work.classes)


def _starts(at: Tracked, experiment: Experiment) -> Starts:
    """Make what the initialisations name: the classifier, and pre-trained segmenters."""
    classifier, families = tasks.needs(experiment)
    if not (classifier or families):
        return Starts()
    dataset, experts = ingest_tracked(at, experiment)
    explained = classify_tracked(at, experiment, dataset)[0]
    pretrained = {
        family: pretrain_tracked(at, experiment, family, dataset, experts) for family in families
    }
    return Starts(dataset, explained, pretrained)


def _finetune(
    context: Context,
    experiment: Experiment,
    cells: Sequence[Cell],
    print_: str,
    works: Mapping[str, Work],
    images: Mapping[str, Sequence[str]],
    starts: Starts,
    tracker: Tracker,
    parent: RunRef,
) -> Artifact:
    draft = context.workspace.draft(plan.FINETUNING, print_)
    runs = {cell.print_: _run_of(cell, parent) for cell in cells}

    def listen(cell: Cell, step: int, metrics: Mapping[str, float]) -> None:
        runs[cell.print_].metrics(step, records.curves(metrics))
        tracker.flush(seconds=1.0)

    def order(cell: Cell) -> Order:
        work = works[cell.task]
        return order_of(context, experiment, cell, work, images[cell.print_], starts)

    outcomes = tune.run_trials(context, config.Tune(), cells, order, draft, listen)
    for outcome in outcomes:
        tune.finish_run(context, runs[outcome.trial.print_], outcome)
    tune.finished_of(outcomes)
    finetuned = [
        found
        for name, work in works.items()
        for found in _evaluated(context, [c for c in cells if c.task == name], work, images)
    ]
    labels = {name: made.labels for name, made in starts.pretrained.items()}
    return write_tables(draft, experiment, finetuned, labels, starts.dataset)


def _run_of(cell: Cell, parent: RunRef) -> RunRef:
    return records.stage_run(
        parent,
        "finetune",
        cell.print_,
        cell.key,
        task=cell.task,
        initialisation=cell.initialisation,
        fraction=cell.fraction,
        seed=cell.seed,
    )


def order_of(
    context: Context,
    experiment: Experiment,
    cell: Cell,
    work: Work,
    images: Sequence[str],
    starts: Starts,
) -> Order:
    """Return the order for a cell of the grid.

    Args:
        images: the ids of its fraction.
    """
    pretrained = {name: made.segmenter for name, made in starts.pretrained.items()}
    return Order(
        key=cell.key,
        print_=cell.print_,
        settings=cell.settings,
        masks=Masks(work.dataset, expert=images, valid=work.valid, classes=work.classes),
        start=start_of(cell.settings, starts.classifier, context.weights, pretrained),
        seeds=(experiment.seed, cell.seed),
        about={"arm": cell.key, "images": len(images)},
    )


def _evaluated(
    context: Context, cells: Sequence[Cell], work: Work, images: Mapping[str, Sequence[str]]
) -> list[Finetuned]:
    """Count a task's segmenters on its test images, each once."""
    segmenters = [context.workspace.find(plan.SEGMENTER, cell.print_) for cell in cells]
    methods = [
        evaluate.Method(cell.initialisation, cell.seed, segmenter)
        for cell, segmenter in zip(cells, segmenters, strict=True)
    ]
    counted = evaluate.evaluate(context, methods, work.dataset, "test")
    return [
        Finetuned(cell, len(images[cell.print_]), segmenter.json("history.json"), evaluation)
        for cell, segmenter, evaluation in zip(cells, segmenters, counted, strict=True)
        if segmenter is not None
    ]
