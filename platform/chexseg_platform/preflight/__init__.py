"""Checks that fail in seconds, before any work: every problem at once, each with its remedy.

Nothing here starts Ray, loads a model's weights or decodes an image in full; it opens tables and
mask files, looks whether images are there, reads headers, and builds the networks once.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from chexseg_platform import plan, tasks
from chexseg_platform.artifacts import Workspace
from chexseg_platform.config import Experiment
from chexseg_platform.findings import mirrored
from chexseg_platform.preflight.inputs import check_collections, check_data
from chexseg_platform.preflight.networks import Wanted, check_networks, wanted_of
from chexseg_platform.preflight.problems import Problem, render, shorten

__all__ = ["Problem", "check", "render"]

BYTES_PER_PIXEL = 3
"""Shards, unpacked pixels and what is written meanwhile, per pixel of the dataset."""


def check(
    experiment: Experiment,
    workspace: Workspace,
    weights: Path,
    *,
    arms: bool = True,
    sweep: bool = False,
    pretrain: bool = False,
    finetune: bool = False,
) -> list[Problem]:
    """Return every problem that would stop an experiment, or surprise whoever reads its result.

    Args:
        weights: folder of fetched encoder weights.
        arms: whether the arms will be trained.
        sweep: whether the sweep's trials will be.
        pretrain: whether segmenters will be pre-trained; fine-tuning does so where it starts from
            them.
        finetune: whether segmenters will be fine-tuned.
    """
    problems: list[Problem] = []
    wanted = wanted_of(experiment, arms=arms, sweep=sweep)
    # Fine-tunings from random weights need none of the experiment's own images.
    classifier, families = tasks.needs(experiment) if finetune else (False, [])
    own = bool(not finetune or arms or sweep or pretrain or classifier or families)
    pretrain = pretrain or bool(families)
    built = wanted_of(experiment, arms=arms, sweep=sweep, pretrain=pretrain, finetune=finetune)
    for step in (
        lambda: _workspace(workspace),
        lambda: _settings(experiment, wanted),
        lambda: check_data(experiment, wanted) if own else iter(()),
        lambda: check_networks(experiment, built, weights, explained=own),
        lambda: _tasks(experiment) if finetune else iter(()),
        lambda: _resources(experiment),
        lambda: _disk(experiment, workspace),
    ):
        problems.extend(_guarded(step))
    # Several arms may share one mistake.
    problems = list(dict.fromkeys(problems))
    return shorten(problems, workspace.storage, f"check/{experiment.name}.txt")


def _guarded(step: Callable[[], Iterator[Problem]]) -> Iterator[Problem]:
    try:
        yield from step()
    except (ValueError, OSError) as error:
        yield Problem(str(error))


def _workspace(workspace: Workspace) -> Iterator[Problem]:
    workspace.check_writable()
    yield from ()


def _settings(experiment: Experiment, wanted: Sequence[Wanted]) -> Iterator[Problem]:
    """Check settings that are each fine and do not go together."""
    tuned = [
        item.field(f"{section}.threshold")
        for item in (*wanted, Wanted("", {}, experiment))
        for section in ("segmenter", "saliency")
        if getattr(item.experiment, section).threshold == "tuned"
        and (item.place or section == "saliency")
    ]
    none_held = experiment.segmenter.expert_validation == 0
    if none_held and any(item.place == "tune.space" for item in wanted):
        yield Problem(
            "a sweep is chosen on held expert masks, but segmenter.expert_validation is 0, so none "
            "are held: hold some (0.2 is the default)"
        )
    elif none_held and tuned:
        yield Problem(
            f"{' and '.join(dict.fromkeys(tuned))}: tuned on held expert masks, but "
            "segmenter.expert_validation is 0, so none are held: hold some (0.2 is the default), "
            "or set the threshold to a number such as 0.5"
        )
    arms = [item for item in wanted if item.place.startswith("arms.")]
    for number, item in enumerate(arms):
        twin = next((other for other in arms[:number] if other.settings == item.settings), None)
        if twin is not None:
            yield Problem(f"{item.place} and {twin.place} are the same training", fatal=False)


def _tasks(experiment: Experiment) -> Iterator[Problem]:
    """Check the images, masks and classes of every fine-tuning task."""
    for name, task in experiment.finetune.tasks.items() if experiment.finetune else ():
        if experiment.finetuning("random").augment.flip:
            try:
                mirrored(tasks.classes_of(name, task) or ())
            except ValueError as error:
                yield Problem(f"finetune.tasks.{name}: {error}")
        if task.collections:
            for problem in check_collections(tasks.data_of(experiment, task)):
                yield replace(problem, what=f"finetune.tasks.{name}: {problem.what}")


def _resources(experiment: Experiment) -> Iterator[Problem]:
    """Check that a training fits this machine, where it will run on this machine."""
    if os.environ.get("RAY_ADDRESS"):
        return
    from chexseg_platform.cluster import local_supply, plan_training

    have = local_supply()
    plan_training(experiment.resources, have, 1)
    plan_training(experiment.resources, have, len(plan.trainings(experiment)))
    yield from ()


def _disk(experiment: Experiment, workspace: Workspace) -> Iterator[Problem]:
    """Warn where the dataset would not fit on the workspace's disk."""
    if not workspace.storage.local:
        return
    data = experiment.data
    if data.phantom:
        images = data.phantom.train + data.phantom.valid + data.phantom.test
    else:
        images = sum(_lines(Path(table.table)) for table in data.tables)
    need = images * data.size**2 * BYTES_PER_PIXEL
    folder = Path(workspace.storage.base)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < need + (1 << 30):
        yield Problem(
            f"{free / 2**30:.1f} GiB are free in {folder}; the experiment needs about "
            f"{need / 2**30 + 1:.1f} GiB",
            fatal=free < need,
        )


def _lines(table: Path) -> int:
    """Return about how many rows a table has."""
    try:
        with open(table, "rb") as stream:
            return sum(1 for _ in stream)
    except OSError:
        return 0
