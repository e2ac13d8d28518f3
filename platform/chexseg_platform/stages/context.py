"""What every stage is given: the workspace, resources, a way to show progress and to track."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from chexseg_platform.artifacts import Workspace
from chexseg_platform.cluster import Supply, connect
from chexseg_platform.config import Resources
from chexseg_platform.data.store import cache_folder
from chexseg_platform.progress import Progress, duration
from chexseg_platform.storage import Storage


class Timer:
    """Adds up seconds under names; a stage's timings."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.monotonic()

    @property
    def since_begin(self) -> float:
        """Seconds since it was made."""
        return time.monotonic() - self._began

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            spent = time.monotonic() - began
            self.seconds[name] = round(self.seconds.get(name, 0.0) + spent, 3)


@dataclass(frozen=True)
class Context:
    """Where a stage runs. `resources` and everything here stays out of fingerprints."""

    workspace: Workspace
    resources: Resources
    spent: Timer = field(default_factory=Timer, compare=False)
    """How long each stage worked, as far as progress was shown."""

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

    @contextmanager
    def progress(self, stage: str, total: int | None, unit: str) -> Iterator[Progress]:
        """Show how far a stage is, and count its time."""
        with self.spent(stage), Progress(stage, total, unit) as progress:
            yield progress

    def where_time_went(self) -> str:
        """Return a line: how long it was since the context was made, and in which stages."""
        whole, stages = self.spent.since_begin, self.spent.seconds
        if not stages:
            return f"time  {duration(whole)}: everything was finished before"
        longest = sorted(stages.items(), key=lambda item: -item[1])
        parts = [f"{name} {duration(seconds)}" for name, seconds in longest]
        rest = max(0.0, whole - sum(stages.values()))
        return f"time  {duration(whole)}: {', '.join(parts)}, between them {duration(rest)}"
