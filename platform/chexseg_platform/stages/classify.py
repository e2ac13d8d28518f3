"""Training the classifier on Ray Train: the k best checkpoints become one artifact."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from chexseg_platform import config, plan
from chexseg_platform.artifacts import Artifact, Part
from chexseg_platform.cluster import plan_training
from chexseg_platform.data.store import open_store
from chexseg_platform.locks import once
from chexseg_platform.stages.context import Context, Timer
from chexseg_platform.stages.training import (
    Figures,
    Job,
    Note,
    Trained,
    checkpoint_files,
    history_of,
    run_jobs,
)

KIND = plan.CLASSIFIER
Listener = Callable[[Note], None]


def classify(
    context: Context,
    experiment: config.Experiment,
    dataset: Artifact,
    listen: Listener = lambda note: None,
) -> Artifact:
    """Train a classifier, or return the one that is there; goes on after a crash.

    Raises:
        TrainingFailed, ClusterError, NothingToLearn.
    """
    print_ = plan.classifier_print(experiment, dataset.fingerprint)
    make = partial(_train, context, experiment, dataset, print_, listen)
    return once(context.workspace, KIND, print_, make)


def _train(
    context: Context,
    experiment: config.Experiment,
    dataset: Artifact,
    print_: str,
    listen: Listener,
) -> Artifact:
    settings, seed = experiment.classifier, experiment.seed
    supply = context.connect()
    shape = plan_training(context.resources, supply, trainings=1)
    job = Job(
        key="classifier",
        run=f"{KIND}-{print_}",
        build=build,
        settings={
            "classifier": settings.model_dump(),
            "seed": seed,
            "dataset": dataset,
            "cache": str(context.cache),
            "weights": weights_folder(settings.weights, settings.encoder, context.weights),
        },
        keep=settings.keep,
    )
    runs, timer, done = context.workspace.storage.join("runs"), Timer(), list[Trained]()
    figures = Figures("AUROC")
    with timer("train"), context.progress("classify", None, "steps") as progress:
        progress.say("starting workers")

        def on_note(note: Note) -> None:
            progress.update(done=note.step, total=note.total, **figures.of(note))
            listen(note)

        run_jobs(
            [job],
            shape,
            runs,
            retries=context.resources.retries,
            timeout_minutes=context.resources.timeout_minutes,
            on_note=on_note,
            on_done=done.append,
        )
    trained = done[0]
    draft = context.workspace.draft(KIND, print_)
    parts: list[Part] = []
    for number, (folder, metrics) in enumerate(trained.checkpoints):
        for name, data in checkpoint_files(runs, folder).items():
            parts.append(draft.write(f"checkpoints/{number:02d}/{name}", data, info=metrics))
    parts.append(draft.write_json("history.json", history_of(runs, trained)))
    artifact = draft.finish(
        parts,
        config=settings.model_dump(),
        inputs={"dataset": dataset.fingerprint},
        seed=seed,
        summary={
            "checkpoints": len(trained.checkpoints),
            "best": dict(trained.checkpoints[0][1]),
            "plan": str(shape),
        },
        timings=timer.seconds,
    )
    runs.join(job.run).delete()
    return artifact


def weights_folder(weights: str | None, encoder: str, cache: Path) -> str | None:
    """Return the local folder of an encoder's weights: null, `imagenet`, or a path."""
    if weights is None:
        return None
    return str(cache / encoder) if weights == "imagenet" else weights


def build(settings: Mapping[str, Any], device: Any) -> tuple[Any, Any]:
    """Make the task on a worker; see `training.fit.Task`."""
    from chexseg_platform.training.classification import Classification

    wish = config.Classifier.model_validate(settings["classifier"])
    store = open_store(settings["dataset"], Path(settings["cache"]))
    task = Classification(
        wish, store, seed=settings["seed"], device=device, weights=settings["weights"]
    )
    return task, wish
