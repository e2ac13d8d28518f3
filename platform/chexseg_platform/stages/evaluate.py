"""Counting predictions against experts at original resolution, on Ray Data.

Each method (a segmenter, the pseudo-labels, the second readers) gives one artifact of counts and
predictions; a comparison is a reduction of such artifacts and never touches masks again.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from chexseg_platform import plan
from chexseg_platform.artifacts import Artifact, Draft, Part
from chexseg_platform.cluster import Supply
from chexseg_platform.data.store import index_part
from chexseg_platform.evaluation.comparison import PSEUDO_LABELS, RADIOLOGISTS
from chexseg_platform.evaluation.counts import SCHEMA as COUNTS
from chexseg_platform.evaluation.methods import COLUMNS, Method, Predictor, count_rows
from chexseg_platform.evaluation.predictions import PredictedImage, write_predictions
from chexseg_platform.findings import FINDINGS
from chexseg_platform.locks import making
from chexseg_platform.stages.context import Context, Timer
from chexseg_platform.stages.pools import pooled

KIND = plan.EVALUATION


def print_of(method: Method, dataset: Artifact, split: str) -> str:
    """Return the fingerprint of a method's counts."""
    source = method.source.fingerprint if method.source else plan.READERS
    return plan.evaluation_print(method.name, method.seed, source, dataset.fingerprint, split)


def evaluate(
    context: Context, methods: Sequence[Method], dataset: Artifact, split: str
) -> list[Artifact]:
    """Count every method on a split; those that were counted before are returned as they are."""
    prints = {print_of(method, dataset, split): method for method in methods}
    with making(context.workspace, KIND, prints) as missing:
        if missing:
            todo = {print_: method for print_, method in prints.items() if print_ in missing}
            _count(context, todo, dataset, split)
    found = [context.workspace.find(KIND, print_) for print_ in prints]
    return [artifact for artifact in found if artifact is not None]


def _count(context: Context, todo: Mapping[str, Method], dataset: Artifact, split: str) -> None:
    shards = [part.name for part in dataset.parts("rows/") if _holds(dataset, part, split)]
    drafts = {print_: context.workspace.draft(KIND, print_) for print_ in todo}
    jobs = [
        {"print": print_, "shard": shard}
        for print_ in todo
        for shard in shards
        if drafts[print_].done(_outputs(shard)[-1]) is None
    ]
    supply, timer = context.connect(), Timer()
    total = len(todo) * len(shards)
    with timer("evaluate"), context.progress("evaluate", total, "shards") as progress:
        progress.skip(total - len(jobs))
        for _ in _stream(jobs, todo, drafts, dataset, split, context, supply):
            progress.update(advance=1)
    for print_, method in todo.items():
        _publish(drafts[print_], method, dataset, split, shards, timer)


def _holds(dataset: Artifact, part: Part, split: str) -> bool:
    index = index_part(dataset, part.name, ["split"])
    return bool(pc.any(pc.equal(index["split"], split)).as_py())


def _outputs(shard: str) -> tuple[str, ...]:
    """Names of a shard's parts, in the order of `Counted`; the last tells that all are there."""
    number = shard.rpartition("/")[2]
    return f"counts/{number}", f"calibration/{number}", f"predictions/{number}"


