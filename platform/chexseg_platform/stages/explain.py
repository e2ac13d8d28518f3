"""Saliency and pseudo-labels: classifiers over a dataset's shards, masks out; and what they show.

The shards go through `stages.shards`; here is what is made of them, the thresholds that are tuned
before, and the page of maps that is drawn after.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import torch
from numpy.typing import NDArray

from chexseg_platform import config, overlays, plan, plots
from chexseg_platform.artifacts import Artifact, Draft
from chexseg_platform.data import masks
from chexseg_platform.data.store import index_part
from chexseg_platform.locks import once
from chexseg_platform.models.batch import forward_batch
from chexseg_platform.saliency.pseudolabel import PseudoLabeller, tune_thresholds
from chexseg_platform.saliency.pseudotable import MAPS, schemas_of
from chexseg_platform.saliency.threshold import upsample
from chexseg_platform.stages.context import Context, Timer
from chexseg_platform.stages.errors import plain_errors
from chexseg_platform.stages.explained import Chosen, choose_cases, summarise
from chexseg_platform.stages.models import labeller_of
from chexseg_platform.stages.shards import Work, batches, label_shards, read_rows

KIND = plan.PSEUDOLABELS
THRESHOLDS = "thresholds.json"


def explain(
    context: Context,
    experiment: config.Experiment,
    dataset: Artifact,
    classifiers: Sequence[Artifact],
    held: Sequence[str] = (),
    boundary: Artifact | None = None,
) -> Artifact:
    """Make pseudo-labels of a dataset, or return those that are there.

    Args:
        classifiers: one for each of the experiment's members; their maps are averaged.
        boundary: IRNet's network, where `refine` asks for it.
        held: validation patients, on whose expert masks `threshold: tuned` is tuned.
    """
    prints = [classifier.fingerprint for classifier in classifiers]
    print_ = plan.pseudolabels_print(experiment, dataset.fingerprint, prints)
    models = Models(experiment.saliency, tuple(classifiers), boundary)
    make = partial(_explain, context, models, dataset, held, print_)
    return once(context.workspace, KIND, print_, make)


@dataclass(frozen=True)
class Models:
    """What explains: settings, classifiers, and IRNet's network where maps are refined."""

    settings: config.Saliency
    classifiers: tuple[Artifact, ...]
    boundary: Artifact | None = None

    def work(self, thresholds: list[float] | None = None) -> Work:
        """Return what a worker does: load the models once, cut masks batch by batch."""
        build = partial(self.load, thresholds=thresholds)
        tables = tuple(name for name in schemas_of(self.settings) if name != MAPS)
        apart = "" if self.settings.maps == "none" else MAPS
        pieces = bool(apart) or self.settings.pays_per_map
        return Work(build, tables, tuple(self.settings.splits), pieces, apart)

    def load(
        self,
        device: torch.device,
        memory: float | str = "auto",
        thresholds: list[float] | None = None,
    ) -> PseudoLabeller:
        """Load them onto a device."""
        return labeller_of(
            self.settings,
            self.classifiers,
            self.boundary,
            thresholds,
            device=device,
            memory=memory,
        )

    @property
    def uncut(self) -> Models:
        """The same where maps are wanted and no mask is cut, so that any threshold does."""
        return replace(self, settings=self.settings.model_copy(update={"threshold": "otsu"}))

    @property
    def inputs(self) -> dict[str, str]:
        """Their fingerprints by name."""
        named = plan.numbered("classifier", [item.fingerprint for item in self.classifiers])
        return named | ({plan.BOUNDARY: self.boundary.fingerprint} if self.boundary else {})


def _explain(
    context: Context, models: Models, dataset: Artifact, held: Sequence[str], print_: str
) -> Artifact:
    draft, timer = context.workspace.draft(KIND, print_), Timer()
    supply = context.connect()
    with timer("thresholds"):
        thresholds = _thresholds(models, dataset, held, draft, context)
    with timer("explain"):
        work = models.work(thresholds)
        parts = label_shards(context, "explain", work, dataset, draft, supply)
    outputs = draft.so_far(parts)
    with timer("page"):
        pages = draw_pages(context, models, dataset, outputs, 1)
    parts += [draft.write("saliency.png", page) for page in pages]
    return draft.finish(
        parts,
        config=models.settings.model_dump(),
        inputs={"dataset": dataset.fingerprint, **models.inputs},
        summary=summarise(outputs, dataset, models.settings.names, thresholds, held),
        timings=timer.seconds,
    )


