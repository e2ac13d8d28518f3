"""The outbox of tracking: what is logged is written here first, as JSON lines and files.

A tracking server may be down for an hour while a run goes on. So logging is two steps: a record
is appended to `journal.jsonl` (this module, no network), and later sent (`sender.py`). The
journal stays after sending, so it can be replayed into another server at any time.

One process writes a journal: a lock held for its whole life says so. A record has a number (its
place in the file) and a time in milliseconds; sent twice, it is the same point at the same time,
which is what makes replaying harmless. A line cut off by a kill is dropped when the journal is
opened again.
"""

import hashlib
import json
import os
import time
import uuid
from itertools import takewhile
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from chexseg_platform.storage import Storage

Record = dict[str, Any]


class JournalInUse(ValueError):
    """Another process holds this journal."""


class Journal:
    """Append-only records in `folder/journal.jsonl`, their files in `folder/files/`.

    `identity` is made once and kept in the first record: runs of this journal carry it as a tag,
    so two workspaces that share a server never write into each other's runs.
    """

    def __init__(self, folder: Path, experiment: str | None = None) -> None:
        """Opens the journal, or makes it for `experiment`.

        Raises:
            JournalInUse: another process has it open.
            ValueError: the folder cannot be written, or there is no journal and no `experiment`.
        """
        self.folder = folder.absolute()
        path = self.folder / "journal.jsonl"
        if experiment is None and not path.is_file():
            raise ValueError(f"{folder} holds no journal.jsonl: give the folder of a tracked run.")
        self._lock = _lock(self.folder)
        self.records = _read(path)
        self._stream = path.open("a", encoding="utf-8")
        if not self.records:
            if experiment is None:
                self.close()
                raise ValueError(f"{path} is empty: there is nothing to replay.")
            self.append("experiment", name=experiment, journal=uuid.uuid4().hex)
        self.experiment: str = self.records[0]["name"]
        self.identity: str = self.records[0]["journal"]

    def append(self, kind: str, **content: Any) -> Record:
        """Writes one record and hands it to the operating system before returning."""
        record = {"id": len(self.records), "time": int(time.time() * 1000), "kind": kind} | content
        self._stream.write(json.dumps(record) + "\n")
        self._stream.flush()
        self.records.append(record)
        return record

    def keep(self, name: str, data: bytes | Path) -> str:
        """Copies a file's content into the outbox; returns its path relative to the folder.

        The path holds the content's hash, so the same content is kept once.
        """
        content = data.read_bytes() if isinstance(data, Path) else data
        place = Path("files") / hashlib.sha256(content).hexdigest()[:16] / Path(name).name
        target = self.folder / place
        if not target.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(target.name + ".part")
            part.write_bytes(content)
            part.replace(target)
        return place.as_posix()

    def place(self, storage: Storage) -> str:
        """Where a finished artifact lies: relative to the journal on a local disk, else its URI.

        Finished artifacts do not change, so they are not copied into the outbox.
        """
        if storage.local:
            return Path(os.path.relpath(storage.base, self.folder)).as_posix()
        return storage.uri

    def close(self) -> None:
        """Closes the file and lets another process in."""
        self._stream.close()
        self._lock.release()


class Cursor:
    """How far a journal was sent to one store: the number of the next record to send."""

    def __init__(self, journal: Journal, uri: str) -> None:
        # The address may hold a password, so only its hash is written down.
        self._path = _cursor_file(journal.folder, uri)
        self._next = _sent(self._path)

    @property
    def next(self) -> int:
        """Number of the first record that is not known to have arrived."""
        return self._next

    def move(self, to: int) -> None:
        """Says that all records below `to` have arrived."""
        self._next = to
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps({"next": to}))
        part.replace(self._path)


def records_of(folder: Path) -> list[Record]:
    """The whole records of a journal folder; takes no lock and changes nothing."""
    try:
        with (folder / "journal.jsonl").open("rb") as stream:
            parsed = (_parse(line) for line in stream)
            return list(takewhile(lambda record: record is not None, parsed))  # type: ignore[arg-type]
    except OSError:
        return []


def waiting(folder: Path, uri: str) -> int:
    """Records of a journal folder that the store at `uri` does not have; takes no lock."""
    try:
        with (folder / "journal.jsonl").open("rb") as stream:
            return max(sum(1 for _ in stream) - _sent(_cursor_file(folder, uri)), 0)
    except OSError:
        return 0


def _cursor_file(folder: Path, uri: str) -> Path:
    return folder / f"sent-{hashlib.sha256(uri.encode()).hexdigest()[:12]}.json"


def _sent(path: Path) -> int:
    try:
        return int(json.loads(path.read_text())["next"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0  # at worst everything is sent again, which changes nothing


def _lock(folder: Path) -> FileLock:
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise JournalInUse(
            f"Another process is tracking this experiment in {folder}: wait for it, or stop it."
        ) from None
    except OSError as error:
        raise ValueError(
            f"Cannot write the tracking journal in {folder} ({error.strerror}): "
            "choose a workspace that can be written."
        ) from None
    return lock


def _read(path: Path) -> list[Record]:
    """All whole records; what follows the last whole one is cut off the file."""
    if not path.is_file():
        return []
    data = path.read_bytes()
    records: list[Record] = []
    good = 0
    for line in data.splitlines(keepends=True):
        record = _parse(line)
        if record is None or record.get("id") != len(records):
            break
        records.append(record)
        good += len(line)
    if good < len(data):
        # The rest is put aside rather than deleted: it may be more than one torn line.
        path.with_suffix(".torn").write_bytes(data[good:])
        os.truncate(path, good)
    return records


def _parse(line: bytes) -> Record | None:
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
