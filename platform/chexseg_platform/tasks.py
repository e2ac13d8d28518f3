"""Fine-tuning tasks: what is to be segmented, on which images, and every training of the grid.

Known before anything is trained: a cell of the grid is a task, first weights, a fraction of the
task's training images and a seed, and its fingerprint follows from the experiment file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from chexseg_platform import plan
from chexseg_platform.artifacts import Workspace
from chexseg_platform.config import Collection, Data, Experiment, Finetune, Segmenter, Task
from chexseg_platform.findings import (
    CLAVICLES,
    HEART,
    INFECTION,
    LUNGS,
    ORGANS,
    WHOLE,
    structure,
)
from chexseg_platform.starts import family_of

KNOWN: dict[str, tuple[str, ...]] = {
    "lungs": (LUNGS,),
    "heart": (HEART,),
    "clavicles": (CLAVICLES,),
    "organs": ORGANS,
    "covid-infection": (INFECTION,),
}
"""The tasks that have a name, and their classes."""


class UnknownTask(ValueError):
    """A task that is neither in the experiment, nor known, nor a folder."""


@dataclass(frozen=True)
class Cell:
    """A training of the grid.

    Attributes:
        task: its name.
        initialisation: the name of its first weights.
        settings: of the training; `init` says which weights these are.
    """

    task: str
    initialisation: str
    fraction: float
    seed: int
    settings: Segmenter
    print_: str

    @property
    def key(self) -> str:
        """Its name for people."""
        return cell_key(self.task, self.fraction, self.initialisation, self.seed)


def cell_key(task: str, fraction: float, initialisation: str, seed: int) -> str:
    """Return what a training of the grid is called; its segmenter says so."""
    return f"{task} {fraction:.3g}, {initialisation}, seed {seed}"


def settings_of(experiment: Experiment) -> Finetune:
    """Return the fine-tunings of an experiment.

    Raises:
        UnknownTask: where it has none.
    """
    if experiment.finetune is None:
        raise UnknownTask(
            f"{experiment.name} has no section finetune: give its tasks, as "
            "experiments/doll-phantom.yaml does"
        )
    return experiment.finetune


def narrowed(experiment: Experiment, names: Iterable[str]) -> Experiment:
    """Return the experiment with some tasks only; all of its own where none is named.

    Args:
        names: tasks of the experiment, tasks of KNOWN whose classes one of these covers, or folders
            of images and masks (`images/` and `masks/STRUCTURE/`).

    Raises:
        UnknownTask: saying which there are.
    """
    settings = settings_of(experiment)
    tasks: dict[str, Task] = {}
    for given in names:
        name = _name(settings, given)
        if name in tasks:
            raise UnknownTask(
                f"two tasks would be called {name!r}: rename a folder, or leave one out"
            )
        tasks[name] = _task(settings, given)
    if not tasks:
        return experiment
    return experiment.model_copy(update={"finetune": settings.model_copy(update={"tasks": tasks})})


def _task(settings: Finetune, name: str) -> Task:
    if name in settings.tasks:
        return settings.tasks[name]
    if name in KNOWN:
        wanted = _sides(KNOWN[name])
        for other, task in settings.tasks.items():
            if wanted <= _sides(classes_of(other, task) or ()):
                return task.model_copy(update={"classes": list(KNOWN[name])})
    if _is_folder(name):
        return Task(collections=[Collection(layout="folder", root=name)])
    there = ", ".join(settings.tasks)
    near = get_close_matches(name, [*settings.tasks, *KNOWN], n=1)
    hint = f" Did you mean {near[0]}?" if near and near[0] != name else ""
    raise UnknownTask(
        f"{name!r} is no task of this experiment and no folder. Its tasks are {there}; others by "
        f"name ({', '.join(KNOWN)}) need images with their masks among these.{hint}"
    )


def _name(settings: Finetune, given: str) -> str:
    """Return what a task is called: itself or, of a folder, by its last part, made fit."""
    if given in settings.tasks or given in KNOWN or not _is_folder(given):
        return given
    plain = re.sub(r"[^A-Za-z0-9 ._-]+", "-", Path(given).resolve().name).strip("-._ ")[:40]
    # By its own name it would have that task's classes.
    taken = plain in settings.tasks or plain in KNOWN
    return f"{plain} folder" if taken else plain or "folder"


def _is_folder(name: str) -> bool:
    return Path(name).is_dir()


def _sides(classes: Iterable[str]) -> set[str]:
    return {side for name in classes for side in WHOLE.get(name, (name,))}


def classes_of(name: str, task: Task) -> tuple[str, ...] | None:
    """Return a task's classes: its own, those that its name means, or None for all there are."""
    if task.classes is not None:
        return tuple(structure(given) for given in task.classes)
    return KNOWN.get(name)


