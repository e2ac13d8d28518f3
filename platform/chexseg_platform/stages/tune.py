"""Sweeping on Ray Tune: each trial an ordinary training, and an ordinary segmenter of it.

So trials that an experiment already trained, or that another one of the sweep trains, are not
trained again. A training with one worker runs in the trial's own process, which the next trial
takes over; one with several goes through Ray Train. Tune does not count the workers of such
trainings inside its trials, so how many run at a time is worked out here.

A sweep that was cut off goes on: trials that finished or that the scheduler stopped are not run
again, one that was training goes on from its last checkpoint, and one that failed is tried again.
What a restart loses is ASHA's memory: the trials that it runs are compared with each other, and
not with those that ended before, so it may stop fewer. A stopped trial counts as stopped and never
as finished; it leaves no segmenter, and its checkpoint waits for whoever trains it to the end.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

from chexseg_platform import plan
from chexseg_platform.artifacts import Draft
from chexseg_platform.cluster import TrainingPlan, plan_training, release
from chexseg_platform.config import Tune as TuneSettings
from chexseg_platform.locks import making
from chexseg_platform.stages import records
from chexseg_platform.stages.alone import fit_alone
from chexseg_platform.stages.context import Context
from chexseg_platform.stages.orders import KIND, Order, publish
from chexseg_platform.stages.training import fit_job, root_cause
from chexseg_platform.tracking import RunRef

SETTLING = 5.0
"""Seconds until a trial that was stopped has ended, with whoever would restart its workers."""
ROUNDING = 1e-9
"""Off each rung of ASHA, so that one at 0.1 * 3 is one at 0.3."""


class SweepFailed(ValueError):
    """Not one trial of a sweep could be finished."""


class Named(Protocol):
    """What a trial must have: a name, and the fingerprint of its segmenter."""

    @property
    def key(self) -> str: ...

    @property
    def print_(self) -> str: ...


Trial = TypeVar("Trial", bound=Named)
Listener = Callable[[Trial, int, Mapping[str, float]], None]


@dataclass(frozen=True)
class Outcome(Generic[Trial]):
    """How a trial ended: "finished", "stopped" by the scheduler, or "failed" with a reason."""

    trial: Trial
    state: str
    reason: str = ""
    last: Mapping[str, float] | None = None


def run_trials(
    context: Context,
    settings: TuneSettings,
    trials: Sequence[Trial],
    order_of: Callable[[Trial], Order],
    draft: Draft,
    listen: Listener[Trial],
) -> list[Outcome[Trial]]:
    """Run the trials that have no outcome yet; a failed trial never ends the sweep.

    Args:
        order_of: what a trial trains.
        draft: the sweep's; it keeps the outcomes of trials that left no segmenter.
        listen: hears (trial, step, metrics) after each validation.

    Raises:
        ClusterError: if not one training fits the cluster.
    """
    first = {trial.print_: trial for trial in reversed(trials)}
    known = {p: outcome for p, trial in first.items() if (outcome := _known(context, trial, draft))}
    with making(context.workspace, plan.SEGMENTER, first.keys() - known.keys()) as missing:
        # Another experiment may have finished some while this one waited for it.
        known |= {
            p: Outcome(t, "finished") for p, t in first.items() if p not in {*known, *missing}
        }
        todo = [
            trial for trial in trials if trial.print_ in missing and trial is first[trial.print_]
        ]
        if todo:
            shape = plan_training(context.resources, context.connect(), len(todo))
            known |= _tune(context, settings, todo, order_of, shape, draft, listen, len(first))
    return [replace(known[trial.print_], trial=trial) for trial in trials]


def _known(context: Context, trial: Trial, draft: Draft) -> Outcome[Trial] | None:
    if context.workspace.find(plan.SEGMENTER, trial.print_):
        return Outcome(trial, "finished")
    try:
        stopped = json.loads(draft.storage.read(f"stopped/{trial.print_}.json"))
    except FileNotFoundError:
        return None
    return Outcome(trial, "stopped", last=stopped)


def _tune(
    context: Context,
    settings: TuneSettings,
    todo: Sequence[Trial],
    order_of: Callable[[Trial], Order],
    shape: TrainingPlan,
    draft: Draft,
    listen: Listener[Trial],
    total: int,
) -> dict[str, Outcome[Trial]]:
    from ray import tune

    orders, runs = [order_of(trial) for trial in todo], context.runs
    alone = shape.workers == 1
    function = tune.with_parameters(
        _trial_alone if alone else _trial, orders=orders, context=context, shape=shape
    )
    # A trial that trains holds what it trains with. One that waits for the workers of its training
    # holds none, and an empty request cannot be placed, so it asks for one byte.
    asked = {name.lower(): value for name, value in shape.per_worker.items()}
    own = runs.join(f"tune-{draft.fingerprint}")
    own.delete()  # left by a sweep that was cut off; nothing in it is needed
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a failed trial has its sentence
    with context.progress("tune", total, "trials") as progress:
        watcher = _watcher(todo, progress, listen)
        progress.skip(total - len(todo))
        progress.say("starting workers")
        tuner = tune.Tuner(
            tune.with_resources(function, asked if alone else {"memory": 1}),
            param_space={"trial": tune.grid_search(list(range(len(todo))))},
            tune_config=tune.TuneConfig(
                max_concurrent_trials=shape.parallel,
                reuse_actors=alone,
                scheduler=scheduler_of(settings),
                metric="score",
                mode="max",
            ),
            run_config=tune.RunConfig(
                name=f"tune-{draft.fingerprint}",
                storage_path=runs.base,
                storage_filesystem=runs.fs,
                verbose=0,
                callbacks=[watcher],
                failure_config=tune.FailureConfig(context.resources.retries if alone else 0),
            ),
        )
        results = tuner.fit()
        watcher.free(math.inf)
    outcomes = {}
    for number in range(len(results)):
        result: Any = results[number]
        trial = todo[result.config["trial"]]
        outcomes[trial.print_] = _outcome(context, trial, result, draft)
        if outcomes[trial.print_].state != "failed":  # which may go on from its checkpoints
            runs.join(f"{KIND}-{trial.print_}").delete()
    own.delete()
    return outcomes


def scheduler_of(settings: TuneSettings) -> Any:
    """Return Tune's scheduler: a full grid, or ASHA over the "share" of its training a trial did.

    Shares, not epochs: points may differ in epochs, and a trial that goes on from a checkpoint is
    compared where it stands.
    """
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    if settings.scheduler == "grid":
        return FIFOScheduler()

    class Scheduler(ASHAScheduler):
        def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
            action: str = super().on_trial_result(controller, trial, result)
            # Who has trained to the end has only to publish what came of it.
            return self.CONTINUE if result.get("share", 0) >= 1 else action

    # Ray's annotations want whole numbers of what its rungs take as it comes.
    rungs: dict[str, Any] = {"max_t": 1.0, "grace_period": settings.grace - ROUNDING}
    return Scheduler(time_attr="share", reduction_factor=settings.reduction, **rungs)


def _trial_alone(
    config: Mapping[str, Any], *, orders: Sequence[Order], context: Context, shape: TrainingPlan
) -> None:
    """What a Tune trial of a training with one worker runs: all of it, in its own process."""
    from ray import tune

    order, threads = orders[config["trial"]], max(1, int(shape.cpus))
    try:
        trained = fit_alone(order.job(context), context.runs, threads, tune.report)
    except ValueError as problem:
        # What cannot be trained cannot be by trying again: say so instead of raising.
        tune.report({"refused": str(problem), "score": -math.inf, "share": 1.0})
        return
    publish(context, order, trained, str(shape))


def _trial(
    config: Mapping[str, Any],
    *,
    orders: Sequence[Order],
    context: Context,
    shape: TrainingPlan,
) -> None:
    """What each Tune trial runs: a Ray Train training, then its publication."""
    from ray.tune.integration.ray_train import TuneReportCallback

    order = orders[config["trial"]]
    trained = fit_job(
        order.job(context),
        shape,
        context.runs,
        None,
        retries=context.resources.retries,
        timeout_minutes=context.resources.timeout_minutes,
        callbacks=[TuneReportCallback()],
    )
    publish(context, order, trained, str(shape))


def _watcher(todo: Sequence[Trial], progress: Any, listen: Listener[Trial]) -> Any:
    from ray import tune

    class Watcher(tune.Callback):
        """Tells the driver's progress line and tracker what trials report."""

        best = 0.0

        def __init__(self) -> None:
            self.stopped: list[tuple[float, str]] = []

        def __reduce__(self) -> tuple[Any, ...]:
            # Tune writes its callbacks down for a restore of its own, which is never done; this
            # one holds a terminal and a tracker, which cannot be written down.
            return tune.Callback, ()

        def on_trial_result(
            self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any
        ) -> None:
            mine = todo[result["config"]["trial"]]
            self.best = max(self.best, result.get("miou", 0.0))
            best = {"best mIoU": self.best} if self.best else {}
            progress.update(**best, training=mine.key)
            metrics = {k: float(v) for k, v in result.items() if isinstance(v, float)}
            listen(mine, int(result.get("step", 0)), metrics)

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            progress.update(advance=1)
            last = trial.last_result or {}
            if last.get("share", 1) < 1 and last.get("group"):
                self.stopped.append((time.monotonic() + SETTLING, last["group"]))

        def on_step_begin(self, iteration: int, trials: Any, **info: Any) -> None:
            self.free(time.monotonic())

        def free(self, now: float) -> None:
            """Give back what stopped trials' trainings held, once they have ended.

            Ray Train leaves that to an actor that asks Ray's dashboard, and ours has none.
            """
            for due, group in list(self.stopped):
                if due <= now:
                    self.stopped.remove((due, group))
                    release(group)

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            progress.update(advance=1, failed=todo[trial.config["trial"]].key)

    return Watcher()


