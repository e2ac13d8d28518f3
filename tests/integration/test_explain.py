"""Saliency on Ray Data: a job that was killed goes on, and equals a plain loop over the model."""

import io
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from chexseg_platform.artifacts import Workspace
from chexseg_platform.cli import main
from chexseg_platform.config import Saliency
from chexseg_platform.findings import FINDINGS
from chexseg_platform.models.classifier import dump_classifier
from chexseg_platform.plan import pseudolabels_print
from chexseg_platform.saliency.pseudolabel import PseudoLabeller
from chexseg_platform.stages import explain as stage
from chexseg_platform.stages import shards
from chexseg_platform.stages.explained import choose_cases, describe_localization, summarise
from chexseg_platform.stages.models import load_models
from click.testing import CliRunner
from PIL import Image

pytestmark = pytest.mark.ray

CPU = torch.device("cpu")

NODES = """
import sys
from ray.cluster_utils import Cluster
small = {"object_store_memory": 100 << 20}
cluster = Cluster(
    initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, **small}
)
node = cluster.add_node(num_cpus=2, **small)
print(cluster.address, flush=True)
sys.stdin.readline()
cluster.remove_node(node, allow_graceful=False)
sys.stdin.readline()
cluster.shutdown()
"""
SLOW = """
import sys, time
from pathlib import Path
from chexseg_platform.artifacts import Workspace
from chexseg_platform.configfile import load
from chexseg_platform.stages import explain, shards
from chexseg_platform.stages.context import Context

class Slow(shards.LabelShards):
    def item(self, name, place=0):
        super().item(name, place)
        time.sleep(2)

shards.LabelShards = Slow
file, finished, workspace, dataset, classifier, *changes = sys.argv[1:]
experiment = load(file, changes).experiment
inputs = Workspace(finished)
explain.explain(
    Context(Workspace(workspace), experiment.resources),
    experiment,
    inputs.find("dataset", dataset),
    [inputs.find("classifier", classifier)],
)
"""


SHARDS, PIECES = "images", "pieces/images"
"""Where the receipts are that are written last, of shards and of pieces."""


def receipts(draft: Path, of: str = SHARDS) -> set[str]:
    return {path.name.removesuffix(".json") for path in (draft / "receipts" / of).glob("*.json")}


def settled(draft: Path, of: str = SHARDS) -> set[str]:
    """Receipts once the killed job's own workers have gone, too."""
    seen, since = receipts(draft, of), time.monotonic()
    while time.monotonic() - since < 6:
        time.sleep(0.5)
        if receipts(draft, of) != seen:
            seen, since = receipts(draft, of), time.monotonic()
    return seen


