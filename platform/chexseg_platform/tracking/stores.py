"""Where records go: the local folder, the store's address, and how MLflow behaves in this process.

Nothing here imports MLflow, so the machine's check-up and the command line may use it.
"""

import hashlib
import logging
import os
import re
import socket
from pathlib import Path
from urllib.parse import unquote, urlsplit

PROBE_SECONDS = 2.0


def is_remote(workspace: str | Path) -> bool:
    """Whether a workspace lies elsewhere than on a local disk; nothing is opened."""
    return urlsplit(str(workspace)).scheme not in ("", "file") and "://" in str(workspace)


def tracking_folder(workspace: str | Path) -> Path:
    """The local folder of a workspace's journals and of its own store.

    That is the workspace itself. A journal and SQLite need a local disk, so of a workspace
    elsewhere (`s3://`) it is a folder under the user's cache folder, on the machine that tracks.
    """
    if not is_remote(workspace):
        file = urlsplit(str(workspace)) if str(workspace).startswith("file://") else None
        return Path(unquote(file.path) if file else workspace).absolute()
    from chexseg_platform.data.store import cache_folder

    # Without user, password and options, which may change or be secret.
    place = shown(str(workspace)).rstrip("/")
    readable = re.sub(r"[^A-Za-z0-9.-]+", "-", place)[-60:].strip("-.")
    digest = hashlib.sha256(place.encode()).hexdigest()[:8]
    return cache_folder(None) / "tracking" / f"{readable}-{digest}"


def nothing_tracked(workspace: str | Path) -> str:
    """A sentence for a workspace of which this machine has no records."""
    if is_remote(workspace):
        return (
            f"Nothing was tracked on this machine for {shown(str(workspace))}: its records lie in "
            f"{tracking_folder(workspace)} of the machine that ran the experiment; run this "
            "command there, or point MLFLOW_TRACKING_URI at a server before the next run."
        )
    return (
        f"Nothing was tracked in {workspace} yet: run an experiment first, or give the "
        "--workspace it ran in."
    )


def default_uri(folder: Path) -> str:
    """A tracking folder's own store, by absolute path: an SQLite file."""
    return f"sqlite:///{folder.absolute() / 'mlflow' / 'mlflow.db'}"


def store_uri(folder: Path, uri: str | None = None) -> str:
    """`uri`, else `MLFLOW_TRACKING_URI`, else the tracking folder's own store.

    Raises:
        ValueError: a plain folder, to which MLflow no longer writes.
    """
    chosen = uri or os.environ.get("MLFLOW_TRACKING_URI") or default_uri(folder)
    if ("://" not in chosen and chosen != "databricks") or chosen.startswith("file:"):
        raise ValueError(
            f"MLflow no longer writes to folders, and the tracking address is {chosen!r}: give "
            "an http(s):// or sqlite:/// address, or none to use the workspace's own."
        )
    return chosen


def is_server(uri: str) -> bool:
    """Whether the store is reached over HTTP (and keeps artifacts itself)."""
    return uri.startswith(("http://", "https://"))


def shown(uri: str) -> str:
    """The address without user name and password."""
    scheme, mark, rest = uri.partition("://")
    place, slash, path = rest.partition("/")
    return scheme + mark + place.rpartition("@")[2] + slash + path.partition("?")[0]


def mlflow_environment() -> None:
    """Quiet, private, impatient: MLflow's settings for this process where the user gave none.

    By default MLflow reports usage, prints migrations and bars, and waits four minutes for a
    server that is away.
    """
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_UV_AUTO_DETECT": "false",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "GIT_PYTHON_REFRESH": "quiet",
    }.items():
        os.environ.setdefault(name, value)


def quiet_loggers() -> None:
    """MLflow's and its migrations' INFO lines off."""
    for name in ("mlflow", "alembic", "alembic.runtime.migration", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.ERROR)


def probe(uri: str) -> None:
    """Raises OSError within two seconds when nothing listens at a server's address."""
    if is_server(uri):
        parts = urlsplit(uri)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "", port), PROBE_SECONDS).close()
