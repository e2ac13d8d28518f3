"""What an experiment will make, known before anything is made: every artifact's fingerprint.

A fingerprint covers what decides an artifact's content, and the fingerprints of its inputs; so the
whole chain follows from the experiment file and the files that it names. That is what
`--dry-run` prints, what lets a rerun skip what is finished, and what names a tracked run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from chexseg_platform.artifacts import Workspace, fingerprint
from chexseg_platform.config import Data, Evaluation, Experiment, Saliency, Section, Segmenter
from chexseg_platform.data import sources
from chexseg_platform.models import first_weights
from chexseg_platform.starts import family_of, folder_of

DATASET, CLASSIFIER, PSEUDOLABELS = "dataset", "classifier", "pseudolabels"
SEEDS, BOUNDARY = "seeds", "boundary"
SEGMENTER, EVALUATION, COMPARISON, SWEEP = "segmenter", "evaluation", "comparison", "sweep"
FINETUNING = "finetuning"
VERSIONS = (
    dict.fromkeys((DATASET, CLASSIFIER, BOUNDARY, SEGMENTER, SWEEP, FINETUNING), 1)
    | dict.fromkeys((EVALUATION, COMPARISON), 2)
    | dict.fromkeys((SEEDS, PSEUDOLABELS), 3)
)
"""Raised when the code makes another content from the same settings."""

READERS = "radiologists"
PRETRAINED = "pretrained"
"""What the inputs of a segmenter call one that it started from."""


@dataclass(frozen=True)
class Training:
    """One segmenter to train: an arm's settings and a seed."""

    arm: str
    settings: Segmenter
    seed: int

    @property
    def key(self) -> str:
        return f"{self.arm}, seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """Fingerprints of everything an experiment makes, in order."""

    dataset: str
    classifiers: tuple[str, ...]
    pseudolabels: str
    segmenters: tuple[tuple[Training, str], ...]
    comparison: str

    @property
    def classifier(self) -> str:
        """The classifier that segmenters start from: the first."""
        return self.classifiers[0]

    @staticmethod
    def of(experiment: Experiment, workspace: Workspace | None = None) -> Plan:
        """Work the chain out; reads the tables, some images' ends, and first weights' digests.

        Args:
            workspace: where a dataset may lack inputs that were mended since; see `dataset_print`.

        Raises:
            NoImages, BrokenTable: if a table is not there or is none.
            NoWeights: if weights that the experiment names are not there.
        """
        dataset = dataset_print(experiment.data, workspace)
        classifiers = classifier_prints(experiment, dataset)
        pseudolabels = pseudolabels_print(experiment, dataset, classifiers)
        segmenters = tuple(
            (training, segmenter_print(experiment, training, dataset, classifiers[0], pseudolabels))
            for training in trainings(experiment)
        )
        evaluation = experiment.evaluation
        comparison = _print(
            COMPARISON,
            dataset=dataset,
            segmenters=[[t.arm, t.seed, print_] for t, print_ in segmenters],
            pseudolabels=pseudolabels,
            evaluation=evaluation.model_dump(),
        )
        return Plan(dataset, classifiers, pseudolabels, segmenters, comparison)


def _print(kind: str, **content: Any) -> str:
    return fingerprint(kind, {"version": VERSIONS[kind], **content})


def dataset_print(data: Data, workspace: Workspace | None = None) -> str:
    """Return the fingerprint of a dataset.

    Args:
        workspace: a dataset in it that had to do without some inputs does not count where one of
            these is another file now: what is read then is another dataset.
    """
    print_ = _print(DATASET, **sources.content(data))
    while workspace is not None and (found := workspace.find(DATASET, print_)):
        refused = found.table("rejected.parquet") if found.summary["rejected"] else None
        if refused is None:
            break
        now = sources.states_of(data, refused["source"].to_pylist())
        if now == refused["state"].to_pylist():
            break
        print_ = _print(DATASET, after=print_, mended=now)
    return print_


def classifier_print(experiment: Experiment, dataset: str) -> str:
    """Return the classifier's fingerprint; weights that are not ImageNet's count by content."""
    settings = experiment.classifier.model_dump()
    if settings["weights"] not in (None, "imagenet"):
        settings["weights"] = {"sha256": first_weights.digest(settings["weights"])}
    return _print(CLASSIFIER, classifier=settings, seed=experiment.seed, dataset=dataset)


def classifier_prints(experiment: Experiment, dataset: str) -> tuple[str, ...]:
    """Return the fingerprints of the classifiers that are explained, the experiment's own first."""
    return tuple(classifier_print(member, dataset) for member in experiment.members)


