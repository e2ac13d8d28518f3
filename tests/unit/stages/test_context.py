"""Where a command's time went."""

import re
from pathlib import Path

import pytest
from chexseg_platform.artifacts import Workspace
from chexseg_platform.config import Resources
from chexseg_platform.stages import context as module
from chexseg_platform.stages.context import Context


def test_stages_are_told_with_the_longest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    context = Context(Workspace(tmp_path), Resources())
    for stage, seconds in (("ingest", 20.0), ("segment", 30.0), ("ingest", 25.0)):
        with context.progress(stage, 1, "images") as progress:
            now[0] += seconds
            progress.update(1)
        now[0] += 5.0
    assert context.where_time_went() == (
        "time  2 min: ingest 45 s, segment 30 s, between them 15 s"
    )


def test_a_stage_that_fails_counts_and_nothing_to_do_is_said(tmp_path: Path) -> None:
    context = Context(Workspace(tmp_path), Resources())
    assert re.fullmatch(r"time  0\.\d s: everything .* before", context.where_time_went())
    with pytest.raises(KeyError), context.progress("ingest", 1, "images"):
        raise KeyError
    assert "ingest" in context.where_time_went()
