"""The comparison: counts of every method reduced to tables and pictures, as one artifact."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from chexseg_platform import config, overlays, plan, plots
from chexseg_platform.artifacts import Artifact, Draft, Part
from chexseg_platform.data import geometry, masks
from chexseg_platform.data.store import index_part
from chexseg_platform.evaluation import tables
from chexseg_platform.evaluation.calibration import calibrations
from chexseg_platform.evaluation.comparison import (
    PSEUDO_LABELS,
    Comparison,
    compare,
    roles_among,
)
from chexseg_platform.evaluation.counts import CountCube, cube
from chexseg_platform.evaluation.folder import comparison_files
from chexseg_platform.stages.context import Context, Timer
from chexseg_platform.stages.evaluate import counts_of

KIND = plan.COMPARISON
GATED = (
    f"{PSEUDO_LABELS} were cut with the images' labels at hand, so they know which findings are "
    "there; trained methods see the image alone."
)


def compare_methods(
    context: Context,
    experiment: config.Experiment,
    print_: str,
    evaluations: Sequence[Artifact],
    segmenters: Sequence[tuple[str, int, Artifact]],
    dataset: Artifact,
) -> Artifact:
    """Reduce evaluations to the comparison artifact, or return the one that is there."""
    found = context.workspace.find(KIND, print_)
    if found is not None:
        return found
    timer, settings = Timer(), experiment.evaluation
    with timer("compare"):
        table = counts_of(evaluations)
        whole = cube(table)
        result = compare(
            whole,
            roles=roles_among(list(experiment.arms)),
            cluster=settings.cluster,
            resamples=settings.resamples,
            seed=settings.seed,
        )
        if experiment.saliency.gate in ("label", "both"):
            result = replace(result, notes=(*result.notes, GATED))
        draft = context.workspace.draft(KIND, print_)
        parts = [
            draft.write("counts.parquet", table),
            *(draft.write(name, content) for name, content in comparison_files(result)),
            draft.write("curves.png", plots.png(_curves(segmenters))),
            *_calibration(draft, counts_of(evaluations, "calibration"), settings),
        ]
        if settings.overlays:
            sheet = overlay_sheet(whole, result, evaluations, dataset, settings.overlays)
            parts.append(draft.write("overlays.png", plots.png(sheet)))
    return draft.finish(
        parts,
        config=settings.model_dump(),
        inputs={f"evaluation {e.fingerprint[:8]}": e.fingerprint for e in evaluations},
        seed=settings.seed,
        summary=headline(result),
        timings=timer.seconds,
    )


def _calibration(draft: Draft, table: pa.Table, settings: config.Evaluation) -> list[Part]:
    """Write the calibration's counts, curves and errors; nothing without probabilities."""
    if table.num_rows == 0:
        return []
    found = calibrations(table, resamples=settings.resamples, seed=settings.seed)
    return [
        draft.write("calibration.parquet", table),
        draft.write_json("calibration.json", [tables.plain(asdict(item)) for item in found]),
        draft.write("calibration.txt", tables.calibration_text(found).encode()),
        draft.write("calibration.png", plots.png(plots.reliability(found))),
    ]


def headline(result: Comparison) -> dict[str, Any]:
    """Return mean scores and their intervals of every method, for browsing without opening."""
    scores = {}
    for metric, by_method in result.scores.items():
        for method, score in by_method.items():
            mean = score.findings[-1]
            scores[f"{metric} {method}"] = None if np.isnan(mean.value) else mean.value
    gaps = {
        f"gap closed {m}": None if np.isnan(e.value) else e.value
        for m, e in result.gap_closed.items()
    }
    return {"images": result.images, "patients": result.patients, **scores, **gaps}


def _curves(segmenters: Sequence[tuple[str, int, Artifact]]) -> Any:
    """Loss and validation mIoU of every training, a line each."""
    loss: dict[str, tuple[list[float], list[float]]] = {}
    miou: dict[str, tuple[list[float], list[float]]] = {}
    for arm, seed, artifact in segmenters:
        history = json.loads(artifact.read("history.json"))
        name = f"{arm}, seed {seed}" if len(segmenters) <= 8 else arm
        if name in loss:
            continue
        epochs = [row["epoch"] for row in history]
        loss[name] = (epochs, [row["loss"] for row in history])
        if any("miou" in row for row in history):
            miou[name] = (epochs, [row.get("miou", np.nan) for row in history])
    series = {"training loss": loss} | ({"validation mIoU": miou} if miou else {})
    return plots.curves(series, title="Segmenters")