def pseudolabels_print(experiment: Experiment, dataset: str, classifiers: Sequence[str]) -> str:
    """Return the fingerprint of pseudo-labels; settings that their method does not use are out."""
    settings: Saliency = experiment.saliency
    content: dict[str, Any] = {"saliency": settings.model_dump(exclude=_unused(settings))}
    if settings.threshold == "tuned":
        content["tuned on"] = held(experiment)
    if settings.refine == "irnet":
        content["walk"] = settings.irnet.model_dump(include=set(WALK))
        content["boundary"] = boundary_print(experiment, dataset, classifiers)
    return _print(PSEUDOLABELS, **content, dataset=dataset, **numbered("classifier", classifiers))


def _unused(settings: Saliency) -> set[str]:
    """Fields that change nothing: other methods' own, and those that have a print of their own."""
    unused = {"ensemble", "irnet"} | _neutral(settings, NEUTRAL)
    unused |= set() if settings.threshold == "mass" else {"mass"}
    unused |= set() if settings.pool == "superpixels" else {"regions"}
    of_gradients = {"integrated", "completeness"}
    unused |= set() if settings.method == "integrated-gradients" else of_gradients
    return unused | ({"sign"} if settings.method == "grad-cam" else {"features"})


def _neutral(settings: Section, values: Mapping[str, Any]) -> set[str]:
    """Fields that have the values at which they change nothing."""
    return {name for name, value in values.items() if getattr(settings, name) == value}


NEUTRAL = {
    "classes": "findings",
    "pool": "none",
    "completeness": None,
    "box": 0.0,
    "scale": "none",
    "combine": "mean",
    "smallest": 0.0,
    "ignore": 0.0,
}
"""Fields of `saliency` that change nothing at these values."""
NEUTRAL_SEGMENTER = {
    "adapt": "full", "layer_decay": 1.0, "class_weight": "none", "background_weight": 1.0,
}  # fmt: skip
"""Fields of `segmenter` that change nothing at these values."""
WALK = ("walk_radius", "beta", "steps")
SEEDING = ("foreground", "background", "refine")
"""Fields of `saliency.irnet` that the walk takes, and those that seeds are made by."""
CUT = {"threshold", "mass", "smallest", "ignore", "splits", "maps", "refine"}
"""Fields of `saliency` that come after the maps."""


def seeds_print(experiment: Experiment, dataset: str, classifiers: Sequence[str]) -> str:
    """Return the fingerprint of the seeds that IRNet learns from."""
    settings: Saliency = experiment.saliency
    return _print(
        SEEDS,
        saliency=settings.model_dump(exclude=_unused(settings) | CUT),
        seeding=settings.irnet.model_dump(include=set(SEEDING)),
        dataset=dataset,
        **numbered("classifier", classifiers),
    )


def boundary_print(experiment: Experiment, dataset: str, classifiers: Sequence[str]) -> str:
    """Return the fingerprint of IRNet's boundary network."""
    settings = experiment.saliency.irnet.model_dump(exclude={*WALK, *SEEDING})
    if settings["weights"] not in (None, "imagenet", "classifier"):
        settings["weights"] = {"sha256": first_weights.digest(settings["weights"])}
    return _print(
        BOUNDARY,
        irnet=settings,
        seed=experiment.seed,
        seeds=seeds_print(experiment, dataset, classifiers),
        classifier=classifiers[0],
    )


def numbered(name: str, prints: Sequence[str]) -> dict[str, str]:
    """Return fingerprints by name: "classifier", and "classifier 2" on where there are several."""
    return {name if not n else f"{name} {n + 1}": print_ for n, print_ in enumerate(prints)}


def held(experiment: Experiment) -> dict[str, float]:
    """Return what decides which expert patients are held for validation."""
    return {"share": experiment.segmenter.expert_validation, "seed": experiment.seed}


