"""One maker at a time for each artifact of a workspace on a local disk.

Experiments that share a dataset, a classifier or a segmenter share its fingerprint, and so the
folder that its training keeps its checkpoints in: two at once would delete each other's. So the
first takes a lock on kind and fingerprint; the second says whom it waits for, and then finds the
artifact finished. The driver holds the lock, not its workers: it alone starts trainings, Tune's
trials included, and when it dies the kernel lets go of the lock and Ray of the workers.

A remote workspace has no locks, for object stores have none. Its artifacts are published
put-if-absent, so what is finished first stands whole; but two trainings of one fingerprint would
still share a folder of checkpoints there: start experiments that share one in turn.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from chexseg_platform.artifacts import Artifact, Workspace

FOLDER = "locks"


@contextmanager
def alone(workspace: Workspace, what: str) -> Iterator[None]:
    """Be the only process, on any machine that shares the disk, that does this; wait for it.

    Args:
        what: its name, e.g. "classifier-0123456789abcdef". A process must not hold it already.
    """
    if not workspace.storage.local:
        yield
        return
    file = Path(workspace.storage.path(f"{FOLDER}/{what}"))
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        # Some versions of filelock empty the file where they fail to lock it.
        who = file.read_text(errors="replace").strip() or "another process"
        print(f"{what}  waiting for {who}, which makes it now", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        # The file stays when the lock goes: another may have opened it, and wait on it.
        file.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
        yield
    finally:
        lock.release()


@contextmanager
def making(workspace: Workspace, kind: str, prints: Iterable[str]) -> Iterator[list[str]]:
    """Hold the making of artifacts; give the fingerprints of those that are still to be made.

    All processes take locks in the order of the fingerprints, so no two wait for each other.
    """
    with ExitStack() as held:
        todo = []
        for print_ in sorted(set(prints)):
            if workspace.find(kind, print_) is not None:
                continue
            held.enter_context(alone(workspace, f"{kind}-{print_}"))
            if workspace.find(kind, print_) is None:
                todo.append(print_)
        yield todo


def once(workspace: Workspace, kind: str, print_: str, make: Callable[[], Artifact]) -> Artifact:
    """Return the finished artifact; where there is none, make it while nobody else does."""
    with making(workspace, kind, [print_]) as todo:
        if todo:
            return make()
    found = workspace.find(kind, print_)
    assert found is not None
    return found
