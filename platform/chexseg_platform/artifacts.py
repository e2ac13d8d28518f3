"""Finished folders: how stages hand their results on, and how a run that was cut off goes on.

A stage writes one folder, `<workspace>/<kind>/<fingerprint>/`. Parts go in under names that belong
to one writing alone, each followed by a small receipt (`receipts/<part>.json`) that exists only
once the part is complete. `artifact.json` is written last and lists every part with its size and
sha256: its presence means "complete", and readers trust it and never a listing. A rerun finds the
receipts of an earlier attempt and does the missing parts only.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import subprocess
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from chexseg_platform.storage import Storage, WorkspaceError

FORMAT = 1


class CorruptArtifact(ValueError):
    """A part differs from what its manifest says, or is gone."""


@dataclass(frozen=True)
class Part:
    """One file of an artifact: its name for readers, its stored name, size, digest and rows."""

    name: str
    key: str
    bytes: int
    sha256: str
    rows: int | None = None
    info: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "key": self.key,
            "bytes": self.bytes,
            "sha256": self.sha256,
            "rows": self.rows,
            "info": dict(self.info),
        }


def fingerprint(kind: str, content: Mapping[str, Any]) -> str:
    """Return 16 hex digits that name what decides an artifact's content.

    Args:
        kind: the artifact's kind.
        content: JSON-able settings and the fingerprints of inputs; never where it runs.
    """
    text = json.dumps({"kind": kind, **content}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def code_revision() -> str:
    """Return the git revision of the package's checkout ("+changes" if edited), or the version.

    Asked once: a process runs the code that it began with.
    """
    from chexseg_platform import __version__

    here = Path(__file__).resolve().parent
    git = ["git", "-C", str(here)]
    try:
        head = subprocess.run(
            [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, timeout=5
        )
        if head.returncode:
            return __version__
        dirty = subprocess.run(
            [*git, "status", "--porcelain", "--", "."], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return __version__
    return f"{__version__}+{head.stdout.strip()}{'+changes' if dirty.stdout.strip() else ''}"


def table_bytes(table: pa.Table) -> bytes:
    """Return a table as a Parquet file (zstd, with page checksums)."""
    sink = io.BytesIO()
    pixels = [column.name for column in table.schema if pa.types.is_binary(column.type)]
    others = [name for name in table.column_names if name not in pixels]
    pq.write_table(
        table,
        sink,
        compression="zstd",
        # Pixels: a tenth more bytes for half of the time, and no search for equal images.
        compression_level=-5 if pixels else None,
        use_dictionary=others if pixels else True,
        write_statistics=others if pixels else True,
        write_page_checksum=True,
    )
    return sink.getvalue()


@dataclass(frozen=True)
class Artifact:
    """A finished folder. `manifest` is its `artifact.json`."""

    kind: str
    fingerprint: str
    storage: Storage
    manifest: Mapping[str, Any]

    @property
    def uri(self) -> str:
        return self.storage.uri

    @property
    def seed(self) -> int | None:
        return self.manifest["seed"]

    @property
    def summary(self) -> dict[str, Any]:
        """Counts and results that the stage wished to be read without opening parts."""
        return dict(self.manifest["summary"])

    def parts(self, prefix: str = "") -> list[Part]:
        """Return the parts whose name starts with `prefix`, in the manifest's order."""
        rows = (Part(**row) for row in self.manifest["parts"])
        return [part for part in rows if part.name.startswith(prefix)]

    def part(self, name: str) -> Part:
        for part in self.parts():
            if part.name == name:
                return part
        raise CorruptArtifact(f"{self.uri} has no part {name!r}")

    def read(self, name: str) -> bytes:
        """Return a part's bytes, checked against the manifest.

        Raises:
            CorruptArtifact: if the part is gone or differs from its checksum.
        """
        return read_part(self.storage, self.part(name))

    def table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """Return a Parquet part's columns in the order asked, or all of them; see `read`."""
        # Not `pq.read_table`: it reads ahead on Arrow's threads, and one of them may still hold
        # this object's bytes when the interpreter ends. Letting go of them then aborts the process.
        source = pa.BufferReader(self.read(name))
        file = pq.ParquetFile(source, pre_buffer=False, page_checksum_verification=True)
        table = file.read(columns, use_threads=False)
        return table.select(columns) if columns else table

    def tables(self, prefix: str, columns: list[str] | None = None) -> pa.Table:
        """Return all Parquet parts under `prefix` as one table."""
        return pa.concat_tables([self.table(part.name, columns) for part in self.parts(prefix)])

    def json(self, name: str) -> Any:
        return json.loads(self.read(name))


def read_part(storage: Storage, part: Part) -> bytes:
    """Return a part's bytes; CorruptArtifact says what to do when they are not what was written."""
    try:
        data = storage.read(part.key)
    except FileNotFoundError:
        raise CorruptArtifact(f"{part.name} of {storage.uri} is gone. {_mend(storage)}") from None
    if len(data) != part.bytes or hashlib.sha256(data).hexdigest() != part.sha256:
        raise CorruptArtifact(
            f"{part.name} of {storage.uri} is damaged (its checksum differs). {_mend(storage)}"
        )
    return data