def _stream(
    jobs: Sequence[Mapping[str, str]],
    todo: Mapping[str, Method],
    drafts: Mapping[str, Draft],
    dataset: Artifact,
    split: str,
    context: Context,
    supply: Supply,
) -> Iterator[Any]:
    workers = max(1, min(int(supply.gpus or supply.cpus), len(jobs)))
    arguments = {
        "methods": dict(todo),
        "drafts": dict(drafts),
        "dataset": dataset,
        "split": split,
        "threads": max(1, int(supply.cpus // workers)),
    }
    gpus = 1.0 if supply.gpus else 0.0
    return pooled(jobs, CountShards, arguments, workers=workers, cpus=0.5, gpus=gpus)


class CountShards:
    """An actor: (method, shard) in; counts and predictions written, a receipt out."""

    def __init__(
        self,
        methods: dict[str, Method],
        drafts: dict[str, Draft],
        dataset: Artifact,
        split: str,
        threads: int,
    ) -> None:
        torch.set_num_threads(threads)
        self.methods, self.drafts, self.dataset, self.split = methods, drafts, dataset, split
        self.predictor: tuple[str, Predictor] | None = None

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        for print_, shard in zip(batch["print"], batch["shard"], strict=True):
            self._one(str(print_), str(shard))
        return {"shard": batch["shard"]}

    def _one(self, print_: str, shard: str) -> None:
        if self.predictor is None or self.predictor[0] != print_:
            self.predictor = (print_, Predictor(self.methods[print_], self.dataset))
        table = self.dataset.table(shard, COLUMNS)
        small = index_part(self.dataset, shard, ["small_masks"])["small_masks"]
        table = table.append_column("small_masks", small)
        table = table.filter(pc.equal(table["split"], self.split))
        found = count_rows(self.predictor[1], table, shard.rpartition("/")[2], self.split)
        for name, made in zip(_outputs(shard), found, strict=True):
            self.drafts[print_].write(name, made)


def _publish(
    draft: Draft,
    method: Method,
    dataset: Artifact,
    split: str,
    shards: Sequence[str],
    timer: Timer,
) -> Artifact:
    found = [draft.done(name) for shard in shards for name in _outputs(shard)]
    parts = [part for part in found if part is not None]
    whole = draft.so_far(parts)
    if whole.parts("predictions/"):
        table = whole.tables("predictions/")
        if covers_findings(table):
            parts.append(draft.write("predictions.json", chexlocalize_json(table)))
    inputs = {"dataset": dataset.fingerprint}
    if method.source:
        inputs[method.source.kind] = method.source.fingerprint
    counted = whole.tables("counts/") if whole.parts("counts/") else COUNTS.empty_table()
    return draft.finish(
        parts,
        config={"method": method.name, "split": split},
        inputs=inputs,
        seed=method.seed,
        summary={"method": method.name, "seed": method.seed, "rows": counted.num_rows},
        timings=timer.seconds,
    )


def covers_findings(table: pa.Table) -> bool:
    """Whether predictions say something of all ten findings, as CheXlocalize's scripts expect."""
    return not table.num_rows or set(FINDINGS) <= set(table["finding"].unique().to_pylist())


def chexlocalize_json(table: pa.Table) -> bytes:
    """Return predictions in CheXlocalize's own JSON, for its public scripts.

    Args:
        table: `PREDICTIONS`; classes besides the ten findings are left out.
    """
    stream = io.StringIO()
    wanted = pc.is_in(table["finding"], pa.array(FINDINGS))
    write_predictions(stream, _images(table.filter(wanted)))
    return stream.getvalue().encode()


def _images(table: pa.Table) -> Iterator[PredictedImage]:
    rows = table.to_pylist()
    for start in range(0, len(rows), len(FINDINGS)):
        some = rows[start : start + len(FINDINGS)]
        first = some[0]
        drawn = {row["finding"]: row["counts"] for row in some if row["counts"] is not None}
        yield PredictedImage(first["image_id"], first["height"], first["width"], drawn)


def methods_of(
    segmenters: Sequence[tuple[str, int, Artifact]], pseudolabels: Artifact, benchmark: bool
) -> list[Method]:
    """Return every method of an experiment: its segmenters, its pseudo-labels and the readers."""
    methods = [Method(arm, seed, artifact) for arm, seed, artifact in segmenters]
    methods.append(Method(PSEUDO_LABELS, 0, pseudolabels))
    if benchmark:
        methods.append(Method(RADIOLOGISTS, 0, None))
    return methods


def counts_of(evaluations: Sequence[Artifact], of: str = "counts") -> pa.Table:
    """Return the counts, or the calibration, of several methods as one table."""
    return pa.concat_tables([evaluation.tables(f"{of}/") for evaluation in evaluations])
