"""Training segmenters on Ray Train: every arm and seed is one training and one artifact."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc

from chexseg_platform import config, plan
from chexseg_platform.artifacts import Artifact, Storage
from chexseg_platform.cluster import plan_training
from chexseg_platform.data.splits import split_patients, take_images
from chexseg_platform.data.store import MaskRows, expert_rows, open_store, pseudo_rows, read_index
from chexseg_platform.locks import making
from chexseg_platform.models import checkpoints, first_weights
from chexseg_platform.plan import Training
from chexseg_platform.stages.classify import weights_folder
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
from chexseg_platform.training.segmentation import Segmentation, Start

KIND = plan.SEGMENTER


class Drawn(NamedTuple):
    """An image on which an expert drew at least one mask."""

    image_id: str
    patient: str


@dataclass(frozen=True)
class Experts:
    """Who drew for what: expert-labelled images by patient, those held for validation apart.

    Attributes:
        train: images to learn from.
        valid: images for thresholds and the choice of a checkpoint.
    """

    train: tuple[Drawn, ...]
    valid: tuple[Drawn, ...]

    @property
    def held(self) -> list[str]:
        """The patients held for validation, sorted."""
        return sorted({drawn.patient for drawn in self.valid})

    def choose(self, count: int | None, seed: int) -> list[str]:
        """Return `count` training images (all where None); the first 10 are among the first 30.

        Raises:
            ValueError: if there are not so many.
        """
        if count is not None and count > len(self.train):
            raise ValueError(
                f"segmenter.expert_masks is {count}, but there are {len(self.train)} "
                f"expert-labelled images beside the {len(self.valid)} held for validation"
            )
        return [drawn.image_id for drawn in take_images(self.train, count, seed)]


def experts_of(dataset: Artifact, held_share: float, seed: int) -> Experts:
    """Split the expert-labelled validation images by patient: to learn from, and held.

    The split depends on the patients, the share and the seed alone.
    """
    index = read_index(dataset).select(["image_id", "patient", "split", "masks"])
    drawn = [
        Drawn(row["image_id"], row["patient"])
        for row in index.filter(pc.equal(index["split"], "valid")).to_pylist()
        if row["masks"]
    ]
    held, _ = split_patients({item.patient for item in drawn}, held_share, seed)
    return Experts(
        tuple(item for item in drawn if item.patient not in held),
        tuple(item for item in drawn if item.patient in held),
    )


@dataclass(frozen=True)
class Inputs:
    """What segmenters learn from."""

    dataset: Artifact
    pseudolabels: Artifact
    classifier: Artifact
    experts: Experts

    def print_of(self, experiment: config.Experiment, training: Training) -> str:
        """Return the fingerprint of a training's segmenter."""
        return plan.segmenter_print(
            experiment,
            training,
            self.dataset.fingerprint,
            self.classifier.fingerprint,
            self.pseudolabels.fingerprint,
        )

    def used_by(self, training: Training) -> dict[str, str]:
        """Return the fingerprints of what a training learns from."""
        used = {plan.DATASET: self.dataset.fingerprint}
        if training.settings.expert_probability < 1:
            used[plan.PSEUDOLABELS] = self.pseudolabels.fingerprint
        if training.settings.init == "classifier":
            used[plan.CLASSIFIER] = self.classifier.fingerprint
        return used


def segment(
    context: Context,
    experiment: config.Experiment,
    trainings: Sequence[Training],
    inputs: Inputs,
    listen: Callable[[Training, Note], None] = lambda training, note: None,
    ended: Callable[[Training, Artifact], None] = lambda training, artifact: None,
) -> list[Artifact]:
    """Train segmenters, several at a time where the cluster holds them; skip those there are.

    Args:
        listen: hears what a training says while it runs.
        ended: gets each segmenter as it is ready, those that are there first.

    Raises:
        TrainingFailed: for the first that fails; finished ones are kept.
        ClusterError, MixError, WrongArchitecture, ValueError.
    """
    prints = [inputs.print_of(experiment, training) for training in trainings]
    by_print = dict(zip(prints, trainings, strict=True))
    with making(context.workspace, KIND, prints) as missing:
        for print_, training in by_print.items():
            artifact = context.workspace.find(KIND, print_)
            if artifact is not None:
                ended(training, artifact)
        if missing:
            todo = {print_: by_print[print_] for print_ in by_print if print_ in missing}
            _train(context, experiment.seed, todo, inputs, listen, ended)
    found = [context.workspace.find(KIND, print_) for print_ in prints]
    return [artifact for artifact in found if artifact is not None]


