"""A dataset's shards through a pool of actors on Ray Data: shards in, shards out, nothing twice.

Each shard of the dataset becomes one part of every table that a labeller makes, under a name of
its own, so a job that was cut off goes on with the shards that are missing. A shard travels by
name only: the actor that holds the models reads it and writes its results, and pixels never cross
the object store.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from chexseg_platform import config
from chexseg_platform.artifacts import Artifact, Draft, Part
from chexseg_platform.cluster import Supply
from chexseg_platform.data.store import content_rectangle, index_part, label_array
from chexseg_platform.models.batch import forward_batch
from chexseg_platform.saliency.pseudotable import Images
from chexseg_platform.stages.context import Context
from chexseg_platform.stages.pools import pooled

COLUMNS = [
    "image_id", "patient", "study", "split", "height", "width", "image", "labels", "masks",
]  # fmt: skip


ACTORS_PER_GPU = 2
PIECE = 16
"""Images a part of a table that is written piece by piece, whatever the batch: a rerun must make
the same parts."""


class Labeller(Protocol):
    """Makes tables of a batch of images, in the order of `schemas`."""

    schemas: dict[str, pa.Schema]

    def __call__(self, images: Images) -> tuple[pa.Table, ...]: ...


@dataclass(frozen=True)
class Work:
    """What is made of a dataset's shards.

    Attributes:
        build: makes the labeller on a worker: (device, budget in bytes) -> Labeller.
        tables: the names of what it makes; the last one's part says that a shard is whole.
        splits: whose images are taken.
        pieces: the name of one more table, of which a shard's rows may be too many to hold: it is
            written in parts of PIECE images; "" for none.
    """

    build: Callable[[torch.device, float | str], Labeller]
    tables: tuple[str, ...]
    splits: tuple[str, ...]
    pieces: str = ""

    def outputs(self, name: str) -> list[str]:
        """Return the parts that a dataset's shard becomes, in the order of writing."""
        number = name.rpartition("/")[2]
        return [f"{table}/{number}" for table in self.tables]

    def piece(self, name: str, place: int) -> str:
        """Return the name of one of a shard's pieces."""
        return f"{self.pieces}/{name.rpartition('/')[2]}-{place:04d}"


def label_shards(
    context: Context, stage: str, work: Work, dataset: Artifact, draft: Draft, supply: Supply
) -> list[Part]:
    """Do what is not done yet of a dataset's shards, with progress; return all parts."""
    shards = dataset.parts("rows/")
    todo = [part for part in shards if draft.done(work.outputs(part.name)[-1]) is None]
    images = images_of(dataset, shards, work.splits)
    total = sum(images.values())
    with context.progress(stage, total, "images") as progress:
        progress.skip(total - sum(images[part.name] for part in todo))
        for row in _stream([part.name for part in todo], work, dataset, draft, context, supply):
            progress.update(advance=images[row["part"]])
    return [part for shard in shards for part in _parts_of(draft, work, shard.name)]


def images_of(dataset: Artifact, shards: Sequence[Part], splits: Sequence[str]) -> dict[str, int]:
    """Return how many images of some splits each shard has, by its name."""
    if set(dataset.summary["splits"]) <= set(splits):
        return {part.name: part.rows or 0 for part in shards}
    wanted, found = pa.array(splits, pa.string()), {}
    for part in shards:
        index = index_part(dataset, part.name, ["split"])
        found[part.name] = pc.sum(pc.is_in(index["split"], wanted)).as_py() or 0
    return found


def _parts_of(draft: Draft, work: Work, name: str) -> list[Part]:
    """Return what a finished shard became."""
    parts = [_receipt(draft, output) for output in work.outputs(name)]
    pieces = range(parts[-1].info.get("pieces", 0))
    return parts + [_receipt(draft, work.piece(name, place)) for place in pieces]


def _receipt(draft: Draft, name: str) -> Part:
    part = draft.done(name)
    assert part is not None, name
    return part


