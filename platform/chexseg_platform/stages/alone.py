"""A training in the process that asks for it: what a sweep of small trainings runs.

Ray Train starts a controller, a worker and their helpers for every training, half a minute of one
CPU. Where a training has one worker and another follows in the same process, as in a sweep's
trials, that is most of the time. Checkpoints lie where Ray Train's would, one folder each, so that
a training that was cut off goes on.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from chexseg_platform.artifacts import Storage
from chexseg_platform.stages.training import Job, Trained
from chexseg_platform.training.fit import PLACE

Report = Callable[[dict[str, float]], None]


def fit_alone(job: Job, runs: Storage, threads: int, report: Report) -> Trained:
    """Train a job in this process, from its last checkpoint where there is one.

    Args:
        runs: where its checkpoints are kept.
        threads: of torch, where there is no GPU.
        report: gets each validation's metrics, with "step" and the "share" of the training done.

    Raises:
        ValueError: what cannot be built, or diverged.
    """
    import torch

    from chexseg_platform.training.fit import fit

    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    task, settings = job.build(job.settings, device)
    kept = Checkpoints(runs, job.run, job.keep)
    with tempfile.TemporaryDirectory(prefix="checkpoint-") as scratch:
        for event in fit(task, settings, device, resume=kept.latest(Path(scratch))):
            if event.metrics is None or event.files is None:
                continue
            kept.add(event.report.step, event.files)
            share = event.report.step / event.report.total
            report({**event.metrics, "step": event.report.step, "share": share})
    return kept.trained(job.key)


class Checkpoints:
    """The checkpoints of a training: the best by score, and the latest.

    A folder is whole once it has its place file, which is written last and says how each
    validation so far scored.

    Args:
        run: the name of their folder in `runs`.
        keep: how many of the best are kept.
    """

    def __init__(self, runs: Storage, run: str, keep: int) -> None:
        self._runs, self._run, self._keep = runs, run, keep

    def add(self, step: int, files: Mapping[str, bytes]) -> None:
        """Write a checkpoint, and delete those that are neither the best nor the latest."""
        folder = f"{self._run}/{_name(step)}"
        for name in sorted(files, key=lambda name: name == PLACE):
            self._runs.write(f"{folder}/{name}", files[name])
        wanted = {_name(row["step"]) for row in self._ranked()[: self._keep]} | {_name(step)}
        for name in self._runs.folders(self._run):
            if name not in wanted:
                self._runs.delete(f"{self._run}/{name}")

    def latest(self, scratch: Path) -> Path | None:
        """Copy the latest checkpoint into a folder and return that; None where there is none."""
        name = self._latest()
        if name is None:
            return None
        folder = self._runs.join(f"{self._run}/{name}")
        for file in folder.files():
            (scratch / file).write_bytes(folder.read(file))
        return scratch

    def trained(self, key: str) -> Trained:
        """Return what is kept of the finished training."""
        best = tuple(
            (self._runs.path(f"{self._run}/{_name(row['step'])}"), row)
            for row in self._ranked()[: self._keep]
        )
        return Trained(key, best, self._runs.path(f"{self._run}/{self._latest()}"))

    def _latest(self) -> str | None:
        whole = [
            name
            for name in self._runs.folders(self._run)
            if self._runs.exists(f"{self._run}/{name}/{PLACE}")
        ]
        return whole[-1] if whole else None

    def _ranked(self) -> list[dict[str, float]]:
        """The validations whose checkpoints are there, the best first, as the latest tells."""
        place: dict[str, Any] = json.loads(self._runs.read(f"{self._run}/{self._latest()}/{PLACE}"))
        there = set(self._runs.folders(self._run))
        known = [row for row in place["history"] if _name(row["step"]) in there]
        # Of equals the earlier, as Ray Train has it.
        return sorted(known, key=lambda row: -row["score"])


def _name(step: float) -> str:
    return f"checkpoint_{int(step):09d}"