@pytest.fixture
def job(
    finished: Any, experiment_file: Path, tmp_path: Path
) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start the same pseudo-labels anew, slowly, in a process and a workspace of their own."""
    begun: list[subprocess.Popen[bytes]] = []

    def start(*changes: str, **environment: str) -> subprocess.Popen[bytes]:
        script = tmp_path / "slow.py"
        script.write_text(SLOW)
        prints = (finished.chain.dataset, finished.chain.classifier)
        places = (str(experiment_file), str(finished.folder), str(tmp_path / "ws"))
        with (tmp_path / "log").open("wb") as log:
            begun.append(
                subprocess.Popen(
                    [sys.executable, str(script), *places, *prints, *changes],
                    stdout=log, stderr=log, env=os.environ | environment,
                )
            )  # fmt: skip
        return begun[0]

    yield start
    for process in begun:
        process.kill()
        process.wait()


def wait_for_a_part(draft: Path, job: subprocess.Popen[bytes], of: str = SHARDS) -> None:
    deadline = time.monotonic() + 150
    while not receipts(draft, of) and job.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert job.poll() is None, (draft.parents[2] / "log").read_text()[-2000:]


def same(finished: Any, workspace: Path) -> None:
    """The artifact of a workspace is the undisturbed one."""
    undisturbed = finished.pseudolabels
    again = Workspace(workspace).find("pseudolabels", undisturbed.fingerprint)
    assert again is not None
    digests = {part.name: part.sha256 for part in undisturbed.parts()}
    assert {part.name: part.sha256 for part in again.parts()} == digests


def test_a_killed_job_loses_nothing(
    finished: Any,
    tmp_path: Path,
    job: Callable[..., subprocess.Popen[bytes]],
    new_context: Callable[[Path], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    undisturbed, total = finished.pseudolabels, len(finished.dataset.parts("rows/"))
    assert total == 5
    draft = tmp_path / "ws" / "pseudolabels" / undisturbed.fingerprint
    running = job()
    wait_for_a_part(draft, running)
    running.kill()
    running.wait()
    done = settled(draft)
    assert 0 < len(done) < total, "the kill came in the middle"
    assert not (draft / "artifact.json").exists()

    asked: list[dict[str, Any]] = []
    plain = shards._stream
    monkeypatch.setattr(
        shards, "_stream", lambda todo, *rest: (asked.extend(todo), plain(todo, *rest))[1]
    )
    context = new_context(tmp_path / "ws")
    again = stage.explain(context, finished.experiment, finished.dataset, [finished.classifier])
    assert {item["part"].rpartition("/")[2] for item in asked}.isdisjoint(done)
    assert len(asked) == total - len(done)
    assert again.summary == undisturbed.summary
    same(finished, tmp_path / "ws")


def test_what_takes_long_loses_no_more_than_pieces(
    finished: Any,
    tmp_path: Path,
    job: Callable[..., subprocess.Popen[bytes]],
    new_context: Callable[[Path], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wish = {
        "saliency.method": "integrated-gradients",
        "saliency.integrated.steps": 2,
        "saliency.integrated.tolerance": None,
    }
    experiment = finished.experiment.variant(wish)
    print_ = pseudolabels_print(
        experiment, finished.dataset.fingerprint, [finished.classifier.fingerprint]
    )
    draft = tmp_path / "ws" / "pseudolabels" / print_
    running = job(*(f"{name}={'null' if value is None else value}" for name, value in wish.items()))
    wait_for_a_part(draft, running, PIECES)
    running.kill()
    running.wait()
    done, images = settled(draft, PIECES), sum(p.rows for p in finished.dataset.parts("rows/"))
    assert "starting workers" in (tmp_path / "log").read_text()

    asked: list[dict[str, Any]] = []
    plain = shards._stream
    monkeypatch.setattr(
        shards, "_stream", lambda todo, *rest: (asked.extend(todo), plain(todo, *rest))[1]
    )
    context = new_context(tmp_path / "ws")
    made = stage.explain(context, experiment, finished.dataset, [finished.classifier])
    again = {f"{item['part'].rpartition('/')[2]}-{item['place']:04d}" for item in asked}
    assert done
    assert again
    assert again.isdisjoint(done)
    assert sum(item["images"] for item in asked) <= images - len(done)
    label = PseudoLabeller(load_models(finished.classifier), experiment.saliency, CPU)
    alone = [
        label(images)[0]
        for part in finished.dataset.parts("rows/")
        for images, _ in shards.batches(shards.read_rows(finished.dataset, part.name), 64, 64)
    ]
    for column in ("image_id", "finding", "steps", "counts"):
        found = made.tables("masks/")[column].to_pylist()
        assert found == pa.concat_tables(alone)[column].to_pylist(), column
    # One part a shard, and nothing of the pieces is left.
    assert len(made.parts("masks/")) == len(finished.dataset.parts("rows/"))
    assert not (draft / "parts" / shards.SCRATCH).exists()
    assert not (draft / "receipts" / shards.SCRATCH).exists()


def test_a_killed_worker_costs_a_part(
    finished: Any, tmp_path: Path, job: Callable[..., subprocess.Popen[bytes]]
) -> None:
    draft = tmp_path / "ws" / "pseudolabels" / finished.pseudolabels.fingerprint
    running = job()
    wait_for_a_part(draft, running)
    workers = [
        child
        for child in psutil.Process(running.pid).children(recursive=True)
        if "PoolWorker" in " ".join(child.cmdline())
    ]
    assert workers
    workers[0].kill()
    assert running.wait(timeout=240) == 0, (tmp_path / "log").read_text()[-2000:]
    same(finished, tmp_path / "ws")


def test_a_lost_node_costs_its_parts(
    finished: Any, tmp_path: Path, job: Callable[..., subprocess.Popen[bytes]]
) -> None:
    draft = tmp_path / "ws" / "pseudolabels" / finished.pseudolabels.fingerprint
    pipe = subprocess.PIPE
    nodes = subprocess.Popen(
        [sys.executable, "-u", "-c", NODES], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL,
        text=True,
    )  # fmt: skip
    try:
        running = job(RAY_ADDRESS=nodes.stdout.readline().strip())
        wait_for_a_part(draft, running)
        nodes.stdin.write("remove\n")
        nodes.stdin.flush()
        assert running.wait(timeout=240) == 0, (tmp_path / "log").read_text()[-2000:]
        same(finished, tmp_path / "ws")
    finally:
        nodes.kill()
        nodes.communicate()


def test_equals_a_plain_loop(finished: Any) -> None:
    settings: Saliency = finished.experiment.saliency
    models = load_models(finished.classifier)
    label = PseudoLabeller(models, settings, CPU)
    size = int(finished.dataset.summary["size"])
    made = [
        label(images)
        for part in finished.dataset.parts("rows/")
        for images, _ in shards.batches(shards.read_rows(finished.dataset, part.name), size, 64)
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
        workers, each, _ = shards.pool(Resources(), Supply(cpus, 0, cpus, 0), 100)
        assert workers >= 1
        assert workers * each < cpus or cpus == 1.0
    assert shards.pool(Resources(), Supply(64, 4, 16, 1), 30) == (8, 0.5, 0.5)
    assert shards.pool(Resources(), Supply(64, 4, 16, 1), 3) == (3, 0.5, 0.5)


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
    made = stage.explain(context, experiment, finished.dataset, [finished.classifier])
    assert made.fingerprint != finished.pseudolabels.fingerprint
    rows = made.tables("masks/").to_pylist()
    assert {row["split"] for row in rows} == {"valid"}
    for row in rows:
        assert (row["steps"] in (2, 3, 4)) == row["allowed"], row
        assert (row["completeness_error"] is not None) == row["allowed"], row
    located = made.summary["localization"]
    assert located
    assert all(0 <= item["hit"] <= 1 and item["images"] > 0 for item in located)
    assert "hit rate" in describe_localization(made.summary)


def test_methods_are_compared_and_maps_are_drawn(
    finished: Any, tmp_path: Path, experiment_file: Path
) -> None:
    folder = finished.copy(tmp_path / "ws").folder
    result = CliRunner().invoke(
        main,
        [
            "explain", str(experiment_file), "--workspace", str(folder), "--overlays", "2",
            "--compare", "grad-cam,grad-cam+irnet", "--num-workers", "1", "--batch-size", "7",
            "--set", "saliency.irnet.epochs=1", "--set", "saliency.irnet.radius=3",
        ],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "grad-cam+irnet" in result.output
    assert "Paired differences" in result.output
    assert "The best pooled mIoU on validation has" in result.output
    workspace = finished.context.workspace.__class__(folder)
    refined = [
        a for a in workspace.artifacts("pseudolabels") if a.manifest["config"]["refine"] == "irnet"
    ]
    assert len(refined) == 1
    (boundary,) = workspace.artifacts("boundary")
    assert refined[0].manifest["inputs"]["boundary"] == boundary.fingerprint
    assert 0 < boundary.summary["best"]["score"] < 1
    (seeds,) = workspace.artifacts("seeds")
    assert seeds.summary["foreground"] > 0
    assert {row["split"] for row in refined[0].tables("masks/").to_pylist()} == {"valid"}
    pages = sorted(path.name for path in (folder / "pages" / refined[0].fingerprint).iterdir())
    assert pages[0] == "saliency-01.png"
    assert len(pages) <= 2


def test_an_ensemble_is_averaged_in_one_pass(
    finished: Any, tmp_path: Path, new_context: Callable[[Path], Any]
) -> None:
    """With a second classifier that sees the opposite, and whose maps are kept."""
    context = new_context(tmp_path / "ws")
    model, preprocess = load_models(finished.classifier)[0]
    with torch.no_grad():
        model.head.weight.neg_()
    draft = context.workspace.draft("classifier", "opposite")
    files = dump_classifier(model, preprocess)
    parts = [draft.write(f"checkpoints/00/{name}", data) for name, data in files.items()]
    second = draft.finish(parts, config={}, inputs={}, summary={"checkpoints": 1})

    wish = {"saliency.ensemble": [{"seed": 99}], "saliency.maps": "model"}
    experiment = finished.experiment.variant(wish)
    both = [finished.classifier, second]
    made = stage.explain(context, experiment, finished.dataset, both)
    assert set(made.manifest["inputs"]) == {"dataset", "classifier", "classifier 2"}
    ours, alone = (a.tables("masks/")["counts"].to_pylist() for a in (made, finished.pseudolabels))
    assert ours != alone
    models = [model for artifact in both for model in load_models(artifact)]
    label = PseudoLabeller(models, experiment.saliency, CPU)
    plain = [
        label(images)
        for part in finished.dataset.parts("rows/")
        for images, _ in shards.batches(shards.read_rows(finished.dataset, part.name), 64, 64)
    ]
    for number, name in ((0, "masks"), (2, "maps")):
        rows = pa.concat_tables([tables[number] for tables in plain])
        found = made.tables(f"{name}/")
        column = "counts" if name == "masks" else "image_id"
        assert found[column].to_pylist() == rows[column].to_pylist()
    assert found.num_rows > 0


def test_what_thresholds_were_tuned_on_is_not_compared(finished: Any) -> None:
    made, dataset = finished.pseudolabels, finished.dataset
    patients = sorted(set(dataset.tables("index/", ["patient"])["patient"].to_pylist()))

    def images(*tuned: Any) -> int:
        summary = summarise(made, dataset, FINDINGS, *tuned)
        return sum(item["images"] for item in summary["localization"])

    whole = images(None)
    assert whole > 0
    assert images([0.5] * 10, []) == whole
    assert images(None, patients) == whole
    assert images([0.5] * 10, patients) == 0


def test_tuned_thresholds_are_kept_for_who_goes_on(
    finished: Any, tmp_path: Path, new_context: Callable[[Path], Any]
) -> None:
    """An attempt that was cut off after tuning left them; they are not tuned again."""
    context = new_context(tmp_path / "ws")
    experiment = finished.experiment.variant({"saliency.threshold": "tuned"})
    print_ = pseudolabels_print(
        experiment, finished.dataset.fingerprint, [finished.classifier.fingerprint]
    )
    draft = context.workspace.draft("pseudolabels", print_)
    draft.write_json(stage.THRESHOLDS, [None, *[0.25] * 9])
    made = stage.explain(context, experiment, finished.dataset, [finished.classifier])
    table = made.tables("masks/")
    cut = table.filter(pc.is_valid(table["threshold"])).to_pylist()
    assert {round(row["threshold"], 2) for row in cut if row["finding"] != FINDINGS[0]} == {0.25}
    assert made.summary["thresholds"][FINDINGS[0]] is None
    assert made.summary["thresholds"][FINDINGS[1]] == 0.25
