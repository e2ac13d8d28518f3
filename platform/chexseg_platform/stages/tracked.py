"""The stages up to the pseudo-labels, each with its run in the tracking store and its sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chexseg_platform import plan
from chexseg_platform.artifacts import Artifact
from chexseg_platform.config import Experiment
from chexseg_platform.stages import records
from chexseg_platform.stages.classify import classify
from chexseg_platform.stages.context import Context
from chexseg_platform.stages.explain import explain
from chexseg_platform.stages.explained import describe_localization, describe_peaks
from chexseg_platform.stages.ingest import ingest
from chexseg_platform.stages.refine import make_boundary
from chexseg_platform.stages.segment import Experts, experts_of
from chexseg_platform.tracking import RunRef

Say = Callable[[str], None]


@dataclass(frozen=True)
class Tracked:
    """Where stages work, the run that theirs belong to, and who is told how they end."""

    context: Context
    run: RunRef
    say: Say


def ingest_tracked(at: Tracked, experiment: Experiment) -> tuple[Artifact, Experts]:
    """Make the dataset, and decide which expert patients are held for validation."""
    print_ = plan.dataset_print(experiment.data, at.context.workspace)
    run = records.stage_run(at.run, "ingest", print_)
    dataset = ingest(at.context, experiment.data, print_)
    records.finish_dataset(run, dataset)
    experts = experts_of(dataset, experiment.segmenter.expert_validation, experiment.seed)
    at.say(describe_dataset(dataset, experts))
    return dataset, experts


def classify_tracked(at: Tracked, experiment: Experiment, dataset: Artifact) -> list[Artifact]:
    """Train the classifiers that are explained, with their curves."""
    return [_classify(at, member, dataset) for member in experiment.members]


def _classify(at: Tracked, experiment: Experiment, dataset: Artifact) -> Artifact:
    print_ = plan.classifier_print(experiment, dataset.fingerprint)
    run = records.stage_run(at.run, "classify", print_)
    classifier = classify(at.context, experiment, dataset, lambda note: records.log_note(run, note))
    records.finish(run, classifier)
    at.say(describe_classifier(classifier))
    return classifier


def _refine(
    at: Tracked, experiment: Experiment, dataset: Artifact, classifiers: Sequence[Artifact]
) -> Artifact:
    """Train IRNet's boundary network, with its curves."""
    prints = [classifier.fingerprint for classifier in classifiers]
    print_ = plan.boundary_print(experiment, dataset.fingerprint, prints)
    run = records.stage_run(at.run, "irnet", print_)
    boundary = make_boundary(
        at.context, experiment, dataset, classifiers, lambda note: records.log_note(run, note)
    )
    records.finish(run, boundary)
    return boundary


def explain_tracked(
    at: Tracked,
    experiment: Experiment,
    dataset: Artifact,
    classifiers: Sequence[Artifact],
    experts: Experts,
) -> Artifact:
    """Make the pseudo-labels, with their page of maps."""
    prints = [classifier.fingerprint for classifier in classifiers]
    boundary = None
    if experiment.saliency.refine == "irnet":
        boundary = _refine(at, experiment, dataset, classifiers)
    print_ = plan.pseudolabels_print(experiment, dataset.fingerprint, prints)
    run = records.stage_run(at.run, "explain", print_)
    pseudolabels = explain(at.context, experiment, dataset, classifiers, experts.held, boundary)
    records.finish_pseudolabels(run, pseudolabels)
    at.say(describe_pseudolabels(pseudolabels))
    return pseudolabels


def describe_dataset(dataset: Artifact, experts: Experts) -> str:
    """Say in a line or two what the dataset holds."""
    summary = dataset.summary
    splits = ", ".join(
        f"{name} {s['images']:,} images of {s['patients']:,} patients"
        for name, s in summary["splits"].items()
    )
    return (
        f"dataset  {splits} at {summary['size']} px{left_out(dataset)}\n"
        f"         expert masks: {len(experts.train)} images to learn from, "
        f"{len(experts.valid)} held for validation"
    )


def left_out(dataset: Artifact) -> str:
    """Say how many inputs a dataset has not; empty where it has all."""
    rejected = sum(dataset.summary["rejected"].values())
    doubles = dataset.summary.get("doubles", 0)  # datasets of earlier versions do not say
    said = [f"; {rejected} rejected"] if rejected else []
    said += [f"; {doubles} left out that are there twice"] if doubles else []
    return f"{''.join(said)}, see rejected.parquet" if said else ""


def describe_classifier(classifier: Artifact) -> str:
    """Say in a line how good the classifier is on validation."""
    best = classifier.summary["best"]
    auroc = best.get("auroc competition")
    found = (
        f"AUROC {auroc:.3f} (mean of five)" if auroc is not None else "no AUROC could be measured"
    )
    return f"classifier  {classifier.summary['checkpoints']} checkpoints, the best: {found}"


def describe_pseudolabels(pseudolabels: Artifact) -> str:
    """Say in a line or two how many masks there are, and where saliency peaks."""
    masks = sum(pseudolabels.summary["masks"].values())
    made = f"pseudo-labels  {masks:,} masks on {pseudolabels.summary['images']:,} images"
    peaks = describe_peaks(pseudolabels.summary)
    located = describe_localization(pseudolabels.summary)
    told = [made, *(part for part in (peaks, *located.splitlines()) if part)]
    return "\n               ".join(told)