def _stream(
    todo: Sequence[str],
    work: Work,
    dataset: Artifact,
    draft: Draft,
    context: Context,
    supply: Supply,
) -> Iterator[dict[str, Any]]:
    """Run the shards through a pool of actors; yield a row for each that is written."""
    workers, cpus, gpus = pool(context.resources, supply, len(todo))
    arguments = {
        "work": work,
        "dataset": dataset,
        "draft": draft,
        "batch": context.resources.saliency_batch,
        "threads": max(1, int(min(supply.node_cpus, supply.cpus // workers))),
        "memory": context.resources.saliency_memory,
    }
    items = [{"part": name} for name in todo]
    yield from pooled(items, LabelShards, arguments, workers=workers, cpus=cpus, gpus=gpus)


def pool(wish: config.Resources, supply: Supply, shards: int) -> tuple[int, float, float]:
    """Return how many actors, and the CPUs and GPUs of each.

    An actor asks for less than a whole CPU, for a full cluster could otherwise not start the
    tasks that feed it, and would wait for ever. Two share a GPU: while one waits for it, the other
    reads, cuts and writes.
    """
    gpus = 1 / ACTORS_PER_GPU if supply.gpus else 0.0
    wanted = wish.saliency_workers
    if wanted == "auto":
        wanted = int(supply.gpus) * ACTORS_PER_GPU if gpus else max(1, int(supply.cpus))
    return max(1, min(int(wanted), shards)), 0.5, gpus


class LabelShards:
    """An actor: models loaded once, then shard names in and receipts out."""

    def __init__(
        self,
        work: Work,
        dataset: Artifact,
        draft: Draft,
        batch: int | str,
        threads: int,
        memory: float | str = "auto",
    ) -> None:
        torch.set_num_threads(threads)
        self.work, self.dataset, self.draft = work, dataset, draft
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.batch = forward_batch(self.device, int(dataset.summary["size"]), batch)
        self.memory = memory
        self._label: Labeller | None = None

    @property
    def label(self) -> Labeller:
        """Loaded with the first shard: an error in `__init__` is but a dead actor to Ray."""
        if self._label is None:
            self._label = self.work.build(self.device, self.memory)
        return self._label

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        began = time.monotonic()
        rows = [self._shard(str(name)) for name in batch["part"]]
        spent = np.full(len(rows), (time.monotonic() - began) / max(1, len(rows)))
        return {"part": batch["part"], "rows": np.array(rows), "seconds": spent}

    def _shard(self, name: str) -> int:
        table = read_rows(self.dataset, name)
        kept = table.filter(pc.is_in(table["split"], pa.array(self.work.splits)))
        size, pieces = int(self.dataset.summary["size"]), 0
        made = {table: [schema.empty_table()] for table, schema in self.label.schemas.items()}
        for images, _ in batches(kept, size, PIECE if self.work.pieces else self.batch):
            for part in images.cut(self.batch):
                for rows, found in zip(made.values(), self.label(part), strict=True):
                    rows.append(found)
            if self.work.pieces:
                rows = made[self.work.pieces]
                self.draft.write(self.work.piece(name, pieces), pa.concat_tables(rows))
                made[self.work.pieces], pieces = rows[:1], pieces + 1
        info = {"pieces": pieces} if pieces else None
        for output, table_name in zip(self.work.outputs(name), self.work.tables, strict=True):
            self.draft.write(output, pa.concat_tables(made[table_name]), info=info)
        return table.num_rows


def read_rows(dataset: Artifact, name: str) -> pa.Table:
    return dataset.table(name, COLUMNS)


def batches(table: pa.Table, size: int, batch: int) -> Iterator[tuple[Images, pa.Table]]:
    """Cut dataset rows into batches for a labeller; each with its rows of the table."""
    for start in range(0, table.num_rows, batch):
        rows = table.slice(start, batch)
        pixels = b"".join(image.as_py() for image in rows["image"])
        grey = np.frombuffer(pixels, dtype=np.uint8).reshape(-1, size, size)
        sides = np.stack([rows[name].to_numpy() for name in ("height", "width")], axis=1)
        content = np.array([content_rectangle(h, w, size) for h, w in sides.tolist()], np.int64)
        yield (
            Images(
                rows["image_id"].to_pylist(),
                rows["split"].to_pylist(),
                grey.copy(),
                content,
                label_array(rows["labels"]),
                sides.astype(np.int64),
            ),
            rows,
        )
