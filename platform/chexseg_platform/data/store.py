"""A dataset ready for training: pixels in a memory-mapped file, everything else in memory.

Parquet is for keeping and for reading in order; training reads rows at random. So the first use of
a dataset on a node unpacks its pixels once into a plain file under the cache folder, which the
operating system then shares among all workers and pages in and out as memory allows.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock
from numpy.typing import NDArray

from chexseg_platform.artifacts import Artifact
from chexseg_platform.data import geometry, masks
from chexseg_platform.findings import FINDINGS, OBSERVATIONS, WHOLE


def cache_folder(path: str | None) -> Path:
    """Return the folder for unpacked pixels: as asked, or under the user's cache folder."""
    if path:
        return Path(path).expanduser().absolute()
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "chexseg-platform"


@dataclass(frozen=True)
class Store:
    """A dataset's images and table; row i of both is the same image.

    Attributes:
        images: uint8 (N, S, S), letterboxed, read from the cache file as needed.
        table: the dataset's other columns, N rows.
        size: S.
        small: per row, name -> COCO counts of the expert mask at S x S; None without expert.
    """

    images: NDArray[np.uint8]
    table: pa.Table
    size: int
    small: tuple[dict[str, str] | None, ...]

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def ids(self) -> list[str]:
        return self.table["image_id"].to_pylist()

    @cached_property
    def patients(self) -> list[str]:
        return self.table["patient"].to_pylist()

    @cached_property
    def index(self) -> dict[str, int]:
        return {image_id: row for row, image_id in enumerate(self.ids)}

    @cached_property
    def labels(self) -> NDArray[np.float32]:
        """Labels as float32 (N, 14): 1, 0, -1, and NaN where the source says nothing."""
        return label_array(self.table["labels"])

    @cached_property
    def content(self) -> NDArray[np.int64]:
        """Where the image lies in its frame: int64 (N, 4), (top, bottom, left, right)."""
        sizes = zip(self.table["height"].to_pylist(), self.table["width"].to_pylist(), strict=True)
        return np.array([content_rectangle(h, w, self.size) for h, w in sizes]).reshape(-1, 4)

    def rows(self, split: str, *, expert: bool | None = None) -> NDArray[np.int64]:
        """Return the rows of a split; of those with (or without) expert masks, if asked."""
        keep = pc.equal(self.table["split"], split)
        if expert is not None:
            has = pc.is_valid(self.table["masks"])
            keep = pc.and_(keep, has if expert else pc.invert(has))
        return np.flatnonzero(keep.to_numpy(zero_copy_only=False))

    def box(self, row: int) -> geometry.Letterbox:
        """Return the letterbox that row's image went through."""
        height, width = self.table["height"][row].as_py(), self.table["width"][row].as_py()
        return geometry.Letterbox(height, width, self.size)

    def expert_masks(self, row: int) -> dict[str, str]:
        """Return finding -> COCO counts at original resolution; findings not drawn are absent."""
        drawn = self.table["masks"][row].as_py() or []
        return {item["finding"]: item["counts"] for item in drawn}


def label_array(column: pa.ChunkedArray | pa.Array) -> NDArray[np.float32]:
    """Return a column of 14 labels as float32 (N, 14) with NaN for null."""
    flat = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    values = flat.flatten().cast(pa.float32())
    return values.to_numpy(zero_copy_only=False).reshape(-1, len(OBSERVATIONS)).copy()


def content_rectangle(height: int, width: int, size: int) -> tuple[int, int, int, int]:
    """Return (top, bottom, left, right) of the image inside its letterboxed frame."""
    rows, columns = geometry.content(geometry.Letterbox(height, width, size))
    return rows.start, rows.stop, columns.start, columns.stop


def index_part(dataset: Artifact, name: str, columns: list[str]) -> pa.Table:
    """Return columns of the index of a shard "rows/...": the same rows, without their pixels."""
    return dataset.table(name.replace("rows/", "index/", 1), columns)


def read_index(dataset: Artifact) -> pa.Table:
    """Return a dataset's rows without pixels, in the order of its shards."""
    return dataset.tables("index/")


