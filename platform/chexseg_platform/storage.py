"""One folder on a local disk or on any pyarrow filesystem: whole files in, whole files out.

The one place that writes files of a workspace. A file is never seen in part, and one of several
writers of a new name wins; names cannot leave the folder.
"""

from __future__ import annotations

import os
import re
import uuid
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")


class WorkspaceError(ValueError):
    """The workspace cannot be used: it cannot be written, or its address is not understood."""


class Storage:
    """A folder on a local disk or on any pyarrow filesystem; the one place that writes files."""

    def __init__(self, uri: str | Path) -> None:
        self.uri = str(uri)
        if "://" in self.uri:
            refuse_secrets(self.uri)
            try:
                self.fs, self.base = pafs.FileSystem.from_uri(self.uri)
            except (pa.ArrowInvalid, OSError) as error:
                raise WorkspaceError(
                    f"the workspace {self.uri!r} cannot be opened: {error}"
                ) from None
            if not self.base:
                raise WorkspaceError(
                    f"the workspace {self.uri!r} cannot be opened: no bucket named"
                )
            self.local = isinstance(self.fs, pafs.LocalFileSystem)
        else:
            # Absolute, for a worker that unpickles it may stand in another folder.
            self.uri = self.base = str(Path(uri).absolute())
            self.fs, self.local = pafs.LocalFileSystem(), True

    def __reduce__(self) -> tuple[type[Storage], tuple[str]]:
        return Storage, (self.uri,)

    def path(self, key: str) -> str:
        """Return the filesystem path of `key`; a key cannot leave the folder."""
        if not _NAME.fullmatch(key):
            raise WorkspaceError(f"{key!r} is not a name for a file in the workspace")
        return f"{self.base}/{key}"

    def join(self, key: str) -> Storage:
        """Return the storage of a sub-folder."""
        self.path(key)
        # Options of a filesystem (its endpoint, its region) stand behind a question mark.
        folder, mark, options = self.uri.partition("?") if "://" in self.uri else (self.uri, "", "")
        return Storage(f"{folder.rstrip('/')}/{key}{mark}{options}")

    def exists(self, key: str) -> bool:
        return self.fs.get_file_info(self.path(key)).type != pafs.FileType.NotFound

    def read(self, key: str) -> bytes:
        """Return a file's bytes; raises FileNotFoundError."""
        path = self.path(key)
        try:
            with self.fs.open_input_file(path) as stream:
                return stream.read()
        except NotADirectoryError:
            raise FileNotFoundError(path) from None

    def write(self, key: str, data: bytes, *, replace: bool = True) -> bool:
        """Write a whole file, never a part of one; return False if it was there and was kept.

        On a local disk: temporary file, fsync, then rename (or an exclusive link, which exactly
        one of several writers wins). Elsewhere: one upload of bytes that are complete before the
        stream is opened.
        """
        path = self.path(key)
        self.fs.create_dir(path.rpartition("/")[0], recursive=True)
        if self.local:
            return write_local(Path(path), data, replace)
        if not replace and self.exists(key):
            return False
        # Not in a `with`, which would close the stream after an error, too, and so publish a part:
        # what is not closed is never seen.
        stream = self.fs.open_output_stream(path)
        stream.write(data)
        stream.close()
        return True

    def delete(self, key: str = "") -> None:
        """Delete a file or folder, if it is there; with no key, the whole folder."""
        path = self.path(key) if key else self.base
        kind = self.fs.get_file_info(path).type
        if kind == pafs.FileType.Directory:
            self.fs.delete_dir(path)
        elif kind == pafs.FileType.File:
            self.fs.delete_file(path)

    def folders(self, key: str) -> list[str]:
        """Return the names of the folders directly in `key`, sorted."""
        return self._names(self.path(key), pafs.FileType.Directory)

    def files(self) -> list[str]:
        """Return the names of the files directly in the folder, sorted."""
        return self._names(self.base, pafs.FileType.File)

    def _names(self, path: str, kind: pafs.FileType) -> list[str]:
        infos = self.fs.get_file_info(pafs.FileSelector(path, allow_not_found=True))
        return sorted(info.base_name for info in infos if info.type == kind)


def refuse_secrets(uri: str) -> None:
    """Raise WorkspaceError for an address with credentials: it stands in logs and manifests."""
    parts = urlsplit(uri)
    options = {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)}
    if parts.password is not None or options & {"access_key", "secret_key", "session_token"}:
        place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        raise WorkspaceError(
            f"the address of the workspace {place} holds credentials: leave them out, and set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or a role"
        )


def write_local(path: Path, data: bytes, replace: bool = True) -> bool:
    """Write a whole file, as `Storage.write` does on a local disk, under any name."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with open(temporary, "xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        if replace:
            os.replace(temporary, path)
            return True
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        return True
    finally:
        temporary.unlink(missing_ok=True)
