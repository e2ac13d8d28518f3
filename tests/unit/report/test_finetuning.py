"""The section of a fine-tuning: what is on the page, and what is said of what is not."""

from __future__ import annotations

import html
import shutil
from pathlib import Path
from typing import Any

import pytest
from chexseg_platform import tracking
from chexseg_platform.artifacts import Artifact, CorruptArtifact, Workspace
from chexseg_platform.report.find import Found, find
from chexseg_platform.report.finetuning import Grid, grid_of
from chexseg_platform.stages.report import page_of
from chexseg_platform.tasks import cell_key
from chexseg_platform.tracking import Page

from .conftest import FINETUNING, TUNED, Reader, finetuning


@pytest.fixture
def workspace(tuned: Artifact, tmp_path: Path) -> Workspace:
    """A copy of it, to do with as one likes."""
    shutil.copytree(tuned.uri.rsplit("/", 2)[0], tmp_path / "w")
    return Workspace(tmp_path / "w")


def section(workspace: Workspace, *pages: Page) -> Grid:
    return grid_of(find(TUNED, workspace), pages)


def damage(workspace: Workspace, pattern: str) -> None:
    (part, *_) = Path(workspace.uri).rglob(pattern)
    part.write_bytes(b"torn")


def test_all_of_it_is_on_the_page(workspace: Workspace) -> None:
    page = Reader(page_of([find(TUNED, workspace)]))
    for text in (
        "few fine-tuning", "Headline figures", "Label efficiency", "Learning curves",
        "Paired differences", "Steps", "All scores", "Labels beside the experts' masks of the test",
        "Holm", "organs are few.", "9 test images of 8 patients, Heart, Left Lung.",
        "1,000 bootstrap resamples of patients", "not tracked in MLflow", "1,200 images",
    ):  # fmt: skip
        assert text in " ".join(page.text.split()), text
    assert len(page.named("svg")) == 2
    alt = [svg["aria-label"] for svg in page.named("svg")]
    assert "organs at 10 % (4) 0.625 [0.56, 0.69]" in alt[0]
    assert "organs at 10 %, doll 20" in alt[1]
    assert "organs at 10 %, random never" in alt[1]
    assert len(page.named("table")) == 2 + 4 + 1
    assert str(workspace.uri) not in page.text


def test_where_it_comes_from_is_told_down_to_the_datasets(workspace: Workspace) -> None:
    grid = section(workspace)
    kinds = [origin.kind for origin in grid.origins]
    assert kinds[:2] == ["finetuning", "dataset"]
    # Fifteen trainings and what "doll" was pre-trained as.
    assert (kinds.count("segmenter"), kinds.count("evaluation")) == (16, 15)
    assert len({origin.fingerprint for origin in grid.origins}) == len(kinds)
    whats = {origin.what for origin in grid.origins}
    assert {"organs, spots", "doll, round 0", "organs 0.1, doll, seed 1"} <= whats
    assert grid.notes == []


