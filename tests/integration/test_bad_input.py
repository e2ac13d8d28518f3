"""Inputs that cannot be used, through the command: one sentence, exit code 1, nothing lost."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from chexseg_platform import cluster
from chexseg_platform.cli import main
from click.testing import CliRunner, Result

Say = Callable[..., Result]


@pytest.fixture(autouse=True)
def _ray_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command leaves Ray in the end; the other tests still want it."""
    monkeypatch.setattr(cluster, "disconnect", lambda: None)


def run(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def refused(result: Result) -> str:
    """Return what a command said when it refused, checked for what every refusal has."""
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    assert "\n  File " not in result.output
    said = result.output[result.output.index("Error: ") :].strip()
    assert len(said) < 1500, said
    return said


@pytest.fixture
def real(layout: Any, tmp_path: Path, cache: Path) -> Any:
    """A copy of the phantom's folder and an experiment on its tables, both to be spoiled."""
    made = layout.copy(tmp_path / "data")
    tables = [table.model_dump(exclude_none=True) for table in made.tables]
    settings = {
        "name": "spoiled",
        "data": {"tables": tables, "size": 64},
        "classifier": {"encoder": "resnet18"},
        "segmenter": {"architecture": "Unet", "init": "classifier"},
        "resources": {"cache": str(cache)},
    }
    (tmp_path / "spoiled.yaml").write_text(yaml.safe_dump(settings))
    return made


def edit(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(change(lines)))


def train_csv(layout: Any) -> Path:
    return Path(layout.tables[0].table)


def test_the_experiment_is_sound_before_it_is_spoiled(real: Any, tmp_path: Path) -> None:
    result = run("check", tmp_path / "spoiled.yaml", "--workspace", tmp_path / "ws")
    assert result.exit_code == 0, result.output


def set_label(line: str, value: str) -> str:
    cells = line.rstrip("\n").split(",")
    return ",".join([*cells[:-1], value]) + "\n"


SPOILED: dict[str, tuple[Callable[[list[str]], list[str]], list[str]]] = {
    "a label outside the domain": (
        lambda lines: [*lines[:3], set_label(lines[3], "7"), *lines[4:]],
        ["train.csv", "7", "Support Devices"],
    ),
    "a line cut short": (
        lambda lines: [*lines[:4], lines[4].partition(",")[0] + "\n", *lines[5:]],
        ["train.csv"],
    ),
    "a column missing": (
        lambda lines: [lines[0].replace("Edema", "Oedema"), *lines[1:]],
        ["train.csv", "Edema"],
    ),
    "a row twice": (lambda lines: [*lines, lines[2]], ["train.csv"]),
    "no row at all": (lambda lines: lines[:1], ["train"]),
    "an empty file": (lambda lines: [], ["train.csv"]),
}


@pytest.mark.parametrize("what", SPOILED)
def test_a_broken_table(real: Any, tmp_path: Path, what: str) -> None:
    change, names = SPOILED[what]
    edit(train_csv(real), change)
    for command in ("run", "check"):
        result = run(command, tmp_path / "spoiled.yaml", "--workspace", tmp_path / "ws")
        assert result.exit_code == 1, result.output
        assert "Traceback" not in result.output
        assert all(name in result.output for name in names), result.output
    assert not (tmp_path / "ws" / "dataset").exists(), "nothing was begun"


def test_every_bad_thing_is_said_at_once(real: Any, tmp_path: Path) -> None:
    edit(train_csv(real), SPOILED["a label outside the domain"][0])
    truth = Path(real.tables[1].truth)
    truth.write_text(truth.read_text()[:-20])
    said = refused(run("run", tmp_path / "spoiled.yaml", "--workspace", tmp_path / "ws"))
    assert "train.csv" in said
    assert truth.name in said


def test_a_patient_in_two_splits(real: Any, tmp_path: Path) -> None:
    text = (tmp_path / "spoiled.yaml").read_text()
    settings = yaml.safe_load(text)
    settings["data"]["tables"].append({**settings["data"]["tables"][0], "split": "test"})
    (tmp_path / "spoiled.yaml").write_text(yaml.safe_dump(settings))
    said = refused(run("run", tmp_path / "spoiled.yaml", "--workspace", tmp_path / "ws"))
    assert "patient" in said


def test_images_that_are_not_there_are_all_listed(real: Any, tmp_path: Path) -> None:
    gone = sorted((train_csv(real).parent / "train").rglob("*.jpg"))[:3]
    for path in gone:
        path.unlink()
    said = refused(run("run", tmp_path / "spoiled.yaml", "--workspace", tmp_path / "ws"))
    assert "3 of 44 images are not there" in said
    assert all("/".join(path.parts[-3:]) in said for path in gone)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_workspace_without_leave_to_write(experiment_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    said = refused(run("run", experiment_file, "--workspace", folder))
    assert "--workspace" in said


def test_a_workspace_that_cannot_be_a_folder(experiment_file: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    said = refused(run("run", experiment_file, "--workspace", tmp_path / "file"))
    assert "cannot be written" in said
    assert "--workspace" in said
    assert (tmp_path / "file").read_text() == "in the way"


def masks_of_another_size(layout: Any) -> None:
    """Halve the height of every image that experts drew on; their masks stay."""
    from PIL import Image

    folder = Path(layout.tables[1].table).parent / "valid"
    for path in folder.rglob("*.jpg"):
        image = Image.open(path)
        image.resize((image.width, image.height // 2)).save(path)


def test_masks_of_another_size_than_their_image(real: Any, tmp_path: Path) -> None:
    masks_of_another_size(real)
    result = run("ingest", tmp_path / "spoiled.yaml", "--workspace", tmp_path / "ws")
    assert result.exit_code == 1
    assert "images have another size than their expert masks" in result.output
    assert "data.max_rejected" in result.output
    assert not (tmp_path / "ws" / "dataset").exists(), "nothing was begun"


@pytest.fixture
def copied(finished: Any, tmp_path: Path) -> Path:
    """The finished experiment's artifacts in a workspace that may be spoiled."""
    return finished.copy(tmp_path / "copied").folder


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def files(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


DAMAGE = {
    "dataset": ("parts/rows", "explain", "saliency.threshold=0.4"),
    "classifier": ("parts/checkpoints", "explain", "saliency.threshold=0.4"),
    "pseudolabels": ("parts/masks", "segment", "segmenter.lr=0.01"),
}


@pytest.mark.ray
@pytest.mark.parametrize("kind", DAMAGE)
def test_a_corrupted_artifact(
    copied: Path, experiment_file: Path, tmp_path: Path, kind: str
) -> None:
    place, command, override = DAMAGE[kind]
    damaged = next(p for p in next((copied / kind).iterdir()).joinpath(place).rglob("*.*"))
    flip(damaged)
    before = files(copied)
    result = run(
        command, experiment_file, "--workspace", copied, "--no-tracking", "--set", override,
        "--set", f"resources.cache={tmp_path / 'cache'}", "--set", "resources.retries=0",
        "--set", "arms={pseudo only: {expert_probability: 0.0}}",
    )  # fmt: skip
    said = refused(result)
    assert "damaged" in said
    assert "Remove the folder" in said
    after = files(copied)
    assert {path: after[path] for path in before} == before


@pytest.mark.ray
def test_a_manifest_that_cannot_be_read(copied: Path, experiment_file: Path) -> None:
    manifest = next((copied / "dataset").glob("*/artifact.json"))
    manifest.write_text(json.dumps({"kind": "dataset"})[:-3])
    said = refused(run("run", experiment_file, "--workspace", copied, "--no-tracking"))
    assert "artifact.json is not a readable manifest" in said
