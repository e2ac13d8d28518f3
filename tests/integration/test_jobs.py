"""Jobs for real: a Ray head on loopback, a job submitted, its status and logs read back."""

import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from chexseg_platform.cli.submit import STAGES

pytestmark = pytest.mark.ray

PATIENCE = 180
RAY = str(Path(sys.executable).with_name("ray"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Head:
    """A running head: how to reach it."""

    address: str
    environment: dict[str, str]

    def job(self, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [RAY, "job", *arguments],
            cwd=cwd,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    folder = Path(tempfile.mkdtemp(prefix="r"))  # a short name: sockets lie in it
    token = folder / "token"
    token.write_text("0123456789abcdef" * 4)
    port, dashboard, agent, client = (free_port() for _ in range(4))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "PATH": path,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    command = [
        RAY, "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}",
        "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", "--num-cpus=2",
        # Another Ray on this machine, the tests' own, may hold the default ports of these two;
        # an agent without its port takes no jobs.
        f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}",
        f"--temp-dir={folder}", "--object-store-memory=200000000", "--disable-usage-stats",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    made = Head(environment["RAY_API_SERVER_ADDRESS"], environment)
    try:
        wait_for(made, process, folder / "log")
        yield made
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(head: Head, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        if head.job("list", cwd=Path.cwd()).returncode == 0:
            return
        time.sleep(0.5)
    raise AssertionError(log.read_text()[-2000:])


def test_without_the_token_no_job_is_taken(head: Head, repository: Path) -> None:
    stranger = Head(head.address, {**head.environment, "RAY_AUTH_MODE": "disabled"})
    assert stranger.job("list", cwd=repository).returncode != 0


def test_a_stage_runs_as_a_job(
    head: Head, repository: Path, experiment_file: Path, tmp_path: Path
) -> None:
    name, workspace = "ingest-as-a-job", tmp_path / "ws"
    small = "data.phantom={train: 12, valid: 8, test: 4, size: 64}"
    submitted = head.job(
        "submit", "--submission-id", name, "--working-dir", ".",
        "--runtime-env", "jobs/runtime_env.yaml", "--",
        "python", "jobs/ingest.py", str(experiment_file), "--workspace", str(workspace),
        "--set", small, "--no-tracking", cwd=repository,
    )  # fmt: skip
    assert submitted.returncode == 0, submitted.stdout[-3000:] + submitted.stderr[-2000:]
    assert "succeeded" in head.job("status", name, cwd=repository).stdout.lower()
    logs = head.job("logs", name, cwd=repository).stdout
    assert "train 12 images" in logs, logs
    manifest = json.loads(next((workspace / "dataset").glob("*/artifact.json")).read_text())
    assert manifest["summary"]["images"] == 24


def test_the_package_comes_with_the_job(head: Head, repository: Path) -> None:
    code = (
        "import chexseg_platform, os, platform, ray; ray.init(log_to_driver=False); "
        "where = lambda: (os.chdir('/'), __import__('chexseg_platform').__file__)[1]; "
        "print('driver', chexseg_platform.__file__, platform.system()); "
        "print('worker', ray.get(ray.remote(where).remote()))"
    )
    submitted = head.job(
        "submit", "--working-dir", ".", "--runtime-env", "jobs/runtime_env.yaml", "--",
        "python", "-c", code, cwd=repository,
    )  # fmt: skip
    assert submitted.returncode == 0, submitted.stdout[-3000:] + submitted.stderr[-2000:]
    lines = submitted.stdout.splitlines()
    for who in ("driver", "worker"):
        line = next(line for line in lines if line.startswith(f"{who} "))
        assert "runtime_resources" in line, f"not the package that came with the job: {line}"


def test_a_job_that_fails_says_so(head: Head, repository: Path, tmp_path: Path) -> None:
    submitted = head.job(
        "submit", "--working-dir", ".", "--runtime-env", "jobs/runtime_env.yaml", "--",
        "python", "jobs/run.py", "experiments/nowhere.yaml", "--workspace", str(tmp_path),
        cwd=repository,
    )  # fmt: skip
    assert submitted.returncode != 0
    assert "experiments/nowhere.yaml" in submitted.stdout
    assert "Traceback" not in submitted.stdout


def submit(
    head: Head, *arguments: str, cwd: Path, timeout: float = PATIENCE
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "chexseg_platform.cli", "submit", *arguments],
        cwd=cwd, env=head.environment, capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip


def test_submit_follows_its_job(head: Head, experiment_file: Path, tmp_path: Path) -> None:
    sent = submit(
        head, "ingest", str(experiment_file), "--workspace", str(tmp_path / "ws"),
        "--set", "data.phantom={train: 12, valid: 8, test: 4, size: 64}", "--no-tracking",
        cwd=tmp_path,
    )  # fmt: skip
    assert sent.returncode == 0, sent.stdout + sent.stderr
    assert sent.stdout.count("train 12 images") == 1
    manifest = json.loads(next((tmp_path / "ws/dataset").glob("*/artifact.json")).read_text())
    assert manifest["summary"]["images"] == 24
    assert not (tmp_path / "workspace").exists()


def test_submit_ends_as_its_job_does(head: Head, experiment_file: Path, tmp_path: Path) -> None:
    sent = submit(
        head, "evaluate", str(experiment_file), "-w", str(tmp_path), "--nonsense", cwd=tmp_path
    )
    assert sent.returncode == 2
    assert "No such option" in sent.stdout
    assert "Traceback" not in sent.stdout + sent.stderr


def test_submit_without_the_token_says_what_is_missing(
    head: Head, experiment_file: Path, tmp_path: Path
) -> None:
    stranger = Head(head.address, {**head.environment, "RAY_AUTH_MODE": "disabled"})
    sent = submit(stranger, "run", str(experiment_file), "-w", str(tmp_path), cwd=tmp_path)
    assert sent.returncode == 1
    assert "RAY_AUTH_MODE=token" in sent.stderr
    assert "Traceback" not in sent.stderr


@pytest.mark.parametrize("answer", ["y", "n"])
def test_an_interrupt_asks_what_becomes_of_the_job(
    head: Head, experiment_file: Path, tmp_path: Path, answer: str
) -> None:
    main, side = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "chexseg_platform.cli", "submit", "run", str(experiment_file),
         "-w", str(tmp_path / "ws"), "--no-tracking"],
        cwd=tmp_path, env=head.environment, stdin=side, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    name = process.stderr.readline().split()[1]
    assert process.stdout is not None
    assert any("tiny  in" in line for line in process.stdout)  # the job has begun
    process.send_signal(signal.SIGINT)
    os.write(main, f"{answer}\n".encode())
    _, said = process.communicate(timeout=PATIENCE)
    os.close(main)
    os.close(side)
    assert process.returncode == 130
    assert "Stop the job, too?" in said
    asked = head.job("status", name, cwd=tmp_path)
    assert ("was stopped" in asked.stdout + asked.stderr) == (answer == "y"), asked
    if answer == "n":
        assert f"ray job logs --follow {name}" in said
        head.job("stop", name, cwd=tmp_path)


def test_every_command_has_its_job(repository: Path) -> None:
    for name in STAGES:
        found = subprocess.run(
            [sys.executable, f"jobs/{name}.py", "--help"],
            cwd=repository,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert found.returncode == 0, found.stderr
        assert "--workspace" in found.stdout, name