def segmenter_print(
    experiment: Experiment, training: Training, dataset: str, classifier: str, pseudolabels: str
) -> str:
    """Return the fingerprint of a training's segmenter; inputs it does not use do not count."""
    settings = training.settings
    inputs = {DATASET: dataset, **start_inputs(experiment, settings, dataset, classifier)}
    if settings.expert_probability < 1:
        inputs[PSEUDOLABELS] = pseudolabels
    return _print(
        SEGMENTER,
        segmenter=_segmenter_content(settings),
        held=held(experiment),
        seeds=[experiment.seed, training.seed],
        inputs=inputs,
    )


def start_inputs(
    experiment: Experiment, settings: Segmenter, dataset: str, classifier: str
) -> dict[str, str]:
    """Return the fingerprints of the artifacts that a segmenter's first weights come from.

    Args:
        dataset: the experiment's own, of which classifier and pre-trained segmenters are made.
    """
    if settings.init == "classifier":
        return {CLASSIFIER: classifier}
    family = family_of(settings.init)
    if family is None:
        return {}
    return {PRETRAINED: rounds_of(experiment, family, dataset)[-1].segmenter}


def _segmenter_content(settings: Segmenter) -> dict[str, Any]:
    content = settings.model_dump(exclude=_unused_in_training(settings))
    folder = folder_of(settings.init)
    if folder is not None:
        content["init"] = {"segmenter sha256": first_weights.digest(folder)}
    if family_of(settings.init) is not None:  # whatever it is called
        content["init"] = settings.init.partition(":")[0]
    return content


def _unused_in_training(settings: Segmenter) -> set[str]:
    """Fields of a segmenter that change nothing: at their neutral value, or not used."""
    unused = _neutral(settings, NEUTRAL_SEGMENTER)
    unused |= set() if settings.adapt == "low-rank" else {"rank"}
    return unused | (set() if "bce" in settings.loss else {"background_weight"})


class Round(NamedTuple):
    """Fingerprints of pseudo-labels, and of the segmenter that is pre-trained on them."""

    labels: str
    segmenter: str


def rounds_of(experiment: Experiment, family: str, dataset: str) -> tuple[Round, ...]:
    """Return what pre-training on a family makes: its labels, then those of self-distillation."""
    assert experiment.pretrain is not None
    variant, rounds = experiment.family(family), list[Round]()
    classifiers = classifier_prints(variant, dataset)
    labels = pseudolabels_print(variant, dataset, classifiers)
    for _ in range(experiment.pretrain.families[family].rounds + 1):
        if rounds:
            settings = variant.saliency.model_dump(include={"smallest", "ignore"})
            labels = _print(PSEUDOLABELS, by=rounds[-1], held=held(experiment), **settings)
        segmenter = _pretrained_print(variant, dataset, classifiers[0], labels)
        rounds.append(Round(labels, segmenter))
    return tuple(rounds)


def _pretrained_print(variant: Experiment, dataset: str, classifier: str, labels: str) -> str:
    settings = variant.pretraining
    inputs = {DATASET: dataset, PSEUDOLABELS: labels}
    return _print(
        SEGMENTER,
        segmenter=_segmenter_content(settings),
        classes=variant.saliency.names,
        seeds=[variant.seed, 0],
        inputs={**inputs, **start_inputs(variant, settings, dataset, classifier)},
    )


def finetuned_print(
    experiment: Experiment,
    settings: Segmenter,
    *,
    classes: Sequence[str] | None,
    fraction: float,
    seed: int,
    images: str,
    dataset: str,
    classifier: str,
) -> str:
    """Return the fingerprint of a fine-tuned segmenter.

    Args:
        classes: of its task; None for all that its images have masks of.
        fraction: of the task's training images.
        images: the task's dataset.
        dataset, classifier: the experiment's own, which it may start from.
    """
    return _print(
        SEGMENTER,
        segmenter=_segmenter_content(settings),
        classes=None if classes is None else list(classes),
        fraction=fraction,
        seeds=[experiment.seed, seed],
        inputs={DATASET: images, **start_inputs(experiment, settings, dataset, classifier)},
    )