def _outcome(context: Context, trial: Trial, result: Any, draft: Draft) -> Outcome[Trial]:
    if context.workspace.find(plan.SEGMENTER, trial.print_):
        return Outcome(trial, "finished")
    if result.error is not None:
        return Outcome(trial, "failed", root_cause(result.error))
    if refused := (result.metrics or {}).get("refused"):
        return Outcome(trial, "failed", refused)
    numbers = {k: v for k, v in (result.metrics or {}).items() if k in ("score", "epoch", "loss")}
    draft.storage.write(f"stopped/{trial.print_}.json", json.dumps(numbers).encode())
    return Outcome(trial, "stopped", last=numbers)


def finish_run(context: Context, run: RunRef, outcome: Outcome[Any]) -> None:
    """Tell a trial's own run how it ended."""
    artifact = context.workspace.find(KIND, outcome.trial.print_)
    if artifact is not None:
        records.finish(run, artifact)
    else:
        run.text("outcome.txt", f"{outcome.state} {outcome.reason}".strip() + "\n")
        run.finish("FAILED" if outcome.state == "failed" else "FINISHED")


def finished_of(outcomes: Sequence[Outcome[Trial]]) -> list[Outcome[Trial]]:
    """Return the trials that finished.

    Raises:
        SweepFailed: where one failed, or none finished.
    """
    finished = [outcome for outcome in outcomes if outcome.state == "finished"]
    if not finished:
        reasons = sorted({outcome.reason for outcome in outcomes if outcome.reason})
        raise SweepFailed(f"not one trial finished: {'; '.join(reasons)}")
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    if failed:
        names = ", ".join(outcome.trial.key for outcome in failed)
        raise SweepFailed(
            f"{len(failed)} of {len(outcomes)} trials failed ({names}: {failed[0].reason}). "
            "The others are kept; run the same command again to try these again."
        )
    return finished
