"""Trainings on Ray Train: one or many at a time, resumed by name, watched from the driver.

A job is a task to build on each worker and the settings to fit it under. Its run name holds the
fingerprint of all that decides its result, so running the same job again goes on from its last
checkpoint, and another job never does. Progress reaches the driver through one small actor, the
board, so that only the driver speaks to the terminal and to the tracking store.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from chexseg_platform.artifacts import Draft, Part, Storage
from chexseg_platform.cluster import TrainingPlan, here, own_group, plan_training
from chexseg_platform.models.first_weights import META, WEIGHTS
from chexseg_platform.stages.context import Context
from chexseg_platform.stages.errors import plain
from chexseg_platform.training.fit import PLACE

POLL_SECONDS = 0.5
POST_SECONDS = 1.0
NONE_YET = "–"


class TrainingFailed(ValueError):
    """A training could not be finished; the message is the cause's own."""


@dataclass(frozen=True)
class Job:
    """One training.

    Args:
        key: its name for people and for the board, e.g. "mix, seed 0".
        run: its name on disk; holds the fingerprint.
        build: runs on each worker: (settings, device) -> (task, fit settings). Importable.
        settings: what `build` needs, plain and picklable.
        keep: how many of the best checkpoints to keep.
    """

    key: str
    run: str
    build: Callable[[Mapping[str, Any], Any], tuple[Any, Any]]
    settings: Mapping[str, Any]
    keep: int = 1


@dataclass(frozen=True)
class Note:
    """What a training says while it runs."""

    key: str
    step: int
    total: int
    images_per_second: float
    loss: float
    epoch: float
    metrics: Mapping[str, float] | None = None


class Figures:
    """What a progress line shows of trainings: the best score of each so far, and the latest.

    Args:
        score: what the trainings' score is called.
    """

    def __init__(self, score: str) -> None:
        self._score = score
        self._seen: dict[str, list[float]] = {}

    def of(self, note: Note) -> dict[str, Any]:
        """Return a note's figures, the best first, for a narrow terminal cuts the line's end."""
        seen = self._seen.setdefault(note.key, [])
        # Where a validation gives no score, a placeholder far below any real one stands for it.
        if note.metrics is not None and note.metrics["score"] > 1e-3:
            seen.append(note.metrics["score"])
        return {
            f"best {self._score}": max(seen, default=NONE_YET),
            "images/s": note.images_per_second,
            "loss": note.loss,
            f"latest {self._score}": seen[-1] if seen else NONE_YET,
        }


@dataclass(frozen=True)
class Trained:
    """A finished training: its kept checkpoints, best first, and the latest one.

    A checkpoint is (folder, metrics).
    """

    key: str
    checkpoints: tuple[tuple[str, Mapping[str, float]], ...]
    latest: str


@ray.remote(num_cpus=0)
class Board:
    """Collects notes of all trainings until the driver takes them."""

    def __init__(self) -> None:
        self._notes: list[Note] = []

    def post(self, note: Note) -> None:
        self._notes.append(note)

    def take(self) -> list[Note]:
        notes, self._notes = self._notes, []
        return notes


def train_one(
    context: Context, stage: str, job: Job, score: str, listen: Callable[[Note], None]
) -> tuple[Trained, TrainingPlan]:
    """Run one training with all of the cluster, with progress; return how it shared it, too.

    Args:
        score: what its score is called.
    """
    shape = plan_training(context.resources, context.connect(), trainings=1)
    figures, done = Figures(score), list[Trained]()
    with context.progress(stage, None, "steps") as progress:
        progress.say("starting workers")

        def on_note(note: Note) -> None:
            progress.update(done=note.step, total=note.total, **figures.of(note))
            listen(note)

        run_jobs(
            [job],
            shape,
            context.runs,
            retries=context.resources.retries,
            timeout_minutes=context.resources.timeout_minutes,
            on_note=on_note,
            on_done=done.append,
        )
    return done[0], shape


