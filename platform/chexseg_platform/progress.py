"""How far a stage is: one live line on a terminal, a plain line at intervals everywhere else.

    explain  1,234/22,341 images  85.3/s  4 min left  best mIoU 0.31

Bars written into a job's log turn into megabytes of noise, and no line at all makes people think
it hangs. So a stage owns one `Progress`; off a terminal it writes a line after 2 seconds and then
every 10. The same numbers go as JSON lines to a status file, for programs.
"""

import json
import math
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TextIO

FIRST_SECONDS = 2.0
REDRAW_SECONDS = 0.1
WINDOW_SECONDS = 30.0
WINDOW_UPDATES = 8
"""At the least: workers that finish together make two updates at once and then none for long, and
between one such pair and the first of the next only half of the work is seen."""

Metric = float | str


class Progress:
    """Counts what a stage has done; a context manager whose end writes the closing line.

    Args:
        stage: its name, the first word of the line.
        total: how many there are, or None where nobody knows.
        unit: plural of what is counted ("images", "epochs").
        start: how many an earlier attempt did; they count as done, not for the rate.
        stream: a terminal gets the live line, anything else plain lines.
        interval: seconds between plain lines, after a first one at 2 seconds.
        clock: seconds that only grow.
        status: a file that each line is appended to as JSON, or None.
    """

    def __init__(
        self,
        stage: str,
        total: int | None,
        unit: str,
        *,
        start: int = 0,
        stream: TextIO | None = None,
        interval: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        status: Path | None = None,
    ) -> None:
        self.stage, self.total, self.unit = stage, total, unit
        self.done = start
        self.metrics: dict[str, Metric] = {}
        self._start, self._interval, self._clock, self._status = start, interval, clock, status
        self._stream = sys.stderr if stream is None else stream
        self._began = clock()
        self._recent: deque[tuple[float, int]] = deque([(self._began, start)])
        self._live = _LiveLine(self._stream) if self._stream.isatty() else None
        self._next_line = self._began + min(FIRST_SECONDS, interval)
        self._next_draw = self._began

    def skip(self, done: int) -> None:
        """Says how many an earlier attempt did, where that is known only after the start."""
        self._start = self.done = done
        self._recent = deque([(self._clock(), done)])

    def update(
        self,
        done: int | None = None,
        advance: int = 0,
        *,
        total: int | None = None,
        **metrics: Metric,
    ) -> None:
        """Says how many are done in all (`done`) or more (`advance`), and the latest metrics.

        A metric stays until it is given again; its name is shown with spaces for underscores.
        `total` is for a stage that learns only on the way how much there is.
        """
        self.total = self.total if total is None else total
        first = self.done == self._start
        self.done = (self.done if done is None else done) + advance
        if first:
            # Start-up is over with the first that are done, and says nothing of the rate.
            self._recent = deque([(self._clock(), self.done)])
        self.metrics |= metrics
        now = self._clock()
        self._note(now)
        if self._live and now >= self._next_draw:
            self._live.draw(self.line())
            self._next_draw = now + REDRAW_SECONDS
        if now >= self._next_line:
            self._emit("running", self.line())
            self._next_line = now + self._interval

    def say(self, what: str) -> None:
        """Shows a line at once, for what takes long before anything is done."""
        line = f"{self.stage}  {what}"
        if self._live:
            self._live.draw(line)
        else:
            self._emit("running", line)

    @property
    def rate(self) -> float:
        """How many a second over the last half minute or eight updates, whichever is longer.

        0 before the first are done.
        """
        (then, before), (now, done) = self._recent[0], self._recent[-1]
        return (done - before) / (now - then) if now > then else 0.0

    @property
    def seconds_left(self) -> float | None:
        """At the present rate; None where it cannot be told."""
        if self.total is None or self.rate <= 0:
            return None
        return max(self.total - self.done, 0) / self.rate

    def line(self) -> str:
        """The line as it stands."""
        parts = [self.stage, self._count()]
        if self.rate > 0:
            parts.append(_rate(self.rate))
        if self.seconds_left is not None:
            parts.append(f"{duration(self.seconds_left)} left")
        return "  ".join(parts + self._shown_metrics())

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.clear()
        self._note(self._clock())
        self._emit("stopped" if kind else "done", self._closing(bool(kind)), closing=True)

    def _closing(self, stopped: bool) -> str:
        seconds = self._clock() - self._began
        count = f"stopped at {self._count()}" if stopped else f"{self._count()} done"
        parts = [self.stage, f"{count} in {duration(seconds)}"]
        if self.done > self._start and seconds > 0:
            parts.append(_rate((self.done - self._start) / seconds))
        return "  ".join(parts + self._shown_metrics())

    def _count(self) -> str:
        # A finished stage says one number, not the same one twice.
        whole = "" if self.total is None or self.total == self.done else f"/{self.total:,}"
        return f"{self.done:,}{whole} {self.unit}"

    def _shown_metrics(self) -> list[str]:
        return [f"{name.replace('_', ' ')} {_value(v)}" for name, v in self.metrics.items()]

    def _note(self, now: float) -> None:
        self._recent.append((now, self.done))
        while len(self._recent) > WINDOW_UPDATES and self._recent[1][0] <= now - WINDOW_SECONDS:
            self._recent.popleft()

    def _emit(self, state: str, line: str, closing: bool = False) -> None:
        if self._live is None or closing:
            self._stream.write(line + "\n")
            self._stream.flush()
        if self._status is not None:
            self._status.parent.mkdir(parents=True, exist_ok=True)
            with self._status.open("a", encoding="utf-8") as file:
                file.write(json.dumps(self._record(state)) + "\n")

    def _record(self, state: str) -> dict[str, object]:
        left = self.seconds_left
        return {
            "time": round(time.time(), 3),
            "stage": self.stage,
            "state": state,
            "done": self.done,
            "total": self.total,
            "unit": self.unit,
            "rate": round(self.rate, 3),
            "seconds_left": None if left is None else round(left, 1),
            "metrics": {name: _plain(value) for name, value in self.metrics.items()},
        }


class _LiveLine:
    """One line of a terminal, redrawn in place and cut to its width."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        self._text = Text
        console = Console(file=stream, force_terminal=True)
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._live.start()

    def draw(self, line: str) -> None:
        self._live.update(self._text(line, no_wrap=True, overflow="ellipsis"), refresh=True)

    def clear(self) -> None:
        self._live.stop()


def duration(seconds: float) -> str:
    """A length of time as people say it: `7 s`, `4 min`, `2 h 5 min`, `3 d 2 h`."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def _rate(rate: float) -> str:
    if rate >= 1:
        return f"{rate:,.1f}/s"
    return f"{rate * 60:.1f}/min" if rate * 60 >= 1 else f"{rate * 3600:.1f}/h"


def _value(value: Metric) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _plain(value: Metric) -> Metric | None:
    """JSON has no NaN."""
    return value if isinstance(value, str) or math.isfinite(value) else None
