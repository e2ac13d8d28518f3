"""What the two training benchmarks share: `training.fit` as a worker runs it, and the bare loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from chexseg_platform.config import Fit
from chexseg_platform.training.fit import fit
from chexseg_platform.training.loop import Batch, make_optimizer, one_group
from torch import Tensor, nn

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fit_rate(task: Any, settings: Fit) -> float:
    """Train a fresh `training.fit.Task` to its end; images a second between validations."""
    seconds = sum(event.report.seconds for event in fit(task, settings, DEVICE))
    steps = max(1, round(settings.epochs * task.steps_per_epoch))
    return steps * settings.batch_size / seconds


def bare_rate(
    model: nn.Module,
    settings: Fit,
    batches: Sequence[Batch],
    loss: Callable[[Tensor, Batch], Tensor],
) -> float:
    """Forward, backward and optimizer step on batches in memory; images a second."""
    optimizer = make_optimizer(settings.optimizer, one_group(model), settings.lr, 0.0)
    model.train()
    images, began = 0, time.perf_counter()
    for batch in batches:
        optimizer.zero_grad(set_to_none=True)
        loss(model(batch["image"]), batch).backward()
        optimizer.step()
        images += len(batch["image"])
    return images / (time.perf_counter() - began)