def _train(
    context: Context,
    seed: int,
    todo: Mapping[str, Training],
    inputs: Inputs,
    listen: Callable[[Training, Note], None],
    ended: Callable[[Training, Artifact], None],
) -> None:
    shape = plan_training(context.resources, context.connect(), len(todo))
    jobs = [job_of(context, seed, training, inputs, print_) for print_, training in todo.items()]
    by_key = {job.key: print_ for job, print_ in zip(jobs, todo, strict=True)}
    runs = context.workspace.storage.join("runs")
    steps: dict[str, tuple[int, int]] = {}
    timer, figures = Timer(), Figures("mIoU")
    with timer("train"), context.progress("segment", None, "steps") as progress:
        progress.say("starting workers")

        def on_note(note: Note) -> None:
            steps[note.key] = (note.step, note.total)
            longest = max(total for _, total in steps.values())
            known = [steps.get(job.key, (0, longest)) for job in jobs]
            progress.update(
                done=sum(done for done, _ in known),
                total=sum(total for _, total in known),
                **figures.of(note),
                training=note.key,
            )
            listen(todo[by_key[note.key]], note)

        def on_done(trained: Trained) -> None:
            print_ = by_key[trained.key]
            training = todo[print_]
            artifact = publish(context, runs, training, print_, trained, inputs, str(shape))
            ended(training, artifact)

        run_jobs(
            jobs,
            shape,
            runs,
            retries=context.resources.retries,
            timeout_minutes=context.resources.timeout_minutes,
            on_note=on_note,
            on_done=on_done,
        )


def job_of(context: Context, seed: int, training: Training, inputs: Inputs, print_: str) -> Job:
    """Return the Ray Train job of a training."""
    return Job(
        key=f"{training.key} ({print_[:6]})",
        run=f"{KIND}-{print_}",
        build=build,
        settings=settings_of(context, seed, training, inputs),
    )


def settings_of(context: Context, seed: int, training: Training, inputs: Inputs) -> dict[str, Any]:
    """Return what `build` needs on a worker."""
    wish = training.settings
    p = wish.expert_probability
    return {
        "segmenter": wish.model_dump(),
        "seed": int(np.random.SeedSequence([seed, training.seed]).generate_state(1)[0]),
        "dataset": inputs.dataset,
        "pseudolabels": inputs.pseudolabels if p < 1 else None,
        "expert": inputs.experts.choose(wish.expert_masks, training.seed) if p > 0 else [],
        "valid": [drawn.image_id for drawn in inputs.experts.valid],
        "start": start_of(wish, inputs.classifier, context.weights),
        "cache": str(context.cache),
    }


def start_of(
    settings: config.Segmenter, classifier: Artifact, weights: Path
) -> tuple[str, Any] | None:
    """Return where first weights come from: ("encoder", folder), ("classifier", artifact), ..."""
    if settings.init == "random":
        return None
    if settings.init == "imagenet":
        return "encoder", weights_folder("imagenet", settings.encoder, weights)
    if settings.init == "classifier":
        return "classifier", classifier
    folder = first_weights.folder_of(settings.init)
    if folder is not None:
        return "segmenter", folder
    raise ValueError(
        f"segmenter.init is {settings.init!r}; it is random, imagenet, classifier, "
        "or segmenter:<folder of a segmenter>"
    )


def load_start(start: tuple[str, Any] | None) -> Start | None:
    """Read the first weights: those of an artifact's best checkpoint, or of a folder."""
    if start is None:
        return None
    kind, source = start
    if kind == "encoder":
        return kind, Path(source)
    state, meta = checkpoints.load(source.uri if isinstance(source, Artifact) else source)
    checkpoints.require_kind(meta, kind)
    return kind, state


def build(settings: Mapping[str, Any], device: Any) -> tuple[Any, Any]:
    """Make the task on a worker; see `training.fit.Task`."""
    wish = config.Segmenter.model_validate(settings["segmenter"])
    store = open_store(settings["dataset"], Path(settings["cache"]))
    rows = {
        name: np.array([store.index[i] for i in settings[name]], dtype=np.int64)
        for name in ("expert", "valid")
    }
    pseudo = MaskRows.empty()
    if settings["pseudolabels"] is not None:
        columns = ["image_id", "finding", "known", "counts"]
        pseudo = pseudo_rows(store, settings["pseudolabels"].tables("masks/", columns), "train")
    task = Segmentation(
        wish,
        store,
        expert=expert_rows(store, rows["expert"]),
        pseudo=pseudo,
        valid=expert_rows(store, rows["valid"]),
        seed=settings["seed"],
        device=device,
        start=load_start(settings["start"]),
    )
    return task, wish


def publish(
    context: Context,
    runs: Storage,
    training: Training,
    print_: str,
    trained: Trained,
    inputs: Inputs,
    shape: str,
) -> Artifact:
    """Turn a finished training into an artifact, and remove what it left behind."""
    folder, metrics = trained.checkpoints[0]
    draft = context.workspace.draft(KIND, print_)
    parts = [
        draft.write(f"checkpoints/00/{name}", data, info=metrics)
        for name, data in checkpoint_files(runs, folder).items()
    ]
    history = history_of(runs, trained)
    parts.append(draft.write_json("history.json", history))
    artifact = draft.finish(
        parts,
        config=training.settings.model_dump(),
        inputs=inputs.used_by(training),
        seed=training.seed,
        summary={"arm": training.arm, "best": dict(metrics), "plan": shape},
        timings={},
    )
    runs.join(f"{KIND}-{print_}").delete()
    return artifact