def checkpoint_parts(draft: Draft, runs: Storage, trained: Trained) -> list[Part]:
    """Move a training's kept checkpoints and its history into an artifact."""
    parts: list[Part] = []
    for number, (folder, metrics) in enumerate(trained.checkpoints):
        for name, data in checkpoint_files(runs, folder).items():
            parts.append(draft.write(f"checkpoints/{number:02d}/{name}", data, info=metrics))
    return [*parts, draft.write_json("history.json", history_of(runs, trained))]


def run_jobs(
    jobs: Sequence[Job],
    plan: TrainingPlan,
    runs: Storage,
    *,
    retries: int,
    timeout_minutes: float,
    on_note: Callable[[Note], None],
    on_done: Callable[[Trained], None],
) -> None:
    """Run trainings, `plan.parallel` at a time; each result is handed over as it is ready.

    Raises:
        TrainingFailed: for the first training that fails; those that are done were handed over.
    """
    stay = {"scheduling_strategy": here()}
    board = Board.options(**stay).remote()  # type: ignore[attr-defined]
    waiting = list(jobs)
    running: dict[Any, Job] = {}
    while waiting or running:
        while waiting and len(running) < plan.parallel:
            job = waiting.pop(0)
            drive = _drive.options(**stay)
            reference = drive.remote(job, plan, runs, board, retries, timeout_minutes)
            running[reference] = job
        finished, _ = ray.wait(list(running), timeout=POLL_SECONDS)
        for note in ray.get(board.take.remote()):
            on_note(note)
        for reference in finished:
            job = running.pop(reference)
            try:
                on_done(ray.get(reference))
            except Exception as error:
                for other in running:
                    ray.cancel(other, force=True)
                raise TrainingFailed(f"training {job.key!r} failed: {root_cause(error)}") from error
    ray.kill(board)


@ray.remote(num_cpus=0, max_retries=0)
def _drive(
    job: Job, plan: TrainingPlan, runs: Storage, board: Any, retries: int, timeout_minutes: float
) -> Trained:
    return fit_job(job, plan, runs, board, retries=retries, timeout_minutes=timeout_minutes)


def fit_job(
    job: Job,
    plan: TrainingPlan,
    runs: Storage,
    board: Any | None,
    *,
    retries: int,
    timeout_minutes: float,
    callbacks: Sequence[Any] = (),
) -> Trained:
    """Run one training through Ray Train, from here (a driver, a task or a Tune trial).

    Each validation is reported with its metrics, its "step", the "share" of the training done, and
    the placement "group" of its workers.
    """
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(timeout_minutes * 60)
    # Ray's annotations are those of its first version of Train; this is the second.
    trainer_type: Any = TorchTrainer
    failure_type: Any = FailureConfig
    scaling_type: Any = ScalingConfig
    trainer = trainer_type(
        _loop,
        train_loop_config={"job": job, "board": board, "threads": max(1, int(plan.cpus))},
        torch_config=TorchConfig(backend="nccl" if plan.gpus >= 1 else "gloo"),
        scaling_config=scaling_type(
            num_workers=plan.number,
            use_gpu=plan.gpus > 0,
            resources_per_worker=plan.per_worker,
        ),
        run_config=RunConfig(
            name=job.run,
            storage_path=runs.base,
            storage_filesystem=runs.fs,
            failure_config=failure_type(max_failures=retries, controller_failure_limit=1),
            checkpoint_config=CheckpointConfig(
                num_to_keep=job.keep,
                checkpoint_score_attribute="score",
                checkpoint_score_order="max",
            ),
            callbacks=list(callbacks),
        ),
    )
    result = trainer.fit()
    refused = (result.return_value or {}).get("refused")
    if refused:
        raise TrainingFailed(refused)
    kept = [
        (checkpoint.path, {k: float(v) for k, v in metrics.items() if isinstance(v, int | float)})
        for checkpoint, metrics in result.best_checkpoints
    ]
    kept.sort(key=lambda pair: pair[1]["score"], reverse=True)
    return Trained(job.key, tuple(kept[: job.keep]), result.checkpoint.path)


