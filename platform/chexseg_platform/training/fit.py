"""A whole training: batches, validations, checkpoints, resumption, one worker or several.

`fit` runs a task (what to learn) under settings (how) and yields events; whoever calls it writes
the checkpoints where they belong. Nothing here knows Ray: in a notebook, `for event in fit(...)`
is a training. With several workers it uses the torch.distributed group that is there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from chexseg_platform.config import Fit
from chexseg_platform.models import checkpoints
from chexseg_platform.models.precision import precision
from chexseg_platform.training import loop
from chexseg_platform.training.adapting import has_updates

OPTIMIZER = "optimizer.safetensors"
STATE = "state.safetensors"
"""The model as it is trained, where its published weights are not that (`adapting`)."""
PLACE = "training.json"
REPORTS_PER_EPOCH = 10
UNSCORED = 1e-9
"""Score a step where validation gives none: too small to matter beside one, and growing."""


class Task(Protocol):
    """What is learned: a model on its device, its batches, its loss and its validation."""

    model: nn.Module
    seed: int
    steps_per_epoch: int

    def batch(self, step: int) -> loop.Batch:
        """This worker's batch of a step, on the device; a function of the step alone."""

    def loss(self, model: nn.Module, batch: loop.Batch) -> Tensor: ...

    def groups(self) -> list[loop.Group]:
        """What is learned, with each part's share of the learning rate; always in one order."""

    def validate(self) -> dict[str, float]:
        """Metrics, the same on every worker; "score" (higher is better) decides what is kept.

        Without a score the last weights are kept.
        """

    def dump(self) -> dict[str, bytes]:
        """The model's two checkpoint files, with what the last validation found."""


@dataclass(frozen=True)
class Event:
    """A report; after a validation also its metrics and, on worker 0, the checkpoint's files."""

    report: loop.Report
    epoch: float
    metrics: Mapping[str, float] | None = None
    files: Mapping[str, bytes] | None = None


def rank_and_world() -> tuple[int, int]:
    """Return this process's number and how many there are: (0, 1) outside a group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def sum_over_workers(tensor: Tensor) -> Tensor:
    """Add up a tensor over all workers, in place; returns it."""
    if rank_and_world()[1] > 1:
        dist.all_reduce(tensor)
    return tensor


def fit(
    task: Task, settings: Fit, device: torch.device, resume: Path | None = None
) -> Iterator[Event]:
    """Train a task from its start or from a checkpoint folder that an Event's files made.

    Yields an Event about ten times an epoch; those at a validation carry metrics and files. With
    one worker or several, the same draws are seen in the same order.

    Raises:
        CorruptCheckpoint, WrongArchitecture: from `resume`.
        TrainingDiverged: when the loss is no longer finite.
    """
    rank, world = rank_and_world()
    model: nn.Module = task.model
    optimizer = loop.make_optimizer(
        settings.optimizer, task.groups(), settings.lr, settings.weight_decay
    )
    if world > 1:
        # Some segmenters leave the deepest layers of their encoder unused; a static graph may.
        model = DistributedDataParallel(
            task.model,
            device_ids=[device.index] if device.type == "cuda" else None,
            static_graph=True,
        )
    history: list[dict[str, float]] = []
    total = max(1, round(settings.epochs * task.steps_per_epoch))
    every = max(1, round(task.steps_per_epoch / settings.validations_per_epoch))
    start = _restore(resume, task.model, optimizer, history) if resume else 0
    for report in loop.train(
        model,
        optimizer,
        task.batch,
        task.loss,
        total=total,
        start=start,
        report_every=_report_every(every),
        rate_at=lambda step: loop.learning_rate(settings.schedule, settings.lr, step, total),
        seed_at=lambda step: loop.step_seed(task.seed, step, rank),
        autocast=precision(settings.precision, device),
    ):
        epoch = report.step / task.steps_per_epoch
        if report.step % every and report.step != total:
            yield Event(report, epoch)
            continue
        task.model.eval()
        _share_buffers(task.model)
        metrics = {"loss": report.loss, "epoch": epoch, **task.validate()}
        metrics.setdefault("score", report.step * UNSCORED)
        history.append({"step": report.step, "rate": report.images_per_second, **metrics})
        files = None
        if rank == 0:
            place = {"step": report.step, "history": history}
            files = {
                **task.dump(),
                **_unmerged(task.model),
                OPTIMIZER: save_tensors(loop.optimizer_tensors(optimizer)),
                PLACE: json.dumps(place).encode(),
            }
        yield Event(report, epoch, metrics, files)


def _share_buffers(model: nn.Module) -> None:
    """Give every worker the first one's buffers: running statistics differ after a step.

    So all validate the model that is written, and not each its own.
    """
    if rank_and_world()[1] > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def _report_every(validate_every: int) -> int:
    """The largest divisor of the validation interval that reports at least ten times in it."""
    wanted = max(1, validate_every // REPORTS_PER_EPOCH)
    return next(n for n in range(wanted, 0, -1) if validate_every % n == 0)


def _unmerged(model: nn.Module) -> dict[str, bytes]:
    """The file that a resumption needs of a model with updates beside its published weights."""
    if not has_updates(model):
        return {}
    state = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    return {STATE: save_tensors(state)}


def _restore(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    history: list[dict[str, float]],
) -> int:
    """Put a checkpoint's weights, optimizer state and history back; return its step."""
    state, _ = checkpoints.load(folder)
    if (folder / STATE).exists():
        state = load_tensors((folder / STATE).read_bytes())
    checkpoints.load_exactly(model, state, f"The checkpoint {folder}")
    loop.restore_optimizer(optimizer, load_tensors((folder / OPTIMIZER).read_bytes()))
    place = json.loads((folder / PLACE).read_text())
    history.extend(place["history"])
    return int(place["step"])
