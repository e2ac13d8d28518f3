"""IRNet: seeds from the maps on Ray Data, then a boundary network on Ray Train.

Two artifacts: the seeds, which depend on how maps are made, and the network that learned from
them. What `explain` does with the network is in saliency/pseudolabel.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from chexseg_platform import config, plan
from chexseg_platform.artifacts import Artifact
from chexseg_platform.data.store import open_store
from chexseg_platform.locks import once
from chexseg_platform.saliency.seedlabel import SEED_SCHEMA, SeedLabeller
from chexseg_platform.stages.classify import Listener, weights_folder
from chexseg_platform.stages.context import Context, Timer
from chexseg_platform.stages.models import labeller_of, load_models
from chexseg_platform.stages.shards import Work, label_shards
from chexseg_platform.stages.training import Job, checkpoint_parts, train_one

SPLITS = ("train", "valid")
"""Seeds of the training images are learned from, those of the others choose the checkpoint."""


def make_boundary(
    context: Context,
    experiment: config.Experiment,
    dataset: Artifact,
    classifiers: Sequence[Artifact],
    listen: Listener = lambda note: None,
) -> Artifact:
    """Find seeds and train IRNet's boundary network, or return the one that is there.

    Raises:
        TrainingFailed: also where no map has seeds to learn from.
    """
    prints = [classifier.fingerprint for classifier in classifiers]
    print_ = plan.boundary_print(experiment, dataset.fingerprint, prints)
    seeds = _make_seeds(context, experiment, dataset, classifiers)
    make = partial(_train, context, experiment, dataset, classifiers[0], seeds, print_, listen)
    return once(context.workspace, plan.BOUNDARY, print_, make)


def _make_seeds(
    context: Context,
    experiment: config.Experiment,
    dataset: Artifact,
    classifiers: Sequence[Artifact],
) -> Artifact:
    prints = [classifier.fingerprint for classifier in classifiers]
    print_ = plan.seeds_print(experiment, dataset.fingerprint, prints)
    make = partial(_seeds, context, experiment.saliency, dataset, classifiers, print_)
    return once(context.workspace, plan.SEEDS, print_, make)


def _seeds(
    context: Context,
    settings: config.Saliency,
    dataset: Artifact,
    classifiers: Sequence[Artifact],
    print_: str,
) -> Artifact:
    draft, timer = context.workspace.draft(plan.SEEDS, print_), Timer()
    plain = settings.model_copy(update={"refine": "none", "threshold": "otsu", "maps": "none"})
    build = partial(seed_labeller, plain, classifiers)
    work = Work(build, ("seeds",), SPLITS, pieces=settings.pays_per_map)
    with timer("seeds"):
        parts = label_shards(context, "seeds", work, dataset, draft, context.connect())
    made = draft.so_far(parts).tables("seeds/", ["foreground", "background"])
    return draft.finish(
        parts,
        config=settings.model_dump(),
        inputs={
            "dataset": dataset.fingerprint,
            **plan.numbered("classifier", [item.fingerprint for item in classifiers]),
        },
        summary={
            "maps": made.num_rows,
            "foreground": made.num_rows - made["foreground"].null_count,
            "background": made.num_rows - made["background"].null_count,
        },
        timings=timer.seconds,
    )


def seed_labeller(
    settings: config.Saliency,
    classifiers: Sequence[Artifact],
    device: torch.device,
    memory: float | str,
) -> SeedLabeller:
    """Load the classifiers on a worker, ready to find seeds."""
    return SeedLabeller(labeller_of(settings, classifiers, device=device, memory=memory))


def _train(
    context: Context,
    experiment: config.Experiment,
    dataset: Artifact,
    classifier: Artifact,
    seeds: Artifact,
    print_: str,
    listen: Listener,
) -> Artifact:
    settings, timer = experiment.saliency.irnet, Timer()
    encoder = settings.encoder or experiment.classifier.encoder
    start: str | None = settings.weights
    if start != "classifier":
        start = weights_folder(start, encoder, context.weights)
    job = Job(
        key="irnet",
        run=f"{plan.BOUNDARY}-{print_}",
        build=build,
        settings={
            "irnet": settings.model_dump(),
            "explained": experiment.classifier.model_dump(),
            "seed": experiment.seed,
            "dataset": dataset,
            "seeds": seeds,
            "classifier": classifier,
            "start": start,
            "cache": str(context.cache),
        },
    )
    with timer("train"):
        trained, shape = train_one(context, "irnet", job, "score", listen)
    draft = context.workspace.draft(plan.BOUNDARY, print_)
    artifact = draft.finish(
        checkpoint_parts(draft, context.runs, trained),
        config=settings.model_dump(),
        inputs={plan.SEEDS: seeds.fingerprint, plan.CLASSIFIER: classifier.fingerprint},
        seed=experiment.seed,
        summary={"best": dict(trained.checkpoints[0][1]), "plan": str(shape)},
        timings=timer.seconds,
    )
    context.runs.join(job.run).delete()
    return artifact


def build(settings: Mapping[str, Any], device: Any) -> tuple[Any, Any]:
    """Make the task on a worker; see `training.fit.Task`."""
    from chexseg_platform.training.boundary import Boundary, seed_rows, spec_of

    wish = config.IRNet.model_validate(settings["irnet"])
    explained = config.Classifier.model_validate(settings["explained"])
    store = open_store(settings["dataset"], Path(settings["cache"]))
    table = settings["seeds"].tables("seeds/") if settings["seeds"].parts("seeds/") else None
    table = SEED_SCHEMA.empty_table() if table is None else table
    start, preprocess = settings["start"], None
    if start == "classifier":
        model, preprocess = load_models(settings["classifier"])[0]
        start = model.state_dict()
    task = Boundary(
        wish,
        store,
        spec=spec_of(wish, explained),
        seeds=seed_rows(store, table, "train"),
        valid=seed_rows(store, table, "valid"),
        seed=settings["seed"],
        device=device,
        start=start,
        preprocess=preprocess,
    )
    return task, wish
