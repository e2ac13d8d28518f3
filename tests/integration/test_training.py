"""Training on Ray Train: killed workers, several workers, and what is refused at once."""

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from chexseg_platform.artifacts import Storage
from chexseg_platform.cluster import ClusterError, Supply, TrainingPlan, plan_training
from chexseg_platform.config import Resources
from chexseg_platform.models.checkpoints import WEIGHTS
from chexseg_platform.plan import Training
from chexseg_platform.stages import classify
from chexseg_platform.stages.segment import segment
from chexseg_platform.stages.training import (
    Job,
    Note,
    Trained,
    TrainingFailed,
    checkpoint_files,
    history_of,
    run_jobs,
)
from chexseg_platform.training.fit import fit

pytestmark = pytest.mark.ray

ALONE = TrainingPlan(workers=1, cpus=1.0, gpus=0.0, parallel=1)
PAIR = TrainingPlan(workers=2, cpus=0.5, gpus=0.0, parallel=1)


def settings_of(finished: Any, epochs: float = 1.0) -> dict[str, Any]:
    wish = finished.experiment.classifier.model_dump() | {"epochs": epochs}
    return {
        "classifier": wish,
        "seed": 5,
        "dataset": finished.dataset,
        "cache": str(finished.context.cache),
        "weights": None,
    }


def train(job: Job, plan: TrainingPlan, runs: Storage, retries: int = 1) -> Trained:
    done: list[Trained] = []
    notes: list[Note] = []
    run_jobs(
        [job], plan, runs, retries=retries, timeout_minutes=3.0, on_note=notes.append,
        on_done=done.append,
    )  # fmt: skip
    assert {note.key for note in notes} <= {job.key}
    return done[0]


def test_a_killed_worker_goes_on_from_its_checkpoint_to_the_same_weights(
    finished: Any, tmp_path: Path
) -> None:
    marker, settings, build = tmp_path / "killed", settings_of(finished, epochs=3), classify.build

    def build_mortal(wish: Mapping[str, Any], device: Any) -> tuple[Any, Any]:
        task, fitting = build(wish, device)
        plain, last = task.batch, 2 * task.steps_per_epoch

        def batch(step: int) -> Any:
            if step == last and not marker.exists():
                marker.write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)
            return plain(step)

        task.batch = batch
        return task, fitting

    runs = Storage(tmp_path / "runs")
    trained = train(Job("mortal", "mortal", build_mortal, settings), ALONE, runs)
    assert int(marker.read_text()) != os.getpid()

    task, fitting = build(settings, torch.device("cpu"))
    events = [event for event in fit(task, fitting, torch.device("cpu")) if event.files]
    assert len(events) == 3
    assert checkpoint_files(runs, trained.latest)[WEIGHTS] == events[-1].files[WEIGHTS]
    steps = [row["step"] for row in history_of(runs, trained)]
    assert steps == [task.steps_per_epoch * epoch for epoch in (1, 2, 3)]


def test_two_workers_share_a_batch_over_gloo(finished: Any, tmp_path: Path) -> None:
    build = classify.build

    def build_noted(wish: Mapping[str, Any], device: Any) -> tuple[Any, Any]:
        task, fitting = build(wish, device)
        images = len(task.batch(0)["image"])
        (tmp_path / f"rank {task.rank} of {task.world}").write_text(str(images))
        return task, fitting

    runs = Storage(tmp_path / "runs")
    job = Job("pair", "pair", build_noted, settings_of(finished))
    trained = train(job, PAIR, runs)
    shares = {path.name: int(path.read_text()) for path in tmp_path.glob("rank *")}
    assert set(shares) == {"rank 0 of 2", "rank 1 of 2"}
    assert sum(shares.values()) == finished.experiment.classifier.batch_size
    assert 0 < history_of(runs, trained)[-1]["loss"] < 2


@pytest.mark.parametrize(
    "wish",
    [
        {"workers": 64},
        {"workers": 1, "cpus_per_worker": 500.0},
        {"workers": 1, "gpus_per_worker": 9.0},
    ],
)
def test_what_the_cluster_cannot_hold_is_refused_at_once(
    ray_cluster: Supply, wish: dict[str, Any]
) -> None:
    with pytest.raises(ClusterError, match=r"asks for .*; the cluster has .*Lower resources"):
        plan_training(Resources(**wish), ray_cluster, trainings=1)


def test_what_cannot_be_built_is_refused_once_in_one_sentence(
    finished: Any, tmp_path: Path
) -> None:
    count = tmp_path / "count"

    def refuse(wish: Mapping[str, Any], device: Any) -> tuple[Any, Any]:
        with count.open("a") as stream:
            stream.write("x")
        raise ValueError("the weights are of another model; give others")

    job = Job("refused", "refused", refuse, {})
    with pytest.raises(TrainingFailed) as refused:
        train(job, ALONE, Storage(tmp_path / "runs"), retries=3)
    assert "the weights are of another model; give others" in str(refused.value)
    assert "Traceback" not in str(refused.value)
    assert count.read_text() == "x"


def test_a_start_of_another_architecture_is_refused(finished: Any) -> None:
    start = f"segmenter:{finished.classifier.uri}"
    wish = finished.experiment.variant({"init": start}).segmenter
    other = [Training("other", wish, 0)]
    with pytest.raises(TrainingFailed) as refused:
        segment(finished.context, finished.experiment, other, finished.inputs)
    assert "\n" not in str(refused.value)
    assert "Traceback" not in str(refused.value)
