"""Sending a journal to MLflow, which is imported inside functions only (it takes 2 seconds).

One process writes: the driver. What it logs waits in a journal (`tracker.py`, `journal.py`); here
it is sent: in order, a few seconds at a time, each record safely twice. Sending may stop anywhere
(a kill, a server that goes away), and the cursor may lag behind what arrived. That is harmless: a
run is looked up by two tags before it is made, `chexseg.journal` (the workspace's journal) and
`chexseg.key` (fingerprints: the experiment's, then the stage's or the trial's), so the same
command continues the same run; points carry the journal's times (stores keep equal points once),
artifacts overwrite themselves, and a model is looked up by the fingerprint of its artifact. If the
store turns out to be another one (deleted, moved, restored from a copy), runs are missing there
and everything is sent again from the start.
"""

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock

from chexseg_platform.artifacts import CorruptArtifact, open_artifact
from chexseg_platform.storage import Storage
from chexseg_platform.tracking.journal import Cursor, Journal, Record
from chexseg_platform.tracking.stores import (
    is_server,
    mlflow_environment,
    nothing_tracked,
    probe,
    quiet_loggers,
    shown,
    store_uri,
    tracking_folder,
)
from chexseg_platform.tracking.tracker import Tracker, checked_name
from chexseg_platform.tracking.upload import fill_model, unpacked

JOURNAL_TAG = "chexseg.journal"
KEY_TAG = "chexseg.key"
CONTENT_TAG = "chexseg.content"
PARENT_TAG = "mlflow.parentRunId"
BATCH = 500
# A store that answers with one of these will never take that record: leave it out and go on.
REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST"}
_log = logging.getLogger(__name__)


def open_tracker(
    workspace: str | Path,
    experiment: str,
    *,
    fingerprint: str | None = None,
    uri: str | None = None,
    enabled: bool = True,
) -> "Tracker":
    """A tracker for one experiment of a workspace.

    Args:
        workspace: any; the journal is `tracking/<name>/` in its `tracking_folder`.
        experiment: MLflow's experiment name.
        fingerprint: names the journal (default: the experiment's name).
        uri: the store; see `store_uri`.
        enabled: False gives a tracker that records nothing.

    Raises:
        ValueError: a bad name or address, a workspace that cannot be written.
        JournalInUse: another process tracks the same experiment.
    """
    if not enabled:
        return Tracker(None, None)
    checked_name(experiment)
    place = checked_name(fingerprint or experiment).replace("/", "_").replace(" ", "_")
    folder = tracking_folder(workspace)
    address = store_uri(folder, uri)
    return _tracker(Journal(folder / "tracking" / place, experiment), folder, address)


def replay(folder: Path, uri: str | None = None, *, seconds: float = 600.0) -> int:
    """Sends a journal folder to a store; returns how many records are still unsent (0: all there).

    The folder is one of `journals`. Replaying twice changes nothing.

    Raises:
        StoreAway: saying why records still wait.
    """
    above = folder.absolute().parents[1]
    address = store_uri(above, uri)
    with closing(Journal(folder)) as journal:
        sender = Sender(journal, above, address)
        try:
            if sender.waiting:
                sender.send(seconds)
        except Exception as error:  # whatever a server or a driver raises
            away = is_server(address) and isinstance(error, OSError)
            what = "does not answer" if away else "does not take records"
            raise StoreAway(
                f"{sender.waiting} records still wait: {sender.address} {what} ({_line(error)})"
            ) from error
        return sender.waiting


def journals(workspace: str | Path) -> list[Path]:
    """The journal folders of a workspace, one an experiment.

    Raises:
        ValueError: nothing was tracked.
    """
    files = (tracking_folder(workspace) / "tracking").glob("*/journal.jsonl")
    if folders := sorted(file.parent for file in files):
        return folders
    raise ValueError(nothing_tracked(workspace))


def _tracker(journal: Journal, folder: Path, uri: str) -> Tracker:
    return Tracker(journal, Sender(journal, folder, uri))


class StoreAway(ValueError):
    """A store that does not answer, or takes nothing."""


class Unsendable(ValueError):
    """A record that no store can take: its run was refused, or what it names is gone."""


