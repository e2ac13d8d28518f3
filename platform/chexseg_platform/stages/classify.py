"""Training the classifier on Ray Train: the k best checkpoints become one artifact."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from chexseg_platform import config, plan
from chexseg_platform.artifacts import Artifact
from chexseg_platform.data.store import open_store
from chexseg_platform.locks import once
from chexseg_platform.stages.context import Context, Timer
from chexseg_platform.stages.training import Job, Note, checkpoint_parts, train_one

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
    settings, timer = experiment.classifier, Timer()
    job = Job(
        key="classifier",
        run=f"{KIND}-{print_}",
        build=build,
        settings={
            "classifier": settings.model_dump(),
            "seed": experiment.seed,
            "dataset": dataset,
            "cache": str(context.cache),
            "weights": weights_folder(settings.weights, settings.encoder, context.weights),
        },
        keep=settings.keep,
    )
    with timer("train"):
        trained, shape = train_one(context, "classify", job, "AUROC", listen)
    draft = context.workspace.draft(KIND, print_)
    artifact = draft.finish(
        checkpoint_parts(draft, context.runs, trained),
        config=settings.model_dump(),
        inputs={"dataset": dataset.fingerprint},
        seed=experiment.seed,
        summary={
            "checkpoints": len(trained.checkpoints),
            "best": dict(trained.checkpoints[0][1]),
            "plan": str(shape),
        },
        timings=timer.seconds,
    )
    context.runs.join(job.run).delete()
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
