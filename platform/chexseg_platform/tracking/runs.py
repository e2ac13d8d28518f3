"""Runs as they were tracked: names and keys from the journals, ids and addresses from the store.

A journal alone says what was run under which name, so that much is known without MLflow. Only the
store knows a run's id, which is what the address of its page is made of.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from chexseg_platform.tracking.journal import Record, records_of
from chexseg_platform.tracking.sender import StoreAway, known_runs
from chexseg_platform.tracking.stores import (
    is_server,
    mlflow_environment,
    probe,
    quiet_loggers,
    shown,
    store_uri,
    tracking_folder,
)

LOCAL_PAGES = "http://127.0.0.1:5000"
"""Where `chexseg-platform ui` serves a workspace's own store."""


@dataclass(frozen=True)
class Tracked:
    """A run in a journal: its key, what it is called, and when it was last written to."""

    key: str
    experiment: str
    name: str
    stage: str
    time: int


@dataclass(frozen=True)
class Page:
    """A run in the store: its key, its id and the address of its page."""

    key: str
    experiment: str
    run_id: str
    url: str


def tracked(workspace: str | Path) -> list[Tracked]:
    """Every run that a workspace's journals tell of, in their order."""
    return [run for folder in _folders(workspace) for run in _runs(records_of(folder))]


def run_pages(workspace: str | Path) -> list[Page]:
    """Every run of a workspace that the store holds; none if nothing was ever sent there.

    Raises:
        StoreAway: the store does not answer.
    """
    place = tracking_folder(workspace)
    uri = store_uri(place)
    heads = [records[0] for folder in _folders(workspace) if (records := records_of(folder))]
    if not heads or not _there(uri):
        return []
    try:
        probe(uri)
        return list(_pages(uri, heads))
    except Exception as error:  # whatever a server or a driver raises
        raise StoreAway(f"{shown(uri)} does not answer, so no run is linked") from error


def _folders(workspace: str | Path) -> list[Path]:
    files = (tracking_folder(workspace) / "tracking").glob("*/journal.jsonl")
    return sorted(file.parent for file in files)


def _runs(records: list[Record]) -> list[Tracked]:
    found: dict[str, Record] = {}
    last: dict[str, int] = {}
    for record in records:
        key = record.get("run")
        if record["kind"] == "run":
            found[str(key)] = record
        if key in found:
            last[key] = record["time"]
    return [
        Tracked(key, records[0]["name"], run["name"], run["tags"].get("stage", ""), last[key])
        for key, run in found.items()
    ]


def _there(uri: str) -> bool:
    """Whether there is a store to ask: MLflow would make an SQLite file that is not there."""
    return not uri.startswith("sqlite:///") or Path(urlsplit(uri).path[1:]).is_file()


def _pages(uri: str, heads: list[Record]) -> Iterator[Page]:
    mlflow_environment()
    from mlflow import MlflowClient

    quiet_loggers()
    client: Any = MlflowClient(tracking_uri=uri)
    base = shown(uri).rstrip("/") if is_server(uri) else LOCAL_PAGES
    for head in heads:
        experiment = client.get_experiment_by_name(head["name"])
        if experiment is None:
            continue
        number = experiment.experiment_id
        for key, run_id in known_runs(client, number, head["journal"]).items():
            address = f"{base}/#/experiments/{number}/runs/{run_id}"
            yield Page(key, head["name"], run_id, address)
