"""Saliency and pseudo-labels on Ray Data: shards in, shards out, nothing done twice.

Each shard of the dataset becomes one shard of pseudo-labels under a name of its own, so a job that
was cut off goes on with the shards that are missing. A shard travels by name only: the actor that
holds the models reads it and writes its result, and pixels never cross the object store.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
import torch
from numpy.typing import NDArray

from chexseg_platform import config, overlays, plan, plots
from chexseg_platform.artifacts import Artifact, Draft
from chexseg_platform.cluster import Supply
from chexseg_platform.data import masks
from chexseg_platform.data.store import content_rectangle, label_array
from chexseg_platform.findings import FINDINGS
from chexseg_platform.locks import once
from chexseg_platform.models.classifier import Classifier, load_classifier
from chexseg_platform.models.preprocess import Preprocess
from chexseg_platform.saliency.pseudolabel import (
    IMAGE_SCHEMA,
    MASK_SCHEMA,
    Images,
    PseudoLabeller,
    tune_thresholds,
)
from chexseg_platform.saliency.threshold import upsample
from chexseg_platform.stages.context import Context, Timer
from chexseg_platform.stages.errors import plain_errors
from chexseg_platform.stages.explained import choose_cases, summarise
from chexseg_platform.stages.pools import pooled

KIND = plan.PSEUDOLABELS
COLUMNS = [
    "image_id", "patient", "study", "split", "height", "width", "image", "labels", "masks",
]  # fmt: skip


def explain(
    context: Context,
    experiment: config.Experiment,
    dataset: Artifact,
    classifier: Artifact,
    held: Sequence[str] = (),
) -> Artifact:
    """Make pseudo-labels of a dataset, or return those that are there.

    Args:
        held: validation patients, on whose expert masks `threshold: tuned` is tuned.
    """
    print_ = plan.pseudolabels_print(experiment, dataset.fingerprint, classifier.fingerprint)
    make = partial(_explain, context, experiment.saliency, dataset, classifier, held, print_)
    return once(context.workspace, KIND, print_, make)


def _explain(
    context: Context,
    settings: config.Saliency,
    dataset: Artifact,
    classifier: Artifact,
    held: Sequence[str],
    print_: str,
) -> Artifact:
    draft, timer = context.workspace.draft(KIND, print_), Timer()
    supply = context.connect()
    with timer("thresholds"):
        thresholds = _thresholds(settings, dataset, classifier, held, context)
    names = [part.name for part in dataset.parts("rows/")]
    total = sum(part.rows or 0 for part in dataset.parts("rows/"))
    todo = [name for name in names if draft.done(_outputs(name)[1]) is None]
    with timer("explain"), context.progress("explain", total, "images") as progress:
        progress.skip(total - sum(dataset.part(name).rows or 0 for name in todo))
        for row in _stream(todo, dataset, classifier, draft, settings, thresholds, context, supply):
            progress.update(advance=int(row["rows"]))
    parts = [_receipt(draft, output) for name in names for output in _outputs(name)]
    outputs = draft.so_far(parts)
    with timer("page"), plain_errors():
        remote = ray.remote(num_cpus=1)(_page)
        page = ray.get(remote.remote(settings, dataset, classifier, outputs))
    if page is not None:
        parts.append(draft.write("saliency.png", page))
    return draft.finish(
        parts,
        config=settings.model_dump(),
        inputs={"dataset": dataset.fingerprint, "classifier": classifier.fingerprint},
        summary=summarise(outputs, dataset, thresholds),
        timings=timer.seconds,
    )


def _receipt(draft: Draft, name: str) -> Any:
    part = draft.done(name)
    assert part is not None, name
    return part


def _outputs(name: str) -> tuple[str, str]:
    """Names of the mask rows and image rows of a dataset shard, in the order of writing."""
    number = name.rpartition("/")[2]
    return f"masks/{number}", f"images/{number}"


def _stream(
    todo: Sequence[str],
    dataset: Artifact,
    classifier: Artifact,
    draft: Draft,
    settings: config.Saliency,
    thresholds: list[float] | None,
    context: Context,
    supply: Supply,
) -> Iterator[dict[str, Any]]:
    """Run the shards through a pool of actors; yield a row for each that is written."""
    if not todo:
        return
    workers, cpus, gpus = pool(context.resources, supply, len(todo))
    arguments = {
        "dataset": dataset,
        "classifier": classifier,
        "draft": draft,
        "settings": settings.model_dump(),
        "thresholds": thresholds,
        "batch": context.resources.saliency_batch,
        "threads": max(1, int(supply.cpus // workers)),
        "rows": context.resources.saliency_rows,
    }
    items = [{"part": name} for name in todo]
    yield from pooled(items, ExplainShards, arguments, workers=workers, cpus=cpus, gpus=gpus)


def pool(wish: config.Resources, supply: Supply, shards: int) -> tuple[int, float, float]:
    """Return how many actors, and the CPUs and GPUs of each.

    An actor asks for less than a whole CPU, for a full cluster could otherwise not start the
    tasks that feed it, and would wait for ever.
    """
    gpus = 1.0 if supply.gpus else 0.0
    wanted = wish.saliency_workers
    if wanted == "auto":
        wanted = int(supply.gpus) if gpus else max(1, int(supply.cpus))
    return max(1, min(int(wanted), shards)), 0.5, gpus


class ExplainShards:
    """An actor: classifiers loaded once, then shard names in and receipts out."""

    def __init__(
        self,
        dataset: Artifact,
        classifier: Artifact,
        draft: Draft,
        settings: Mapping[str, Any],
        thresholds: list[float] | None,
        batch: int,
        threads: int,
        rows: int = 64,
    ) -> None:
        torch.set_num_threads(threads)
        self.dataset, self.classifier, self.draft = dataset, classifier, draft
        self.settings = config.Saliency.model_validate(settings)
        self.thresholds, self.batch, self.rows = thresholds, batch, rows
        self._label: PseudoLabeller | None = None

    @property
    def label(self) -> PseudoLabeller:
        """Loaded with the first shard: an error in `__init__` is but a dead actor to Ray."""
        if self._label is None:
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            models = load_models(self.classifier)
            self._label = PseudoLabeller(models, self.settings, device, self.thresholds, self.rows)
        return self._label

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        began = time.monotonic()
        rows = [self._shard(str(name)) for name in batch["part"]]
        spent = np.full(len(rows), (time.monotonic() - began) / max(1, len(rows)))
        return {"part": batch["part"], "rows": np.array(rows), "seconds": spent}

    def _shard(self, name: str) -> int:
        table = read_rows(self.dataset, name)
        kept = table.filter(pc.is_in(table["split"], pa.array(self.settings.splits)))
        mask_rows, image_rows = [MASK_SCHEMA.empty_table()], [IMAGE_SCHEMA.empty_table()]
        for images, _ in batches(kept, int(self.dataset.summary["size"]), self.batch):
            masks_, images_ = self.label(images)
            mask_rows.append(masks_)
            image_rows.append(images_)
        masks_name, images_name = _outputs(name)
        self.draft.write(masks_name, pa.concat_tables(mask_rows))
        self.draft.write(images_name, pa.concat_tables(image_rows))
        return table.num_rows


def load_models(classifier: Artifact) -> list[tuple[Classifier, Preprocess]]:
    """Return every checkpoint of a classifier artifact with its preprocessing."""
    models = []
    for number in range(int(classifier.summary["checkpoints"])):
        files = {
            part.name.rpartition("/")[2]: classifier.read(part.name)
            for part in classifier.parts(f"checkpoints/{number:02d}/")
        }
        model, meta = load_classifier(files)
        models.append((model, Preprocess.from_dict(meta["preprocess"])))
    return models


def read_rows(dataset: Artifact, name: str) -> pa.Table:
    return pq.read_table(
        io.BytesIO(dataset.read(name)), columns=COLUMNS, page_checksum_verification=True
    )


def read_index_part(dataset: Artifact, name: str) -> pa.Table:
    """Return the index of a shard: the same rows, without pixels and with small masks."""
    return dataset.table(name.replace("rows/", "index/", 1), ["image_id", "small_masks"])


def batches(table: pa.Table, size: int, batch: int) -> Iterator[tuple[Images, pa.Table]]:
    """Cut dataset rows into batches for the labeller; each with its rows of the table."""
    for start in range(0, table.num_rows, batch):
        rows = table.slice(start, batch)
        pixels = b"".join(image.as_py() for image in rows["image"])
        grey = np.frombuffer(pixels, dtype=np.uint8).reshape(-1, size, size)
        sides = zip(rows["height"].to_pylist(), rows["width"].to_pylist(), strict=True)
        content = np.array([content_rectangle(h, w, size) for h, w in sides], dtype=np.int64)
        yield (
            Images(
                rows["image_id"].to_pylist(),
                rows["split"].to_pylist(),
                grey.copy(),
                content,
                label_array(rows["labels"]),
            ),
            rows,
        )


def _thresholds(
    settings: config.Saliency,
    dataset: Artifact,
    classifier: Artifact,
    held: Sequence[str],
    context: Context,
) -> list[float] | None:
    """Tune thresholds on the held patients' expert masks, where asked for, on one worker."""
    if settings.threshold != "tuned":
        return None
    gpus = 1 if context.connect().gpus else 0
    remote = ray.remote(num_cpus=1, num_gpus=gpus)(_tune)
    wish = context.resources
    with plain_errors():
        answer: tuple[list[float], list[float]] = ray.get(
            remote.remote(
                settings, dataset, classifier, list(held), wish.saliency_batch, wish.saliency_rows
            )
        )
    return answer[0]