def test_runs_are_linked_where_they_were_tracked(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = cell_key("organs", 0.1, "doll", 1)
    (segmenter,) = [s for s in workspace.artifacts("segmenter") if s.summary["arm"] == key]
    keys = {FINETUNING: "top", f"{FINETUNING}/{segmenter.fingerprint}": "one"}
    pages = [Page(key, TUNED, id_, f"http://127.0.0.1:5000/#/{id_}") for key, id_ in keys.items()]
    grid = section(workspace, *pages)
    assert grid.page == pages[0]
    row = next(r for r in grid.steps if (r.task, r.share, r.start) == ("organs", "10 %", "doll"))
    assert grid.runs_of(row) == [("seed 1", pages[1])]
    monkeypatch.setattr(tracking, "run_pages", lambda workspace: pages)
    text = page_of([find(TUNED, workspace)])
    links = [a["href"] for a in Reader(text).named("a")]
    assert {page.url for page in pages} <= set(links)
    assert "chexseg-platform ui" in text


@pytest.mark.parametrize(
    ("gone", "said"),
    [("segmenter", "15 of kind segmenter"), ("evaluation", "15 of kind evaluation")],
)
def test_without_its_trainings_the_curves_are_the_stored_ones(
    workspace: Workspace, gone: str, said: str
) -> None:
    shutil.rmtree(Path(workspace.uri) / gone)
    page = Reader(page_of([find(TUNED, workspace)]))
    (picture,) = page.named("img")
    assert picture["src"].startswith("data:image/png;base64,")
    assert "doll 20" in picture["alt"]
    assert "The learning curves are those of the fine-tuning itself" in page.text
    # What lay below the lost ones is not known any more, so it is not missed.
    assert f"Missing: {said}, no longer there." in page.text


def test_a_damaged_history_is_said(workspace: Workspace) -> None:
    damage(workspace, f"segmenter/5e{0:014x}/parts/history*")
    grid = section(workspace)
    assert "data:image/png" in grid.charts[1].picture
    assert grid.notes[0] == (
        f"Missing: history.json of segmenter/5e{0:014x} is damaged (its checksum differs)."
    )
    damage(workspace, "finetuning/*/parts/learning-curves*")
    grid = section(workspace)
    assert [chart.title for chart in grid.charts] == ["Label efficiency"]
    assert any(note.startswith("The learning curves are not shown") for note in grid.notes)


def test_a_damaged_table_of_families_costs_only_that(workspace: Workspace) -> None:
    assert [(row.name, row.mean) for row in section(workspace).families] == [
        ("Mean", True),
        ("Edema", False),
    ]
    assert [cell.value for cell in section(workspace).families[1].cells[:2]] == ["0.250", "–"]
    damage(workspace, "parts/label-families*csv")
    grid = section(workspace)
    assert grid.families == []
    assert grid.notes[0].startswith(f"Missing: label-families.csv of finetuning/{FINETUNING} is ")
    assert "Labels beside" not in Reader(page_of([find(TUNED, workspace)])).text


def test_a_damaged_manifest_below_is_said(workspace: Workspace) -> None:
    (manifest, *_) = Path(workspace.uri).glob("dataset/*/artifact.json")
    manifest.write_text("torn")
    (note,) = section(workspace).notes
    assert note.startswith("Missing: dataset/")


def test_without_its_numbers_there_is_no_page(workspace: Workspace) -> None:
    damage(workspace, "parts/finetuning*json")
    with pytest.raises(CorruptArtifact, match=r"finetuning\.json of .* is damaged"):
        section(workspace)


def test_few_resamples_are_told(workspace: Workspace) -> None:
    made = changed(workspace, lambda raw: raw.update(resamples=20))
    (note,) = [n for n in grid_of(Found("x", workspace, finetuning=made), []).notes if "20" in n]
    assert note.startswith("With 20 resamples no p-value")


def test_names_are_text_and_no_markup(workspace: Workspace) -> None:
    evil = "<script>alert(1)</script>&\"'"

    def spoil(raw: dict[str, Any]) -> None:
        for item in raw["values"]:
            item["task"] = evil if item["task"] == "organs" else item["task"]
            item["name"] = evil if item["name"] == "Heart" else item["name"]
        raw["tested"][0] |= {"task": evil, "notes": [evil]}
        for item in [*raw["values"], *raw["steps"]]:
            if item["initialisation"] == "doll":
                item["initialisation"] = evil
        raw["proposed"] = raw["differences"][0]["reference"] = evil
        raw["titles"] = {"dice_union": evil}

    made = changed(workspace, spoil)
    text = page_of([Found(evil, workspace, finetuning=made)])
    assert "<script>alert" not in text
    assert text.count("<script>") == 1
    assert Reader(text).text.count(evil) > 8
    assert html.escape(evil, quote=False).split("&amp;")[0] in text


def changed(workspace: Workspace, change: Any) -> Artifact:
    """The fine-tuning with other numbers."""
    raw = finetuning(workspace, "b6" * 8, "").json("finetuning.json")
    change(raw)
    draft = workspace.draft("finetuning", "c7" * 8)
    part = draft.write_json("finetuning.json", raw)
    return draft.finish([part], config={}, inputs={}, summary={})


def test_two_stand_side_by_side(workspace: Workspace) -> None:
    finetuning(workspace, "d8" * 8, "other")
    page = Reader(page_of([find(TUNED, workspace), find("other", workspace)]))
    assert "Headline figures of every run" in page.text
    assert "organs, difference to random, at 10 %" in page.text
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
