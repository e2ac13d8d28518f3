"""`evaluate` on files: what it prints and writes, and one sentence for what cannot be compared."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from chexseg_platform.cli import main
from chexseg_platform.data.masks import encode
from chexseg_platform.findings import CHEXLOCALIZE_NAMES
from click.testing import CliRunner, Result

SHAPE = (20, 24)


def write(path: Path, seed: int, images: int = 6) -> Path:
    """Segmentations of a few images; every finding on about half of them."""
    rng = np.random.default_rng(seed)
    content = {}
    for image in range(images):
        masks = {}
        for name in CHEXLOCALIZE_NAMES.values():
            mask = np.zeros(SHAPE, bool)
            if rng.random() < 0.5:
                top, left = rng.integers(0, 10, 2)
                mask[top : top + 8, left : left + 8] = True
            masks[name] = {"size": list(SHAPE), "counts": encode(mask)}
        content[f"patient{image:05d}_study1_view1_frontal"] = masks
    path.write_text(json.dumps(content))
    return path


def evaluate(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


def test_two_methods_are_compared_and_written(tmp_path: Path) -> None:
    truth, mine, other = (write(tmp_path / f"{n}.json", n) for n in (1, 2, 3))
    found = evaluate(
        "--truth", truth, "--prediction", f"mine={mine}", "--prediction", other, "--readers", truth,
        "--boundary", "--resamples", 50, "-o", tmp_path / "out",
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    for words in ("mIoU A:", "mIoU C:", "mine", "radiologists", "HD95", "Paired differences"):
        assert words in found.output
    out = tmp_path / "out"
    assert pq.read_table(out / "counts.parquet").num_rows == 3 * 6 * 10
    assert json.loads((out / "comparison.json").read_text())["methods"]
    assert (out / "forest.png").read_bytes().startswith(b"\x89PNG")
    summary = out / "chexlocalize/mine/iou_true_positives_summary_results.csv"
    rows = list(csv.DictReader(summary.read_text().splitlines()))
    assert [row["name"] for row in rows] == sorted(CHEXLOCALIZE_NAMES.values())


def test_a_prediction_equal_to_the_truth_scores_one(tmp_path: Path) -> None:
    truth = write(tmp_path / "1.json", 1)
    found = evaluate("--truth", truth, "--prediction", truth, "--resamples", 20)
    means = [line for line in found.output.splitlines() if line.startswith("Mean  ")]
    assert all("1.000 [1.00, 1.00]" in line for line in means[:3])
    assert len(means) == 3


def test_names_of_methods_cannot_leave_the_folder(tmp_path: Path) -> None:
    truth, out = write(tmp_path / "1.json", 1), tmp_path / "out"
    named = f"../../up={truth}"
    found = evaluate("--truth", truth, "--prediction", named, "--resamples", 9, "-o", out)
    assert found.exit_code == 0, found.output
    assert {path.name for path in tmp_path.iterdir()} == {"1.json", "out"}
    assert {path.name for path in (tmp_path / "out/chexlocalize").iterdir()} == {"______up"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "Give an experiment file, or --truth and --prediction"),
        (("--truth", "1.json"), "Give an experiment file, or --truth and --prediction"),
        (("my.yaml", "--truth", "1.json", "--prediction", "1.json"), "Give an experiment file"),
        (("--truth", "none.json", "--prediction", "1.json"), "none.json"),
        (("--truth", "1.json", "--prediction", "mine=none.json"), "there is no none.json"),
        (("--truth", "1.json", "--prediction", "a=1.json", "--prediction", "a=1.json"), "'a'"),
        (("--truth", "1.json", "--prediction", "empty.json"), "holds no images"),
        (("--truth", "1.json", "--prediction", "cut.json"), "cut short"),
        (("--truth", "1.json", "--prediction", "folder"), "no heat maps"),
        (("--truth", "1.json", "--prediction", "1.json", "--threshold", "2"), "0<=x<=1"),
        (("--truth", "1.json", "--prediction", "1.json", "--threshold", ".5"), "no --prediction"),
        (("--truth", "1.json", "--prediction", "1.json", "--points", "1.json"), "--readers"),
        (("--truth", "1.json", "--prediction", "1.json", "-o", "folder"), "is not empty"),
        (("--truth", "1.json", "--prediction", "1.json", "--no-tracking"), "an experiment"),
        (("my.yaml", "--boundary"), "--boundary belongs to --truth"),
        (("--truth", "1.json", "--prediction", "radiologists=1.json"), "another name"),
        (("--truth", "1.json", "--prediction", "=1.json"), "another name"),
        (("--truth", "1.json", "--prediction", "a/b=1.json", "--prediction", "a_b=1.json"), "Two"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    text = write(tmp_path / "1.json", 1).read_text()
    Path("empty.json").write_text("{}")
    Path("cut.json").write_text(text[: len(text) // 2])
    Path("folder").mkdir()
    Path("folder/note.txt").touch()
    found = evaluate(*arguments)
    assert found.exit_code != 0
    assert says in found.output
    assert "Traceback" not in found.output