def data_of(experiment: Experiment, task: Task) -> Data:
    """Return the images of a task, at the experiment's size."""
    return Data(
        phantom=task.phantom,
        collections=task.collections,
        size=experiment.data.size,
        views=["frontal"],
        max_rejected=task.max_rejected,
    )


def needs(experiment: Experiment) -> tuple[bool, list[str]]:
    """Return whether fine-tunings start from a classifier, and from which families."""
    starts = settings_of(experiment).initialisations.values()
    families = dict.fromkeys(family for start in starts if (family := family_of(start)))
    return "classifier" in starts, list(families)


def cells_of(experiment: Experiment, workspace: Workspace) -> list[Cell]:
    """Return every training of the grid: seed by seed, so that a table fills evenly.

    Raises:
        NoImages, BrokenTable, NoCollection, NoWeights: where something that is named is not there.
    """
    settings = settings_of(experiment)
    dataset = classifier = ""
    if any(needs(experiment)):
        dataset = plan.dataset_print(experiment.data, workspace)
        classifier = plan.classifier_print(experiment, dataset)
    images = {
        name: plan.dataset_print(data_of(experiment, task), workspace)
        for name, task in settings.tasks.items()
    }
    cells = []
    for seed in settings.seeds:
        for name, task in settings.tasks.items():
            for fraction in settings.fractions:
                for initialisation, init in settings.initialisations.items():
                    wish = experiment.finetuning(init)
                    print_ = plan.finetuned_print(
                        experiment,
                        wish,
                        classes=classes_of(name, task),
                        fraction=fraction,
                        seed=seed,
                        images=images[name],
                        dataset=dataset,
                        classifier=classifier,
                    )
                    cells.append(Cell(name, initialisation, fraction, seed, wish, print_))
    return cells


def grid_print(experiment: Experiment, cells: Iterable[Cell]) -> str:
    """Return the fingerprint of the grid's tables: its trainings, and how they are compared."""
    return plan.finetuning_print(
        [[c.task, c.initialisation, c.fraction, c.seed, c.print_] for c in cells],
        list(settings_of(experiment).initialisations),
        experiment.evaluation,
    )


def render(experiment: Experiment, cells: Iterable[Cell], workspace: Workspace) -> str:
    """Return the grid as a person reads it: what is finished, what is to do."""
    settings, cells = settings_of(experiment), list(cells)
    done: Mapping[str, bool] = {
        cell.print_: workspace.find(plan.SEGMENTER, cell.print_) is not None for cell in cells
    }
    lines = [f"{experiment.name}  in {workspace.uri}"]
    for name, task in settings.tasks.items():
        mine = [cell for cell in cells if cell.task == name]
        known = classes_of(name, task)
        classes = ", ".join(known) if known else "every structure with masks"
        finished = sum(done[cell.print_] for cell in mine)
        lines.append(f"  {name}: {classes}; {len(mine)} trainings, {finished} finished")
    lines.append(
        f"  from {', '.join(settings.initialisations)}; fractions "
        f"{', '.join(f'{fraction:.3g}' for fraction in settings.fractions)}; seeds {settings.seeds}"
    )
    return "\n".join(lines)