def finetuning_print(
    trainings: Sequence[Sequence[Any]], initialisations: Sequence[str], evaluation: Evaluation
) -> str:
    """Return the fingerprint of a grid's tables; the last initialisation is held to the others."""
    return _print(
        FINETUNING,
        trainings=sorted(map(list, trainings)),
        initialisations=list(initialisations),
        evaluation=evaluation.model_dump(),
    )


def evaluation_print(name: str, seed: int, source: str, dataset: str, split: str) -> str:
    """Return the fingerprint of a method's counts; `source` is a fingerprint or READERS."""
    return _print(EVALUATION, name=name, seed=seed, source=source, dataset=dataset, split=split)


def trainings(experiment: Experiment) -> list[Training]:
    """Return every training of the comparison: arms times seeds."""
    return [
        Training(name, experiment.arm(name), seed)
        for seed in experiment.seeds
        for name in experiment.arms
    ]


def render_families(experiment: Experiment, families: Sequence[str], workspace: Workspace) -> str:
    """Return the plan of pre-training as a person reads it: what is finished, what is to do."""
    dataset = dataset_print(experiment.data, workspace)
    rows = [(DATASET, dataset, f"{experiment.data.size} px")]
    for family in families:
        variant, rounds = experiment.family(family), rounds_of(experiment, family, dataset)
        members = zip(classifier_prints(variant, dataset), variant.members, strict=True)
        rows += [(CLASSIFIER, print_, _fit_of(member)) for print_, member in members]
        for number, made in enumerate(rounds):
            what = f"{family}, round {number}" if number else f"{family}: {variant.saliency.method}"
            rows.append((PSEUDOLABELS, made.labels, what))
            rows.append((SEGMENTER, made.segmenter, f"{variant.pretraining.epochs:g} epochs"))
    lines = [f"{experiment.name}  in {workspace.uri}"]
    lines += [_line(*row, workspace) for row in dict.fromkeys(rows)]
    return "\n".join(lines)


def _line(kind: str, print_: str, what: str, workspace: Workspace) -> str:
    state = "finished" if workspace.find(kind, print_) else "to do"
    return f"  {state:<9} {kind:<13} {print_[:8]}  {what}"


def _refining(experiment: Experiment, plan: Plan) -> list[tuple[str, str, str]]:
    if experiment.saliency.refine == "none":
        return []
    prints = (experiment, plan.dataset, plan.classifiers)
    epochs = experiment.saliency.irnet.epochs
    return [
        (SEEDS, seeds_print(*prints), "where maps are sure"),
        (BOUNDARY, boundary_print(*prints), f"irnet, {epochs:g} epochs"),
    ]


def _fit_of(member: Experiment) -> str:
    return f"{member.classifier.encoder}, {member.classifier.epochs:g} epochs, seed {member.seed}"


def render(experiment: Experiment, plan: Plan, workspace: Workspace) -> str:
    """Return the plan as a person reads it: what is finished, what is to do."""
    data = experiment.data
    if data.phantom:
        images = data.phantom.train + data.phantom.valid + data.phantom.test
        source = f"{images:,} phantom images"
    else:
        source = f"{len(data.tables)} table{'s' if len(data.tables) > 1 else ''}"
    rows = [
        (DATASET, plan.dataset, f"{source} at {data.size} px"),
        *(
            (CLASSIFIER, print_, _fit_of(member))
            for print_, member in zip(plan.classifiers, experiment.members, strict=True)
        ),
        *_refining(experiment, plan),
        (PSEUDOLABELS, plan.pseudolabels, f"{experiment.saliency.method}"),
    ]
    for training, print_ in plan.segmenters:
        settings = training.settings
        masks = f", {settings.expert_masks} masks" if settings.expert_masks else ""
        what = f"{training.key}: p = {settings.expert_probability:g}{masks}"
        rows.append((SEGMENTER, print_, f"{what}, {settings.epochs:g} epochs"))
    rows.append((COMPARISON, plan.comparison, f"on {experiment.evaluation.split}"))
    lines = [f"{experiment.name}  in {workspace.uri}"]
    lines += [_line(*row, workspace) for row in rows]
    return "\n".join(lines)