def open_store(
    dataset: Artifact, cache: Path, progress: Callable[[int, int], None] | None = None
) -> Store:
    """Unpack a dataset's pixels on this node, if no process has yet, and open it.

    Raises:
        CorruptArtifact: if a part of the dataset is damaged.
        OSError: if the cache folder cannot be written or is full.
    """
    folder = cache / f"{dataset.fingerprint}-{_content(dataset)}"
    folder.mkdir(parents=True, exist_ok=True)
    size = int(dataset.summary["size"])
    pixels = folder / "images.u8"
    table = read_index(dataset)
    shape = (table.num_rows, size, size)
    with FileLock(folder / "lock"):
        if not pixels.exists() or pixels.stat().st_size != table.num_rows * size * size:
            _unpack(dataset, pixels, progress)
    images: NDArray[np.uint8] = np.zeros(shape, dtype=np.uint8)
    if table.num_rows:  # an empty file cannot be mapped
        images = np.memmap(pixels, dtype=np.uint8, mode="r", shape=shape)
    small = tuple(
        None if drawn is None else {item["finding"]: item["counts"] for item in drawn}
        for drawn in table["small_masks"].to_pylist()
    )
    return Store(images, table.drop_columns("small_masks"), size, small)


def _content(dataset: Artifact) -> str:
    """Return 8 hex digits of the shards' checksums.

    The cache outlives workspaces, and a fingerprint does not cover every image's bytes: two
    artifacts of one fingerprint may differ where images were changed in place.
    """
    sums = "".join(part.sha256 for part in dataset.parts("rows/"))
    return hashlib.sha256(sums.encode()).hexdigest()[:8]


def _unpack(dataset: Artifact, pixels: Path, progress: Callable[[int, int], None] | None) -> None:
    """Write every image's bytes one after the other; the file has its name once it is whole."""
    parts = dataset.parts("rows/")
    total, done = sum(part.rows or 0 for part in parts), 0
    temporary = pixels.with_suffix(".tmp")
    with open(temporary, "wb") as stream:
        for part in parts:
            table = dataset.table(part.name, ["image"])
            for image in table["image"]:
                stream.write(image.as_buffer())
            done += table.num_rows
            if progress:
                progress(done, total)
    os.replace(temporary, pixels)


SMALL_TYPE = pa.list_(pa.struct([("finding", pa.string()), ("counts", pa.string())]))


def index_of(table: pa.Table, size: int) -> pa.Table:
    """Return dataset rows without pixels, and with the expert masks at model size besides.

    Training decodes small masks only, and a driver that plans one reads no pixels.
    """
    small = []
    for row in table.select(["height", "width", "masks"]).to_pylist():
        box = geometry.Letterbox(row["height"], row["width"], size)
        small.append(None if row["masks"] is None else _shrink(row["masks"], box))
    return table.drop_columns("image").append_column("small_masks", pa.array(small, SMALL_TYPE))


def _shrink(drawn: Sequence[dict[str, str]], box: geometry.Letterbox) -> list[dict[str, str]]:
    result = []
    for item in drawn:
        mask = masks.decode(item["counts"], box.height, box.width)
        small = masks.encode(geometry.letterbox_mask(mask, box))
        result.append({"finding": item["finding"], "counts": small})
    return result


