"""What stages log to: a run's curves, tables, images and models. Knows nothing of MLflow.

Everything goes to a journal in the workspace first (`journal.py`) and from there to a store, in
order, at every `flush` (`sender.py`). So a run never waits for a tracking server and never fails
because of one: when the server is away, one line says so, the records stay, and they are sent when
it answers again, or at the start of the next run.

A run that finished stays closed until something new is logged to it or below it, so repeating a
command whose work is done changes nothing, not even how long a run took.

Points of a curve are kept once: what a resumed stage repeats is left out. MLflow's own tables are
slow with many columns, so parameters are the few that matter (under 100 a run) and everything else
is an artifact.
"""

import json
import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol

from chexseg_platform.artifacts import Artifact, csv_bytes
from chexseg_platform.tracking.journal import Journal, Record

Status = Literal["FINISHED", "FAILED", "KILLED"]
MAX_PARAMS = 99
# A server that hangs costs a request of ten seconds, so it is asked ever more seldom.
RETRY_SECONDS = 30.0
RETRY_SECONDS_MOST = 600.0
_NAME = re.compile(r"[A-Za-z0-9._ /-]{1,200}")
_log = logging.getLogger(__name__)


class Sending(Protocol):
    """What a tracker needs of a store."""

    address: str

    @property
    def waiting(self) -> int:
        """Records not sent yet."""

    def send(self, seconds: float) -> bool:
        """Sends for about `seconds`; True when nothing is left. Raises when the store is away."""


def checked_name(name: str) -> str:
    """`name` if it is made of letters, digits and `._ /-` and climbs nowhere; else ValueError."""
    parts = name.split("/")
    if not _NAME.fullmatch(name) or any(part.strip() in ("", ".", "..") for part in parts):
        raise ValueError(
            f"{name!r} cannot name a run or an artifact: use letters, digits, spaces and "
            "'. _ - /', no empty part and no '..'."
        )
    return name


