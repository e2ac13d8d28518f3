"""Saliency methods side by side: which one lies where the experts drew, measured before it is used.

Every method explains the validation images with the same classifiers; its masks and peaks are
counted against the experts' as any method's are, so hit rate and IoU come with intervals over
patients and with paired differences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import pyarrow as pa
import pyarrow.compute as pc

from chexseg_platform.artifacts import Artifact
from chexseg_platform.config import Experiment, SaliencyMethod
from chexseg_platform.evaluation import tables
from chexseg_platform.evaluation.comparison import Comparison, Roles, compare
from chexseg_platform.evaluation.counts import cube
from chexseg_platform.evaluation.methods import Method
from chexseg_platform.stages import evaluate
from chexseg_platform.stages.context import Context

SPLIT = "valid"
REFINED = "+irnet"
NAMES = tuple(get_args(SaliencyMethod))


class UnknownMethod(ValueError):
    """A name that is no saliency method."""


def parse(text: str) -> list[str]:
    """Return the methods that a comma-separated list names, each once.

    Raises:
        UnknownMethod: naming the first that is none, and those that there are.
    """
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names or [text]:
        if name.removesuffix(REFINED) not in NAMES:
            raise UnknownMethod(
                f"{name!r} is no saliency method; there are {', '.join(NAMES)}, and each with "
                f"{REFINED} after it to refine its maps"
            )
    return names


def variant(experiment: Experiment, name: str) -> Experiment:
    """Return the experiment that explains the validation images by a method and nothing else."""
    fields = {
        "saliency.method": name.removesuffix(REFINED),
        "saliency.refine": "irnet" if name.endswith(REFINED) else "none",
        "saliency.splits": [SPLIT],
        "saliency.maps": "none",
    }
    return experiment.variant(fields)


def compare_methods(
    context: Context,
    experiment: Experiment,
    dataset: Artifact,
    made: Mapping[str, Artifact],
    held: Sequence[str] = (),
) -> Comparison:
    """Count the methods' pseudo-labels of the validation images; the first is the proposed one.

    Args:
        made: method -> pseudo-labels.
        held: patients on whose masks `threshold: tuned` was tuned; left out where it was.
    """
    methods = [Method(name, 0, pseudolabels) for name, pseudolabels in made.items()]
    evaluations = evaluate.evaluate(context, methods, dataset, SPLIT)
    first, *others = made
    settings, counts = experiment.evaluation, evaluate.counts_of(evaluations)
    if experiment.saliency.threshold == "tuned":
        tuned_on = pc.is_in(counts["patient"], pa.array(held, pa.string()))
        counts = counts.filter(pc.invert(tuned_on))
    return compare(
        cube(counts),
        roles=Roles(proposed=first, references=tuple(others)),
        cluster=settings.cluster,
        resamples=settings.resamples,
        seed=settings.seed,
    )


def render(comparison: Comparison, made: Mapping[str, Artifact]) -> str:
    """Return the comparison as a person reads it, with what each method cost."""
    rows = [[name, _rate(pseudolabels)] for name, pseudolabels in made.items()]
    speed = tables.grid(["Method", "images/s"], rows)
    return "\n".join([tables.text(comparison), "Start-up and loading included:", *speed, ""])


def rows_of(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the comparison as rows for a CSV file."""
    return tables.csv_rows(comparison)


def _rate(pseudolabels: Artifact) -> str:
    seconds = pseudolabels.manifest["timings"].get("explain", 0.0)
    return f"{pseudolabels.summary['images'] / seconds:.3g}" if seconds else "–"


def summary_line(comparison: Comparison, names: Sequence[str]) -> str:
    """Say which method has the best pooled IoU, and how to use it."""
    means = {name: comparison.scores["iou_pooled"][name].findings[-1].value for name in names}
    best = max(means, key=lambda name: means[name])
    refine = " --set saliency.refine=irnet" if best.endswith(REFINED) else ""
    return (
        f"The best pooled mIoU on validation has {best}: use it with "
        f"--set saliency.method={best.removesuffix(REFINED)}{refine}"
    )
