"""What goes to a cluster as a job, seen to before anything is sent."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml
from chexseg_platform.cluster import ClusterError
from chexseg_platform.config import ConfigError
from chexseg_platform.stages import submission
from chexseg_platform.stages.submission import ENVIRONMENT, Job, _exit_code, _Log, command_of

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\ndata: {phantom: {train: 12, valid: 8, test: 8}}\n")
    return file


def test_a_job_runs_the_command_that_was_meant(experiment: Path) -> None:
    command = command_of(
        "tune", str(experiment), workspace="s3://bucket/work", overrides=["seed=3"],
        others=["--no-tracking"],
    )  # fmt: skip
    assert command == [
        "python", "-m", "chexseg_platform.cli", "tune", "mine.yaml", "--workspace",
        "s3://bucket/work", "--set", "seed=3", "--no-tracking",
    ]  # fmt: skip


def test_mistakes_are_found_before_anything_is_sent(experiment: Path) -> None:
    with pytest.raises(ConfigError, match=r"classifier\.lr"):
        command_of("run", str(experiment), workspace="/w", overrides=["classifier.lr=fast"])
    with pytest.raises(ConfigError, match="no experiment file"):
        command_of("run", "nowhere.yaml", workspace="/w")


def test_a_workspace_in_the_jobs_own_folder_is_refused(experiment: Path) -> None:
    with pytest.raises(ClusterError, match="'workspace' would lie in the job's own folder"):
        command_of("run", str(experiment), workspace="workspace")


def test_paths_beside_the_file_are_refused_and_others_are_not(experiment: Path) -> None:
    experiment.write_text(
        "name: mine\ndata: {tables: [{table: train.csv, split: train, root: /shared/images}, "
        "{table: 's3://bucket/valid.csv', split: valid}]}\n"
        "segmenter: {init: 'segmenter:old/model'}\n"
    )
    with pytest.raises(ClusterError) as refused:
        command_of("run", str(experiment), workspace="/w")
    assert "data.tables.0.table (train.csv), segmenter.init (old/model)." in str(refused.value)
    command_of(
        "run", str(experiment), workspace="/w",
        overrides=["data.tables.0.table=/shared/train.csv", "segmenter.init=random"],
    )  # fmt: skip


def test_too_large_an_upload_names_what_is_large(
    experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "chexseg_platform"
    (package / "data").mkdir(parents=True)
    with (package / "data/images.parquet").open("wb") as stream:
        stream.truncate(submission.LIMIT_BYTES + 1)
    monkeypatch.setattr(submission, "PACKAGE", package)
    with pytest.raises(ClusterError, match=r"20 MiB, more than 20: .*data/images\.parquet alone"):
        submission.submit("http://127.0.0.1:9", str(experiment), ["true"])


def test_no_password_goes_where_a_dashboard_shows_it(
    experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@mlflow.example")
    with pytest.raises(ClusterError, match="holds a password") as refused:
        submission.submit("http://127.0.0.1:9", str(experiment), ["true"])
    assert "secret" not in str(refused.value)


def test_the_environment_is_that_of_ray_job_submit() -> None:
    env = yaml.safe_load((REPOSITORY / "jobs/runtime_env.yaml").read_text())["env_vars"]
    assert env == ENVIRONMENT


class Broken:
    """A job server whose connections break: each tail begins with the job's first line."""

    def __init__(self, *tails: list[str]) -> None:
        self.tails = list(tails)

    async def tail_job_logs(self, name: str) -> AsyncIterator[str]:
        for text in self.tails.pop(0):
            yield text


def test_what_is_read_again_is_written_once() -> None:
    written: list[str] = []
    log = _Log(written.append)
    server = Broken(["one\n", "tw"], ["on", "e\nt"], ["one\ntwo\nth", "ree\n"])
    job = Job(server, "raysubmit_1")  # type: ignore[arg-type]
    for _ in range(3):
        asyncio.run(log.follow(job))
    assert "".join(written) == "one\ntwo\nthree\n"


@pytest.mark.parametrize(
    ("status", "code", "ours"),
    [("SUCCEEDED", 0, 0), ("FAILED", 2, 2), ("FAILED", None, 1), ("STOPPED", -15, 1)],
)
def test_exit_codes(status: str, code: int | None, ours: int) -> None:
    assert _exit_code(status, code) == ours
