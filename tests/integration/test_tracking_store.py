"""Tracking's slower promises: processes that race for a fresh store, a model that comes back."""

import multiprocessing
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chexseg_platform import tracking
from chexseg_platform.artifacts import Workspace
from chexseg_platform.data import geometry
from chexseg_platform.models import classifier, segmenter
from chexseg_platform.models.preprocess import Preprocess
from chexseg_platform.tracking.journal import waiting
from chexseg_platform.tracking.stores import default_uri


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def client(workspace: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=default_uri(workspace))


def runs_of(workspace: Path, experiment: str) -> list[Any]:
    found = client(workspace).get_experiment_by_name(experiment)
    return list(client(workspace).search_runs([found.experiment_id]))


def load(workspace: Path, address: str) -> Any:
    """Loads a model as a user would, and leaves MLflow's global address as it was."""
    import mlflow.pyfunc

    mlflow.set_tracking_uri(default_uri(workspace))
    try:
        return mlflow.pyfunc.load_model(address)
    finally:
        mlflow.set_tracking_uri("")
        os.environ.pop("MLFLOW_TRACKING_URI", None)


def _open_and_log(workspace: str, name: str) -> None:
    with tracking.open_tracker(Path(workspace), name) as tracker:
        tracker.run("whole", name).finish()


def test_a_fresh_store_survives_processes_that_open_it_at_once(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    names = ["a", "b"]
    workers = [spawn.Process(target=_open_and_log, args=(str(tmp_path), n)) for n in names]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [len(runs_of(tmp_path, name)) for name in names] == [1, 1]
    assert all(waiting(tmp_path / "tracking" / n, default_uri(tmp_path)) == 0 for n in names)


def publish(workspace: Path, kind: str, checkpoints_: list[tuple[Any, dict[str, Any]]]) -> Any:
    """An artifact as a training stage writes it."""
    from chexseg_platform.models import checkpoints

    draft = Workspace(workspace).draft(kind, "f00")
    parts = [
        draft.write(f"checkpoints/{number:02d}/{name}", data)
        for number, (model, meta) in enumerate(checkpoints_)
        for name, data in checkpoints.dumps(model.state_dict(), meta).items()
    ]
    return draft.finish(parts, config={}, inputs={})


def log_model(workspace: Path, artifact: Any, *stages: str) -> Any:
    """The one logged model of an artifact that every stage logs, twice."""
    for _ in range(2):
        with tracking.open_tracker(workspace, "model") as tracker:
            for stage in stages:
                run = tracker.run(stage, stage)
                run.model(artifact.kind, artifact)
                run.finish()
    runs = runs_of(workspace, "model")
    (logged,) = client(workspace).search_logged_models([runs[0].info.experiment_id])
    outputs = [[output.model_id for output in run.outputs.model_outputs] for run in runs]
    assert outputs == [[logged.model_id]] * len(stages)
    assert "MLFLOW_TRACKING_URI" not in os.environ
    return logged


IMAGES = np.random.default_rng(0).integers(0, 256, (17, 32, 32), dtype=np.uint8)


def test_a_segmenter_comes_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    options = {"encoder_depth": 3, "decoder_channels": (4, 4, 4)}
    spec = segmenter.SegmenterSpec(
        architecture="Unet", encoder="resnet18", classes=("Edema", "Atelectasis"), options=options
    )
    model, preprocess = segmenter.build_segmenter(spec).eval(), Preprocess(0.5, 0.25)
    meta = segmenter.segmenter_meta(spec, preprocess, {"size": 32})
    artifact = publish(tmp_path, "segmenter", [(model, meta)])
    logged = log_model(tmp_path, artifact, "segment", "trial")
    weights = list(tmp_path.rglob("*.safetensors"))
    assert len(weights) == 2, "the artifact's own, and the store's"
    served = load(tmp_path, f"models:/{logged.model_id}")
    with torch.inference_mode():
        wanted = model(preprocess(torch.from_numpy(IMAGES))).sigmoid().numpy()
    np.testing.assert_allclose(served.predict(IMAGES), wanted, atol=1e-5)
    assert served.predict(IMAGES[:2, :20]).shape == (2, 2, 20, 32)
    assert served.metadata.metadata["classes"] == ["Edema", "Atelectasis"]
    with pytest.raises(Exception, match="uint8"):
        served.predict(IMAGES / 255)


@pytest.mark.parametrize("three_class", [False, True])
def test_a_classifier_comes_back_its_checkpoints_averaged(
    tmp_path: Path, three_class: bool
) -> None:
    torch.manual_seed(0)
    classes = ("Edema", "Fracture")
    spec = classifier.ClassifierSpec(encoder="resnet18", classes=classes, three_class=three_class)
    models = [classifier.build_classifier(spec).eval() for _ in range(2)]
    preprocess = Preprocess(0.5, 0.25)
    meta = classifier.classifier_meta(spec, preprocess, {"size": 32})
    artifact = publish(tmp_path, "classifier", [(model, meta) for model in models])
    logged = log_model(tmp_path, artifact, "classify")
    served = load(tmp_path, f"models:/{logged.model_id}")
    found = served.predict(IMAGES)
    normalised = preprocess(torch.from_numpy(IMAGES))
    with torch.inference_mode():
        each = [model.probabilities(model(normalised)) for model in models]
    assert list(found.columns) == list(classes)
    np.testing.assert_allclose(found, (each[0] + each[1]) / 2, atol=1e-5)
    assert [column.name for column in served.metadata.signature.outputs] == list(classes)
    with torch.inference_mode():
        box = geometry.Letterbox(20, 32, 32)
        frame = torch.from_numpy(geometry.letterbox(IMAGES[0, :20], box))[None]
        content = torch.tensor([[box.top, box.top + box.inner_height, 0, 32]])
        wanted = [m.probabilities(m(preprocess(frame, content))) for m in models]
    np.testing.assert_allclose(
        served.predict(IMAGES[:1, :20]), (wanted[0] + wanted[1]) / 2, atol=1e-5
    )


def test_a_model_that_is_gone_does_not_block_the_rest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = classifier.ClassifierSpec(encoder="resnet18")
    meta = classifier.classifier_meta(spec, Preprocess(0.5, 0.25))
    artifact = publish(tmp_path, "classifier", [(classifier.build_classifier(spec), meta)])
    with tracking.open_tracker(tmp_path, "gone") as tracker:
        run = tracker.run("classify", "classify")
        run.model("classifier", artifact)
        next(tmp_path.rglob("*.safetensors")).unlink()
        run.metrics(0, {"loss": 1.0})
        run.finish()
    (there,) = runs_of(tmp_path, "gone")
    assert there.data.metrics == {"loss": 1.0}
    assert "MLflow does not take what run classify logs: checkpoints/00/weights" in caplog.text
    assert client(tmp_path).search_logged_models([there.info.experiment_id]) == []
