"""What a person may call a run, and what is said of anything else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from chexseg_platform import tracking
from chexseg_platform.artifacts import Workspace
from chexseg_platform.report.find import NoSuchRun, find
from chexseg_platform.tracking import Page
from chexseg_platform.tracking.journal import Journal

from .conftest import COMPARISON, FINETUNING, NAME, SWEEP, TUNED, finetuning

RUN, SWEEP_RUN, STAGE, LOST, TUNED_RUN = (digit * 32 for digit in "12345")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {RUN: COMPARISON, SWEEP_RUN: SWEEP, STAGE: f"{COMPARISON}/{'e' * 16}", LOST: "f" * 16}
    keys[TUNED_RUN] = FINETUNING
    pages = [Page(key, NAME, run_id, f"http://server/{run_id}") for run_id, key in keys.items()]
    monkeypatch.setattr(tracking, "run_pages", lambda workspace: pages)


def test_a_name_means_its_comparison_and_its_sweep(made: Any) -> None:
    found = find(NAME, made.workspace)
    assert found.prints == (COMPARISON, SWEEP, "")
    assert found.name == NAME


def test_the_latest_of_a_name_is_the_one_worked_on_last(made: Any) -> None:
    newer = made.workspace.draft("comparison", "0" * 16)
    newer.finish([], config={}, inputs={}, summary={"experiment": NAME})
    book = Journal(made.folder / "tracking" / NAME)
    book.append("run", run=newer.fingerprint, name=NAME, parent=None, tags={}, params={})
    book.close()
    assert find(NAME, made.workspace).artifact.fingerprint == newer.fingerprint
    book = Journal(made.folder / "tracking" / NAME)
    book.append("finish", run=COMPARISON, status="FINISHED")
    book.close()
    assert find(NAME, made.workspace).artifact.fingerprint == COMPARISON


def test_a_run_that_was_not_tracked_is_known_by_what_it_says(made: Any) -> None:
    (made.folder / "tracking" / NAME / "journal.jsonl").unlink()
    found = find(NAME, made.workspace)
    assert found.prints == (COMPARISON, "", "")


@pytest.mark.parametrize("kind", ["comparison", "sweep"])
def test_folders_prints_and_ids(made: Any, store: None, kind: str) -> None:
    artifact, run = (made.comparison, RUN) if kind == "comparison" else (made.sweep, SWEEP_RUN)
    for said in (artifact.uri, f"{artifact.uri}/", artifact.fingerprint, run):
        found = find(said, made.workspace)
        assert getattr(found, kind).fingerprint == artifact.fingerprint
        assert found.name == (NAME if kind == "comparison" else f"{NAME} sweep")
        assert found.workspace.uri == made.workspace.uri


def test_a_fine_tuning_is_found_by_all_its_names(tuned: Any, store: None) -> None:
    workspace = Workspace(tuned.uri.rsplit("/", 2)[0])
    for said in (TUNED, tuned.uri, f"{tuned.uri}/", FINETUNING, TUNED_RUN):
        found = find(said, workspace)
        assert found.prints == ("", "", FINETUNING)
        assert found.artifact.fingerprint == FINETUNING
        assert found.name == TUNED
        assert found.workspace.uri == workspace.uri


def test_an_experiment_has_its_fine_tuning_beside_the_others(made: Any) -> None:
    finetuning(made.workspace, FINETUNING, NAME)
    assert find(NAME, made.workspace).prints == (COMPARISON, SWEEP, FINETUNING)
    assert find(FINETUNING, made.workspace).prints == ("", "", FINETUNING)
    finetuning(made.workspace, "9" * 16, "")
    assert find("9" * 16, made.workspace).name == "9" * 16


def test_a_folder_is_read_where_it_lies(made: Any, tmp_path: Path) -> None:
    other = type(made.workspace)(tmp_path / "other")
    place = os.path.relpath(made.comparison.uri)
    assert find(place, other).workspace.uri == made.workspace.uri
    assert find(Path(made.comparison.uri).as_uri(), other).name == NAME


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ("nothere", "there is no run 'nothere' in the workspace .*its experiments: tiny"),
        ("9" * 32, "there is no run '9{32}'"),
        (STAGE, "of one stage of the experiment 'tiny': give the run above it"),
        (LOST, "no finished comparison, sweep or fine-tuning in"),
    ],
)
def test_other_words_are_refused_in_a_sentence(made: Any, store: None, run: str, said: str) -> None:
    with pytest.raises(NoSuchRun, match=said):
        find(run, made.workspace)


def test_other_folders_are_refused_in_a_sentence(made: Any) -> None:
    segmenter = made.workspace.artifacts("segmenter")[0].uri
    with pytest.raises(
        NoSuchRun, match="segmenter: a report is of a comparison, a sweep or a fine-"
    ):
        find(segmenter, made.workspace)
    unfinished = made.folder / "comparison" / ("1" * 16)
    unfinished.mkdir()
    with pytest.raises(NoSuchRun, match="is not finished"):
        find(str(unfinished), made.workspace)
    copied = made.folder / "elsewhere"
    Path(made.comparison.uri).rename(copied)
    with pytest.raises(NoSuchRun, match="no folder of a comparison, a sweep or a fine-tuning"):
        find(str(copied), made.workspace)


def test_an_experiment_that_was_not_finished_is_told(made: Any) -> None:
    Journal(made.folder / "tracking" / "young", "young").close()
    book = Journal(made.folder / "tracking" / "young")
    book.append("run", run="7" * 16, name="young", parent=None, tags={}, params={})
    book.close()
    with pytest.raises(NoSuchRun, match="'young' has no finished comparison, sweep or fine-tuning"):
        find("young", made.workspace)


def test_a_folder_called_like_an_experiment_does_not_hide_it(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / NAME).mkdir()
    monkeypatch.chdir(tmp_path)
    assert find(NAME, made.workspace).comparison is not None
