"""What a person calls a run -> the finished comparison, sweep and fine-tuning that it means.

A run is named by the folder of an artifact, by its fingerprint, by the experiment's name, or by
the id of its run in MLflow.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from chexseg_platform import plan, tracking
from chexseg_platform.artifacts import Artifact, CorruptArtifact, Workspace, open_artifact
from chexseg_platform.storage import Storage

KINDS = (plan.COMPARISON, plan.SWEEP, plan.FINETUNING)
OTHERS = (
    plan.DATASET, plan.CLASSIFIER, plan.SEEDS, plan.BOUNDARY, plan.PSEUDOLABELS, plan.SEGMENTER,
    plan.EVALUATION,
)  # fmt: skip
OR_KINDS, A_KIND = "comparison, sweep or fine-tuning", "a comparison, a sweep or a fine-tuning"


class NoSuchRun(ValueError):
    """What was named is no run that a report can be made of."""


@dataclass(frozen=True)
class Found:
    """What a report has sections of: a comparison, a sweep, a fine-tuning, or an experiment's all.

    Attributes:
        finetuning: a grid of fine-tunings; it has a section of its own.
    """

    name: str
    workspace: Workspace
    comparison: Artifact | None = None
    sweep: Artifact | None = None
    finetuning: Artifact | None = None

    @property
    def prints(self) -> tuple[str, ...]:
        """The fingerprints of all: the same run, called by two names, has the same."""
        each = (self.comparison, self.sweep, self.finetuning)
        return tuple(item.fingerprint if item else "" for item in each)

    @property
    def artifact(self) -> Artifact:
        """The one that names it."""
        found = self.comparison or self.sweep or self.finetuning
        assert found is not None
        return found


def found_as(artifact: Artifact, name: str, workspace: Workspace) -> Found:
    """Return what an artifact is alone: a comparison, a sweep or a fine-tuning of some name."""
    if artifact.kind == plan.FINETUNING:
        return Found(name, workspace, finetuning=artifact)
    if artifact.kind == plan.SWEEP:
        return Found(name, workspace, sweep=artifact)
    return Found(name, workspace, comparison=artifact)


def find(run: str, workspace: Workspace) -> Found:
    """Return what a person means by a run.

    Args:
        workspace: where names, fingerprints and ids are looked up.

    Raises:
        NoSuchRun: saying what is there instead.
    """
    for look in (_folder, _print, _experiment, _id):
        found = look(run.rstrip("/"), workspace)
        if found is not None:
            return found
    names = ", ".join(sorted(_names(workspace)))
    known = f"its experiments: {names}" if names else "no experiment was tracked in it"
    raise NoSuchRun(
        f"there is no run {run!r} in the workspace {workspace.uri} ({known}). Give an experiment's "
        "name, the folder of a comparison, a sweep or a fine-tuning, or an MLflow run's id."
    )


def _folder(run: str, _: Workspace) -> Found | None:
    """An artifact's folder: finished, or named as one and not there yet."""
    if "://" not in run and not Path(run).is_dir():
        return None
    place = Storage(run if "://" in run else Path(run).resolve())
    parts = place.base.rstrip("/").rsplit("/", 2)
    kind, finished = parts[-2] if len(parts) > 1 else "", place.exists("artifact.json")
    if not finished and "://" not in run and kind not in (*KINDS, *OTHERS):
        return None  # a folder that only happens to be called like an experiment
    if kind in OTHERS:
        raise NoSuchRun(f"{run} is of kind {kind}: a report is of {A_KIND}.")
    if not finished:
        raise NoSuchRun(
            f"{run} is not finished: it holds no artifact.json. The command that makes it, run "
            "again, continues it."
        )
    if kind not in KINDS:
        raise NoSuchRun(
            f"{run} is no folder of {A_KIND}: these lie in {plan.COMPARISON}/, {plan.SWEEP}/ and "
            f"{plan.FINETUNING}/ of a workspace, and are read where they were made."
        )
    return _section(open_artifact(place), _workspace_of(place))


