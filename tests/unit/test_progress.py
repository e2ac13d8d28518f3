"""Progress lines at times that the test decides."""

import io
import json
import math
import re
from pathlib import Path

import pytest
from chexseg_platform.progress import Progress, duration


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def run(steps: int, total: int | None, stream: io.StringIO, **options: object) -> list[str]:
    """A stage that does ten a second, updated each second."""
    clock = Clock()
    with Progress("explain", total, "images", stream=stream, clock=clock, **options) as progress:  # type: ignore[arg-type]
        for step in range(1, steps + 1):
            clock.now += 1
            progress.update(10 * step, best_mIoU=0.31)
    return stream.getvalue().splitlines()


def test_plain_lines_at_intervals() -> None:
    lines = run(25, 22341, io.StringIO())
    # After 2 seconds, then every 10, then the closing one; nothing in between.
    assert lines == [
        "explain  20/22,341 images  10.0/s  37 min left  best mIoU 0.31",
        "explain  120/22,341 images  10.0/s  37 min left  best mIoU 0.31",
        "explain  220/22,341 images  10.0/s  37 min left  best mIoU 0.31",
        "explain  250/22,341 images done in 25 s  10.0/s  best mIoU 0.31",
    ]


def test_no_total_means_no_time_left() -> None:
    assert run(2, None, io.StringIO())[0] == "explain  20 images  10.0/s  best mIoU 0.31"


def test_a_short_stage_says_one_line() -> None:
    lines = run(1, 10, io.StringIO())
    assert lines == ["explain  10 images done in 1.0 s  10.0/s  best mIoU 0.31"]


def test_what_was_done_before_does_not_count_as_speed() -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress("explain", 100, "images", start=80, stream=stream, clock=clock) as progress:
        clock.now += 60  # start-up, which is no rate either
        progress.update(advance=2)
        assert (progress.rate, progress.seconds_left) == (0.0, None)
        clock.now += 4
        progress.update(advance=4)
        assert (progress.rate, progress.seconds_left) == (1.0, 14.0)
    assert stream.getvalue().splitlines() == [
        "explain  82/100 images",
        "explain  86/100 images done in 64 s  5.6/min",
    ]


def test_the_rate_is_that_of_the_last_half_minute() -> None:
    clock = Clock()
    progress = Progress("classify", 10_000, "images", stream=io.StringIO(), clock=clock)
    for _ in range(100):
        clock.now += 1
        progress.update(advance=100)
    for _ in range(31):
        clock.now += 1
        progress.update(advance=1)
    assert progress.rate == 1.0


def test_workers_that_finish_together_are_both_seen() -> None:
    """Two do 100 images each in 50 s: four a second, also right after the first of a pair."""
    clock = Clock()
    progress = Progress("explain", 2_000, "images", stream=io.StringIO(), clock=clock)
    for _ in range(5):
        clock.now += 49
        progress.update(advance=100)
        clock.now += 1
        progress.update(advance=100)
    clock.now += 49
    progress.update(advance=100)
    assert progress.rate == pytest.approx(4.0, rel=0.15)
    assert progress.seconds_left == pytest.approx(900 / 4, rel=0.15)


def test_an_error_is_told_where_it_stopped() -> None:
    stream, clock = io.StringIO(), Clock()

    def stage() -> None:
        with Progress("segment", 20, "epochs", stream=stream, clock=clock) as progress:
            clock.now += 120
            progress.update(3)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        stage()
    assert stream.getvalue().splitlines()[-1] == "segment  stopped at 3/20 epochs in 2 min  1.5/min"


def test_a_terminal_gets_one_line_and_the_closing_one() -> None:
    stream = Terminal()
    run(25, 1000, stream)
    text = stream.getvalue()
    assert "10/1,000 images" in text  # drawn at once, not after two seconds
    assert text.endswith("explain  250/1,000 images done in 25 s  10.0/s  best mIoU 0.31\n")
    # A live line is wiped ("up one line, erase it") before the closing one takes its place.
    left = re.sub(r"^[^\n]*\n[^\n]*\x1b\[1A\x1b\[2K", "", text)
    assert left == "explain  250/1,000 images done in 25 s  10.0/s  best mIoU 0.31\n"


def test_the_status_file_holds_the_same_numbers(tmp_path: Path) -> None:
    status = tmp_path / "logs" / "status.jsonl"
    run(12, 1000, io.StringIO(), status=status)
    records = [json.loads(line) for line in status.read_text().splitlines()]
    assert [(r["state"], r["done"]) for r in records] == [
        ("running", 20),
        ("running", 120),
        ("done", 120),
    ]
    assert records[0]["seconds_left"] == 98.0
    assert records[0]["metrics"] == {"best_mIoU": 0.31}


def test_metrics_of_any_kind(tmp_path: Path) -> None:
    clock, stream, status = Clock(), io.StringIO(), tmp_path / "status.jsonl"
    with Progress("x", 3, "rows", stream=stream, clock=clock, status=status) as progress:
        progress.update(1, loss=math.nan, note="warming up", seen=12345)
    assert (
        stream.getvalue() == "x  1/3 rows done in 0.0 s  loss nan  note warming up  seen 12,345\n"
    )
    assert json.loads(status.read_text())["metrics"]["loss"] is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (89, "89 s"), (90, "2 min"), (3569, "59 min"),
     (3570, "1 h 0 min"), (7500, "2 h 5 min"), (93_600, "1 d 2 h")],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_word_before_anything_is_done() -> None:
    stream = io.StringIO()
    with Progress("segment", None, "steps", stream=stream, clock=Clock()) as progress:
        progress.say("starting workers")
        assert stream.getvalue() == "segment  starting workers\n"
