"""A round of self-distillation on Ray: labels made anew by the segmenter that learned them.

The new masks of a class are kept only where they agree better with the experts' masks of the held
validation patients than the old ones do; a class that no expert drew there keeps what it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import ray
import torch

from chexseg_platform import config, plan
from chexseg_platform.artifacts import Artifact, Draft
from chexseg_platform.data.store import index_part
from chexseg_platform.locks import once
from chexseg_platform.models.batch import forward_batch
from chexseg_platform.models.preprocess import Preprocess
from chexseg_platform.models.segmenter import load_segmenter
from chexseg_platform.stages.context import Context, Timer
from chexseg_platform.stages.errors import plain_errors
from chexseg_platform.stages.explained import localization, summarise
from chexseg_platform.stages.models import files_of
from chexseg_platform.stages.shards import Work, batches, label_shards, read_rows
from chexseg_platform.training.relabel import Relabeller
from chexseg_platform.training.segmentation import threshold_tensor

KIND = plan.PSEUDOLABELS
JUDGED = "judged.json"
TABLES = ("masks", "images")
COLUMNS = ["image_id", "height", "width", "small_masks"]


@dataclass(frozen=True)
class Distillation:
    """Labels, the segmenter that learned them, and the settings that they were made by."""

    settings: config.Saliency
    labels: Artifact
    segmenter: Artifact

    def load(
        self, device: torch.device, memory: float | str = "auto", chosen: Sequence[str] = ()
    ) -> Relabeller:
        """Load the segmenter onto a device."""
        model, meta = load_segmenter(files_of(self.segmenter, 0))
        return Relabeller(
            model,
            Preprocess.from_dict(meta["preprocess"]),
            threshold_tensor(meta["extra"], self.settings.names),
            self.settings,
            Labels(self.labels, len(self.settings.names)),
            chosen,
            device,
        )

    def work(self, chosen: Sequence[str]) -> Work:
        """Return what a worker does to the dataset's shards."""
        build = partial(self.load, chosen=list(chosen))
        return Work(build, TABLES, tuple(self.settings.splits))


class Judged(NamedTuple):
    """The localization check on held patients, before and after, a row a class."""

    before: list[dict[str, Any]]
    after: list[dict[str, Any]]

    @property
    def better(self) -> list[str]:
        """The classes whose masks agree better with the experts': by pooled IoU."""
        known = {row["finding"]: row["pooled"] for row in self.before}
        return [r["finding"] for r in self.after if r["pooled"] > known.get(r["finding"], 0.0)]


class Labels:
    """Pseudo-labels by image, read a shard at a time.

    Args:
        classes: rows an image in its table of masks.
    """

    def __init__(self, labels: Artifact, classes: int) -> None:
        self._labels, self._classes = labels, classes
        self._place: dict[str, tuple[str, int]] = {}
        for part in labels.parts("images/"):
            ids = labels.table(part.name, ["image_id"])["image_id"].to_pylist()
            number = part.name.rpartition("/")[2]
            self._place |= {image_id: (number, row) for row, image_id in enumerate(ids)}
        self._read: tuple[str, pa.Table, pa.Table] | None = None

    def __call__(self, image_ids: Sequence[str]) -> tuple[pa.Table, pa.Table]:
        """Return the rows of some images, in their order: of masks, and of images."""
        found = [self._rows(*self._place[image_id]) for image_id in image_ids]
        masks, images = zip(*found, strict=True)
        return pa.concat_tables(masks), pa.concat_tables(images)

    def _rows(self, number: str, row: int) -> tuple[pa.Table, pa.Table]:
        if self._read is None or self._read[0] != number:
            masks, images = (self._labels.table(f"{name}/{number}") for name in TABLES)
            self._read = number, masks, images
        _, masks, images = self._read
        return masks.slice(row * self._classes, self._classes), images.slice(row, 1)


def relabel(
    context: Context,
    experiment: config.Experiment,
    labels: Artifact,
    segmenter: Artifact,
    dataset: Artifact,
    held: Sequence[str],
    print_: str,
) -> Artifact:
    """Make labels anew, or return those that are there.

    Args:
        experiment: whose saliency settings the labels were made by.
        held: validation patients, whose experts' masks decide what is kept.
        print_: the new labels' fingerprint.

    Returns:
        Pseudo-labels; their summary's "kept" names the classes that have new masks.
    """
    distillation = Distillation(experiment.saliency, labels, segmenter)
    make = partial(_relabel, context, distillation, dataset, held, print_)
    return once(context.workspace, KIND, print_, make)


def _relabel(
    context: Context,
    distillation: Distillation,
    dataset: Artifact,
    held: Sequence[str],
    print_: str,
) -> Artifact:
    draft, timer = context.workspace.draft(KIND, print_), Timer()
    supply = context.connect()
    with timer("judge"):
        judged = _judged(context, distillation, dataset, held, draft)
    with timer("relabel"):
        work = distillation.work(judged.better)
        parts = label_shards(context, "relabel", work, dataset, draft, supply)
    settings = distillation.settings
    summary = summarise(draft.so_far(parts), dataset, settings.names, None)
    return draft.finish(
        parts,
        config=settings.model_dump(),
        inputs={
            "dataset": dataset.fingerprint,
            KIND: distillation.labels.fingerprint,
            plan.SEGMENTER: distillation.segmenter.fingerprint,
        },
        summary={**summary, "kept": judged.better, "judged": judged._asdict()},
        timings=timer.seconds,
    )


def _judged(
    context: Context,
    distillation: Distillation,
    dataset: Artifact,
    held: Sequence[str],
    draft: Draft,
) -> Judged:
    """Judge on one worker, once: an attempt that was cut off goes on by the same judgement."""
    kept = draft.done(JUDGED)
    if kept is not None:
        return Judged(**draft.so_far([kept]).json(JUDGED))
    gpus = 1 if context.connect().gpus else 0
    remote = ray.remote(num_cpus=1, num_gpus=gpus)(judge)
    with context.progress("relabel", None, "images") as progress, plain_errors():
        progress.say("comparing with the held patients' masks")
        batch = context.resources.saliency_batch
        found: Judged = ray.get(remote.remote(distillation, dataset, list(held), batch))
    draft.write_json(JUDGED, found._asdict())
    return found


def judge(
    distillation: Distillation, dataset: Artifact, held: Sequence[str], batch: int | str
) -> Judged:
    """Compare labels of held validation images, as they are and made anew, with the experts'."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    names, size = distillation.settings.names, int(dataset.summary["size"])
    relabeller = distillation.load(device, chosen=names)
    old, new, drawn = list[pa.Table](), list[pa.Table](), list[pa.Table]()
    for part in dataset.parts("rows/"):
        rows = read_rows(dataset, part.name)
        wanted = pc.and_(
            pc.and_(pc.equal(rows["split"], "valid"), pc.is_valid(rows["masks"])),
            pc.is_in(rows["patient"], pa.array(held, pa.string())),
        )
        drawn.append(index_part(dataset, part.name, COLUMNS).filter(wanted))
        for images, _ in batches(rows.filter(wanted), size, forward_batch(device, size, batch)):
            old.append(relabeller.before(images.ids)[0])
            new.append(relabeller(images)[0])
    if not new:
        return Judged([], [])
    read = pa.concat_tables(drawn)
    before, after = (localization(pa.concat_tables(found), read, size) for found in (old, new))
    return Judged(before, after)
