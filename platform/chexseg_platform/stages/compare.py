"""The comparison: counts of every method reduced to tables and pictures, as one artifact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from chexseg_platform import config, overlays, plan, plots
from chexseg_platform.artifacts import Artifact, csv_bytes
from chexseg_platform.data import masks
from chexseg_platform.data.pictures import framed_mask, pictures_of
from chexseg_platform.evaluation import tables
from chexseg_platform.evaluation.comparison import (
    EXPERT_ONLY,
    MIX,
    PSEUDO_LABELS,
    PSEUDO_ONLY,
    RADIOLOGISTS,
    Comparison,
    Roles,
    compare,
)
from chexseg_platform.evaluation.counts import CountCube, cube
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
            roles=roles_of(experiment),
            cluster=settings.cluster,
            resamples=settings.resamples,
            seed=settings.seed,
        )
        if experiment.saliency.gate in ("label", "both"):
            result = replace(result, notes=(*result.notes, GATED))
        draft = context.workspace.draft(KIND, print_)
        parts = [
            draft.write("counts.parquet", table),
            draft.write("comparison.txt", tables.text(result).encode()),
            draft.write("comparison.md", tables.markdown(result).encode()),
            draft.write_json("comparison.json", tables.to_json(result)),
            draft.write("comparison.csv", csv_bytes(tables.csv_rows(result))),
            draft.write("forest.png", plots.png(plots.forest(result))),
            draft.write("curves.png", plots.png(_curves(segmenters))),
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


def roles_of(experiment: config.Experiment) -> Roles:
    """Which arm is compared with the rest: `mix`, if there is one, else the last."""
    arms = list(experiment.arms)
    proposed = MIX if MIX in arms else arms[-1]
    weak = PSEUDO_ONLY if PSEUDO_ONLY in arms else PSEUDO_LABELS
    others = [arm for arm in arms if arm != proposed]
    first = [arm for arm in (EXPERT_ONLY, PSEUDO_ONLY) if arm in others]
    rest = [arm for arm in others if arm not in first]
    references = (*first, *rest, PSEUDO_LABELS, RADIOLOGISTS)
    return Roles(proposed=proposed, references=references, weak=weak)


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
