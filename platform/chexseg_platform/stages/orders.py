"""Segmenters to train: what each is made of, and its publication as an artifact.

Arms, pre-trainings and fine-tunings differ in their images, masks and first weights, and are one
kind of training: an order says what is to be trained and what its artifact will say of itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from chexseg_platform import config, plan, starts
from chexseg_platform.artifacts import Artifact
from chexseg_platform.cluster import plan_training
from chexseg_platform.data.store import MaskRows, Store, expert_rows, open_store, pseudo_rows
from chexseg_platform.findings import FINDINGS
from chexseg_platform.locks import making
from chexseg_platform.models import checkpoints
from chexseg_platform.models.segmenter import SegmenterSpec
from chexseg_platform.saliency.pseudotable import IGNORED
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


@dataclass(frozen=True)
class Masks:
    """What a segmenter learns from.

    Attributes:
        dataset: its images.
        expert: images whose experts' masks are learned from.
        valid: images whose experts' masks choose thresholds and checkpoint; None: the pseudo-labels
            of the validation images do.
        pseudolabels: of the training images.
        classes: of the masks, the segmenter's channels.
    """

    dataset: Artifact
    expert: Sequence[str] = ()
    valid: Sequence[str] | None = ()
    pseudolabels: Artifact | None = None
    classes: tuple[str, ...] = FINDINGS


@dataclass(frozen=True)
class Order:
    """A segmenter to train.

    Attributes:
        key: its name for people, e.g. "mix, seed 0".
        print_: its fingerprint.
        settings: of the training.
        masks: what it learns from.
        start: first weights, see `load_start`.
        seeds: what weights and draws are seeded by; the last is the training's own.
        about: what its summary says besides, e.g. the arm.
    """

    key: str
    print_: str
    settings: config.Segmenter
    masks: Masks
    start: tuple[str, Any] | None
    seeds: tuple[int, ...]
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def inputs(self) -> dict[str, str]:
        """Fingerprints of what it is made of, by kind."""
        made = {plan.DATASET: self.masks.dataset, plan.PSEUDOLABELS: self.masks.pseudolabels}
        source = None if self.start is None else self.start[1]
        if isinstance(source, Artifact):
            own = source.kind == plan.SEGMENTER
            made[plan.PRETRAINED if own else source.kind] = source
        return {kind: artifact.fingerprint for kind, artifact in made.items() if artifact}

    def job(self, context: Context) -> Job:
        """Return its Ray Train job."""
        seed = int(np.random.SeedSequence(list(self.seeds)).generate_state(1)[0])
        settings = {
            "segmenter": self.settings.model_dump(),
            "masks": self.masks,
            "seed": seed,
            "start": self.start,
            "cache": str(context.cache),
        }
        key, run = f"{self.key} ({self.print_[:6]})", f"{KIND}-{self.print_}"
        return Job(key, run, build, settings)


Listener = Callable[[Order, Note], None]
Ended = Callable[[Order, Artifact], None]


def build(settings: Mapping[str, Any], device: Any) -> tuple[Any, Any]:
    """Make the task on a worker; see `training.fit.Task`."""
    wish = config.Segmenter.model_validate(settings["segmenter"])
    masks: Masks = settings["masks"]
    store = open_store(masks.dataset, Path(settings["cache"]))
    find = partial(_found, masks, store)
    task = Segmentation(
        wish,
        store,
        expert=find(masks.expert),
        pseudo=_labelled(masks, store, "train"),
        valid=_labelled(masks, store, "valid") if masks.valid is None else find(masks.valid),
        seed=settings["seed"],
        device=device,
        start=load_start(settings["start"]),
    )
    return task, wish


def _found(masks: Masks, store: Store, image_ids: Sequence[str]) -> MaskRows:
    rows = np.array([store.index[image_id] for image_id in image_ids], dtype=np.int64)
    return expert_rows(store, rows, masks.classes)


def _labelled(masks: Masks, store: Store, split: str) -> MaskRows:
    """Return the pseudo-labels of a split; classes that are not learned are left out."""
    if masks.pseudolabels is None:
        return MaskRows.empty(masks.classes)
    columns = ["image_id", "finding", "known", "counts"]
    if masks.pseudolabels.manifest["config"].get("ignore"):
        columns.append(IGNORED)
    table = masks.pseudolabels.tables("masks/", columns)
    table = table.filter(pc.is_in(table["finding"], pa.array(masks.classes)))
    return pseudo_rows(store, table, split, masks.classes)


def start_of(
    settings: config.Segmenter,
    classifier: Artifact | None,
    weights: Path,
    pretrained: Mapping[str, Artifact] | None = None,
) -> tuple[str, Any] | None:
    """Return where first weights come from: ("encoder", folder), ("classifier", artifact), ...

    Args:
        classifier: what `classifier` means.
        weights: folder of fetched encoder weights.
        pretrained: segmenters by their family.
    """
    init = settings.init
    if init == "random":
        return None
    if init == "imagenet":
        return "encoder", weights_folder("imagenet", settings.encoder, weights)
    if init == "classifier":
        return "classifier", classifier
    family, folder = starts.family_of(init), starts.folder_of(init)
    if family is not None:
        part = "encoder of segmenter" if starts.is_encoder(init) else "segmenter"
        return part, (pretrained or {})[family]
    if folder is not None:
        return "segmenter", folder
    raise ValueError(f"segmenter.init is {init!r}; it is {starts.MEANT}")


def load_start(start: tuple[str, Any] | None) -> Start | None:
    """Read the first weights: those of an artifact's best checkpoint, or of a folder."""
    if start is None:
        return None
    what, source = start
    if what == "encoder":
        return Start(what, Path(source))
    state, meta = checkpoints.load(source.uri if isinstance(source, Artifact) else source)
    checkpoints.require_kind(meta, what.removeprefix("encoder of "))
    return Start(what, state, _holds(meta), tuple(meta.get("spec", {}).get("classes", ())))


