"""Writes a whole phantom: checks, patients spread over processes, tables, and the last word.

Images appear as they are drawn, tables after them, and `phantom.json` last: its presence means
that the phantom is whole. Until then `phantom.partial.json` says whose folder it is, so that a
run that was cut off can be started again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

from .collections import LAYOUTS, ChestJob, Layout, check_numbers, write_chest
from .layout import (
    Job,
    PhantomRefused,
    patient_name,
    write_json,
    write_patient,
    write_tables,
)
from .studies import SPLITS, plan_patient

VERSION = 1
"""Raised when the same parameters draw other bytes."""

MANIFEST = "phantom.json"
UNFINISHED = "phantom.partial.json"

IN_PROCESS = 200
"""Up to this many images, starting processes costs more than it saves."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class PhantomSummary:
    """What lies in a phantom's folder; `reused` when it was there already."""

    root: Path
    images: dict[str, int]
    patients: dict[str, int]
    size: int
    seed: int
    reused: bool


def write_phantom(
    out: Path,
    *,
    train: int,
    valid: int,
    test: int,
    size: int = 256,
    seed: int = 0,
    layout: Literal["chexpert"] | Layout = "chexpert",
    workers: int | None = None,
    progress: Progress | None = None,
) -> PhantomSummary:
    """Write a phantom of so many images a split under `out`.

    The same seed gives the same image `i` of a split, byte for byte, whatever the counts and the
    number of workers. A finished phantom with the same parameters is left as it is. Processes are
    spawned, so a script that calls this with more than one worker needs the usual
    `if __name__ == "__main__":`.

    Args:
        train, valid, test: numbers of images (views), 0 or more.
        size: longer side of every image in pixels, 32 to 4096.
        layout: "chexpert" (with CheXlocalize's masks of findings), or one of `LAYOUTS`: chests
            with masks of organs and infection.
        workers: processes; None takes one a core, 1 draws in this process.
        progress: called with (images written, images in all) now and then, and at the end.

    Raises:
        PhantomRefused: impossible parameters, or `out` holds something else.
    """
    root = Path(out)
    counts = {"train": train, "valid": valid, "test": test}
    wanted = {"version": VERSION, "images": counts, "size": size, "seed": seed}
    wanted |= {} if layout == "chexpert" else {"layout": layout}
    _check(counts, size, seed, workers)
    if layout != "chexpert" and layout not in LAYOUTS:
        raise PhantomRefused(f"No layout {layout!r}: give chexpert, {', '.join(LAYOUTS)}.")
    done = _finished(root, wanted)
    if done is not None:
        return PhantomSummary(root, counts, done["patients"], size, seed, True)
    jobs, draw = _planned(root, layout, counts, size, seed)
    write_json(root / UNFINISHED, wanted)
    written = _draw_all(draw, [job for split in SPLITS for job in jobs[split]], workers, progress)
    for split in SPLITS:
        made = [next(written) for _ in jobs[split]]
        if layout == "chexpert":
            write_tables(root, split, made)
    patients = {split: len(jobs[split]) for split in SPLITS}
    write_json(root / MANIFEST, wanted | {"patients": patients})
    (root / UNFINISHED).unlink()
    return PhantomSummary(root, counts, patients, size, seed, False)


def _planned(
    root: Path, layout: str, counts: dict[str, int], size: int, seed: int
) -> tuple[dict[str, list[Any]], Callable[[Any], Any]]:
    """Return each split's patients, and what draws one of them."""
    if layout == "chexpert":
        planned: dict[str, list[Any]] = {s: list(plan_jobs(seed, s, counts[s])) for s in SPLITS}
        return planned, partial(write_patient, root, size=size, seed=seed)
    check_numbers(layout, counts)
    chests: dict[str, list[Any]] = {
        split: [ChestJob(layout, split, number) for number in range(counts[split])]
        for split in SPLITS
    }
    return chests, partial(write_chest, root, counts=counts, size=size, seed=seed)


def plan_jobs(seed: int, split: str, count: int) -> Iterator[Job]:
    """Patients in order until they have `count` views; of the last, as many as are wanted."""
    index = 0
    while count > 0:
        patient_name(split, index)  # refuses when the numbers run out
        plan = plan_patient(seed, split, index)
        views = min(count, sum(len(study.views) for study in plan.studies))
        yield Job(split, index, views)
        count, index = count - views, index + 1


def _draw_all(
    draw: Callable[[Any], Any], jobs: list[Any], workers: int | None, progress: Progress | None
) -> Iterator[Any]:
    """Draw every patient and yield them in order."""
    total, done = sum(job.views for job in jobs), 0
    for job, written in zip(jobs, _mapped(draw, jobs, total, workers), strict=True):
        done += job.views
        if progress is not None:
            progress(done, total)
        yield written


def _mapped(
    draw: Callable[[Any], Any], jobs: list[Any], total: int, workers: int | None
) -> Iterator[Any]:
    processes = workers if workers is not None else _cores() if total > IN_PROCESS else 1
    if processes == 1:
        yield from map(draw, jobs)
        return
    # Spawned, not forked: the caller may hold threads (torch, Ray) that a fork would break.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(draw, jobs, chunksize=max(1, min(16, len(jobs) // (4 * processes))))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check(counts: dict[str, int], size: int, seed: int, workers: int | None) -> None:
    for split, count in counts.items():
        if count < 0:
            raise PhantomRefused(f"The number of {split} images is {count}: give 0 or more.")
    if not 32 <= size <= 4096:
        raise PhantomRefused(f"A size of {size} pixels cannot be drawn: give 32 to 4096.")
    if seed < 0:
        raise PhantomRefused(f"The seed is {seed}: give 0 or more.")
    if workers is not None and workers < 1:
        raise PhantomRefused(f"{workers} workers can draw nothing: give 1 or more.")


def _finished(root: Path, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """The manifest of a finished phantom with these parameters; None when there is one to draw."""
    if root.exists() and not root.is_dir():
        raise PhantomRefused(f"{root} is a file: give a folder.")
    if not root.exists() or not any(root.iterdir()):
        return None
    finished = (root / MANIFEST).exists()
    known = _read(root / (MANIFEST if finished else UNFINISHED))
    if {key: known.get(key) for key in wanted} != wanted:
        raise PhantomRefused(
            f"{root} holds a phantom with other parameters: give another folder or remove it."
        )
    return known if finished else None


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise PhantomRefused(
            f"{path.parent} holds files that are no phantom: give an empty folder."
        ) from None
    except ValueError:
        raise PhantomRefused(f"{path} is broken: remove its folder and draw again.") from None
    return content if isinstance(content, dict) else {}
