"""One training loop in plain torch, for classifiers and segmenters alike.

The loop is a generator: it trains and yields a report whenever it is time to validate or to write
a checkpoint, and the caller does so in between. What a step sees depends on the step's number
alone, so a training that goes on from step k is the training that was never cut off.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Batch = Mapping[str, Tensor]
Group = dict[str, Any]
"""Parameters that learn at one rate: "params", and "factor", its share of the learning rate."""


@dataclass(frozen=True)
class Report:
    """The state of a training after `step` steps; loss and rate since the last report."""

    step: int
    total: int
    loss: float
    images_per_second: float
    seconds: float


class TrainingDiverged(ValueError):
    """The loss is no longer finite."""


def one_group(model: nn.Module) -> list[Group]:
    """Return all parameters of a model as one group."""
    return [{"params": list(model.parameters()), "factor": 1.0}]


def make_optimizer(
    name: str, groups: Iterable[Group], lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Return Adam or AdamW with the papers' betas (0.9, 0.999)."""
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return kinds[name](groups, lr=lr, weight_decay=weight_decay)


def learning_rate(schedule: str, base: float, step: int, total: int) -> float:
    """Return the rate at `step` of `total`: constant, or half a cosine down to zero."""
    if schedule == "cosine":
        return base * 0.5 * (1 + math.cos(math.pi * step / max(1, total)))
    return base


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch_at: Callable[[int], Batch],
    loss_of: Callable[[nn.Module, Batch], Tensor],
    *,
    total: int,
    start: int = 0,
    report_every: int,
    rate_at: Callable[[int], float],
    seed_at: Callable[[int], int],
    autocast: torch.dtype | None = None,
) -> Iterator[Report]:
    """Train from step `start` to `total`, yielding a Report every `report_every` steps.

    Args:
        model: in training mode whenever a step is taken; the caller may switch it in between.
        batch_at: makes the batch of a step, on any thread; tensors on the model's device.
            A batch's first entry has one item an image.
        loss_of: scalar loss of a batch.
        report_every: steps between reports; the last step always reports.
        rate_at: learning rate of a step; a group of the optimizer's takes its "factor" of it,
            all where it has none.
        seed_at: of what the model draws in a step, such as dropout.
        autocast: None for float32, or torch.bfloat16.

    Raises:
        TrainingDiverged: when a reported loss is not finite.
    """
    device = next(model.parameters()).device
    losses = torch.zeros((), device=device)
    images, since, began = 0, start, time.monotonic()
    for step, batch in prefetch(batch_at, start, total):
        model.train()
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step) * group.get("factor", 1.0)
        with (
            seeded(device, seed_at(step)),
            torch.autocast(device.type, autocast or torch.bfloat16, enabled=autocast is not None),
        ):
            loss = loss_of(model, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses += loss.detach()
        images += len(next(iter(batch.values())))
        done = step + 1
        if done % report_every == 0 or done == total:
            mean = float(losses) / (done - since)
            if not math.isfinite(mean):
                raise TrainingDiverged(
                    f"the loss is {mean} after step {done}; try a lower lr or precision: float32"
                )
            seconds = time.monotonic() - began
            yield Report(done, total, mean, images / max(seconds, 1e-9), seconds)
            losses.zero_()
            images, since, began = 0, done, time.monotonic()


def step_seed(seed: int, step: int, rank: int) -> int:
    """Return the seed of one worker's step, so that a resumed step draws the same: 63 bits."""
    mixed = np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0]
    return int(mixed) & (2**63 - 1)


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Seed torch's own generators inside, for layers take no other; leave them as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def prefetch(make: Callable[[int], Any], start: int, stop: int) -> Iterator[tuple[int, Any]]:
    """Yield (number, make(number)) in order, making one ahead on a thread.

    An error in `make` is raised here, where the item would have been.
    """
    ready: queue.Queue[tuple[int, Any, BaseException | None]] = queue.Queue(maxsize=1)
    quit_ = threading.Event()

    def work() -> None:
        for number in range(start, stop):
            try:
                item: tuple[int, Any, BaseException | None] = (number, make(number), None)
            except BaseException as error:
                item = (number, None, error)
            while not quit_.is_set():
                try:
                    ready.put(item, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if quit_.is_set() or item[2] is not None:
                return

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        for _ in range(start, stop):
            number, value, error = ready.get()
            if error is not None:
                raise error
            yield number, value
    finally:
        quit_.set()
        thread.join()


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimizer's state as named tensors ("3.exp_avg"), for a safetensors file."""
    state = optimizer.state_dict()["state"]
    return {
        f"{number}.{name}": torch.as_tensor(value).detach().cpu().contiguous()
        for number, entry in state.items()
        for name, value in entry.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` returned; the parameters must be the same."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    whole = optimizer.state_dict()
    whole["state"] = state
    optimizer.load_state_dict(whole)
