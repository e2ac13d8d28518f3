"""The whole experiment, small: every stage through the code that real runs use, tracked."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chexseg_platform.tracking.stores import default_uri

pytestmark = pytest.mark.ray

KINDS = {
    "dataset": 1,
    "classifier": 1,
    "pseudolabels": 1,
    "segmenter": 3,
    "evaluation": 5,
    "comparison": 1,
}
METHODS = {"expert only", "pseudo only", "mix", "pseudo-labels", "radiologists"}


def files_of(folder: Path) -> dict[str, int]:
    """Every file of every artifact, and when it was written."""
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for kind in KINDS
        for path in (folder / kind).rglob("*")
        if path.is_file()
    }


def runs_of(folder: Path) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=default_uri(folder))
    place = client.get_experiment_by_name("tiny")
    return list(client.search_runs([place.experiment_id]))


def test_every_artifact_is_finished(finished: Any) -> None:
    workspace = finished.context.workspace
    assert {kind: len(workspace.artifacts(kind)) for kind in KINDS} == KINDS
    for kind in KINDS:
        for artifact in workspace.artifacts(kind):
            for part in artifact.parts():
                artifact.read(part.name)  # checks its size and digest
    assert not list((finished.folder / "runs").iterdir()), "trainings leave nothing behind"


def test_the_comparison_has_every_method(finished: Any) -> None:
    text = finished.comparison.read("comparison.txt").decode()
    assert all(method.casefold() in text.casefold() for method in METHODS), text
    scores = finished.comparison.json("comparison.json")["scores"]
    assert all(set(by_method) == METHODS for by_method in scores.values())
    names = {part.name for part in finished.comparison.parts()}
    assert {"counts.parquet", "comparison.csv", "forest.png", "curves.png", "overlays.png"} <= names


def test_arms_that_need_no_pseudo_labels_do_not_depend_on_them(finished: Any) -> None:
    inputs = {
        artifact.summary["arm"]: set(artifact.manifest["inputs"])
        for artifact in finished.context.workspace.artifacts("segmenter")
    }
    assert inputs["expert only"] == {"dataset", "classifier"}
    assert inputs["mix"] == inputs["pseudo only"] == {"dataset", "classifier", "pseudolabels"}


def test_a_parent_run_with_a_child_a_stage(finished: Any) -> None:
    runs = runs_of(finished.folder)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert [run.info.run_name for run in parents] == ["tiny"]
    children = [run for run in runs if run not in parents]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parents[0].info.run_id}
    assert sorted(run.info.run_name for run in children) == [
        "classify", "compare", "evaluate", "explain", "ingest",
        "segment expert only seed 0", "segment mix seed 0", "segment pseudo only seed 0",
    ]  # fmt: skip
    assert Counter(run.info.status for run in runs) == {"FINISHED": len(runs)}
    mix = next(run for run in children if run.data.params.get("arm") == "mix")
    assert {"training/loss", "validation/mIoU", "best validation mIoU"} <= set(mix.data.metrics)


def test_the_parent_shows_the_comparison(finished: Any) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=default_uri(finished.folder))
    (parent,) = (r for r in runs_of(finished.folder) if "mlflow.parentRunId" not in r.data.tags)
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {"comparison.md", "comparison.csv", "forest.png", "curves.png", "overlays.png"} <= files
    assert {f"mIoU C/{method}" for method in METHODS} <= set(parent.data.metrics)
    assert "report.html" in files
    page = client.download_artifacts(parent.info.run_id, "report.html")
    text = Path(page).read_text()
    assert f"runs/{parent.info.run_id}" in text
    assert "Cases: best, median and worst" in text
    note = parent.data.tags["mlflow.note.content"]
    assert all(f"| {method} |" in note for method in METHODS), note


def test_its_models_can_be_loaded_from_mlflow(finished: Any) -> None:
    import mlflow
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=default_uri(finished.folder))
    place = client.get_experiment_by_name("tiny")
    models = client.search_logged_models([place.experiment_id])
    names = Counter(model.name for model in models)
    assert names == {"segmenter": KINDS["segmenter"], "classifier": 1}
    mlflow.set_tracking_uri(default_uri(finished.folder))
    try:
        loaded = {m.name: mlflow.pyfunc.load_model(f"models:/{m.model_id}") for m in models}
    finally:
        mlflow.set_tracking_uri("")
    images = np.full((2, 80, 64), 90, np.uint8)
    probability = loaded["segmenter"].predict(images)
    assert probability.shape == (2, 10, 80, 64)
    assert np.isfinite(probability).all()
    assert loaded["classifier"].predict(images).shape == (2, 14)


def test_running_again_does_nothing_anew(finished: Any) -> None:
    files, before = files_of(finished.folder), runs_of(finished.folder)
    assert finished.run().manifest == finished.comparison.manifest
    assert files_of(finished.folder) == files
    after = runs_of(finished.folder)
    assert [run.to_dictionary() for run in after] == [run.to_dictionary() for run in before]