def _tune(
    settings: config.Saliency,
    dataset: Artifact,
    classifier: Artifact,
    held: list[str],
    batch: int,
    rows: int,
) -> tuple[list[float], list[float]]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    plain = settings.model_copy(update={"threshold": "otsu"})
    labeller = PseudoLabeller(load_models(classifier), plain, device, rows=rows)
    size = int(dataset.summary["size"])
    found = []
    for part in dataset.parts("rows/"):
        table = read_rows(dataset, part.name)
        wanted = pc.and_(
            pc.and_(pc.equal(table["split"], "valid"), pc.is_valid(table["masks"])),
            pc.is_in(table["patient"], pa.array(held, pa.string())),
        )
        index, start = read_index_part(dataset, part.name).filter(wanted), 0
        for images, some in batches(table.filter(wanted), size, batch):
            found.append((images, small_masks(index.slice(start, some.num_rows), size)))
            start += some.num_rows
    return tune_thresholds(labeller, found)


def small_masks(index: pa.Table, size: int) -> NDArray[np.bool_]:
    """Expert masks of index rows in the model's frame: bool (B, 10, S, S)."""
    truth = np.zeros((index.num_rows, len(FINDINGS), size, size), dtype=bool)
    for place, drawn in enumerate(index["small_masks"].to_pylist()):
        for item in drawn or []:
            finding = FINDINGS.index(item["finding"])
            truth[place, finding] = masks.decode(item["counts"], size, size)
    return truth


