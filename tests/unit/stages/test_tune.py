"""Which trials of a sweep are run, and when ASHA stops one."""

from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
from chexseg_platform import points
from chexseg_platform.artifacts import Workspace
from chexseg_platform.config import Experiment, Resources, Tune
from chexseg_platform.evaluation.bootstrap import Estimate
from chexseg_platform.plan import SEGMENTER, SWEEP, Plan
from chexseg_platform.points import Trial
from chexseg_platform.stages import choice, tune
from chexseg_platform.stages.context import Context


def experiment(space: dict[str, list[Any]]) -> Experiment:
    settings = {"space": space, "seeds": [0]}
    return Experiment.model_validate({"name": "x", "data": {"phantom": {}}, "tune": settings})


def trials_of(made: Experiment) -> list[Trial]:
    return points.trials_of(made, Plan.of(made))


@pytest.fixture
def context(tmp_path: Any) -> Context:
    return Context(Workspace(tmp_path), Resources())


def finish(context: Context, trial: Trial) -> None:
    context.workspace.draft(SEGMENTER, trial.print_).finish([], config={}, inputs={})


def test_only_what_has_no_outcome_is_run_and_each_training_once(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = {"saliency.threshold": ["otsu", 0.5], "expert_probability": [0.2, 0.5, 1.0]}
    trials = trials_of(experiment(space))
    finished, stopped, *_ = trials
    finish(context, finished)
    draft = context.workspace.draft(SWEEP, "0123")
    draft.storage.write(f"stopped/{stopped.print_}.json", b'{"score": 0.25}')
    ran: list[str] = []

    def run(context: Context, settings: Any, todo: list[Trial], *_: Any) -> Any:
        ran.extend(trial.point for trial in todo)
        finish(context, todo[0])
        reasons = {trial.print_: tune.Outcome(trial, "failed", "a reason") for trial in todo[1:]}
        return reasons | {todo[0].print_: tune.Outcome(todo[0], "finished")}

    monkeypatch.setattr(tune, "_tune", run)
    monkeypatch.setattr(tune, "plan_training", lambda *_: None)
    monkeypatch.setattr(Context, "connect", lambda self: None)

    def order(trial: Trial) -> Any:
        raise AssertionError("only what is run is ordered")

    def states() -> list[str]:
        outcomes = tune.run_trials(context, Tune(), trials, order, draft, lambda *_: None)
        assert [outcome.trial for outcome in outcomes] == trials
        return [outcome.state for outcome in outcomes]

    first = ["finished", "stopped", "finished", "failed", "failed", "finished"]
    assert states() == first
    assert ran == [trials[i].point for i in (2, 3, 4)]
    # Once more: what finished or was stopped stays so, what failed is tried again.
    del ran[:]
    assert states() == [*first[:3], "finished", *first[4:]]
    assert ran == [trials[i].point for i in (3, 4)]


class Race:
    """Trials that report to ASHA in turn; no Ray runs."""

    def __init__(self, **settings: Any) -> None:
        self.scheduler = tune.scheduler_of(Tune(scheduler="asha", **settings))
        self.scheduler.set_search_properties("score", "max")
        self.numbers = count()

    def trial(self) -> Any:
        made = SimpleNamespace(trial_id=str(next(self.numbers)))
        self.scheduler.on_trial_add(None, made)
        return made

    def goes_on(self, trial: Any, share: float, score: float) -> bool:
        result = {"share": share, "score": score}
        return self.scheduler.on_trial_result(None, trial, result) == self.scheduler.CONTINUE


def test_asha_stops_who_is_behind_at_a_rung_and_nobody_between() -> None:
    race = Race(grace=0.25, reduction=2)  # rungs at 1/4 and 1/2 of a training
    good, bad, late = race.trial(), race.trial(), race.trial()
    assert race.goes_on(good, 0.125, 0.0)
    assert race.goes_on(good, 0.25, 0.5)
    assert race.goes_on(bad, 0.125, 0.0), "before the first rung nobody is stopped"
    assert not race.goes_on(bad, 0.25, 0.4)
    assert race.goes_on(late, 0.25, 0.6)
    assert race.goes_on(good, 0.5, 0.5)
    assert race.goes_on(late, 0.375, 0.0), "between two rungs neither"
    assert not race.goes_on(late, 0.5, 0.4)


@pytest.mark.parametrize(("grace", "reduction"), [(0.25, 2), (0.1, 3), (0.3, 4), (1.0, 2)])
def test_asha_stops_nobody_at_the_end(grace: float, reduction: int) -> None:
    race = Race(grace=grace, reduction=reduction)
    shares = [step / 10 for step in range(1, 11)]
    best, worst = race.trial(), race.trial()
    assert all(race.goes_on(best, share, 0.9) for share in shares)
    before_the_end = [race.goes_on(worst, share, 0.1) for share in shares]
    assert before_the_end[-1]
    first_rung = next((n for n, share in enumerate(shares) if share >= grace), 9)
    assert before_the_end[first_rung] == (grace == 1.0)


def test_asha_compares_shares_where_points_differ_in_epochs() -> None:
    race = Race(grace=0.3, reduction=3)
    # Three validations of ten each, or one of three: the rung is at the same share.
    long, short = race.trial(), race.trial()
    assert all(race.goes_on(long, step / 10, 0.5) for step in range(1, 4))
    assert not race.goes_on(short, 1 / 3, 0.4)


def test_a_point_that_lost_its_poor_seeds_does_not_win_by_the_lucky_one() -> None:
    def score(value: float) -> Any:
        return SimpleNamespace(findings=[Estimate(value)])

    scores = {"p 0.9": score(0.60), "p 0.1": score(0.62), "p 0.5": score(0.55)}
    seeds = {"p 0.9": (0, 1, 2), "p 0.1": (0,), "p 0.5": (0, 1, 2)}
    result: Any = SimpleNamespace(scores={choice.METRIC: scores}, seeds=seeds)
    assert choice.winner_of(result) == "p 0.9"
    result.seeds = dict.fromkeys(seeds, (0,))
    assert choice.winner_of(result) == "p 0.1"