class Sender:
    """Sends one journal to one store. Raises whatever the store raises; the tracker catches it."""

    def __init__(self, journal: Journal, folder: Path, uri: str) -> None:
        self._journal = journal
        self._folder = folder
        self.address = shown(uri)
        self._uri = uri
        self._cursor = Cursor(journal, uri)
        self._client: Any = None
        self._experiment = ""
        self._runs: dict[str, str] = {}
        self._warned: set[str] = set()

    @property
    def waiting(self) -> int:
        """Records not sent yet."""
        return len(self._journal.records) - self._cursor.next

    def send(self, seconds: float) -> bool:
        """Sends for about `seconds`; True when nothing is left. At least one record is tried."""
        deadline = time.monotonic() + seconds
        try:
            if self._client is None:
                self._connect()
            while self.waiting:
                self._one_batch()
                if time.monotonic() > deadline:
                    break
        except BaseException:
            self._client = None  # the next time begins with a look at what the store holds
            raise
        return not self.waiting

    def _one_batch(self) -> None:
        batch = self._next_batch()
        try:
            self._deliver(batch)
        except Exception as error:
            refused = getattr(error, "error_code", None) in REFUSALS
            if not refused and not isinstance(error, Unsendable):
                raise
            self._warn_once(batch[0].get("run", ""), error)
        self._cursor.move(batch[-1]["id"] + 1)

    def _warn_once(self, key: str, error: Exception) -> None:
        """One line a run: a run deleted by hand refuses every record."""
        if key not in self._warned:
            _log.warning("MLflow does not take what run %s logs: %s", key, _line(error))
        self._warned.add(key)

    def _next_batch(self) -> list[Record]:
        """The next record; metrics records that follow one of the same run go with it."""
        records = self._journal.records
        first = records[self._cursor.next]
        batch, points = [first], len(first.get("values", ()))
        for record in islice(records, self._cursor.next + 1, None):
            points += len(record.get("values", ()))
            same = record["kind"] == first["kind"] == "metrics" and record["run"] == first["run"]
            if not same or points > BATCH:
                break
            batch.append(record)
        return batch

    def _deliver(self, batch: list[Record]) -> None:
        handlers: dict[str, Callable[[Record], None]] = {
            "run": self._run,
            "tags": self._tags,
            "artifact": self._artifact,
            "model": self._model,
            "finish": self._finish,
        }
        if batch[0]["kind"] == "metrics":
            self._metrics(batch)
        elif batch[0]["kind"] in handlers:
            handlers[batch[0]["kind"]](batch[0])

    def _connect(self) -> None:
        """Makes store and experiment if they are not there, and learns which runs are."""
        probe(self._uri)
        mlflow_environment()
        from mlflow import MlflowClient

        quiet_loggers()
        with self._store_lock():
            client = MlflowClient(tracking_uri=self._uri)
            found = client.get_experiment_by_name(self._journal.experiment)
            if found is None:
                where = None if is_server(self._uri) else self._artifacts_folder()
                self._experiment = client.create_experiment(self._journal.experiment, where)
            else:
                self._experiment = found.experiment_id
                if found.lifecycle_stage == "deleted":
                    client.restore_experiment(self._experiment)
        self._runs = known_runs(client, self._experiment, self._journal.identity)
        sent = self._journal.records[: self._cursor.next]
        if any(record["kind"] == "run" and record["run"] not in self._runs for record in sent):
            self._cursor.move(0)
        self._client = client

    def _artifacts_folder(self) -> str:
        return (self._folder / "mlflow" / "artifacts").as_uri()

    @contextmanager
    def _store_lock(self) -> Iterator[None]:
        """Several processes that open a fresh SQLite store at once break it, so one at a time."""
        if not self._uri.startswith("sqlite:///"):
            yield
            return
        file = Path(urlsplit(self._uri).path[1:])
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_suffix(".lock"), timeout=30):
            yield

    def _run(self, record: Record) -> None:
        tags = dict(record["tags"])
        if record["parent"] in self._runs:
            tags[PARENT_TAG] = self._runs[record["parent"]]
        if record["run"] not in self._runs:
            made = self._client.create_run(
                self._experiment,
                start_time=record["time"],
                run_name=record["name"],
                tags={
                    JOURNAL_TAG: self._journal.identity,
                    KEY_TAG: record["run"],
                    "mlflow.source.name": "chexseg-platform",
                },
            )
            self._runs[record["run"]] = made.info.run_id
        self._describe(self._runs[record["run"]], tags, record["params"])

    def _describe(self, run_id: str, tags: dict[str, str], params: dict[str, str]) -> None:
        from mlflow.entities import Param, RunTag

        self._client.update_run(run_id, status="RUNNING")
        self._client.log_batch(
            run_id,
            params=[Param(*pair) for pair in params.items()],
            tags=[RunTag(*pair) for pair in tags.items()],
        )

    def _tags(self, record: Record) -> None:
        from mlflow.entities import RunTag

        tags = [RunTag(*pair) for pair in record["tags"].items()]
        self._client.log_batch(self._run_id(record), tags=tags)

    def _metrics(self, batch: list[Record]) -> None:
        from mlflow.entities import Metric

        points = [
            Metric(name, value, record["time"], record["step"])
            for record in batch
            for name, value in record["values"].items()
        ]
        for start in range(0, len(points), BATCH):
            self._client.log_batch(self._run_id(batch[0]), points[start : start + BATCH])

    def _artifact(self, record: Record) -> None:
        folder = record["name"].rpartition("/")[0]
        file = self._kept(record["file"])
        self._client.log_artifact(self._run_id(record), str(file), folder or None)

    def _finish(self, record: Record) -> None:
        self._client.set_terminated(self._run_id(record), record["status"], record["time"])

    def _model(self, record: Record) -> None:
        """Uploads a model once, and names it as an output of every run that logs it."""
        run_id, name = self._run_id(record), record["name"]
        tags = {JOURNAL_TAG: self._journal.identity, CONTENT_TAG: record["content"]}
        wanted = " AND ".join(f"tags.`{tag}` = '{value}'" for tag, value in tags.items())
        known = self._client.search_logged_models([self._experiment], wanted)
        if any(str(model.status) == "READY" for model in known):
            self._link_model(run_id, known[0].model_id)
            return
        place = record["artifact"]
        where = place if "://" in place else (self._journal.folder / place).resolve()
        try:
            with unpacked(open_artifact(Storage(where))) as folder:
                # Made here, for MLflow would put it into this process's active experiment.
                model = (
                    known[0]
                    if known
                    else self._client.create_logged_model(
                        self._experiment, name, source_run_id=run_id, tags=tags
                    )
                )
                fill_model(self._uri, run_id, name, model.model_id, folder)
        except CorruptArtifact as error:
            raise Unsendable(str(error)) from None

    def _link_model(self, run_id: str, model_id: str) -> None:
        from mlflow.entities import LoggedModelOutput

        outputs = self._client.get_run(run_id).outputs
        if model_id not in {model.model_id for model in outputs.model_outputs}:
            self._client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])

    def _run_id(self, record: Record) -> str:
        try:
            return self._runs[record["run"]]
        except KeyError:
            raise Unsendable("the store refused to make this run") from None

    def _kept(self, place: str) -> Path:
        path = (self._journal.folder / place).resolve()
        if not path.exists():
            raise Unsendable(f"{path} is gone")
        return path


def known_runs(client: Any, experiment: str, journal: str) -> dict[str, str]:
    """Ids of the runs that a store holds of a journal, by key.

    Args:
        client: MLflow's.
        experiment: MLflow's id of it.
        journal: the journal's identity.
    """
    from mlflow.entities import ViewType

    runs: dict[str, str] = {}
    token = None
    while True:
        page = client.search_runs(
            [experiment],
            f"tags.`{JOURNAL_TAG}` = '{journal}'",
            run_view_type=ViewType.ALL,
            page_token=token,
        )
        runs |= {run.data.tags[KEY_TAG]: run.info.run_id for run in page}
        token = page.token
        if not token:
            return runs


def _line(error: Exception) -> str:
    """An error in one line, without user name and password of an address in it."""
    return re.sub(r"//[^/\s@]+@", "//", " ".join(str(error).split()))[:200]