def _page(
    settings: config.Saliency, dataset: Artifact, classifier: Artifact, outputs: Artifact
) -> bytes | None:
    """Draw some validation images with map, pseudo-mask and expert mask; None without any."""
    chosen = choose_cases(outputs, dataset, overlays.MAX_ROWS)
    if not chosen:
        return None
    # The map is wanted and no mask is cut, so any threshold does.
    plain = settings.model_copy(update={"threshold": "otsu"})
    labeller = PseudoLabeller(load_models(classifier), plain, torch.device("cpu"))
    size = int(dataset.summary["size"])
    cases = []
    for item in chosen:
        rows, index = read_rows(dataset, item.part), read_index_part(dataset, item.part)
        mine = pc.equal(rows["image_id"], item.image_id)
        ((images, _),) = batches(rows.filter(mine), size, 1)
        finding = FINDINGS.index(item.finding)
        top, bottom, left, right = images.content[0]
        # Padding is cut off: a map may be high there, and its peak is looked for in the image.
        inside = (slice(top, bottom), slice(left, right))
        wanted = np.arange(len(FINDINGS))[None] == finding
        heat_BKSS = upsample(labeller.explain(images, wanted).heat_BKhw, size)
        read = index.filter(mine)
        truth = small_masks(read, size)[0, finding][inside]
        cases.append(
            overlays.MapCase(
                title=f"{item.finding}\n{item.image_id.split('_')[0]}",
                image=images.grey[0][inside],
                heat=heat_BKSS[0, finding].numpy()[inside],
                mask=masks.decode(item.counts, size, size)[inside],
                truth=truth if read["small_masks"].null_count == 0 else None,
            )
        )
    return plots.png(overlays.saliency_page(cases, title="Saliency of validation images"))
