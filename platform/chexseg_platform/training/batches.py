"""Training images as tensors: gathered from the store, moved, changed at random, normalised."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chexseg_platform import config
from chexseg_platform.data.store import Store
from chexseg_platform.training.augment import Augment
from chexseg_platform.training.loop import step_seed


def image_tensor(store: Store, rows: NDArray[np.int64], device: torch.device) -> Tensor:
    """Return the grey images of some rows: uint8 (B, S, S) on the device."""
    return torch.from_numpy(store.images[rows]).to(device, non_blocking=True)


def content_tensor(store: Store, rows: NDArray[np.int64], device: torch.device) -> Tensor:
    """Return where those images lie in their frames: int64 (B, 4)."""
    return torch.from_numpy(store.content[rows]).to(device, non_blocking=True)


def chunks(rows: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    """Cut rows into batches of at most `size`."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def step_generator(seed: int, step: int, rank: int) -> torch.Generator:
    """Return the generator of one worker's step, so that a resumed step draws the same."""
    return torch.Generator().manual_seed(step_seed(seed, step, rank))


def augment_of(settings: config.Augment) -> Augment | None:
    """Return the settings as the operator takes them; None where they change nothing."""
    changes = settings.model_dump()
    return Augment(**changes) if any(changes.values()) else None
