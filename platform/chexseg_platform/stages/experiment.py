"""A whole experiment: every stage in order, what is finished skipped, everything tracked.

The driver alone speaks to the tracking store; `records.py` says what it is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from chexseg_platform import plan
from chexseg_platform.artifacts import Artifact, csv_bytes, fingerprint
from chexseg_platform.config import Experiment
from chexseg_platform.plan import Plan, Training
from chexseg_platform.stages import evaluate, records
from chexseg_platform.stages import methods as saliency_methods
from chexseg_platform.stages.compare import compare_methods
from chexseg_platform.stages.context import Context
from chexseg_platform.stages.explain import Models, draw_pages
from chexseg_platform.stages.orders import Order
from chexseg_platform.stages.pretrain import pretrain_tracked
from chexseg_platform.stages.report import report_of_run
from chexseg_platform.stages.segment import Experts, Inputs, segment
from chexseg_platform.stages.tracked import (
    Say,
    Tracked,
    classify_tracked,
    explain_tracked,
    ingest_tracked,
)
from chexseg_platform.starts import family_of
from chexseg_platform.tracking import RunRef, Tracker


@dataclass(frozen=True)
class Made:
    """The artifacts of an experiment, as far as it went."""

    dataset: Artifact
    classifiers: Sequence[Artifact]
    pseudolabels: Artifact
    experts: Experts
    pretrained: Mapping[str, Artifact] = field(default_factory=dict)

    @property
    def inputs(self) -> Inputs:
        return Inputs(
            self.dataset, self.pseudolabels, self.classifiers[0], self.experts, self.pretrained
        )


def prepare(at: Tracked, experiment: Experiment, starts: Iterable[str]) -> Made:
    """Run the stages that every comparison and sweep starts from: dataset to pseudo-labels.

    Args:
        starts: `segmenter.init` of all that will be trained; what they start from is pre-trained.
    """
    dataset, experts = ingest_tracked(at, experiment)
    # Before hours go into a classifier: are there as many expert masks as the arms ask for?
    for training in plan.trainings(experiment):
        if training.settings.expert_probability > 0:
            experts.choose(training.settings.expert_masks, training.seed)
    classifiers = classify_tracked(at, experiment, dataset)
    pseudolabels = explain_tracked(at, experiment, dataset, classifiers, experts)
    families = dict.fromkeys(family for start in starts if (family := family_of(start)))
    pretrained = {
        family: pretrain_tracked(at, experiment, family, dataset, experts).segmenter
        for family in families
    }
    return Made(dataset, classifiers, pseudolabels, experts, pretrained)


def run(
    context: Context, experiment: Experiment, chain: Plan, tracker: Tracker, say: Say
) -> Artifact:
    """Run an experiment to its comparison.

    Args:
        chain: `Plan.of(experiment)`.
        tracker: open; an error ends its runs as failed.
        say: prints a line for a person.
    """
    parent = records.top_run(tracker, experiment, chain.comparison)
    trainings = [training for training, _ in chain.segmenters]
    starts = [training.settings.init for training in trainings]
    made = prepare(Tracked(context, parent, say), experiment, starts)
    segmenters = train(context, experiment, trainings, made, parent)
    evaluations = _evaluate(context, experiment, made, trainings, segmenters, parent)
    named = [(t.arm, t.seed, a) for t, a in zip(trainings, segmenters, strict=True)]
    run_ = records.stage_run(parent, "compare", chain.comparison)
    comparison = compare_methods(
        context, experiment, chain.comparison, evaluations, named, made.dataset
    )
    records.finish_comparison(run_, parent, experiment, comparison)
    report_of_run(context, experiment.name, comparison, parent, say)
    parent.finish()
    return comparison


def run_explain(
    context: Context,
    experiment: Experiment,
    chain: Plan,
    tracker: Tracker,
    say: Say,
    *,
    pages: int = 0,
    methods: Sequence[str] = (),
) -> Artifact | None:
    """Run an experiment up to its pseudo-labels, or compare saliency methods on validation.

    Args:
        pages: how many pages of maps to draw besides, into the workspace and the explain run.
        methods: what to compare (`methods.parse`); then no pseudo-labels but these are made.
    """
    parent = records.top_run(tracker, experiment, chain.comparison)
    at = Tracked(context, parent, say)
    dataset, experts = ingest_tracked(at, experiment)
    classifiers = classify_tracked(at, experiment, dataset)

    def explained(wish: Experiment) -> Artifact:
        made = explain_tracked(at, wish, dataset, classifiers, experts)
        if pages:
            models = Models(wish.saliency, tuple(classifiers), _boundary_of(context, made))
            _look(at, models, dataset, made, pages)
        return made

    found = None if methods else explained(experiment)
    if methods:
        made = {}
        for name in methods:
            say(f"{name}:")
            made[name] = explained(saliency_methods.variant(experiment, name))
        _tell_methods(at, experiment, dataset, made, experts.held)
    parent.finish()
    return found


def _boundary_of(context: Context, pseudolabels: Artifact) -> Artifact | None:
    print_ = pseudolabels.manifest["inputs"].get(plan.BOUNDARY)
    return context.workspace.find(plan.BOUNDARY, print_) if print_ else None


def _look(
    at: Tracked, models: Models, dataset: Artifact, pseudolabels: Artifact, pages: int
) -> None:
    """Draw pages of maps into the workspace and into the run of the pseudo-labels."""
    run = records.stage_run(at.run, "explain", pseudolabels.fingerprint)
    at.context.connect()  # pseudo-labels that were there have not needed it
    drawn = draw_pages(at.context, models, dataset, pseudolabels, pages)
    storage = at.context.workspace.storage.join(f"pages/{pseudolabels.fingerprint}")
    for number, page in enumerate(drawn, start=1):
        storage.write(f"saliency-{number:02d}.png", page)
        run.image(f"saliency-{number:02d}.png", page)
    run.finish()
    at.say(
        f"{len(drawn)} pages of maps: {storage.uri}" if drawn else "no map to draw on validation"
    )


def _tell_methods(
    at: Tracked,
    experiment: Experiment,
    dataset: Artifact,
    made: Mapping[str, Artifact],
    held: Sequence[str],
) -> None:
    comparison = saliency_methods.compare_methods(at.context, experiment, dataset, made, held)
    text = saliency_methods.render(comparison, made)
    at.run.text("saliency-methods.txt", text)
    rows = saliency_methods.rows_of(comparison)
    at.run.text("saliency-methods.csv", csv_bytes(rows).decode())
    at.say(f"\n{text}\n{saliency_methods.summary_line(comparison, list(made))}")


STAGES = ("ingest", "classify", "segment", "evaluate")


def run_until(
    stage: str, context: Context, experiment: Experiment, chain: Plan, tracker: Tracker, say: Say
) -> list[Artifact]:
    """Run an experiment up to a stage of STAGES; return its artifacts. See also `run_explain`."""
    parent = records.top_run(tracker, experiment, chain.comparison)
    made = _until(stage, Tracked(context, parent, say), experiment, chain)
    parent.finish()
    return made


def _until(stage: str, at: Tracked, experiment: Experiment, chain: Plan) -> list[Artifact]:
    if stage in ("ingest", "classify"):
        dataset, _ = ingest_tracked(at, experiment)
        if stage == "ingest":
            return [dataset]
        return classify_tracked(at, experiment, dataset)
    trainings = [training for training, _ in chain.segmenters]
    starts = [training.settings.init for training in trainings]
    made = prepare(at, experiment, starts)
    segmenters = train(at.context, experiment, trainings, made, at.run)
    if stage == "segment":
        return segmenters
    return _evaluate(at.context, experiment, made, trainings, segmenters, at.run)


def _evaluate(
    context: Context,
    experiment: Experiment,
    made: Made,
    trainings: list[Training],
    segmenters: list[Artifact],
    parent: RunRef,
) -> list[Artifact]:
    named = [(t.arm, t.seed, a) for t, a in zip(trainings, segmenters, strict=True)]
    methods = evaluate.methods_of(named, made.pseudolabels, has_benchmark(made.dataset))
    split = experiment.evaluation.split
    prints = [evaluate.print_of(method, made.dataset, split) for method in methods]
    run = records.stage_run(parent, "evaluate", fingerprint("evaluations", {"of": prints}))
    evaluations = evaluate.evaluate(context, methods, made.dataset, split)
    records.finish_evaluations(run, evaluations)
    return evaluations


def train(
    context: Context,
    experiment: Experiment,
    trainings: list[Training],
    made: Made,
    parent: RunRef,
) -> list[Artifact]:
    """Train segmenters, each tracked as a run with its curves, thresholds and model."""
    runs: dict[str, RunRef] = {}

    by_print = {made.inputs.print_of(experiment, training): training for training in trainings}

    def run_of(order: Order) -> RunRef:
        if order.print_ not in runs:
            training = by_print[order.print_]
            runs[order.print_] = records.segment_run(parent, training, order.print_)
        return runs[order.print_]

    return segment(
        context,
        experiment,
        trainings,
        made.inputs,
        lambda order, note: records.log_note(run_of(order), note),
        lambda order, artifact: records.finish(run_of(order), artifact),
    )


def has_benchmark(dataset: Artifact) -> bool:
    """Whether second readers drew on any image."""
    return any(
        dataset.table(part.name, ["benchmark_masks"])["benchmark_masks"].null_count
        < (part.rows or 0)
        for part in dataset.parts("index/")
    )