def _thresholds(
    models: Models, dataset: Artifact, held: Sequence[str], draft: Draft, context: Context
) -> list[float] | None:
    """Tune thresholds on the held patients' expert masks, where asked for, on one worker.

    An attempt that was cut off keeps them: all shards are cut by the same ones.
    """
    if models.settings.threshold != "tuned":
        return None
    kept = draft.done(THRESHOLDS)
    if kept is not None:
        return [math.nan if t is None else t for t in draft.so_far([kept]).json(THRESHOLDS)]
    gpus = 1 if context.connect().gpus else 0
    remote = ray.remote(num_cpus=1, num_gpus=gpus)(_tune)
    with context.progress("thresholds", None, "images") as progress, plain_errors():
        progress.say("tuning on the held patients' masks")
        images, thresholds = ray.get(remote.remote(models, dataset, list(held), context.resources))
        progress.update(advance=images)
    draft.write_json(THRESHOLDS, [None if math.isnan(t) else t for t in thresholds])
    return thresholds


def _tune(
    models: Models, dataset: Artifact, held: list[str], resources: config.Resources
) -> tuple[int, list[float]]:
    """Return how many images were seen, and a threshold a finding."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    labeller = models.uncut.load(device, resources.saliency_memory)
    size, names = int(dataset.summary["size"]), models.settings.names
    batch, found = forward_batch(device, size, resources.saliency_batch), []
    for part in dataset.parts("rows/"):
        table = read_rows(dataset, part.name)
        wanted = pc.and_(
            pc.and_(pc.equal(table["split"], "valid"), pc.is_valid(table["masks"])),
            pc.is_in(table["patient"], pa.array(held, pa.string())),
        )
        index, start = index_part(dataset, part.name, ["image_id", "small_masks"]).filter(wanted), 0
        for images, some in batches(table.filter(wanted), size, batch):
            some_index = index.slice(start, some.num_rows)
            found.append((images, small_masks(some_index, size, names)))
            start += some.num_rows
    thresholds, _ = tune_thresholds(labeller, found)
    return sum(len(images.ids) for images, _ in found), thresholds


def small_masks(index: pa.Table, size: int, names: Sequence[str]) -> NDArray[np.bool_]:
    """Expert masks of index rows in the model's frame, of classes by name: bool (B, K, S, S)."""
    truth = np.zeros((index.num_rows, len(names), size, size), dtype=bool)
    for place, drawn in enumerate(index["small_masks"].to_pylist()):
        for item in drawn or []:
            truth[place, names.index(item["finding"])] = masks.decode(item["counts"], size, size)
    return truth


def draw_pages(
    context: Context, models: Models, dataset: Artifact, outputs: Artifact, count: int
) -> list[bytes]:
    """Draw up to `count` pages of validation images on a worker: PNG files.

    A page has 8 rows: image, map, pseudo-mask, and the expert's mask where there is one.
    """
    chosen = choose_cases(outputs, dataset, count * overlays.MAX_ROWS)
    pages = list[bytes]()
    if not chosen:
        return pages
    with context.progress("page", len(chosen), "maps") as progress, plain_errors():
        refs: Any = ray.remote(num_cpus=1)(_draw).remote(models, dataset, chosen)
        for ref in refs:
            drawn, page = ray.get(ref)
            pages.append(page)
            progress.update(advance=drawn)
    return pages


def _draw(
    models: Models, dataset: Artifact, chosen: Sequence[Chosen]
) -> Iterator[tuple[int, bytes]]:
    """Yield pages, each with how many maps it has."""
    labeller = models.uncut.load(torch.device("cpu"))
    for start in range(0, len(chosen), overlays.MAX_ROWS):
        some = chosen[start : start + overlays.MAX_ROWS]
        cases = [_case(labeller, dataset, item) for item in some]
        page = overlays.saliency_page(cases, title="Saliency of validation images")
        yield len(some), plots.png(page)


def _case(labeller: PseudoLabeller, dataset: Artifact, item: Chosen) -> overlays.MapCase:
    size = int(dataset.summary["size"])
    rows, index = (
        read_rows(dataset, item.part),
        index_part(dataset, item.part, ["image_id", "small_masks"]),
    )
    mine = pc.equal(rows["image_id"], item.image_id)
    ((images, _),) = batches(rows.filter(mine), size, 1)
    names = labeller.settings.names
    finding = names.index(item.finding)
    top, bottom, left, right = images.content[0]
    # Padding is cut off: a map may be high there, and its peak is looked for in the image.
    inside = (slice(top, bottom), slice(left, right))
    wanted = np.arange(len(names))[None] == finding
    heat_BKSS = upsample(labeller.explain(images, wanted).heat_BKhw, size)
    read = index.filter(mine)
    truth = small_masks(read, size, names)[0, finding][inside]
    return overlays.MapCase(
        title=f"{item.finding}\n{item.image_id.split('_')[0]}",
        image=images.grey[0][inside],
        heat=heat_BKSS[0, finding].numpy()[inside],
        mask=masks.decode(item.counts, size, size)[inside],
        truth=truth if read["small_masks"].null_count == 0 else None,
    )
