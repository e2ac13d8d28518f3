"""Reading images into a dataset artifact on Ray Data: shard by shard, resumable, nothing dropped.

A shard is a few hundred images of one table. A task decodes, letterboxes and writes it under a
name of its own, and returns what it could not take; so a run that was cut off does the missing
shards only, and every input ends up in the dataset or in `rejected.parquet`.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
from numpy.typing import NDArray

from chexseg_platform import config, plan
from chexseg_platform.artifacts import Artifact, Draft, Part
from chexseg_platform.data import sources
from chexseg_platform.data.decode import UnreadableInput
from chexseg_platform.data.entries import Entry, MaskSizeError
from chexseg_platform.data.masked.doubles import Double
from chexseg_platform.data.masks import MAX_CHARACTERS_PER_RUN, run_lengths
from chexseg_platform.data.phantom import write_phantom
from chexseg_platform.data.rows import REJECTED, ImageRow, make_row, rejection, to_table
from chexseg_platform.data.store import index_of
from chexseg_platform.locks import alone, once
from chexseg_platform.stages.context import Context, Timer
from chexseg_platform.stages.errors import rows_of

KIND = plan.DATASET
SHARD_BYTES = 32 << 20
SHARD_IMAGES = 256
SHARDS = 16
"""Smaller sets are cut into about so many shards, for a shard is one core's work here and later."""
SHARD_LEAST = 16
DOUBLES = "rejected/doubles.parquet"
"""A part of the draft: what was left out before the images were cut into shards."""


class TooManyRejected(ValueError):
    """More inputs were unusable than `data.max_rejected` allows."""


def ingest(context: Context, data: config.Data, print_: str | None = None) -> Artifact:
    """Read an experiment's images and masks, or return the dataset that is there.

    Args:
        print_: the dataset's fingerprint, where the caller has worked it out already.

    Raises:
        BrokenTable, BrokenAnnotations, UnknownImages, PatientInTwoSplits, NoImages: before any
            image is read.
        TooManyRejected: as soon as more inputs were unusable than allowed.
    """
    print_ = print_ or plan.dataset_print(data, context.workspace)
    found = once(context.workspace, KIND, print_, partial(_ingest, context, data, print_))
    refused = sum(found.summary["rejected"].values())
    total = refused + int(found.summary["images"])
    if refused > data.max_rejected * total:
        # It was made when more were allowed.
        raise TooManyRejected(
            f"{refused} of {total} inputs cannot be used, more than data.max_rejected "
            f"({data.max_rejected:.1%}) allows; rejected.parquet of {found.uri} lists them. "
            "Mend them, or raise data.max_rejected."
        )
    return found


def _ingest(context: Context, data: config.Data, print_: str) -> Artifact:
    draft, timer = context.workspace.draft(KIND, print_), Timer()
    phantom = make_phantom(context, data, timer) if data.phantom else None
    with timer("tables"):
        entries, doubles = sources.read_entries(data, phantom)
    shards = cut(entries, data.size)
    _agree(draft, doubles, shards)
    with timer("ingest"), context.progress("ingest", len(entries), "images") as progress:
        todo = [name for name in shards if not _taken(draft, name)]
        rejected = 0
        progress.skip(len(entries) - sum(len(shards[name]) for name in todo))
        if doubles:
            progress.update(doubles_left_out=len(doubles))
        for row in _stream(context, {name: shards[name] for name in todo}, draft, data.size):
            rejected += int(row["rejected"])
            progress.update(advance=int(row["images"]), rejected=rejected)
            if rejected > data.max_rejected * len(entries):
                _stop(draft, shards, rejected, len(entries), data.max_rejected)
    return _finish(draft, shards, doubles, data, timer)


def _agree(draft: Draft, doubles: Sequence[Double], shards: Iterable[str]) -> None:
    """Forget the shards of an earlier attempt that left out other doubles.

    They decide which images are left to be cut into shards; files may have been changed since.
    """
    table = _table(double.rejection() for double in doubles)
    done = draft.done(DOUBLES)
    before = draft.so_far([done]).table(DOUBLES) if done else REJECTED.empty_table()
    if not before.equals(table):
        draft.forget(f"{kind}/{name}" for name in shards for kind in ("rejected", "index", "rows"))
        draft.forget([DOUBLES])
        draft.write(DOUBLES, table)


