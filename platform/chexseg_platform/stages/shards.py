"""A dataset's shards through a pool of actors on Ray Data: shards in, shards out, nothing twice.

Each shard of the dataset becomes one part of every table that a labeller makes, under a name of
its own, so a job that was cut off goes on with the shards that are missing. Where an image takes
seconds a shard goes by pieces, so that progress is seen and little is lost; they are joined when
all are there. A shard travels by name only: the actor that holds the models reads it and writes
its results, and pixels never cross the object store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
"""Images a piece, whatever the batch: a rerun must make the same pieces."""
SCRATCH = "pieces"
"""Where they are until all shards are whole."""


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
        pieces: whether a shard is done PIECE images at a time, which are kept until the shard is
            whole: for what takes so long that a worker's end must not cost a shard.
        apart: the name of one more table, of which a shard's rows may be too many to hold: its
            pieces stay parts of their own; "" for none.
    """

    build: Callable[[torch.device, float | str], Labeller]
    tables: tuple[str, ...]
    splits: tuple[str, ...]
    pieces: bool = False
    apart: str = ""

    def __post_init__(self) -> None:
        if self.apart and not self.pieces:
            raise ValueError(f"{self.apart} is written by pieces, and none are made")

    def outputs(self, name: str) -> dict[str, str]:
        """Return the part of each table that a dataset's shard becomes, in the order of writing."""
        number = name.rpartition("/")[2]
        return {table: f"{table}/{number}" for table in self.tables}

    def piece(self, name: str, place: int) -> dict[str, str]:
        """Return the part of each table that one of a shard's pieces becomes, likewise."""
        own = f"{name.rpartition('/')[2]}-{place:04d}"
        apart = {self.apart: f"{self.apart}/{own}"} if self.apart else {}
        return apart | {table: f"{SCRATCH}/{table}/{own}" for table in self.tables}


def label_shards(
    context: Context, stage: str, work: Work, dataset: Artifact, draft: Draft, supply: Supply
) -> list[Part]:
    """Do what is not done yet of a dataset's shards, with progress; return all parts."""
    shards = dataset.parts("rows/")
    images = images_of(dataset, shards, work.splits)
    todo = [item for name in images for item in missing(draft, work, name, images[name])]
    total = sum(images.values())
    with context.progress(stage, total, "images") as progress:
        progress.skip(total - sum(item["images"] for item in todo))
        if todo:
            progress.say("starting workers")
        for row in _stream(todo, work, dataset, draft, context, supply):
            progress.update(advance=row["images"])
    for folder in ("parts", "receipts"):
        draft.storage.delete(f"{folder}/{SCRATCH}")
    return [part for name in images for part in _parts_of(draft, work, name)]


def images_of(dataset: Artifact, shards: Sequence[Part], splits: Sequence[str]) -> dict[str, int]:
    """Return how many images of some splits each shard has, by its name."""
    if set(dataset.summary["splits"]) <= set(splits):
        return {part.name: part.rows or 0 for part in shards}
    wanted, found = pa.array(splits, pa.string()), {}
    for part in shards:
        index = index_part(dataset, part.name, ["split"])
        found[part.name] = pc.sum(pc.is_in(index["split"], wanted)).as_py() or 0
    return found


def missing(draft: Draft, work: Work, name: str, images: int) -> list[dict[str, Any]]:
    """Return what is to be done of a shard: items for a worker, each with how many images it takes.

    A shard whose pieces are all there, and which only wants joining, is an item of no image.
    """
    if _whole(draft, work.outputs(name)):
        return []
    if not work.pieces:
        return [{"part": name, "place": 0, "images": images}]
    starts = enumerate(range(0, images, PIECE))
    items = [
        {"part": name, "place": place, "images": min(PIECE, images - start)}
        for place, start in starts
        if not _whole(draft, work.piece(name, place))
    ]
    return items or [{"part": name, "place": 0, "images": 0}]


def _whole(draft: Draft, outputs: Mapping[str, str]) -> bool:
    return draft.done(list(outputs.values())[-1]) is not None


def _parts_of(draft: Draft, work: Work, name: str) -> list[Part]:
    """Return what a finished shard became."""
    parts = [_receipt(draft, output) for output in work.outputs(name).values()]
    pieces = range(parts[-1].info.get("pieces", 0))
    return parts + [_receipt(draft, work.piece(name, place)[work.apart]) for place in pieces]


