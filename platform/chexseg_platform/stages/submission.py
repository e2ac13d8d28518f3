"""Commands as jobs of a cluster: sent with the code that runs them, followed, and stopped.

A job gets two small folders: this package, as it is here, and the experiment file. Data, workspaces
and caches stay where they are, and are named by addresses that the cluster's nodes can reach.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from chexseg_platform.cluster import ClusterError, refuse_pickle_switches
from chexseg_platform.configfile import load, relative_paths
from chexseg_platform.storage import refuse_secrets

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

PACKAGE = Path(__file__).resolve().parents[1]
LIMIT_BYTES = 20 << 20
ENVIRONMENT = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "OMP_NUM_THREADS": "1",
    # A driver that is told to end closes its runs in the tracking store first.
    "RAY_JOB_STOP_WAIT_TIME_S": "30",
}
"""What a job's processes find set, as in jobs/runtime_env.yaml."""
_TALKATIVE = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
"""Of packages and their addresses."""
TRACKING = "MLFLOW_TRACKING_URI"
PATIENCE_S = 60.0
"""How long a cluster may be silent while a job is followed."""


@dataclass(frozen=True)
class Job:
    """A job of a cluster, and how it is called there."""

    client: JobSubmissionClient
    name: str


def command_of(
    stage: str,
    experiment: str,
    *,
    workspace: str,
    overrides: Sequence[str] = (),
    others: Sequence[str] = (),
) -> list[str]:
    """Return the command that a job runs, seen to as far as that can be done from here.

    Args:
        workspace: an address, or an absolute path of a disk that all nodes share.
        others: further words of the stage's command.

    Raises:
        ConfigError: as `configfile.load`.
        ClusterError: where something is named that the cluster's nodes cannot reach.
    """
    load(experiment, overrides)
    refuse_secrets(workspace)
    if "://" not in workspace and not os.path.isabs(workspace):
        raise ClusterError(
            f"the workspace {workspace!r} would lie in the job's own folder, and go with it. Name "
            "one that every node reaches: --workspace s3://BUCKET/FOLDER, or the absolute path of "
            "a disk that they share"
        )
    beside = relative_paths(experiment, overrides)
    if beside:
        told = ", ".join(f"{key} ({text})" for key, text in beside.items())
        raise ClusterError(
            f"paths on this machine do not go to the cluster: {told}. Give addresses (s3://...) or "
            "absolute paths that every node has"
        )
    sets = [word for override in overrides for word in ("--set", override)]
    python = ["python", "-m", "chexseg_platform.cli"]
    return [*python, stage, Path(experiment).name, "--workspace", workspace, *sets, *others]


def submit(address: str | None, experiment: str, command: Sequence[str]) -> Job:
    """Send a command to a cluster; it runs there whatever becomes of this process.

    Args:
        address: of its job server, e.g. "http://127.0.0.1:8265"; None for that of
            RAY_API_SERVER_ADDRESS, RAY_ADDRESS, or a cluster that runs here.

    Raises:
        ClusterError: saying what is wrong and what to do.
    """
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    refuse_pickle_switches()
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    environment = ENVIRONMENT | _tracking()
    with tempfile.TemporaryDirectory() as made:
        work, module = Path(made) / "work", Path(made) / PACKAGE.name
        work.mkdir()
        shutil.copy(experiment, work)
        shutil.copytree(PACKAGE, module, ignore=shutil.ignore_patterns("__pycache__"))
        _check_size(Path(made))
        try:
            client = JobSubmissionClient(address)
            name = client.submit_job(
                entrypoint=shlex.join(command),
                runtime_env={
                    "working_dir": str(work),
                    "py_modules": [str(module)],
                    "env_vars": environment,
                },
            )
        except AuthenticationError as error:
            why = str(error).partition(". ")[0]
            raise ClusterError(
                f"the cluster takes no job without its token ({why}). Set "
                "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the file that holds it"
            ) from None
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ClusterError(
                f"no job could be submitted: {str(error).splitlines()[0]} Look whether the cluster "
                "runs, and whether --address (or RAY_API_SERVER_ADDRESS) is its job server's, "
                "http://127.0.0.1:8265 through `ray dashboard cluster.yaml`"
            ) from None
    return Job(client, name)


def _tracking() -> dict[str, str]:
    uri = os.environ.get(TRACKING)
    if uri is None:
        return {}
    if urlsplit(uri).password is not None:
        raise ClusterError(
            f"{TRACKING} holds a password, and a job's settings can be read on the cluster's "
            "dashboard: leave it out, and set MLFLOW_TRACKING_USERNAME and _PASSWORD on the nodes"
        )
    return {TRACKING: uri}


def _check_size(folder: Path) -> None:
    sizes = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    if sum(sizes.values()) <= LIMIT_BYTES:
        return
    largest = max(sizes, key=sizes.__getitem__)
    name = largest.relative_to(folder)
    raise ClusterError(
        f"the upload would be {sum(sizes.values()) / 2**20:.0f} MiB, more than "
        f"{LIMIT_BYTES >> 20}: {name} alone is {sizes[largest] / 2**20:.0f}. Move data out of the "
        f"package's folder {PACKAGE}"
    )


def follow(job: Job, write: Callable[[str], None]) -> int:
    """Hand on what a job prints until it ends; return its driver's exit code.

    A connection that breaks is made again, where it broke off.

    Raises:
        ClusterError: when the cluster does not answer for PATIENCE_S; the job may go on.
    """
    log, silent_since = _Log(write), None
    while True:
        try:
            asyncio.run(log.follow(job))
            found = job.client.get_job_info(job.name)
            if found.status.is_terminal():
                return _exit_code(found.status.value, found.driver_exit_code)
            silent_since = None
        except (ConnectionError, RuntimeError, OSError) as error:
            silent_since = silent_since or time.monotonic()
            if time.monotonic() - silent_since > PATIENCE_S:
                raise ClusterError(
                    f"the cluster does not answer any more ({str(error).splitlines()[0]}). The job "
                    f"may go on: {again(job)}"
                ) from None
        time.sleep(1.0)


@dataclass
class _Log:
    """What a job prints, each character written once however often it is read from its start."""

    write: Callable[[str], None]
    written: int = 0

    async def follow(self, job: Job) -> None:
        place = 0
        async for text in job.client.tail_job_logs(job.name):
            new = text[max(0, self.written - place) :]
            place += len(text)
            if new:
                self.write(new)
                self.written = place


def _exit_code(status: str, code: int | None) -> int:
    if code is not None and code > 0:
        return code
    return 0 if status == "SUCCEEDED" else 1


def again(job: Job) -> str:
    """Return how to look at a job later."""
    return f"ray job logs --follow {job.name}"


def stop(job: Job) -> None:
    """Tell a job to end, as Ctrl-C would: what is finished is kept."""
    job.client.stop_job(job.name)
