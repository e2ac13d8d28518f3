"""Choosing among the points of a sweep: on the held validation patients, at original resolution."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from chexseg_platform import plan
from chexseg_platform.artifacts import Artifact
from chexseg_platform.config import Experiment
from chexseg_platform.evaluation.bootstrap import Estimate
from chexseg_platform.evaluation.comparison import Comparison, Roles, compare
from chexseg_platform.evaluation.counts import cube
from chexseg_platform.points import Trial
from chexseg_platform.stages import evaluate
from chexseg_platform.stages.context import Context
from chexseg_platform.stages.segment import Inputs
from chexseg_platform.stages.tune import Outcome

METRIC = "iou_pooled"


def compare_points(
    context: Context, experiment: Experiment, finished: Sequence[Outcome[Trial]], inputs: Inputs
) -> Comparison:
    """Compare the points of a sweep on the held validation patients, at original resolution."""
    segmenters = [
        evaluate.Method(o.trial.point, o.trial.training.seed, found)
        for o in finished
        if (found := context.workspace.find(plan.SEGMENTER, o.trial.print_))
    ]
    evaluations = evaluate.evaluate(context, segmenters, inputs.dataset, "valid")
    counts = evaluate.counts_of(evaluations)
    held = pa.array(inputs.experts.held, pa.string())
    counts = counts.filter(pc.is_in(counts["patient"], held))
    settings = experiment.evaluation
    return compare(
        cube(counts),
        roles=Roles(proposed="", references=()),
        metrics=[METRIC, "iou_union"],
        cluster=settings.cluster,
        resamples=settings.resamples,
        seed=settings.seed,
    )


def means(result: Comparison) -> dict[str, Estimate]:
    """Return each point's mean pooled mIoU with its interval."""
    return {name: score.findings[-1] for name, score in result.scores[METRIC].items()}


def winner_of(result: Comparison) -> str:
    """Return the point with the highest mean; the first of those that tie.

    Only points of which as many seeds were trained to the end as of any: where a scheduler stops
    the poorer seeds of a point, those that are left flatter it.
    """
    most = max(len(seeds) for seeds in result.seeds.values())
    scores = {name: mean for name, mean in means(result).items() if len(result.seeds[name]) == most}
    return max(scores, key=lambda name: scores[name].value)


def scores_by_seed(
    context: Context, finished: Sequence[Outcome[Trial]]
) -> dict[str, list[tuple[int, float]]]:
    """Return each point's best validation score per seed, as its trainings reported it."""
    scores: dict[str, list[tuple[int, float]]] = {}
    for outcome in finished:
        artifact: Artifact | None = context.workspace.find(plan.SEGMENTER, outcome.trial.print_)
        if artifact is not None:
            score = float(artifact.summary["best"]["score"])
            scores.setdefault(outcome.trial.point, []).append((outcome.trial.training.seed, score))
    return scores
