"""MLflow's pages over a workspace's store: one process of MLflow on loopback, nothing else."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

from chexseg_platform.tracking.stores import (
    is_server,
    mlflow_environment,
    nothing_tracked,
    shown,
    store_uri,
    tracking_folder,
)


def command(uri: str, folder: Path, host: str, port: int) -> list[str]:
    """The server's command line: one worker, artifacts from the tracking folder."""
    root = (folder / "mlflow" / "artifacts").as_uri()
    options = {
        "--backend-store-uri": uri,
        "--default-artifact-root": root,
        "--host": host,
        "--port": str(port),
        "--workers": "1",
        "--uvicorn-opts": "--log-level critical",
    }
    words = [word for pair in options.items() for word in pair]
    return [sys.executable, "-m", "mlflow", "server", *words, "--no-serve-artifacts"]


def first_page(uri: str) -> str:
    """The runs of the experiment that ran last; MLflow's own first page is about chats."""
    page = "?workflowType=machine_learning"
    newest = "SELECT experiment_id FROM runs ORDER BY start_time DESC LIMIT 1"
    try:
        with closing(sqlite3.connect(_sqlite_file(uri))) as store:
            return f"/#/experiments/{store.execute(newest).fetchone()[0]}/runs{page}"
    except (sqlite3.Error, TypeError):
        return f"/#/experiments{page}"


def _sqlite_file(uri: str) -> str:
    return urlsplit(uri).path[1:] if uri.startswith("sqlite:///") else ":memory:"


def ui(workspace: str | Path, host: str = "127.0.0.1", port: int = 5000) -> int:
    """Serves MLflow's pages of a workspace until interrupted; returns the exit code.

    With `MLFLOW_TRACKING_URI` at a server nothing is started: its address is printed.

    Raises:
        ValueError: the port is taken, or nothing was tracked in the workspace yet.
    """
    folder = tracking_folder(workspace)
    uri = store_uri(folder)
    if is_server(uri):
        print(f"The runs are at {shown(uri)}")
        return 0
    if uri.startswith("sqlite:///") and not Path(urlsplit(uri).path[1:]).is_file():
        raise ValueError(nothing_tracked(workspace))
    _check_free(host, port)
    url = f"http://{host}:{port}{first_page(uri)}"
    print(f"MLflow opens in about ten seconds at {url} ; Ctrl-C stops it.", flush=True)
    mlflow_environment()
    environment = os.environ | {"PYTHONWARNINGS": "ignore"}
    # A process that is asked to end takes its server along, as with Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    process = subprocess.Popen(command(uri, folder, host, port), env=environment)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait(timeout=20)
        return 0


def _check_free(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ValueError(
                f"Cannot listen on {host}:{port} ({error.strerror}): choose another --port."
            ) from None
