"""A real MLflow server on loopback, killed in the middle of a run and started again."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chexseg_platform import tracking
from chexseg_platform.tracking import tracker as tracker_module
from chexseg_platform.tracking.stores import mlflow_environment

PATIENCE = 90.0


class Server:
    """One `mlflow server`; `kill` takes its whole process group."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        mlflow_environment()
        options = ["--backend-store-uri", f"sqlite:///{self._folder}/server.db"]
        options += ["--artifacts-destination", (self._folder / "artifacts").as_uri()]
        options += ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        command = [sys.executable, "-m", "mlflow", "server", *options]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True, cwd=self._folder
            )
        self._wait()

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _wait(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=2).close()
                return
            except (OSError, urllib.error.URLError):
                time.sleep(0.2)
        raise AssertionError((self._folder / "server.log").read_text()[-2000:])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "server").mkdir()
    made = Server(tmp_path / "server")
    made.start()
    yield made
    made.kill()


def test_a_run_outlives_its_server(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setattr(tracker_module, "RETRY_SECONDS", 0.0)
    workspace = tmp_path / "workspace"
    with tracking.open_tracker(workspace, "server") as tracker:
        run = tracker.run("stage", "segment", params={"lr": 0.1})
        run.metrics(0, {"loss": 0.0})
        assert tracker.flush()
        server.kill()
        run.metrics(1, {"loss": 1.0})
        run.text("notes.txt", "written while the server was away")
        assert not tracker.flush()
        assert not tracker.flush()
        server.start()
        run.metrics(2, {"loss": 2.0})
        assert tracker.flush(30)
        run.finish()
    client = _client(server.uri)
    experiment = client.get_experiment_by_name("server")
    (there,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(there.info.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert there.info.status == "FINISHED"
    notes = client.download_artifacts(there.info.run_id, "notes.txt")
    assert "away" in Path(notes).read_text()
    lines = [record.getMessage() for record in caplog.records]
    assert sum("does not take records" in line for line in lines) == 1
    assert sum("is back" in line for line in lines) == 1
    assert not (workspace / "mlflow").exists()


def _client(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)
