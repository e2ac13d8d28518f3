"""Points and trials of a sweep, and what they share."""

from chexseg_platform import points
from chexseg_platform.config import Experiment
from chexseg_platform.plan import Plan


def experiment(space, seeds=(0,), **fields):
    settings = {"space": space, "seeds": list(seeds)}
    return Experiment.model_validate(
        {"name": "x", "data": {"phantom": {}}, "tune": settings, **fields}
    )


def trials_of(made):
    return points.trials_of(made, Plan.of(made))


def test_a_trial_is_a_point_and_a_seed():
    trials = trials_of(experiment({"expert_probability": [0.5, 1.0], "lr": [1e-3]}, [7, 3]))
    assert [trial.training.key for trial in trials] == [
        "expert_probability 0.5, lr 0.001, seed 7",
        "expert_probability 1.0, lr 0.001, seed 7",
        "expert_probability 0.5, lr 0.001, seed 3",
        "expert_probability 1.0, lr 0.001, seed 3",
    ]
    assert [trial.training.settings.expert_probability for trial in trials] == [0.5, 1.0] * 2
    assert len({trial.print_ for trial in trials}) == 4
    assert len({trial.pseudolabels for trial in trials}) == 1


def test_a_trial_is_the_arm_that_an_experiment_trains():
    base = experiment({"saliency.threshold": [0.3]}, seeds=[2])
    (trial,) = trials_of(base)
    other = base.model_dump() | {"saliency": {"threshold": 0.3}, "arms": {"a": {}}, "seeds": [2]}
    chain = Plan.of(Experiment.model_validate(other))
    assert trial.print_ == chain.segmenters[0][1]
    assert trial.pseudolabels == chain.pseudolabels
    assert trial.print_ != trials_of(experiment({"saliency.threshold": [0.4]}, [2]))[0].print_


def test_points_share_what_their_fields_do_not_change():
    space = {"classifier.lr": [1e-3, 1e-4], "saliency.cutoff": [0.4, 0.6], "lr": [1e-3, 1e-4]}
    trials = trials_of(experiment(space))
    assert len(trials) == len({trial.print_ for trial in trials}) == 8
    assert len({trial.pseudolabels for trial in trials}) == 4


def test_points_that_differ_in_nothing_a_training_uses_are_one_training():
    space = {"saliency.threshold": ["otsu", 0.5], "expert_probability": [0.5, 1.0]}
    trials = {trial.point: trial.print_ for trial in trials_of(experiment(space))}
    otsu, fixed = "saliency.threshold otsu", "saliency.threshold 0.5"
    alone, mixed = ", expert_probability 1.0", ", expert_probability 0.5"
    assert trials[otsu + alone] == trials[fixed + alone]
    assert len({trials[otsu + mixed], trials[fixed + mixed], trials[otsu + alone]}) == 3


def test_a_sweep_is_known_by_its_points_scheduler_and_evaluation():
    def print_of(**fields):
        made = experiment({"lr": [1e-3, 1e-4]}).model_dump()
        made = Experiment.model_validate(made | fields)
        return points.sweep_print(made, trials_of(made))

    def settings(**fields):
        return {"tune": {"space": {"lr": [1e-3, 1e-4]}, "seeds": [0], **fields}}

    first = print_of()
    assert first == print_of(**settings(grace=0.5)) == print_of(arms={"a": {}}, seeds=[5])
    others = [
        print_of(**settings(seeds=[1])),
        print_of(**settings(scheduler="asha")),
        print_of(**settings(scheduler="asha", grace=0.5)),
        print_of(**settings(space={"lr": [1e-3]})),
        print_of(saliency={"cutoff": 0.1}),
        print_of(evaluation={"resamples": 200}),
    ]
    assert len({first, *others}) == 7