def _receipt(draft: Draft, name: str) -> Part:
    part = draft.done(name)
    assert part is not None, name
    return part


def _stream(
    todo: Sequence[Mapping[str, Any]],
    work: Work,
    dataset: Artifact,
    draft: Draft,
    context: Context,
    supply: Supply,
) -> Iterator[dict[str, Any]]:
    """Run items through a pool of actors; yield each when it is written."""
    workers, cpus, gpus = pool(context.resources, supply, len(todo))
    arguments = {
        "work": work,
        "dataset": dataset,
        "draft": draft,
        "batch": context.resources.saliency_batch,
        "threads": max(1, int(min(supply.node_cpus, supply.cpus // workers))),
        "memory": context.resources.saliency_memory,
    }
    yield from pooled(todo, LabelShards, arguments, workers=workers, cpus=cpus, gpus=gpus)


def pool(wish: config.Resources, supply: Supply, items: int) -> tuple[int, float, float]:
    """Return how many actors, and the CPUs and GPUs of each.

    An actor asks for less than a whole CPU, for a full cluster could otherwise not start the
    tasks that feed it, and would wait for ever. Two share a GPU: while one waits for it, the other
    reads, cuts and writes.
    """
    gpus = 1 / ACTORS_PER_GPU if supply.gpus else 0.0
    wanted = wish.saliency_workers
    if wanted == "auto":
        wanted = int(supply.gpus) * ACTORS_PER_GPU if gpus else max(1, int(supply.cpus))
    return max(1, min(int(wanted), items)), 0.5, gpus


class LabelShards:
    """An actor: models loaded once, then items of `missing` in, and out when they are written."""

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
        self._read: tuple[str, pa.Table] | None = None

    @property
    def label(self) -> Labeller:
        """Loaded with the first shard: an error in `__init__` is but a dead actor to Ray."""
        if self._label is None:
            self._label = self.work.build(self.device, self.memory)
        return self._label

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        for name, place in zip(batch["part"], batch["place"], strict=True):
            self.item(str(name), int(place))
        return batch

    def item(self, name: str, place: int = 0) -> None:
        """Do a shard, or where there are pieces one of them."""
        if self.work.pieces:
            self._piece(name, place)
        else:
            self._write(self._rows(name), self.work.outputs(name))

    def _rows(self, name: str) -> pa.Table:
        """A shard's rows that are wanted; pieces of one shard come one after the other."""
        if self._read is None or self._read[0] != name:
            self._read = None  # not two shards at a time
            table = read_rows(self.dataset, name)
            self._read = name, table.filter(pc.is_in(table["split"], pa.array(self.work.splits)))
        return self._read[1]

    def _piece(self, name: str, place: int) -> None:
        """Do one piece of a shard; whoever finds that none is missing joins them."""
        rows, outputs = self._rows(name), self.work.piece(name, place)
        if place * PIECE < rows.num_rows and not _whole(self.draft, outputs):
            self._write(rows.slice(place * PIECE, PIECE), outputs)
        pieces = [self.work.piece(name, i) for i in range(-(-rows.num_rows // PIECE))]
        # Backwards: they are done about in order, so what is missing is found at once.
        if all(_whole(self.draft, piece) for piece in reversed(pieces)):
            self._join(self.work.outputs(name), pieces)

    def _join(self, outputs: Mapping[str, str], pieces: Sequence[Mapping[str, str]]) -> None:
        info = {"pieces": len(pieces)} if self.work.apart else None
        for table, output in outputs.items():
            names = [piece[table] for piece in pieces]
            parts = self.draft.so_far(_receipt(self.draft, name) for name in names)
            found = [self.label.schemas[table].empty_table(), *map(parts.table, names)]
            self.draft.write(output, pa.concat_tables(found), info=info)

    def _write(self, rows: pa.Table, outputs: Mapping[str, str]) -> None:
        """Label rows, and write what is made of them."""
        made = {table: [schema.empty_table()] for table, schema in self.label.schemas.items()}
        for images, _ in batches(rows, int(self.dataset.summary["size"]), self.batch):
            for tables, found in zip(made.values(), self.label(images), strict=True):
                tables.append(found)
        for table, output in outputs.items():
            self.draft.write(output, pa.concat_tables(made[table]))


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
