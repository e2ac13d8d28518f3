"""Saliency on Ray Data: a job that was killed goes on, and equals a plain loop over the model."""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from chexseg_platform.config import Saliency
from chexseg_platform.findings import FINDINGS
from chexseg_platform.saliency.pseudolabel import PseudoLabeller
from chexseg_platform.stages import explain as stage
from chexseg_platform.stages.explained import choose_cases, describe_localization
from PIL import Image

pytestmark = pytest.mark.ray

SLOW = """
import sys, time
from pathlib import Path
from chexseg_platform.artifacts import Workspace
from chexseg_platform.configfile import load
from chexseg_platform.stages import explain
from chexseg_platform.stages.context import Context

class Slow(explain.ExplainShards):
    def _shard(self, name):
        answer = super()._shard(name)
        time.sleep(2)
        return answer

explain.ExplainShards = Slow
file, finished, workspace, dataset, classifier = sys.argv[1:]
experiment = load(file).experiment
inputs = Workspace(finished)
explain.explain(
    Context(Workspace(workspace), experiment.resources),
    experiment,
    inputs.find("dataset", dataset),
    inputs.find("classifier", classifier),
)
"""


def receipts(draft: Path) -> set[str]:
    """Shards that are whole: the receipt that is written last."""
    return {path.name.removesuffix(".json") for path in (draft / "receipts/images").glob("*.json")}


def settled(draft: Path) -> set[str]:
    """Receipts once the killed job's own workers have gone, too."""
    seen, since = receipts(draft), time.monotonic()
    while time.monotonic() - since < 6:
        time.sleep(0.5)
        if receipts(draft) != seen:
            seen, since = receipts(draft), time.monotonic()
    return seen


def test_a_killed_job_loses_nothing(
    finished: Any,
    experiment_file: Path,
    tmp_path: Path,
    new_context: Callable[[Path], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    undisturbed, total = finished.pseudolabels, len(finished.dataset.parts("rows/"))
    assert total == 5
    script, folder = tmp_path / "slow.py", tmp_path / "ws"
    script.write_text(SLOW)
    draft = folder / "pseudolabels" / undisturbed.fingerprint
    prints = (finished.chain.dataset, finished.chain.classifier)
    command = [sys.executable, str(script), str(experiment_file), str(finished.folder)]
    with (tmp_path / "log").open("wb") as log:
        job = subprocess.Popen([*command, str(folder), *prints], stdout=log, stderr=log)
    deadline = time.monotonic() + 150
    while not receipts(draft) and job.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert job.poll() is None, (tmp_path / "log").read_text()[-2000:]
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    done = settled(draft)
    assert 0 < len(done) < total, "the kill came in the middle"
    assert not (draft / "artifact.json").exists()

    asked: list[str] = []
    plain = stage._stream
    monkeypatch.setattr(
        stage, "_stream", lambda todo, *rest: (asked.extend(todo), plain(todo, *rest))[1]
    )
    context = new_context(folder)
    again = stage.explain(context, finished.experiment, finished.dataset, finished.classifier)
    assert {name.rpartition("/")[2] for name in asked}.isdisjoint(done)
    assert len(asked) == total - len(done)
    digests = {part.name: part.sha256 for part in undisturbed.parts()}
    assert {part.name: part.sha256 for part in again.parts()} == digests
    assert again.summary == undisturbed.summary


def test_equals_a_plain_loop(finished: Any) -> None:
    settings: Saliency = finished.experiment.saliency
    models = stage.load_models(finished.classifier)
    label = PseudoLabeller(models, settings, torch.device("cpu"))
    size = int(finished.dataset.summary["size"])
    made = [
        label(images)
        for part in finished.dataset.parts("rows/")
        for images, _ in stage.batches(stage.read_rows(finished.dataset, part.name), size, 64)
    ]
    masks = pa.concat_tables([table for table, _ in made])
    on_ray = finished.pseudolabels.tables("masks/")
    for column in ("image_id", "finding", "known", "allowed", "status", "counts"):
        assert on_ray[column].to_pylist() == masks[column].to_pylist(), column
    assert pc.sum(pc.is_valid(masks["counts"])).as_py() > 0
    images = pa.concat_tables([table for _, table in made])
    ours = torch.tensor(finished.pseudolabels.tables("images/")["probabilities"].to_pylist())
    plain = torch.tensor(images["probabilities"].to_pylist())
    torch.testing.assert_close(ours, plain)


def test_what_pseudo_labels_say_of_themselves(finished: Any) -> None:
    made = finished.pseudolabels
    page = Image.open(io.BytesIO(made.read("saliency.png")))
    assert page.format == "PNG"
    assert page.width > 800
    assert len(np.unique(np.asarray(page.convert("L")))) > 50
    peaks, table = made.summary["peaks"], made.tables("masks/")
    allowed = table.filter(pc.and_(table["allowed"], pc.is_valid(table["peak_row"])))
    assert peaks["all"]["maps"] == allowed.num_rows > 0
    assert sum(peaks[name]["maps"] for name in FINDINGS) == allowed.num_rows
    assert 0 <= peaks["all"]["corner"] <= 1
    assert any(line.startswith("pseudo-labels") and "in a corner" in line for line in finished.said)


def test_the_page_shows_findings_that_experts_drew_first(finished: Any) -> None:
    chosen = choose_cases(finished.pseudolabels, finished.dataset, 4)
    assert len(chosen) == 4
    assert len({item.finding for item in chosen}) == 4
    drawn = {
        (row["image_id"], item["finding"])
        for row in finished.dataset.tables("index/", ["image_id", "split", "masks"]).to_pylist()
        for item in row["masks"] or []
        if row["split"] == "valid"
    }
    assert all((item.image_id, item.finding) in drawn for item in chosen)


def test_pools_leave_room_for_the_tasks_that_feed_them() -> None:
    from chexseg_platform.cluster import Supply
    from chexseg_platform.config import Resources

    for cpus in (1.0, 2.0, 16.0):
        workers, each, _ = stage.pool(Resources(), Supply(cpus, 0, cpus, 0), shards=100)
        assert workers >= 1
        assert workers * each < cpus or cpus == 1.0
    assert stage.pool(Resources(), Supply(64, 4, 16, 1), shards=3) == (3, 0.5, 1.0)


def test_integrated_gradients_are_a_method_of_the_same_job(
    finished: Any, tmp_path: Path, new_context: Callable[[Path], Any]
) -> None:
    experiment = finished.experiment.variant(
        {
            "saliency.method": "integrated-gradients",
            "saliency.integrated.steps": 2,
            "saliency.integrated.most_steps": 4,
            "saliency.splits": ["valid"],
        }
    )
    context = new_context(tmp_path / "ws")
    made = stage.explain(context, experiment, finished.dataset, finished.classifier)
    assert made.fingerprint != finished.pseudolabels.fingerprint
    rows = made.tables("masks/").to_pylist()
    assert {row["split"] for row in rows} == {"valid"}
    for row in rows:
        assert (row["steps"] in (2, 4)) == row["allowed"], row
        assert (row["completeness_error"] is not None) == row["allowed"], row
    located = made.summary["localization"]
    assert located
    assert all(0 <= item["hit"] <= 1 and item["images"] > 0 for item in located)
    assert "hit rate" in describe_localization(made.summary)
