import subprocess
import sys
from pathlib import Path

import pytest
from chexseg_platform import configfile
from chexseg_platform.cli import main
from chexseg_platform.tracking import open_tracker
from click.testing import CliRunner
from ray.exceptions import RayActorError

EXPERIMENT = """\
name: tiny
data:
  phantom: {train: 4, valid: 10, test: 4, size: 64}
  size: 64
classifier: {encoder: resnet18}
segmenter: {architecture: Unet}
"""


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(EXPERIMENT)
    return path


def test_help_needs_none_of_the_slow_libraries() -> None:
    code = (
        "import sys\n"
        "from chexseg_platform.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "slow = {'torch', 'ray', 'mlflow', 'pyarrow', 'numpy', 'pydantic'} & set(sys.modules)\n"
        "assert not slow, slow\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "chexseg-platform run experiments/demo.yaml" in done.stdout


def test_every_command_says_what_it_does() -> None:
    runner = CliRunner()
    listed = runner.invoke(main, ["--help"]).output.partition("Commands:")[2]
    for line in listed.strip().splitlines():
        name, _, what = line.strip().partition(" ")
        assert what.strip(), name
        assert not what.endswith("..."), f"the summary of {name} is cut off"
        assert runner.invoke(main, [name, "--help"]).exit_code == 0


@pytest.mark.parametrize("command", ["ui", "replay"])
def test_a_workspace_without_records_is_told_in_one_sentence(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for workspace, why in (("s3://bucket/w", "on this machine for s3://bucket/w"), ("w", "in w")):
        result = CliRunner().invoke(main, [command, "--workspace", workspace])
        assert result.exit_code == 1
        assert f"Error: Nothing was tracked {why}" in result.output


def test_replay_says_why_records_wait_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    for name in ("first", "second"):
        with open_tracker(tmp_path, name) as tracker:
            tracker.run("whole", name).finish()
    result = CliRunner().invoke(main, ["replay", "--workspace", str(tmp_path)])
    assert result.exit_code == 1
    for name in ("first", "second"):
        why = f"{name}: 3 records still wait: http://127.0.0.1:9 does not answer ("
        assert why in result.output
    assert "secret" not in result.output
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    result = CliRunner().invoke(main, ["replay", "--workspace", str(tmp_path)])
    assert (result.exit_code, result.output) == (0, "first: all sent\nsecond: all sent\n")


def test_a_report_of_no_run_is_one_sentence(tmp_path: Path) -> None:
    out, workspace = tmp_path / "page.html", tmp_path / "w"
    result = CliRunner().invoke(main, ["report", "demo", "-o", str(out), "-w", str(workspace)])
    assert result.exit_code == 1
    assert result.output == (
        f"Error: there is no run 'demo' in the workspace {workspace} (no experiment was tracked in "
        "it). Give an experiment's name, the folder of a comparison, a sweep or a fine-tuning, or "
        "an MLflow run's id.\n"
    )
    assert not out.exists()
    assert not workspace.exists()
    result = CliRunner().invoke(main, ["report", "demo", "-o", str(tmp_path / "no" / "page.html")])
    assert "is not there: make it, or choose another -o" in result.output
    assert CliRunner().invoke(main, ["report"]).exit_code == 2


def test_an_error_is_one_sentence_and_no_traceback(experiment: Path) -> None:
    result = CliRunner().invoke(main, ["config", "show", str(experiment), "--set", "segmenter.l=1"])
    assert result.exit_code == 1
    assert result.output == (
        "Error: --set segmenter.l: there is no such field. Did you mean segmenter.lr?\n"
    )


def test_verbose_gives_the_traceback(experiment: Path) -> None:
    wrong = ["--verbose", "config", "show", str(experiment), "--set", "segmenter.l=1"]
    result = CliRunner().invoke(main, wrong)
    assert isinstance(result.exception, ValueError)


def test_config_show_tells_defaults_from_file_and_override(experiment: Path) -> None:
    wanted = ["config", "show", str(experiment), "--set", "segmenter.lr=3e-4"]
    lines = CliRunner().invoke(main, wanted).output.splitlines()
    origin = {line.split()[0]: line.split()[-1] for line in lines}
    assert origin["segmenter.lr"] == "--set"
    assert origin["segmenter.architecture"] == "tiny.yaml:6"
    assert origin["segmenter.loss"] == "default"


def test_check_lists_every_problem_at_once(experiment: Path, tmp_path: Path) -> None:
    wrong = ["--set", "classifier.encoder=resnet19", "--set", "segmenter.architecture=Unett"]
    result = CliRunner().invoke(main, ["check", str(experiment), "-w", str(tmp_path / "w"), *wrong])
    assert result.exit_code == 1
    assert "did you mean 'resnet18'" in result.output
    assert "did you mean Unet?" in result.output


def test_check_of_a_sound_experiment(experiment: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["check", str(experiment), "-w", str(tmp_path / "w")])
    assert (result.exit_code, result.output) == (0, "Nothing wrong was found.\n")


def test_dry_run_prints_the_plan_and_makes_nothing(experiment: Path, tmp_path: Path) -> None:
    folder = tmp_path / "w"
    result = CliRunner().invoke(main, ["run", str(experiment), "-w", str(folder), "--dry-run"])
    assert result.exit_code == 0
    rows = [line.split() for line in result.output.splitlines()[1:]]
    assert [row[2] for row in rows] == [
        "dataset", "classifier", "pseudolabels", "segmenter", "segmenter", "segmenter",
        "comparison",
    ]  # fmt: skip
    assert not any(folder.iterdir())


def test_phantom_command_writes_the_real_layouts(tmp_path: Path) -> None:
    out = tmp_path / "phantom"
    sizes = ["--train", "3", "--valid", "2", "--test", "2", "--size", "48", "--seed", "4"]
    result = CliRunner().invoke(main, ["data", "phantom", str(out), *sizes])
    assert result.exit_code == 0, result.output
    assert (out / "CheXpert-v1.0" / "train.csv").is_file()
    assert (out / "CheXlocalize" / "gt_segmentations_test.json").is_file()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("x"), "KeyError: 'x' (a fault of the program"),
        (RuntimeError("one\ntwo"), "RuntimeError: one (a fault of the program"),
        (MemoryError(), "this machine ran out of memory"),
        (OSError(28, "No space left"), "OSError: [Errno 28] No space left"),
        (RayActorError(), "a worker process ended without a word"),
    ],
)
def test_every_error_is_one_sentence(
    error: Exception, said: str, experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr(configfile, "load", broken)
    result = CliRunner().invoke(main, ["config", "show", str(experiment)])
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: {said}")
    assert len(result.output.splitlines()) == 1
