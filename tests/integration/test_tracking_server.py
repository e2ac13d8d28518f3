"""A real MLflow server on loopback, killed in the middle of a run and started again.

Once with SQLite, and once as a service: PostgreSQL, and a login.
"""

import base64
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from chexseg_platform import tracking
from chexseg_platform.tracking import tracker as tracker_module
from chexseg_platform.tracking.stores import mlflow_environment

PATIENCE = 90.0
LOGIN = ("admin", "a password of the tests")
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """One `mlflow server`; `kill` takes its whole process group."""

    def __init__(self, folder: Path, store: str, *options: str) -> None:
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._folder, self._options = folder, ["--backend-store-uri", store, *options]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        mlflow_environment()
        options = ["--artifacts-destination", (self._folder / "artifacts").as_uri()]
        options += ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        command = [sys.executable, "-m", "mlflow", "server", *self._options, *options]
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


@pytest.fixture(params=["sqlite", "postgresql"])
def server(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Server]:
    folder = tmp_path / "server"
    folder.mkdir()
    if request.param == "sqlite":
        made = Server(folder, f"sqlite:///{folder}/server.db")
        yield from _running(made)
        return
    with postgres() as store:
        auth = folder / "auth.ini"
        auth.write_text(
            f"[mlflow]\ndefault_permission = READ\ndatabase_uri = {store}\nadmin_username = admin\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
            "grant_default_workspace_access = false\n"
        )
        monkeypatch.setenv("MLFLOW_AUTH_CONFIG_PATH", str(auth))
        monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", LOGIN[1])
        monkeypatch.setenv("MLFLOW_FLASK_SERVER_SECRET_KEY", "of the tests")
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", LOGIN[0])
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", LOGIN[1])
        made = Server(folder, store, "--app-name", "basic-auth")
        yield from _running(made)


def _running(server: Server) -> Iterator[Server]:
    try:
        server.start()
        yield server
    finally:
        server.kill()


@contextmanager
def postgres() -> Iterator[str]:
    """A PostgreSQL on loopback, and the address of a database in it."""
    pytest.importorskip("psycopg2")
    pytest.importorskip("flask_wtf")
    if not POSTGRES:
        pytest.skip("PostgreSQL is not installed (/usr/lib/postgresql)")
    folder, port = Path(tempfile.mkdtemp(prefix="pg")), free_port()
    who: dict[str, Any] = {}
    if os.geteuid() == 0:  # PostgreSQL does not run as root
        shutil.chown(folder, "postgres", "postgres")
        who = {"user": "postgres", "group": "postgres"}
    secret = folder / "password"
    secret.write_text("secret")
    secret.chmod(0o644)
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **who}
    make = ["initdb", "-D", str(folder / "data"), "-U", "mlflow", "-A", "scram-sha-256"]
    make[0] = str(POSTGRES[-1] / make[0])
    subprocess.run([*make, f"--pwfile={secret}"], check=True, cwd=folder, **quiet)
    run = [str(POSTGRES[-1] / "postgres"), "-D", str(folder / "data"), "-p", str(port)]
    run += ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}"]
    server = subprocess.Popen(run, cwd=folder, **quiet)
    where = f"mlflow:secret@127.0.0.1:{port}/postgres"
    try:
        deadline = time.monotonic() + PATIENCE
        while not answers(f"postgresql://{where}"):
            assert time.monotonic() < deadline
            assert server.poll() is None
            time.sleep(0.2)
        yield f"postgresql+psycopg2://{where}"
    finally:
        server.send_signal(signal.SIGINT)  # a fast shutdown
        server.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def answers(address: str) -> bool:
    import psycopg2

    try:
        psycopg2.connect(address).close()
    except psycopg2.OperationalError:
        return False
    return True


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


@pytest.mark.parametrize("server", ["postgresql"], indirect=True)
def test_without_the_login_nothing_is_read_or_recorded(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = f"{server.uri}/api/2.0/mlflow/experiments/search?max_results=5"
    assert urllib.request.urlopen(_with_login(search, LOGIN), timeout=30).status == 200
    for login in (None, ("admin", "wrong"), ("admin", "password1234")):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(_with_login(search, login), timeout=30)
        assert refused.value.code == 401
    # What could not be recorded waits in the workspace, and is sent by who has the login.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    workspace = tmp_path / "workspace"
    with tracking.open_tracker(workspace, "closed") as tracker:
        run = tracker.run("stage", "segment")
        run.metrics(0, {"loss": 0.5})
        run.finish()
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", LOGIN[1])
    assert _client(server.uri).get_experiment_by_name("closed") is None
    for journal in tracking.journals(workspace):
        assert tracking.replay(journal, server.uri) == 0
    client = _client(server.uri)
    (there,) = client.search_runs([client.get_experiment_by_name("closed").experiment_id])
    assert there.data.metrics["loss"] == 0.5
    assert there.info.status == "FINISHED"


def _with_login(address: str, login: tuple[str, str] | None) -> urllib.request.Request:
    request = urllib.request.Request(address)
    if login is not None:
        token = base64.b64encode(":".join(login).encode()).decode()
        request.add_header("Authorization", f"Basic {token}")
    return request


def _client(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)
