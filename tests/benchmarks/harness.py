"""How fast ours is beside a bare loop: both in one process, in turns, and medians of them.

A machine's speed drifts, and its other work comes and goes. So the two sides alternate, which one
is first alternates too, and the ratio is the median of the ratios of neighbours; it is not quite
the ratio of the medians that stand beside it. Nothing here passes or fails: aims are noted.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

Rate = Callable[[], float]
"""One repetition: does its work and returns units a second."""

REPETITIONS = 5


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table; `peer` and `aim` are None where a figure stands alone."""

    name: str
    ours: float
    unit: str
    peer: float | None = None
    peer_name: str | None = None
    ratio: float | None = None
    aim: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the ratio reaches the aim; None where there is none."""
        return None if self.ratio is None or self.aim is None else self.ratio >= self.aim


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def rate_of(count: int, work: Callable[[], Any]) -> float:
    """Do the work once and return `count` by its seconds, those of a GPU included."""
    _settle()
    began = time.perf_counter()
    work()
    _settle()
    return count / (time.perf_counter() - began)


def _settle() -> None:
    """Wait until a GPU has done what it was given."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def compare(
    name: str,
    unit: str,
    ours: Rate,
    peer: Rate,
    peer_name: str,
    *,
    aim: float | None = None,
    repetitions: int = REPETITIONS,
) -> Row:
    """Run both sides in turns, after one unmeasured run of each."""
    ours(), peer()
    pairs = list(_in_turns(ours, peer, repetitions))
    ratio = statistics.median(a / b for a, b in pairs)
    print(f"{name}: {ratio:.3g} times {peer_name}", flush=True)
    return Row(
        name=name,
        ours=statistics.median(a for a, _ in pairs),
        unit=unit,
        peer=statistics.median(b for _, b in pairs),
        peer_name=peer_name,
        ratio=ratio,
        aim=aim,
    )


def _in_turns(ours: Rate, peer: Rate, repetitions: int) -> Iterator[tuple[float, float]]:
    for number in range(repetitions):
        if number % 2:
            second = peer()
            yield ours(), second
        else:
            first = ours()
            yield first, peer()


def machine(threads: int) -> dict[str, Any]:
    """Describe what the figures were taken on, other load at the start included."""
    import torch

    return {
        "cores": cores(),
        "model": _processor(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": threads,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def table(rows: Sequence[Row]) -> str:
    """Return the rows as text, one line each."""
    head = ("benchmark", "ours", "peer", "unit", "ratio", "aim", "met", "beside")
    body = [
        (
            row.name,
            _figure(row.ours),
            _figure(row.peer),
            row.unit,
            _figure(row.ratio),
            _figure(row.aim),
            {True: "yes", False: "no", None: ""}[row.met],
            row.peer_name or "",
        )
        for row in rows
    ]
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    right = {1, 2, 4, 5}
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in [head, *body]
    )


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def save(path: Path, rows: Sequence[Row], where: dict[str, Any]) -> None:
    """Write rows with the machine they were taken on; rows of other benchmarks stay."""
    known = json.loads(path.read_text()) if path.exists() else []
    new = [{**asdict(row), "met": row.met, "machine": where} for row in rows]
    names = {row.name for row in rows}
    kept = [row for row in known if row["name"] not in names]
    path.write_text(json.dumps(kept + new, indent=1) + "\n")
