"""Two runs at once on one workspace: the second waits, and finds made what it waited for."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from chexseg_platform.artifacts import Workspace

pytestmark = pytest.mark.ray


def test_of_two_runs_that_share_a_classifier_one_trains_it(
    finished: Any, experiment_file: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished.folder / "dataset", tmp_path / "dataset")
    command = ["classify", str(experiment_file), "-w", str(tmp_path), "--no-tracking"]
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "chexseg_platform.cli", *command],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=300) for process in both]
    finally:
        for process in both:
            process.kill()
            process.wait()
    assert [process.returncode for process in both] == [0, 0], said
    # On a busy machine the second may start when the first is done; else it says whom it awaits.
    for (_, err), other in zip(said, reversed(both), strict=True):
        assert "waiting for" not in err or f"waiting for process {other.pid} on " in err
    assert sum("steps done" in err for _, err in said) == 1, said
    (made,) = Workspace(tmp_path).artifacts("classifier")
    assert made.fingerprint == finished.classifier.fingerprint
    for part in made.parts():
        made.read(part.name)
    assert not list((tmp_path / "runs").iterdir())
