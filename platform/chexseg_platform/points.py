"""What a sweep will train, known before anything is trained: its points, times its seeds.

A point is the experiment with some fields replaced, so its plan gives the fingerprints of all that
it needs; points that differ in nothing that an artifact depends on share the artifact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from chexseg_platform import plan
from chexseg_platform.artifacts import fingerprint
from chexseg_platform.config import Experiment, Tune
from chexseg_platform.configfile import yaml_value
from chexseg_platform.plan import Training


@dataclass(frozen=True)
class Trial:
    """A point of the sweep and a seed.

    Attributes:
        point: its name, e.g. "expert_probability 0.25".
        fields: what the point sets.
        experiment: the experiment with these fields.
        pseudolabels: the fingerprint of the point's pseudo-labels, which covers all before them.
        print_: the fingerprint of its segmenter; points that differ in nothing it uses share it.
    """

    point: str
    fields: Mapping[str, Any]
    experiment: Experiment
    training: Training
    pseudolabels: str
    print_: str

    @property
    def key(self) -> str:
        """Its name: the point's and the seed."""
        return self.training.key


def settings_of(experiment: Experiment) -> Tune:
    """Return the sweep of an experiment, with its defaults where the file names none."""
    return experiment.tune or Tune()


def trials_of(experiment: Experiment, chain: plan.Plan) -> list[Trial]:
    """Return every trial of a sweep: the grid of `tune.space` times `tune.seeds`."""
    settings, trials = settings_of(experiment), []
    for seed in settings.seeds:
        for values in product(*settings.space.values()):
            fields = dict(zip(settings.space, values, strict=True))
            name = ", ".join(f"{name} {yaml_value(value)}" for name, value in fields.items())
            point = experiment.variant(fields)
            training = Training(name, point.segmenter, seed)
            known = plan.classifier_prints(point, chain.dataset)
            pseudolabels = plan.pseudolabels_print(point, chain.dataset, known)
            print_ = plan.segmenter_print(point, training, chain.dataset, known[0], pseudolabels)
            trials.append(Trial(name, fields, point, training, pseudolabels, print_))
    return trials


def sweep_print(experiment: Experiment, trials: Sequence[Trial]) -> str:
    """Return the fingerprint of a sweep: its trials, how it schedules and how it compares."""
    settings = settings_of(experiment)
    content = {
        "version": plan.VERSIONS[plan.SWEEP],
        "trials": sorted([trial.point, trial.pseudolabels, trial.print_] for trial in trials),
        "scheduler": settings.scheduler,
        "evaluation": experiment.evaluation.model_dump(),
    }
    if settings.scheduler == "asha":
        content["asha"] = [settings.grace, settings.reduction]
    return fingerprint(plan.SWEEP, content)
