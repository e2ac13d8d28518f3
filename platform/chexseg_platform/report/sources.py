"""What a section of a report is made from: the artifacts behind a comparison, sweep or fine-tuning.

Everything but the result itself may be gone, be it that a workspace was tidied or that a
comparison was copied alone; what is missing is named, and the page does without.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from chexseg_platform import plan, tracking
from chexseg_platform.artifacts import Artifact, CorruptArtifact, Workspace
from chexseg_platform.evaluation.comparison import PSEUDO_LABELS
from chexseg_platform.report.find import OTHERS, Found


@dataclass
class Sources:
    """Artifacts by what they are; `missing` says what was not there, in words.

    Attributes:
        evaluations: one a method and seed.
        segmenters: (method, seed) -> artifact.
        classifiers: those that were explained.
    """

    evaluations: list[Artifact] = field(default_factory=list)
    segmenters: dict[tuple[str, int], Artifact] = field(default_factory=dict)
    pseudolabels: Artifact | None = None
    classifiers: list[Artifact] = field(default_factory=list)
    boundary: Artifact | None = None
    dataset: Artifact | None = None
    missing: list[str] = field(default_factory=list)

    @property
    def all(self) -> list[Artifact]:
        """Every artifact, from the dataset on."""
        one = [self.dataset, *self.classifiers, self.boundary, self.pseudolabels]
        made = [*one, *self.segmenters.values(), *self.evaluations]
        return list({item.fingerprint: item for item in made if item is not None}.values())


def sources_of(found: Found) -> Sources:
    """Look up what lies behind a comparison, or the trials of a sweep."""
    sources = Sources()
    if found.comparison is not None:
        _behind_comparison(sources, found.comparison, found.workspace)
    elif found.sweep is not None:
        _behind_sweep(sources, found.sweep, found.workspace)
    return sources


def _behind_comparison(sources: Sources, comparison: Artifact, workspace: Workspace) -> None:
    for print_ in comparison.manifest["inputs"].values():
        evaluation = _take(sources, workspace, plan.EVALUATION, print_, "an evaluation")
        if evaluation is not None:
            sources.evaluations.append(evaluation)
    for evaluation in sources.evaluations:
        inputs, method = evaluation.manifest["inputs"], evaluation.summary["method"]
        if plan.SEGMENTER in inputs:
            key, print_ = (method, evaluation.summary["seed"]), inputs[plan.SEGMENTER]
            segmenter = _take(sources, workspace, plan.SEGMENTER, print_, f"the segmenter {method}")
            if segmenter is not None:
                sources.segmenters[key] = segmenter
    datasets = {evaluation.manifest["inputs"][plan.DATASET] for evaluation in sources.evaluations}
    for print_ in sorted(datasets):
        sources.dataset = _take(sources, workspace, plan.DATASET, print_, "the dataset")
    named = [e for e in sources.evaluations if e.summary["method"] == PSEUDO_LABELS]
    for evaluation in named:
        _behind_pseudolabels(sources, workspace, evaluation.manifest["inputs"][plan.PSEUDOLABELS])


def _behind_pseudolabels(sources: Sources, workspace: Workspace, print_: str) -> None:
    made = _take(sources, workspace, plan.PSEUDOLABELS, print_, "the pseudo-labels")
    if made is None:
        return
    sources.pseudolabels = made
    for name, below in made.manifest["inputs"].items():
        if name.startswith(plan.CLASSIFIER):
            classifier = _take(sources, workspace, plan.CLASSIFIER, below, "a classifier")
            sources.classifiers += [classifier] if classifier is not None else []
        if name == plan.BOUNDARY:
            sources.boundary = _take(sources, workspace, name, below, "the boundary network")


def _behind_sweep(sources: Sources, sweep: Artifact, workspace: Workspace) -> None:
    """A sweep's trials, by its runs; the artifact itself names no segmenter.

    A trial is called by its point, though its segmenter may have been an arm's first.
    """
    print_ = sweep.manifest["inputs"][plan.DATASET]
    sources.dataset = _take(sources, workspace, plan.DATASET, print_, "the dataset")
    above = f"{sweep.fingerprint}/"
    trials = [run for run in tracking.tracked(workspace.uri) if run.key.startswith(above)]
    named = {run.name.removeprefix("trial "): run.key for run in trials if run.stage == "trial"}
    for name, key in sorted(named.items()):
        segmenter = _take(sources, workspace, plan.SEGMENTER, key[len(above) :], "a trial")
        if segmenter is not None:
            point = name.removesuffix(f" seed {segmenter.seed}")
            sources.segmenters[point, int(segmenter.seed or 0)] = segmenter
    prints = {s.manifest["inputs"].get(plan.PSEUDOLABELS) for s in sources.segmenters.values()}
    for print_ in sorted(print_ for print_ in prints if print_):
        _behind_pseudolabels(sources, workspace, print_)


def _take(
    sources: Sources, workspace: Workspace, kind: str, print_: str, what: str
) -> Artifact | None:
    try:
        found = workspace.find(kind, print_)
    except CorruptArtifact as error:
        sources.missing.append(f"{what} ({kind}/{print_}): {_first(str(error))}")
        return None
    if found is None:
        sources.missing.append(f"{what} ({kind}/{print_}) is no longer there")
    return found


@dataclass
class Below:
    """Every artifact that a result rests on, once; `missing` says what was not there, in words."""

    artifacts: list[Artifact] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def of(self, kind: str) -> list[Artifact]:
        return [artifact for artifact in self.artifacts if artifact.kind == kind]


def below(top: Artifact, workspace: Workspace) -> Below:
    """Follow an artifact's inputs down to the datasets; they come first.

    What is gone is told by kind: of a large grid it may be hundreds.
    """
    seen, gone, found = {top.fingerprint}, Counter[str](), Below()
    waiting = [top]
    while waiting:
        for name, print_ in waiting.pop(0).manifest["inputs"].items():
            word = name.partition(" ")[0]
            kind = plan.SEGMENTER if word == plan.PRETRAINED else word
            if kind not in OTHERS or print_ in seen:
                continue
            seen.add(print_)
            try:
                artifact = workspace.find(kind, print_)
            except CorruptArtifact as error:
                found.missing.append(f"{kind}/{print_}: {_first(str(error))}")
                continue
            if artifact is None:
                gone[kind] += 1
            else:
                found.artifacts.append(artifact)
                waiting.append(artifact)
    found.artifacts.sort(key=lambda artifact: OTHERS.index(artifact.kind))
    found.missing += [f"{count} of kind {kind}, no longer there" for kind, count in gone.items()]
    return found


def _first(text: str) -> str:
    """The first sentence of an error, without the folder that it names."""
    return text.partition(". ")[0].rpartition("/")[2]
