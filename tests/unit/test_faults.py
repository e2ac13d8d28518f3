"""Every storage call of a publication fails once, in every way: nothing is lost, doubled or torn.

After each fault: what a reader finds is whole or not there; the same command ends with the content
of an undisturbed one; and done again it changes nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from chexseg_platform.artifacts import Artifact, CorruptArtifact, Part, Workspace
from chexseg_platform.storage import Storage, write_local

PARTS = ("rows/00000.parquet", "rows/00001.parquet", "notes.txt")
CALLS = ("write", "read", "exists", "delete")
Way = Callable[[Callable[[], Any]], Any]


class Killed(BaseException):
    """The process is gone: no `except Exception` sees it."""


def refused(call: Callable[[], Any]) -> Any:
    raise OSError(28, "No space left on device")


def lost_reply(call: Callable[[], Any]) -> Any:
    with suppress(OSError):  # "there is no such file" is a reply, too
        call()
    raise OSError(110, "Connection timed out")


def killed_before(call: Callable[[], Any]) -> Any:
    raise Killed


def killed_after(call: Callable[[], Any]) -> Any:
    with suppress(OSError):
        call()
    raise Killed


WAYS = (refused, lost_reply, killed_before, killed_after)


class Faults:
    """Counts storage calls, and lets the N-th go wrong, or all from the N-th on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.at, self.forever, self.way = 0, 0, False, WAYS[0]
        self.happened = 0
        for name in CALLS:
            monkeypatch.setattr(Storage, name, self._faulty(getattr(Storage, name)))

    def arm(self, at: int, way: Way, *, forever: bool = False) -> None:
        self.count, self.happened = 0, 0
        self.at, self.way, self.forever = at, way, forever

    def _faulty(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(storage: Storage, *args: Any, **kwargs: Any) -> Any:
            self.count += 1
            if self.at and (self.count == self.at or (self.forever and self.count > self.at)):
                self.happened += 1
                return self.way(lambda: method(storage, *args, **kwargs))
            return method(storage, *args, **kwargs)

        return call


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    return Faults(monkeypatch)


def publish(workspace: Workspace) -> Artifact:
    """What a stage does: find, or make the parts that are missing and finish."""
    found = workspace.find("dataset", "abc")
    if found is not None:
        return found
    draft = workspace.draft("dataset", "abc")

    def make(name: str) -> Part:
        done = draft.done(name)
        if done is not None:
            return done
        if name.endswith(".txt"):
            return draft.write(name, b"some notes")
        number = int(name[5:10])
        return draft.write(name, pa.table({"image_id": [f"i{number}", f"j{number}"]}))

    return draft.finish(map(make, PARTS), config={}, inputs={}, summary={"images": 4})


def content(artifact: Artifact) -> dict[str, bytes]:
    return {part.name: artifact.read(part.name) for part in artifact.parts()}


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def places(tmp_path: Path, faults: Faults) -> Iterator[tuple[int, Workspace]]:
    """A fresh workspace for every storage call of an undisturbed publication."""
    faults.arm(0, refused)
    publish(Workspace(tmp_path / "undisturbed"))
    total = faults.count
    assert total > 2 * len(PARTS)
    for at in range(1, total + 1):
        yield at, Workspace(tmp_path / f"at-{at}")


@pytest.mark.parametrize("forever", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_any_storage_call_may_fail(tmp_path: Path, faults: Faults, way: Way, forever: bool) -> None:
    happened = 0
    for at, workspace in places(tmp_path, faults):
        faults.arm(at, way, forever=forever)
        with pytest.raises((OSError, Killed)):
            publish(workspace)
        happened += faults.happened
        faults.arm(0, refused)
        seen = workspace.find("dataset", "abc")
        wanted = content(publish(Workspace(tmp_path / "undisturbed")))
        assert seen is None or content(seen) == wanted  # whole, or not there
        made = publish(workspace)
        assert content(made) == wanted
        assert [part.name for part in made.parts()] == list(PARTS)
        before = files(Path(workspace.uri))
        assert content(publish(workspace)) == wanted
        assert files(Path(workspace.uri)) == before  # done again, it changes nothing
    assert happened >= len(PARTS)


@pytest.mark.parametrize("first", WAYS, ids=lambda way: way.__name__)
def test_two_faults_in_a_row(tmp_path: Path, faults: Faults, first: Way) -> None:
    for at, workspace in places(tmp_path, faults):
        for way in (first, killed_after, lost_reply):
            faults.arm(at, way)
            try:
                publish(workspace)
            except (OSError, Killed):
                continue
        faults.arm(0, refused)
        assert content(publish(workspace)) == content(publish(Workspace(tmp_path / "undisturbed")))


def test_a_file_cut_off_on_the_disk_is_seen(tmp_path: Path) -> None:
    """Whatever file of a finished artifact is cut short or turned over, a reader is told."""
    whole = publish(Workspace(tmp_path / "whole"))
    for part in whole.parts():
        path = Path(whole.storage.path(part.key))
        data = path.read_bytes()
        flipped = bytes([data[0] ^ 1]) + data[1:]
        for damaged in (data[:-1], data[: len(data) // 2], b"", flipped):
            write_local(path, damaged)
            with pytest.raises(CorruptArtifact, match="is damaged"):
                whole.read(part.name)
        path.unlink()
        with pytest.raises(CorruptArtifact, match="is gone"):
            whole.read(part.name)
        write_local(path, data)
        assert whole.read(part.name) == data