@dataclass(frozen=True)
class RunRef:
    """One MLflow run, by the platform's key; what is logged to it is sent later."""

    tracker: "Tracker"
    key: str

    def child(
        self,
        key: str,
        name: str,
        *,
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, object] | None = None,
    ) -> "RunRef":
        """The run of `key` below this one, made or continued; see `Tracker.run`.

        Two runs whose stages share an artifact have a child each.
        """
        below = f"{self.key}/{key}"
        return self.tracker.run(below, name, parent=self, tags=tags, params=params)

    def tags(self, values: Mapping[str, str]) -> None:
        """Tags, the later value wins; `mlflow.note.content` is the page's description."""
        new = {
            checked_name(name): value
            for name, value in values.items()
            if self.tracker.changed("tag", self.key, name, value)
        }
        if new:
            self.tracker.note("tags", run=self.key, tags=new)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Points of curves at `step` (an epoch, a rung); each (name, step) is kept once."""
        new = {
            checked_name(name): float(value)
            for name, value in values.items()
            if self.tracker.first("metric", self.key, name, step)
        }
        if new:
            self.tracker.note("metrics", run=self.key, step=int(step), values=new)

    def text(self, name: str, text: str) -> None:
        """A text artifact; its suffix says what it is (`.txt`, `.md`, `.html`, `.yaml`)."""
        self._artifact(name, text.encode())

    def json(self, name: str, content: object) -> None:
        """A JSON artifact."""
        self._artifact(_suffixed(name, ".json"), json.dumps(content, indent=2).encode())

    def table(self, name: str, rows: Sequence[Mapping[str, object]]) -> None:
        """Rows with the same keys as a CSV artifact."""
        self._artifact(_suffixed(name, ".csv"), csv_bytes(rows))

    def image(self, name: str, png: bytes) -> None:
        """An image artifact from the bytes of a PNG file.

        Raises:
            ValueError: the bytes are no PNG.
        """
        if not png.startswith(b"\x89PNG\r\n\x1a\n"):
            raise ValueError(f"Image {name!r} is not a PNG file: encode it as PNG first.")
        self._artifact(_suffixed(name, ".png"), png)

    def file(self, path: Path, name: str | None = None) -> None:
        """A file as an artifact, under its own name or `name`; it is copied now."""
        self._artifact(name or path.name, path)

    def model(self, name: str, artifact: Artifact) -> None:
        """An artifact's `checkpoints/` for `mlflow.pyfunc.load_model`, averaged if several.

        Once for a run and a name. Nothing is copied here: the artifact is read when it is sent.

        Raises:
            ValueError: the artifact holds no checkpoints, or the name has a '/' or '.'.
        """
        if not artifact.parts("checkpoints/"):
            raise ValueError(f"{artifact.uri} holds no checkpoints to log.")
        if re.search(r"[/.]", checked_name(name)):
            raise ValueError(f"A model cannot be named {name!r}: leave out '/' and '.'.")
        if self.tracker.first("model", self.key, name):
            place = self.tracker.place(artifact)
            content = artifact.fingerprint
            self.tracker.note("model", run=self.key, name=name, artifact=place, content=content)

    def finish(self, status: Status = "FINISHED") -> None:
        """Ends the run, if it is open, and sends what is waiting."""
        if self.key in self.tracker.running:
            self.tracker.note("finish", run=self.key, status=status)
        self.tracker.flush()

    def _artifact(self, name: str, data: bytes | Path) -> None:
        file = self.tracker.keep(checked_name(name), data)
        if self.tracker.changed("artifact", self.key, name, file):
            self.tracker.note("artifact", run=self.key, name=name, file=file)


class Tracker:
    """An open journal and its sender. Use it as a context manager: leaving it sends the rest."""

    def __init__(self, journal: Journal | None, sender: Sending | None) -> None:
        """Without journal and sender it records nothing: tracking is off."""
        self.running: set[str] = set()
        self._journal = journal
        self._closed: dict[str | None, Record] = {}
        self._sender = sender
        self._not_before = 0.0
        self._pause = RETRY_SECONDS
        self._down = False
        self._last: dict[tuple[object, ...], object] = {}
        for record in journal.records if journal else []:
            self._remember(record)

    def run(
        self,
        key: str,
        name: str,
        *,
        parent: RunRef | None = None,
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, object] | None = None,
    ) -> RunRef:
        """The run of `key`, made or continued.

        Args:
            key: fingerprint of an experiment or stage, or a trial's name: the run's identity.
            name: what MLflow's pages show.
            parent: the run it belongs to.
            tags: code revision, fingerprints of the data, and the like; a later value wins.
            params: under 100 settings that matter; the first value stays.

        Raises:
            ValueError: a bad name, or 100 parameters and more.
        """
        checked_name(key)
        if len(params or {}) > MAX_PARAMS:
            raise ValueError(
                f"Run {name!r} has {len(params or {})} parameters: log the resolved config as an "
                f"artifact and at most {MAX_PARAMS} parameters."
            )
        fresh = {
            checked_name(param): str(value)[:6000]
            for param, value in (params or {}).items()
            if self.first("param", key, param)
        }
        above = parent.key if parent else None
        kept = {checked_name(tag): str(value) for tag, value in (tags or {}).items()}
        opening = {"name": checked_name(name), "parent": above, "tags": kept, "params": fresh}
        if self._last.get(("status", key)) == "FINISHED":
            self._closed[key] = opening
        else:
            self.note("run", run=key, **opening)
        return RunRef(self, key)

    def flush(self, seconds: float = 5.0) -> bool:
        """Sends waiting records for about `seconds`; True when none is left. Never raises.

        While the store is away it is asked again after 30 seconds, then ever more seldom, so a
        training loop may flush after each epoch.
        """
        if self._sender is None or not self._sender.waiting:
            return True
        if time.monotonic() < self._not_before:
            return False
        return self._send(self._sender, seconds)

    def close(self, seconds: float = 60.0) -> None:
        """Sends what it can and lets go of the journal."""
        if self._journal is None or self._sender is None:
            return
        self._not_before = 0.0
        self.flush(seconds)
        if self._sender.waiting:
            _log.warning(
                "%d tracking records wait in %s: the next run of this experiment sends them.",
                self._sender.waiting,
                self._journal.folder,
            )
        self._journal.close()
        self._journal, self._sender = None, None

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        status = "FAILED" if kind and issubclass(kind, Exception) else "KILLED"
        for key in sorted(self.running) if kind else ():
            self.note("finish", run=key, status=status)
        self.close()

    def note(self, kind: str, **content: Any) -> None:
        """Appends a record (nothing when tracking is off); a closed run is opened for it."""
        if self._journal is None:
            return
        key = content["run"]
        if kind == "finish":
            self.running.discard(key)
        elif kind == "run":
            self._open_again(content["parent"])
            self.running.add(key)
        else:
            self._open_again(key)
        self._remember(self._journal.append(kind, **content))

    def _open_again(self, key: str | None) -> None:
        """Opens a finished run, and first those above it."""
        opening = self._closed.pop(key, None)
        if opening is not None:
            self.note("run", run=key, **opening)

    def keep(self, name: str, data: bytes | Path) -> str:
        """Puts a file into the outbox; its place there."""
        return self._journal.keep(name, data) if self._journal else ""

    def place(self, artifact: Artifact) -> str:
        """Where the outbox finds an artifact again."""
        return self._journal.place(artifact.storage) if self._journal else ""

    def first(self, *point: object) -> bool:
        """Whether this point was never logged."""
        return point not in self._last

    def changed(self, kind: str, key: str, name: str, content: str) -> bool:
        """Whether this artifact is new or has another content than before."""
        return self._last.get((kind, key, name)) != content

    def _send(self, sender: Sending, seconds: float) -> bool:
        before = sender.waiting
        try:
            done = sender.send(seconds)
        except Exception as error:  # whatever a server or a driver raises, the run goes on
            self._went_away(sender, error)
            return False
        if self._down:
            sent = before - sender.waiting
            _log.warning("Tracking store %s is back: %d records sent.", sender.address, sent)
            self._down = False
        return done

    def _went_away(self, sender: Sending, error: Exception) -> None:
        self._pause = min(2 * self._pause, RETRY_SECONDS_MOST) if self._down else RETRY_SECONDS
        self._not_before = time.monotonic() + self._pause
        if not self._down:
            _log.warning(
                "Tracking store %s does not take records (%s): the run goes on, and they are kept "
                "and sent when it answers.",
                sender.address,
                " ".join(str(error).split())[:160],
            )
        self._down = True

    def _remember(self, record: Mapping[str, Any]) -> None:
        kind, key = record["kind"], record.get("run")
        for name in record.get("values", ()):
            self._last["metric", key, name, record["step"]] = True
        for name in record.get("params", ()):
            self._last["param", key, name] = True
        for name, value in record.get("tags", {}).items():
            self._last["tag", key, name] = value
        if kind in ("run", "finish"):
            self._last["status", key] = record.get("status", "RUNNING")
        if kind in ("artifact", "model"):
            self._last[kind, key, record["name"]] = record.get("file", True)


def _suffixed(name: str, suffix: str) -> str:
    return name if name.endswith(suffix) else name + suffix