def csv_bytes(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Return rows of the same keys as a CSV file with a header; no rows give an empty file."""
    stream = io.StringIO()
    if rows:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return stream.getvalue().encode()


@dataclass(frozen=True)
class Draft:
    """An artifact in the making; small and picklable, so workers write parts through it."""

    kind: str
    fingerprint: str
    storage: Storage

    def done(self, name: str) -> Part | None:
        """Return the receipt of a part that this or an earlier attempt finished.

        A receipt that cannot be read, or whose part is not there in its full size, counts for
        nothing: the part is made again.
        """
        try:
            part = Part(**json.loads(self.storage.read(f"receipts/{name}.json")))
            size = self.storage.fs.get_file_info(self.storage.path(part.key)).size
        except (FileNotFoundError, ValueError, TypeError):
            return None
        return part if part.name == name and size == part.bytes else None

    def write(
        self, name: str, data: bytes | pa.Table, *, info: Mapping[str, Any] | None = None
    ) -> Part:
        """Write a part and its receipt; if another attempt was first, its part stands."""
        rows = data.num_rows if isinstance(data, pa.Table) else None
        payload = table_bytes(data) if isinstance(data, pa.Table) else data
        stem, dot, suffix = name.rpartition(".")
        # A name of its own for every writing: a task that is run twice must not, when it finds
        # that it was second, remove what the first one wrote.
        own = uuid.uuid4().hex[:12]
        key = f"parts/{stem}.{own}{dot}{suffix}" if dot else f"parts/{name}.{own}"
        part = Part(
            name, key, len(payload), hashlib.sha256(payload).hexdigest(), rows, dict(info or {})
        )
        self.storage.write(key, payload)
        receipt = json.dumps(part.to_dict(), allow_nan=False).encode()
        if self.storage.write(f"receipts/{name}.json", receipt, replace=False):
            return part
        first = self.done(name)
        if first is None:
            self.storage.write(f"receipts/{name}.json", receipt)
            return part
        self.storage.delete(key)
        return first

    def forget(self, names: Iterable[str]) -> None:
        """Take parts for unwritten, so that they are made again."""
        for name in names:
            self.storage.delete(f"receipts/{name}.json")

    def so_far(self, parts: Iterable[Part | None]) -> Artifact:
        """Return parts as an artifact to read from, before it is finished; None is passed over."""
        rows = [part.to_dict() for part in parts if part is not None]
        return Artifact(self.kind, self.fingerprint, self.storage, {"parts": rows})

    def write_json(self, name: str, value: Any) -> Part:
        return self.write(name, json.dumps(value, indent=1, allow_nan=False).encode())

    def finish(
        self,
        parts: Iterable[Part],
        *,
        config: Mapping[str, Any],
        inputs: Mapping[str, str],
        seed: int | None = None,
        summary: Mapping[str, Any] | None = None,
        timings: Mapping[str, float] | None = None,
    ) -> Artifact:
        """Write `artifact.json`, which makes the folder a finished artifact."""
        manifest = {
            "format": FORMAT,
            "kind": self.kind,
            "fingerprint": self.fingerprint,
            "config": dict(config),
            "inputs": dict(inputs),
            "code": code_revision(),
            "seed": seed,
            "summary": dict(summary or {}),
            "timings": dict(timings or {}),
            "parts": [part.to_dict() for part in parts],
        }
        text = json.dumps(manifest, indent=1, allow_nan=False).encode()
        self.storage.write("artifact.json", text, replace=False)
        found = _load(self.storage, self.kind, self.fingerprint)
        assert found is not None
        return found


def open_artifact(storage: Storage) -> Artifact:
    """Return the finished artifact of a folder.

    Raises:
        CorruptArtifact: if there is none, or its manifest cannot be read.
    """
    folder, _, print_ = storage.base.rstrip("/").rpartition("/")
    found = _load(storage, folder.rpartition("/")[2], print_)
    if found is None:
        raise CorruptArtifact(f"{storage.uri} holds no artifact.json. {_mend(storage)}")
    return found


def _load(storage: Storage, kind: str, print_: str) -> Artifact | None:
    file = f"{storage.uri}/artifact.json"
    try:
        manifest = json.loads(storage.read("artifact.json"))
        whose = (manifest["kind"], manifest["fingerprint"], manifest["format"])
        found = Artifact(kind, print_, storage, manifest)
        found.summary, [storage.path(part.key) for part in found.parts()]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise CorruptArtifact(f"{file} is not a readable manifest. {_mend(storage)}") from None
    if whose != (kind, print_, FORMAT):
        raise CorruptArtifact(f"{file} is the manifest of another artifact. {_mend(storage)}")
    return found


def _mend(storage: Storage) -> str:
    return f"Remove the folder {storage.uri} and run the same command again: it is made anew."


class Workspace:
    """The folder that holds every artifact of a user's experiments."""

    def __init__(self, uri: str | Path) -> None:
        self.storage = Storage(uri)

    @property
    def uri(self) -> str:
        return self.storage.uri

    def check_writable(self) -> None:
        """Raise WorkspaceError, saying why, if a file cannot be written here."""
        key = f"probe-{uuid.uuid4().hex[:8]}"
        try:
            self.storage.write(key, b"probe")
            self.storage.delete(key)
        except OSError as error:
            reason = error.strerror or str(error)
            raise WorkspaceError(
                f"the workspace {self.uri} cannot be written ({reason}). "
                "Name another folder with --workspace."
            ) from None

    def find(self, kind: str, print_: str) -> Artifact | None:
        """Return the finished artifact, or None while there is none."""
        return _load(self.storage.join(f"{kind}/{print_}"), kind, print_)

    def draft(self, kind: str, print_: str) -> Draft:
        return Draft(kind, print_, self.storage.join(f"{kind}/{print_}"))

    def artifacts(self, kind: str) -> list[Artifact]:
        """Return every finished artifact of a kind."""
        found = (self.find(kind, name) for name in self.storage.folders(kind))
        return [artifact for artifact in found if artifact is not None]
