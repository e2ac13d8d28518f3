"""A whole sweep: its inputs, its trials, the choice, the winner's one look at the test set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from chexseg_platform import plan, plots, points
from chexseg_platform.artifacts import Artifact, Workspace, csv_bytes
from chexseg_platform.config import Experiment, swept_field
from chexseg_platform.evaluation import tables
from chexseg_platform.evaluation.comparison import PSEUDO_LABELS, Comparison, Roles, compare
from chexseg_platform.evaluation.counts import cube
from chexseg_platform.locks import once
from chexseg_platform.points import Trial
from chexseg_platform.stages import choice, evaluate, records, tune
from chexseg_platform.stages.context import Context
from chexseg_platform.stages.experiment import Made, has_benchmark, prepare
from chexseg_platform.stages.orders import Order
from chexseg_platform.stages.segment import order_of
from chexseg_platform.stages.tracked import Say, Tracked
from chexseg_platform.tracking import RunRef, Tracker


def sweep(context: Context, experiment: Experiment, tracker: Tracker, say: Say) -> Artifact:
    """Run a sweep to its table, plot and winner; what is finished is not done again.

    Raises:
        SweepFailed: if not one trial finished.
    """
    trials = points.trials_of(experiment, plan.Plan.of(experiment, context.workspace))
    print_ = points.sweep_print(experiment, trials)
    parent = records.top_run(tracker, experiment, print_, f"{experiment.name} sweep")
    made = _prepare(Tracked(context, parent, say), trials)
    for trial in trials:
        if trial.training.settings.expert_probability > 0:
            experts = made[trial.pseudolabels].experts
            experts.choose(trial.training.settings.expert_masks, trial.training.seed)
    make = partial(_sweep, context, experiment, trials, print_, made, tracker, parent, say)
    found = once(context.workspace, plan.SWEEP, print_, make)
    records.finish_sweep(parent, experiment, found)
    return found


def describe(experiment: Experiment, workspace: Workspace) -> str:
    """Return the plan of a sweep as a person reads it."""
    settings = points.settings_of(experiment)
    chain = plan.Plan.of(experiment, workspace)
    lines = [f"{experiment.name}  in {workspace.uri}"]
    trials = points.trials_of(experiment, chain)
    rows = [(plan.DATASET, chain.dataset)]
    rows += [
        (plan.CLASSIFIER, print_)
        for trial in trials
        for print_ in plan.classifier_prints(trial.experiment, chain.dataset)
    ]
    rows += [(plan.PSEUDOLABELS, trial.pseudolabels) for trial in trials]
    for kind, print_ in dict.fromkeys(rows):
        state = "finished" if workspace.find(kind, print_) else "to do"
        lines.append(f"  {state:<9} {kind:<13} {print_[:8]}")
    done = sum(workspace.find(plan.SEGMENTER, trial.print_) is not None for trial in trials)
    space = "; ".join(f"{name} in {values}" for name, values in settings.space.items())
    lines.append(
        f"  {len(trials)} trials ({done} finished): {space}; "
        f"seeds {settings.seeds}; {settings.scheduler}"
    )
    return "\n".join(lines)


def _prepare(at: Tracked, trials: Sequence[Trial]) -> dict[str, Made]:
    """Make what trials learn from, once for all points that share it; by pseudo-labels."""
    first = {trial.pseudolabels: trial for trial in reversed(trials)}
    made: dict[str, Made] = {}
    for trial in trials:
        if first[trial.pseudolabels] is not trial:
            continue
        if len(first) > 1:
            at.say(f"for {trial.point}:")
        starts = [t.training.settings.init for t in trials if t.pseudolabels == trial.pseudolabels]
        made[trial.pseudolabels] = prepare(at, trial.experiment, starts)
    return made


def _sweep(
    context: Context,
    experiment: Experiment,
    trials: Sequence[Trial],
    print_: str,
    made: Mapping[str, Made],
    tracker: Tracker,
    parent: RunRef,
    say: Say,
) -> Artifact:
    draft = context.workspace.draft(plan.SWEEP, print_)
    runs = _trial_runs(trials, parent)

    def listen(trial: Trial, step: int, metrics: Mapping[str, float]) -> None:
        runs[trial.print_].metrics(step, records.curves(metrics))
        tracker.flush(seconds=1.0)

    settings = points.settings_of(experiment)

    def order(trial: Trial) -> Order:
        return order_of(context, trial.experiment, trial.training, made[trial.pseudolabels].inputs)

    outcomes = tune.run_trials(context, settings, trials, order, draft, listen)
    for outcome in {outcome.trial.print_: outcome for outcome in outcomes}.values():
        tune.finish_run(context, runs[outcome.trial.print_], outcome)
    # Before anything is chosen: the test images are looked at once, for the final winner.
    finished = tune.finished_of(outcomes)
    result = choice.compare_points(
        context, experiment, finished, made[trials[0].pseudolabels].inputs
    )
    best = choice.winner_of(result)
    say(f"chosen on validation: {best}")
    test = _test(context, experiment, finished, best, made)
    by_seed = choice.scores_by_seed(context, finished)
    text = render(experiment, outcomes, result, by_seed, best, test)
    rows = table_rows(outcomes, result, by_seed)
    parts = [
        draft.write("sweep.txt", text.encode()),
        draft.write("sweep.csv", csv_bytes(rows)),
        draft.write_json("validation.json", tables.to_json(result)),
        draft.write_json("test.json", tables.to_json(test)),
    ]
    figure = _plot(experiment, finished, result, by_seed, best)
    if figure is not None:
        parts.append(draft.write("sweep.png", plots.png(figure)))
    return draft.finish(
        parts,
        config=settings.model_dump(),
        inputs={"dataset": made[trials[0].pseudolabels].dataset.fingerprint},
        summary={
            "experiment": experiment.name,
            "winner": best,
            "trials": len(outcomes),
            "finished": len(finished),
        },
    )


def _trial_runs(trials: Sequence[Trial], parent: RunRef) -> dict[str, RunRef]:
    """Open a run a training; one that several points share has the name of the first."""
    return {
        print_: records.stage_run(
            parent,
            "trial",
            print_,
            trial.training.key,
            **trial.fields,
            seed=trial.training.seed,
        )
        for print_, trial in {trial.print_: trial for trial in reversed(trials)}.items()
    }


def _test(
    context: Context,
    experiment: Experiment,
    finished: Sequence[tune.Outcome[Trial]],
    best: str,
    made: Mapping[str, Made],
) -> Comparison:
    """Count the winner, and what it is compared with, on the test images: once, at the end."""
    mine = made[next(o.trial.pseudolabels for o in finished if o.trial.point == best)]
    won = [
        (o.trial.point, o.trial.training.seed, artifact)
        for o in finished
        if o.trial.point == best
        and (artifact := context.workspace.find(plan.SEGMENTER, o.trial.print_))
    ]
    methods = evaluate.methods_of(won, mine.pseudolabels, has_benchmark(mine.dataset))
    settings = experiment.evaluation
    evaluations = evaluate.evaluate(context, methods, mine.dataset, settings.split)
    return compare(
        cube(evaluate.counts_of(evaluations)),
        roles=Roles(proposed=best, references=(PSEUDO_LABELS,), weak=PSEUDO_LABELS),
        cluster=settings.cluster,
        resamples=settings.resamples,
        seed=settings.seed,
    )


def table_rows(
    outcomes: Sequence[tune.Outcome[Trial]],
    result: Comparison,
    by_seed: Mapping[str, Sequence[tuple[int, float]]],
) -> list[dict[str, Any]]:
    """Return a row a point: validation mIoU with interval, seeds, and how its trials ended."""
    scores, rows = choice.means(result), []
    for point in dict.fromkeys(outcome.trial.point for outcome in outcomes):
        mine = [outcome for outcome in outcomes if outcome.trial.point == point]
        found = scores.get(point)
        row: dict[str, Any] = dict(mine[0].trial.fields)
        row |= {
            "validation mIoU": None if found is None else round(found.value, 4),
            "low": None if found is None or found.low is None else round(found.low, 4),
            "high": None if found is None or found.high is None else round(found.high, 4),
            "seeds": " ".join(f"{score:.3f}" for _, score in by_seed.get(point, ())),
        }
        for state in ("finished", "stopped", "failed"):
            row[state] = sum(outcome.state == state for outcome in mine)
        rows.append(row)
    return rows


def render(
    experiment: Experiment,
    outcomes: Sequence[tune.Outcome[Trial]],
    result: Comparison,
    by_seed: Mapping[str, Sequence[tuple[int, float]]],
    best: str,
    test: Comparison,
) -> str:
    """Return the sweep's end as a person reads it."""
    held, rows = result.patients, table_rows(outcomes, result, by_seed)
    names = list(points.settings_of(experiment).space)
    header = [*names, "validation mIoU C", "each seed (best checkpoint)", "trials"]
    lines = []
    for row in rows:
        if row["validation mIoU"] is None or math.isnan(row["validation mIoU"]):
            score = "–"
        else:
            score = f"{row['validation mIoU']:.3f}"
            if row["low"] is not None:
                score += f" [{row['low']:.3f}, {row['high']:.3f}]"
        counts = ", ".join(f"{row[s]} {s}" for s in ("finished", "stopped", "failed") if row[s])
        lines.append([*(str(row[name]) for name in names), score, row["seeds"], counts])
    wide = [max(len(line[i]) for line in [header, *lines]) for i in range(len(header))]
    grid = "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, wide, strict=True)).rstrip()
        for line in [header, *lines]
    )
    return (
        f"Chosen on {result.images} images of {held} validation patients; pooled mIoU at original "
        f"size, mean over seeds, 95 % intervals over patients.\n\n{grid}\n\n"
        f"Chosen: {best}. On the {experiment.evaluation.split} images, once:\n\n{tables.text(test)}"
    )


def _plot(
    experiment: Experiment,
    finished: Sequence[tune.Outcome[Trial]],
    result: Comparison,
    by_seed: Mapping[str, Sequence[tuple[int, float]]],
    best: str,
) -> Any:
    """Draw mIoU against the mix ratio, where the sweep varies it alone."""
    swept = [swept_field(name) for name in points.settings_of(experiment).space]
    if swept != ["segmenter.expert_probability"]:
        return None
    scores = choice.means(result)
    ratio = {o.trial.point: o.trial.training.settings.expert_probability for o in finished}
    order = sorted(scores, key=ratio.__getitem__)
    intervals = [
        None if scores[p].low is None or scores[p].high is None else (scores[p].low, scores[p].high)
        for p in order
    ]
    return plots.mix_ratio(
        [ratio[point] for point in order],
        [[score for _, score in by_seed[point]] for point in order],
        intervals=intervals,  # type: ignore[arg-type]
        chosen=ratio[best],
        metric="validation mIoU (pooled)",
    )
