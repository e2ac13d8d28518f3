"""What every stage is given: the workspace, resources, a way to show progress and to track."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from chexseg_platform.artifacts import Workspace
from chexseg_platform.cluster import Supply, connect
from chexseg_platform.config import Resources
from chexseg_platform.data.store import cache_folder
from chexseg_platform.progress import Progress
from chexseg_platform.storage import Storage


@dataclass(frozen=True)
class Context:
    """Where a stage runs. `resources` and everything here stays out of fingerprints."""

    workspace: Workspace
    resources: Resources

    @property
    def cache(self) -> Path:
        return cache_folder(self.resources.cache)

    @property
    def weights(self) -> Path:
        """Folder of fetched encoder weights."""
        return self.cache / "weights"

    @property
    def runs(self) -> Storage:
        """Where trainings that are under way keep their checkpoints."""
        return self.workspace.storage.join("runs")

    def connect(self, *, wait: bool = True) -> Supply:
        """Join or start Ray, and wait for what `resources` names; see `cluster.connect`."""
        return connect(self.resources if wait else None)

    def progress(self, stage: str, total: int | None, unit: str) -> Progress:
        return Progress(stage, total, unit)


class Timer:
    """Adds up seconds under names; a stage's timings."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            spent = time.monotonic() - began
            self.seconds[name] = round(self.seconds.get(name, 0.0) + spent, 3)