def _taken(draft: Draft, name: str) -> bool:
    """Whether an earlier attempt took every image of a shard.

    One that refused some reads its shard again: they may have been mended meanwhile.
    """
    refused = draft.done(f"rejected/{name}")
    if refused is None:
        return False
    if refused.rows:
        draft.forget(f"{kind}/{name}" for kind in ("rejected", "index", "rows"))
        return False
    return True


def make_phantom(context: Context, data: config.Data, timer: Timer) -> Path:
    """Draw the experiment's phantom beside the workspace's artifacts, if it is not there yet."""
    assert data.phantom is not None
    storage = context.workspace.storage
    root = Path(storage.base) if storage.local else context.cache
    folder = root / sources.phantom_folder_name(data.phantom)
    wish = data.phantom
    total = wish.train + wish.valid + wish.test
    with (
        alone(context.workspace, folder.name),
        timer("phantom"),
        context.progress("phantom", total, "images") as progress,
    ):
        write_phantom(
            folder,
            train=wish.train,
            valid=wish.valid,
            test=wish.test,
            size=wish.size,
            seed=wish.seed,
            layout=wish.layout,
            progress=lambda done, _: progress.update(done=done),
        )
    return folder


def cut(entries: Sequence[Entry], size: int) -> dict[str, Sequence[Entry]]:
    """Cut entries into shards of at most SHARD_IMAGES images and about SHARD_BYTES.

    The cut depends on number and size alone, so that a run goes on with it on any machine.
    """
    share = max(SHARD_LEAST, -(-len(entries) // SHARDS))
    images = max(1, min(SHARD_IMAGES, SHARD_BYTES // (size * size), share))
    return {
        f"{number:05d}.parquet": entries[start : start + images]
        for number, start in enumerate(range(0, len(entries), images))
    }


def _stream(context: Context, shards: dict[str, Sequence[Entry]], draft: Draft, size: int) -> Any:
    """Run shards as Ray Data tasks; yield a row for each that is written."""
    if not shards:
        return iter(())
    context.connect(wait=False)  # its own tasks ask for CPUs
    names = list(shards)
    references = {name: ray.put(list(shards[name])) for name in names}
    ds: Any = ray.data.from_items(
        [{"shard": name} for name in names], override_num_blocks=len(names)
    )
    ds = ds.map_batches(
        write_shards,
        fn_kwargs={"entries": references, "draft": draft, "size": size},
        batch_size=1,
        num_cpus=1,
    )
    return rows_of(ds)


def write_shards(
    batch: dict[str, NDArray[Any]], entries: dict[str, Any], draft: Draft, size: int
) -> dict[str, NDArray[Any]]:
    """Make the shards of a batch; a Ray Data task."""
    names = [str(name) for name in batch["shard"]]
    began = time.monotonic()
    counts = [write_shard(name, ray.get(entries[name]), draft, size) for name in names]
    return {
        "images": np.array([taken + refused for taken, refused in counts]),
        "rejected": np.array([refused for _, refused in counts]),
        "seconds": np.full(len(names), (time.monotonic() - began) / len(names)),
    }


def write_shard(name: str, entries: Sequence[Entry], draft: Draft, size: int) -> tuple[int, int]:
    """Read a shard's images and write its parts; return how many were taken and refused."""
    rows: list[ImageRow] = []
    refused: list[dict[str, str]] = []
    for entry in entries:
        try:
            rows.append(make_row(entry, size))
        except (UnreadableInput, MaskSizeError) as problem:
            refused.append(rejection(entry, problem))
    table = to_table(rows, size)
    draft.write(f"rows/{name}", table)
    draft.write(f"index/{name}", index_of(table, size))
    # Written last: its receipt says that the whole shard is done.
    draft.write(f"rejected/{name}", _table(refused))
    return len(rows), len(refused)


def _done(draft: Draft, name: str) -> Part:
    part = draft.done(name)
    assert part is not None, name
    return part


def _rejected(draft: Draft, shards: Iterable[str]) -> pa.Table:
    parts = [draft.done(f"rejected/{name}") for name in shards]
    whole = draft.so_far(parts)
    return whole.tables("rejected/") if whole.parts() else REJECTED.empty_table()


def _stop(
    draft: Draft, shards: dict[str, Sequence[Entry]], rejected: int, total: int, allowed: float
) -> None:
    """Write what was refused so far where a person finds it, and stop."""
    table = _rejected(draft, shards)
    from chexseg_platform.artifacts import table_bytes

    draft.storage.write("rejected.parquet", table_bytes(table))
    reasons = Counter(table["reason"].to_pylist())
    why = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    first = table.slice(0, 1).to_pylist()
    example = f" For example {first[0]['source']}: {first[0]['message']}" if first else ""
    raise TooManyRejected(
        f"{rejected} of {total} inputs cannot be used ({why}), more than data.max_rejected "
        f"({allowed:.1%}) allows.{example} All are listed in {draft.storage.uri}/rejected.parquet. "
        "Mend them, or raise data.max_rejected; what was read is kept."
    )


def _finish(
    draft: Draft,
    shards: dict[str, Sequence[Entry]],
    doubles: Sequence[Double],
    data: config.Data,
    timer: Timer,
) -> Artifact:
    parts = [_done(draft, f"{kind}/{name}") for kind in ("rows", "index") for name in shards]
    rejected, left = _with_copies(_rejected(draft, shards), doubles)
    parts.append(draft.write("rejected.parquet", pa.concat_tables([rejected, left])))
    index = draft.so_far(parts).tables("index/")
    if index.num_rows == 0:
        raise sources.NoImages(
            f"not one image could be read; {draft.storage.uri}/rejected.parquet says why"
        )
    return draft.finish(
        parts,
        config=json.loads(data.model_dump_json(exclude={"max_rejected"})),
        inputs={},
        summary=summarise(index, data.size, rejected, left.num_rows),
        timings=timer.seconds,
    )


def _with_copies(rejected: pa.Table, doubles: Sequence[Double]) -> tuple[pa.Table, pa.Table]:
    """Return what was refused, with the copies of what was refused, and the other copies."""
    # A `source` is one image's alone, whatever collections there are.
    refused = set(rejected["source"].to_pylist())
    lost = [double for double in doubles if double.kept.source in refused]
    left = [double for double in doubles if double.kept.source not in refused]
    copies = _table(double.rejection(stays=False) for double in lost)
    return pa.concat_tables([rejected, copies]), _table(double.rejection() for double in left)


def _table(rows: Iterable[dict[str, str]]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=REJECTED)


Drawn = Iterable[Sequence[dict[str, str]] | None]


def count_drawn(masks: Drawn) -> dict[str, int]:
    """Count how many images have a mask of each structure, the most frequent first."""
    return dict(Counter(item["finding"] for drawn in masks for item in drawn or []).most_common())


def count_shown(masks: Drawn) -> dict[str, int]:
    """Count likewise on how many images there is something of each structure.

    A mask of zeros says that it was looked for and is not there.
    """
    return count_drawn(
        [item for item in drawn or [] if not _empty(item["counts"])] for drawn in masks
    )


def _empty(counts: str) -> bool:
    """Whether a mask is one run of background; only short ones can be."""
    return len(counts) <= MAX_CHARACTERS_PER_RUN and len(run_lengths(counts)) == 1


def summarise(index: pa.Table, size: int, rejected: pa.Table, doubles: int) -> dict[str, Any]:
    """Count a dataset: images, patients, experts and labels a split, and what was refused.

    Copies left out are counted by themselves: they were expected, and nothing is amiss.
    """
    splits = {}
    for split in sorted(set(index["split"].to_pylist())):
        rows = index.filter(pc.equal(index["split"], split))
        drawn = pc.greater(pc.fill_null(pc.list_value_length(rows["masks"]), 0), 0)
        splits[split] = {
            "images": rows.num_rows,
            "patients": pc.count_distinct(rows["patient"]).as_py(),
            "expert images": pc.sum(drawn).as_py(),
            "drawn": count_drawn(rows["masks"].to_pylist()),
            "shown": count_shown(rows["masks"].to_pylist()),
            "labels": sources.count_labels(rows["labels"].to_pylist()),
        }
    return {
        "size": size,
        "images": index.num_rows,
        "splits": splits,
        "rejected": dict(Counter(rejected["reason"].to_pylist())),
        "doubles": doubles,
    }
