"""A workspace on S3, spoken by a server on loopback: a run is killed, and goes on."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chexseg_platform.artifacts import Workspace
from chexseg_platform.storage import Storage

pytestmark = pytest.mark.ray

PATIENCE = 300
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a folder in a bucket: bucket("ws") -> s3://..."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    log = tmp_path_factory.mktemp("s3") / "log"
    before = {name: os.environ.get(name) for name in CREDENTIALS}
    os.environ.update(CREDENTIALS)
    with log.open("wb") as stream:
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=stream, stderr=stream,
        )  # fmt: skip
    try:
        wait_for(port, server, log)
        options = f"scheme=http&endpoint_override=127.0.0.1:{port}&allow_bucket_creation=true"
        Storage(f"s3://bucket?{options}").fs.create_dir("bucket")
        yield f"s3://bucket/FOLDER?{options}"
    finally:
        server.terminate()
        server.wait(20)
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def wait_for(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError(log.read_text()[-2000:])


def at(bucket: str, folder: str) -> str:
    return bucket.replace("FOLDER", folder)


def test_whole_files_in_whole_files_out(bucket: str) -> None:
    storage = Storage(at(bucket, "files"))
    assert storage.write("a/b.txt", b"one")
    assert storage.write("a/b.txt", b"two")
    assert not storage.write("a/b.txt", b"three", replace=False)
    assert storage.read("a/b.txt") == b"two"
    large = os.urandom(12 << 20)  # goes up in parts
    assert storage.write("a/large", large)
    assert storage.read("a/large") == large
    assert storage.join("a").files() == ["b.txt", "large"]
    assert storage.exists("a")
    storage.delete("a/b.txt")
    storage.delete("a/b.txt")
    with pytest.raises(FileNotFoundError):
        storage.read("a/b.txt")


def command(workspace: str, experiment: Path) -> list[str]:
    python = [sys.executable, "-m", "chexseg_platform.cli"]
    return [*python, "run", str(experiment), "--workspace", workspace, "--no-tracking"]


def test_a_run_that_is_killed_goes_on_and_makes_the_same(
    bucket: str, experiment_file: Path, finished: Any, tmp_path: Path
) -> None:
    words = command(at(bucket, "killed"), experiment_file)
    run = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path,
        start_new_session=True,
    )  # fmt: skip
    assert run.stdout is not None
    said = []
    for line in run.stdout:
        said.append(line)
        if line.startswith("pseudo-labels"):
            time.sleep(5)  # the segmenters are being trained
            break
    assert run.poll() is None, "".join(said)
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    again = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, timeout=PATIENCE)
    assert again.returncode == 0, again.stdout[-2000:] + again.stderr[-2000:]
    there = Workspace(at(bucket, "killed"))
    for kind in ("dataset", "classifier", "pseudolabels", "segmenter", "comparison"):
        mine = {artifact.fingerprint for artifact in there.artifacts(kind)}
        local = {a.fingerprint for a in finished.context.workspace.artifacts(kind)}
        assert mine == local, kind
    columns = ["image_id", "finding", "counts"]
    table = there.find("pseudolabels", finished.chain.pseudolabels).tables("masks/", columns)
    order = [(name, "ascending") for name in columns[:2]]
    assert table.sort_by(order) == finished.pseudolabels.tables("masks/", columns).sort_by(order)