@dataclass(frozen=True)
class MaskRows:
    """Masks of some images at model size, kept run-length encoded until a batch needs them.

    Attributes:
        rows: int64 (N,), the images' rows in the store.
        counts: per image, class -> COCO counts; absent means empty.
        known: bool (N, K), which channels are labelled; the others have no say in the loss.
        classes: the K channels, by name.
        ignored: per image, class -> COCO counts of the pixels that say nothing, as counts; not
            given: none of any image.
    """

    rows: NDArray[np.int64]
    counts: tuple[dict[str, str], ...]
    known: NDArray[np.bool_]
    classes: tuple[str, ...] = FINDINGS
    ignored: tuple[dict[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not self.ignored:
            object.__setattr__(self, "ignored", ({},) * len(self.rows))

    def __len__(self) -> int:
        return len(self.rows)

    def decode(self, items: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
        """Return masks 0/1 of the given items: uint8 (B, K, S, S)."""
        return self._decode(self.counts, items, size).view(np.uint8)

    def decode_ignored(self, items: NDArray[np.int64], size: int) -> NDArray[np.bool_] | None:
        """Return the pixels of the given items that say nothing: bool (B, K, S, S), or None.

        None where no item has any, so that what nobody uses costs nothing.
        """
        if not any(self.ignored[item] for item in items):
            return None
        return self._decode(self.ignored, items, size)

    def _decode(
        self, counts: Sequence[Mapping[str, str]], items: NDArray[np.int64], size: int
    ) -> NDArray[np.bool_]:
        out = np.zeros((len(items), len(self.classes), size, size), dtype=bool)
        for place, item in enumerate(items):
            for name, run in counts[item].items():
                out[place, self.classes.index(name)] = masks.decode(run, size, size)
        return out

    @staticmethod
    def empty(classes: tuple[str, ...] = FINDINGS) -> MaskRows:
        nothing = np.zeros((0, len(classes)), dtype=bool)
        return MaskRows(np.empty(0, np.int64), (), nothing, classes)

    @staticmethod
    def join(first: MaskRows, second: MaskRows) -> MaskRows:
        """Return both, the first one's items first; they have the same classes."""
        assert first.classes == second.classes, (first.classes, second.classes)
        return MaskRows(
            np.concatenate([first.rows, second.rows]),
            first.counts + second.counts,
            np.concatenate([first.known, second.known]),
            first.classes,
            first.ignored + second.ignored,
        )


def expert_rows(
    store: Store, rows: NDArray[np.int64], classes: tuple[str, ...] = FINDINGS
) -> MaskRows:
    """Return the expert masks of some rows.

    An expert who looked for findings has labelled all of them, those that are not there as empty.
    Of structures only those are known that the image has a mask of, be it empty.
    """
    counts = tuple(of_classes(store.small[row] or {}, classes, store.size) for row in rows)
    known = np.array(
        [[name in FINDINGS or name in drawn for name in classes] for drawn in counts],
        dtype=bool,
    ).reshape(len(rows), len(classes))
    return MaskRows(np.asarray(rows), counts, known, classes)


def of_classes(drawn: Mapping[str, str], classes: Sequence[str], size: int) -> dict[str, str]:
    """Return the masks of some classes; what has two sides is their union where both are there.

    Args:
        drawn: name -> COCO counts at size x size.
    """
    found: dict[str, str] = {}
    for name in classes:
        sides = WHOLE.get(name, ())
        if name in drawn:
            found[name] = drawn[name]
        elif sides and all(side in drawn for side in sides):
            both = [masks.decode(drawn[side], size, size) for side in sides]
            found[name] = masks.encode(np.logical_or.reduce(both))
    return found


class UnknownClass(ValueError):
    """A pseudo-label of a class that the masks have no channel for."""


def pseudo_rows(
    store: Store, table: pa.Table, split: str, classes: tuple[str, ...] = FINDINGS
) -> MaskRows:
    """Return the pseudo-masks of a split as rows of the store.

    Images of which no channel is labelled are left out.

    Args:
        table: a pseudo-label table (image_id, finding, known, counts), any order. It may have a
            column `ignored`: COCO counts at model size of the pixels that say nothing, or null.
        split: only images of this split are taken.
        classes: the channels; the table's findings are among them.

    Raises:
        UnknownClass: for a finding that is no channel.
    """
    _check_classes(table, classes)
    wanted = set(store.rows(split).tolist())
    counts: dict[int, dict[str, str]] = {}
    ignored: dict[int, dict[str, str]] = {}
    known: dict[int, NDArray[np.bool_]] = {}
    for image_id, finding, labelled, run, unsure in _pseudo_columns(table):
        row = store.index.get(image_id, -1)
        if row not in wanted:
            continue
        known.setdefault(row, np.zeros(len(classes), dtype=bool))
        known[row][classes.index(finding)] = labelled
        if run is not None:
            counts.setdefault(row, {})[finding] = run
        if unsure is not None:
            ignored.setdefault(row, {})[finding] = unsure
    rows = [row for row in sorted(known) if known[row].any()]
    if not rows:
        return MaskRows.empty(classes)
    return MaskRows(
        np.array(rows, dtype=np.int64),
        tuple(counts.get(row, {}) for row in rows),
        np.stack([known[row] for row in rows]),
        classes,
        tuple(ignored.get(row, {}) for row in rows),
    )


def _check_classes(table: pa.Table, classes: Sequence[str]) -> None:
    for finding in pc.unique(table["finding"]).to_pylist():
        if finding not in classes:
            raise UnknownClass(
                f"the pseudo-labels hold {finding!r}, which is not among the masks' classes "
                f"({', '.join(classes)}): name the classes that the pseudo-labels were made for"
            )


def _pseudo_columns(table: pa.Table) -> Iterator[tuple[str, str, bool, str | None, str | None]]:
    columns = [table[name].to_pylist() for name in ("image_id", "finding", "known", "counts")]
    has = "ignored" in table.column_names
    columns.append(table["ignored"].to_pylist() if has else [None] * table.num_rows)
    return zip(*columns, strict=True)
