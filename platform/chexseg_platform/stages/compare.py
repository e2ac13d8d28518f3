"""The comparison: counts of every method reduced to tables and pictures, as one artifact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pyarrow as pa

from chexseg_platform import config, overlays, plan, plots
from chexseg_platform.artifacts import Artifact, Draft, Part
from chexseg_platform.data import masks
from chexseg_platform.data.pictures import framed_mask, pictures_of
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
        summary={"experiment": experiment.name, **headline(result)},
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
    histories = [(arm, seed, item.json("history.json")) for arm, seed, item in segmenters]
    return plots.curves(plots.training_series(histories), title="Segmenters")


def overlay_sheet(
    whole: CountCube,
    result: Comparison,
    evaluations: Sequence[Artifact],
    dataset: Artifact,
    count: int,
) -> Any:
    """Draw cases from best to worst under the proposed method, evenly spaced in rank."""
    chosen = cases(whole, result.roles.proposed, count)
    pictures = pictures_of(dataset, [image_id for image_id, _, _ in chosen])
    shown = first_of_each(evaluations)
    predicted = {name: e.tables("predictions/") for name, e in shown.items()}
    rows = []
    for image_id, finding, score in chosen:
        seen = pictures[image_id]
        drawn = {
            method: framed_mask(table, image_id, finding, seen.box)
            for method, table in predicted.items()
        }
        expert = masks.decode(seen.truth[finding], seen.box.size, seen.box.size)
        title = f"{finding}\nIoU {score:.2f}  {image_id.split('_')[0]}"
        rows.append(overlays.Case(title, seen.image, expert, drawn))
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