def overlay_sheet(
    whole: CountCube,
    result: Comparison,
    evaluations: Sequence[Artifact],
    dataset: Artifact,
    count: int,
) -> Any:
    """Draw cases from best to worst under the proposed method, evenly spaced in rank."""
    chosen = cases(whole, result.roles.proposed, count)
    pictures = _images(dataset, [image_id for image_id, _, _ in chosen])
    shown = first_of_each(evaluations)
    predicted = {name: e.tables("predictions/") for name, e in shown.items()}
    rows = []
    for image_id, finding, score in chosen:
        image, box, truth = pictures[image_id]
        drawn = {
            method: _small(table, image_id, finding, box) for method, table in predicted.items()
        }
        expert = masks.decode(truth[finding], box.size, box.size)
        title = f"{finding}\nIoU {score:.2f}  {image_id.split('_')[0]}"
        rows.append(overlays.Case(title, image, expert, drawn))
    return overlays.contact_sheet(
        rows, title=f"From best to worst IoU of {result.roles.proposed}, evenly spaced in rank"
    )


def first_of_each(evaluations: Sequence[Artifact]) -> dict[str, Artifact]:
    """Return one evaluation a method, in their order: that of its first seed."""
    first: dict[str, Artifact] = {}
    for evaluation in evaluations:
        first.setdefault(str(evaluation.summary["method"]), evaluation)
    return first


def cases(whole: CountCube, method: str, count: int) -> list[tuple[str, str, float]]:
    """Choose (image, finding, IoU) evenly spaced in rank of a method's IoU where truth is drawn."""
    run = next((i for i, (name, _) in enumerate(whole.runs) if name == method), 0)
    union = whole.truth[run] + whole.prediction[run] - whole.intersection[run]
    drawn = np.argwhere(whole.known[run] & (whole.truth[run] > 0))
    if not len(drawn):
        return []
    iou = whole.intersection[run][tuple(drawn.T)] / union[tuple(drawn.T)]
    order = np.argsort(-iou, kind="stable")
    places = np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))
    return [
        (whole.image_ids[drawn[i][0]], whole.findings[drawn[i][1]], float(iou[i]))
        for i in order[places]
    ]


Picture = tuple[NDArray[np.uint8], geometry.Letterbox, dict[str, str]]


def _images(dataset: Artifact, wanted: Sequence[str]) -> dict[str, Picture]:
    """Read some images in their frame, with their boxes and small expert masks."""
    size, found = int(dataset.summary["size"]), dict[str, Picture]()
    ids = pa.array(list(wanted), pa.string())
    for part in dataset.parts("rows/"):
        columns = ["image_id", "height", "width", "small_masks"]
        index = index_part(dataset, part.name, columns)
        mine = pc.is_in(index["image_id"], ids)
        if not pc.any(mine).as_py():
            continue
        images = dataset.table(part.name, ["image"]).filter(mine)["image"].to_pylist()
        for row, pixels in zip(index.filter(mine).to_pylist(), images, strict=True):
            image = np.frombuffer(pixels, np.uint8).reshape(size, size)
            box = geometry.Letterbox(row["height"], row["width"], size)
            truth = {item["finding"]: item["counts"] for item in row["small_masks"] or []}
            found[row["image_id"]] = (image, box, truth)
    return found


def _small(
    table: pa.Table, image_id: str, finding: str, box: geometry.Letterbox
) -> NDArray[np.bool_]:
    rows = table.filter(
        pc.and_(pc.equal(table["image_id"], image_id), pc.equal(table["finding"], finding))
    )
    counts = rows["counts"][0].as_py() if rows.num_rows else None
    if counts is None:
        return np.zeros((box.size, box.size), dtype=bool)
    return geometry.letterbox_mask(masks.decode(counts, box.height, box.width), box)