def _workspace_of(place: Storage) -> Workspace:
    """The folder two above an artifact's; options of a filesystem stand behind a question mark."""
    folder, mark, options = place.uri.partition("?")
    return Workspace(f"{folder.rstrip('/').rsplit('/', 2)[0]}{mark}{options}")


def _print(run: str, workspace: Workspace) -> Found | None:
    if not re.fullmatch("[0-9a-f]{16}", run):
        return None
    return _of_key(run, workspace)


def _experiment(run: str, workspace: Workspace) -> Found | None:
    """An experiment's latest comparison, sweep and fine-tuning."""
    if run not in _names(workspace):
        return None
    latest = {kind: _latest(kind, run, workspace) for kind in KINDS}
    if not any(latest.values()):
        raise NoSuchRun(
            f"the experiment {run!r} has no finished {OR_KINDS} in {workspace.uri}. "
            "Run it again: it continues where it was cut off."
        )
    return Found(run, workspace, *latest.values())


def _id(run: str, workspace: Workspace) -> Found | None:
    """A run in MLflow: an experiment's own, or that of its comparison, sweep or fine-tuning."""
    if not re.fullmatch("[0-9a-f]{32}", run):
        return None
    page = next((p for p in tracking.run_pages(workspace.uri) if p.run_id == run), None)
    if page is None:
        return None
    top, _, below = page.key.partition("/")
    if below not in ("", top):
        raise NoSuchRun(
            f"the MLflow run {run} is of one stage of the experiment {page.experiment!r}: give the "
            "run above it."
        )
    found = _of_key(top, workspace)
    if found is None:
        raise NoSuchRun(
            f"the MLflow run {run} of the experiment {page.experiment!r} has no finished "
            f"{OR_KINDS} in {workspace.uri}: the same command, run again, continues it."
        )
    return found


def _of_key(key: str, workspace: Workspace) -> Found | None:
    artifacts = (workspace.find(kind, key) for kind in KINDS)
    return next((_section(item, workspace) for item in artifacts if item is not None), None)


def _section(artifact: Artifact, workspace: Workspace) -> Found:
    key = artifact.fingerprint
    names = (run.experiment for run in tracking.tracked(workspace.uri) if run.key == key)
    name = next(names, None) or artifact.summary.get("experiment")
    if artifact.kind == plan.COMPARISON:
        return found_as(artifact, str(name or f"comparison {key}"), workspace)
    sweep = " sweep" if artifact.kind == plan.SWEEP else ""
    return found_as(artifact, f"{name or key}{sweep}", workspace)


def _names(workspace: Workspace) -> set[str]:
    """Experiments that a workspace's journals or its artifacts tell of."""
    told = (artifact.summary.get("experiment") for artifact in _made(KINDS, workspace))
    tracked = {run.experiment for run in tracking.tracked(workspace.uri)}
    return tracked | {str(name) for name in told if name}


def _made(kinds: Sequence[str], workspace: Workspace) -> Iterable[Artifact]:
    """Finished artifacts of some kinds; one that cannot be read is not what is looked for."""
    for kind in kinds:
        for print_ in workspace.storage.folders(kind):
            try:
                found = workspace.find(kind, print_)
            except CorruptArtifact:
                continue
            if found is not None:
                yield found


def _latest(kind: str, experiment: str, workspace: Workspace) -> Artifact | None:
    """The artifact of an experiment that was worked on last."""
    times = {
        run.key: run.time for run in tracking.tracked(workspace.uri) if run.experiment == experiment
    }
    mine = [
        (times.get(item.fingerprint) or _written(item), item.fingerprint, item)
        for item in _made([kind], workspace)
        if item.fingerprint in times or item.summary.get("experiment") == experiment
    ]
    return max(mine, key=lambda entry: entry[:2])[2] if mine else None


def _written(artifact: Artifact) -> int:
    """When an artifact was finished, in milliseconds, of one that was not tracked."""
    storage = artifact.storage
    moment = storage.fs.get_file_info(storage.path("artifact.json")).mtime_ns
    return int(moment or 0) // 1_000_000