def _holds(meta: Mapping[str, Any]) -> str:
    """Say what a checkpoint is of, for a segmenter that it does not fit."""
    spec = meta.get("spec", {})
    if meta["kind"] == "segmenter" and spec:
        return f"It holds {SegmenterSpec.from_dict(spec)}."
    return f"It holds a {meta['kind']} on {spec['encoder']}." if "encoder" in spec else ""


def train_orders(
    context: Context,
    stage: str,
    orders: Sequence[Order],
    listen: Listener = lambda order, note: None,
    ended: Ended = lambda order, artifact: None,
) -> list[Artifact]:
    """Train segmenters, several at a time where the cluster holds them; skip those there are.

    Args:
        stage: what the progress line says.
        listen: hears what a training says while it runs.
        ended: gets each segmenter as it is ready, those that are there first.

    Raises:
        TrainingFailed: for the first that fails; finished ones are kept.
        ClusterError, MixError, WrongArchitecture, ValueError.
    """
    by_print = {order.print_: order for order in orders}
    with making(context.workspace, KIND, by_print) as missing:
        for print_, order in by_print.items():
            artifact = context.workspace.find(KIND, print_)
            if artifact is not None:
                ended(order, artifact)
        if missing:
            todo = [order for print_, order in by_print.items() if print_ in missing]
            _train(context, stage, todo, listen, ended)
    found = [context.workspace.find(KIND, order.print_) for order in orders]
    return [artifact for artifact in found if artifact is not None]


def _train(
    context: Context, stage: str, todo: Sequence[Order], listen: Listener, ended: Ended
) -> None:
    shape = plan_training(context.resources, context.connect(), len(todo))
    jobs = [order.job(context) for order in todo]
    by_key = {job.key: order for job, order in zip(jobs, todo, strict=True)}
    steps: dict[str, tuple[int, int]] = {}
    timer, figures = Timer(), Figures("mIoU")
    with timer("train"), context.progress(stage, None, "steps") as progress:
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
            listen(by_key[note.key], note)

        def on_done(trained: Trained) -> None:
            order = by_key[trained.key]
            ended(order, publish(context, order, trained, str(shape)))

        run_jobs(
            jobs,
            shape,
            context.runs,
            retries=context.resources.retries,
            timeout_minutes=context.resources.timeout_minutes,
            on_note=on_note,
            on_done=on_done,
        )


def publish(context: Context, order: Order, trained: Trained, shape: str) -> Artifact:
    """Turn a finished training into an artifact, and remove what it left behind."""
    folder, metrics = trained.checkpoints[0]
    draft = context.workspace.draft(KIND, order.print_)
    parts = [
        draft.write(f"checkpoints/00/{name}", data, info=metrics)
        for name, data in checkpoint_files(context.runs, folder).items()
    ]
    parts.append(draft.write_json("history.json", history_of(context.runs, trained)))
    artifact = draft.finish(
        parts,
        config=order.settings.model_dump(),
        inputs=order.inputs,
        seed=order.seeds[-1],
        summary={**order.about, "best": dict(metrics), "plan": shape},
        timings={},
    )
    context.runs.join(f"{KIND}-{order.print_}").delete()
    return artifact