def _loop(config: Mapping[str, Any]) -> dict[str, str]:
    """What each Ray Train worker runs."""
    import torch
    from ray import train
    from ray.train.torch import get_device

    from chexseg_platform.training.fit import fit

    torch.set_num_threads(config["threads"])
    job: Job = config["job"]
    device = get_device()
    try:
        task, settings = job.build(job.settings, device)
    except ValueError as problem:
        # What cannot be built cannot be built by trying again: say so instead of raising.
        return {"refused": str(problem)}
    leader = train.get_context().get_world_rank() == 0
    posted = 0.0
    for event in _events(fit, task, settings, device):
        due = event.metrics is not None or time.monotonic() - posted > POST_SECONDS
        if leader and due and config["board"] is not None:
            config["board"].post.remote(_note(job.key, event))
            posted = time.monotonic()
        if event.metrics is not None:
            with _checkpoint_folder(event.files) as folder:
                checkpoint = train.Checkpoint.from_directory(folder) if folder else None
                place = {
                    "step": event.report.step,
                    "share": event.report.step / event.report.total,
                    "group": own_group(),
                }
                train.report({**event.metrics, **place}, checkpoint=checkpoint)
    return {}


def _events(fit: Any, task: Any, settings: Any, device: Any) -> Iterator[Any]:
    from ray import train

    checkpoint = train.get_checkpoint()
    if checkpoint is None:
        yield from fit(task, settings, device)
        return
    with checkpoint.as_directory() as folder:
        yield from fit(task, settings, device, resume=Path(folder))


class _checkpoint_folder:
    """A temporary folder with an event's files; None on workers that write none."""

    def __init__(self, files: Mapping[str, bytes] | None) -> None:
        self._files, self._folder = files, ""

    def __enter__(self) -> str | None:
        if self._files is None:
            return None
        self._folder = tempfile.mkdtemp(prefix="checkpoint-")
        for name, content in self._files.items():
            (Path(self._folder) / name).write_bytes(content)
        return self._folder

    def __exit__(self, *_: object) -> None:
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)


def checkpoint_files(runs: Storage, folder: str) -> dict[str, bytes]:
    """Return the model's files of a checkpoint folder, without the optimizer's state."""
    return {name: _read(runs, f"{folder}/{name}") for name in (WEIGHTS, META)}


def history_of(runs: Storage, trained: Trained) -> list[dict[str, float]]:
    """Return the metrics of every validation of a training, resumed ones included."""
    place = json.loads(_read(runs, f"{trained.latest}/{PLACE}"))
    history: list[dict[str, float]] = place["history"]
    return history


def _read(runs: Storage, path: str) -> bytes:
    with runs.fs.open_input_file(path) as stream:
        return stream.read()


def _note(key: str, event: Any) -> Note:
    report = event.report
    return Note(
        key,
        report.step,
        report.total,
        report.images_per_second,
        report.loss,
        event.epoch,
        event.metrics,
    )


_PLAINER = {
    # Ray names a variable of the environment, which is set from the experiment's own field.
    "WorkerGroupStartupTimeoutError": "its workers did not start in time, for the cluster is busy "
    "or slow; raise resources.timeout_minutes and run the same command again",
}


def root_cause(error: BaseException) -> str:
    """Return the first sentence of what really went wrong below Ray's wrappers."""
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        deeper = _inner(error)
        if deeper is None:
            break
        error = deeper
    text = str(error).strip()
    name = type(error).__name__
    if name in _PLAINER:
        return _PLAINER[name]
    if isinstance(error, ValueError) and text:
        return text
    named = f"{name}: {text}" if text else name
    return plain(named) or named.splitlines()[0]


def _inner(error: BaseException) -> BaseException | None:
    failures = getattr(error, "worker_failures", None)
    if failures:
        return next(iter(failures.values()))
    for name in ("training_failure", "controller_failure", "cause"):
        deeper = getattr(error, name, None)
        if isinstance(deeper, BaseException):
            return deeper
    return error.__cause__
