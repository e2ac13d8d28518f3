"""Locks: real processes that make one artifact at once, and one that is killed in the middle."""

import os
import signal
import socket
import subprocess
import sys
import textwrap

import pytest
from chexseg_platform.artifacts import Workspace
from chexseg_platform.locks import alone, making, once

MAKE = """
import time
from chexseg_platform.artifacts import Workspace
from chexseg_platform.locks import once
workspace = Workspace(sys.argv[2])
checkpoints = workspace.storage.join("runs/training")

def make():
    # As a training does: checkpoints in a folder that the fingerprint names, removed in the end.
    checkpoints.write("0", sys.argv[1].encode())
    time.sleep(0.3)
    draft = workspace.draft("kind", "0123")
    part = draft.write("weights", checkpoints.read("0"))
    checkpoints.delete()
    return draft.finish([part], config={}, inputs={}, summary={"by": sys.argv[1]})

ready()
print(once(workspace, "kind", "0123", make).summary["by"])
"""


def test_of_processes_that_want_one_artifact_one_makes_it(tmp_path, together):
    makers = together(MAKE, 3, str(tmp_path))
    assert len(set(makers)) == 1
    made = Workspace(tmp_path).find("kind", "0123")
    assert made.read("weights").decode() == made.summary["by"] == makers[0].strip()


HOLD = """
import sys, time
from chexseg_platform.artifacts import Workspace
from chexseg_platform.locks import alone
with alone(Workspace(sys.argv[1]), "kind-0123"):
    print("held", flush=True)
    {then}
"""


@pytest.fixture
def holder(tmp_path):
    """Start a process that holds the lock, and then does something."""
    begun = []

    def start(then):
        script = HOLD.format(then=textwrap.indent(then, "    ").strip())
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        begun.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in begun:
        process.kill()
        process.communicate()


def test_who_waits_says_for_what_and_for_whom(tmp_path, holder):
    first = holder("sys.stdin.readline()")
    wait = [sys.executable, "-c", HOLD.format(then="pass"), str(tmp_path)]
    second = subprocess.Popen(wait, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said = second.stderr.readline()
    host = socket.gethostname()
    assert said == f"kind-0123  waiting for process {first.pid} on {host}, which makes it now\n"
    assert second.poll() is None
    first.communicate("go\n", timeout=60)
    assert second.communicate(timeout=60) == ("held\n", "")


def test_a_killed_process_leaves_no_lock_behind(tmp_path, holder, capfd):
    first = holder("time.sleep(600)")
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    with alone(Workspace(tmp_path), "kind-0123"):
        pass
    assert capfd.readouterr().err == ""


def test_children_do_not_keep_the_lock_of_their_parent(tmp_path, holder, capfd):
    """Ray's processes outlive a killed driver by some seconds."""
    child = "import subprocess; c = subprocess.Popen(['sleep', '60']); print(c.pid, flush=True)"
    first = holder(f"{child}; time.sleep(600)")
    orphan = int(first.stdout.readline())
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    try:
        with alone(Workspace(tmp_path), "kind-0123"):
            pass
    finally:
        os.kill(orphan, signal.SIGKILL)
    assert capfd.readouterr().err == ""


def finish(workspace, print_):
    return workspace.draft("kind", print_).finish([], config={}, inputs={})


def test_what_is_finished_is_neither_locked_nor_made(tmp_path):
    workspace = Workspace(tmp_path)
    done = finish(workspace, "a")
    with making(workspace, "kind", ["c", "a", "b", "c"]) as todo:
        assert todo == ["b", "c"]
        assert once(workspace, "kind", "a", pytest.fail).uri == done.uri
    assert {path.name for path in (tmp_path / "locks").iterdir()} == {"kind-b", "kind-c"}


def test_an_error_lets_go(tmp_path):
    workspace = Workspace(tmp_path)
    with pytest.raises(ZeroDivisionError):
        once(workspace, "kind", "a", lambda: 1 / 0)
    assert once(workspace, "kind", "a", lambda: finish(workspace, "a")).fingerprint == "a"


def test_two_that_want_the_same_two_do_not_wait_for_each_other(tmp_path, together):
    script = """
    from chexseg_platform.artifacts import Workspace
    from chexseg_platform.locks import making
    workspace, order = Workspace(sys.argv[2]), "ab" if sys.argv[1] == "0" else "ba"
    ready()
    for turn in range(30):
        with making(workspace, "kind", [f"{turn}{name}" for name in order]) as todo:
            for print_ in todo:
                workspace.draft("kind", print_).finish([], config={}, inputs={})
            print(len(todo))
    """
    counts = [[int(n) for n in output.split()] for output in together(script, 2, str(tmp_path))]
    assert [sum(turn) for turn in zip(*counts, strict=True)] == [2] * 30
