"""The whole page: what it loads (nothing), what it says, what it does with bad names and losses."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from chexseg_platform import tracking
from chexseg_platform.artifacts import Workspace
from chexseg_platform.report.find import Found, find
from chexseg_platform.report.page import NotWritable
from chexseg_platform.stages.report import page_of, report
from chexseg_platform.tracking import Page, StoreAway

from .conftest import COMPARISON, FINETUNING, NAME, SWEEP, TUNED, Reader, finetuning


@pytest.fixture(scope="module")
def text(whole: Any) -> str:
    """The page of the experiment, which these tests only look at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracking, "run_pages", lambda workspace: [])
        return page_of([find(NAME, whole.workspace)])


@pytest.fixture(scope="module")
def tuned_text(tuned: Any) -> str:
    """The page of a fine-tuning."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracking, "run_pages", lambda workspace: [])
        return page_of([find(TUNED, Workspace(tuned.uri.rsplit("/", 2)[0]))])


@pytest.fixture(params=["text", "tuned_text"])
def each(request: pytest.FixtureRequest) -> str:
    """The page of either."""
    return str(request.getfixturevalue(request.param))


def test_nothing_is_loaded_from_elsewhere(each: str) -> None:
    page = Reader(each)
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            if name in ("src", "srcset", "data", "poster", "action", "formaction", "background"):
                pytest.fail(f"{tag} {name}={value[:40]}")
            if name.endswith("href") and tag != "a":
                assert value.startswith(("data:", "#")), (tag, value[:60])
            assert "url(" not in value or re.search(r"url\(#", value), value
    assert not re.search(r"@import|url\(\s*['\"]?(?!#)", each)
    assert not page.named("iframe", "object", "embed", "base", "form", "audio", "video")
    (policy,) = [tag["content"] for tag in page.named("meta") if "http-equiv" in tag]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'; script")
    assert "unsafe-inline" not in policy.partition("script-src")[2]


def test_the_policy_names_the_script_that_is_there(each: str) -> None:
    import base64
    import hashlib

    (script,) = re.findall(r"<script>(.*?)</script>", each, flags=re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert html.escape(f"'sha256-{digest}'", quote=False) in each
    assert "onclick" not in each.replace("addEventListener", "")


def test_names_within_the_page_are_there_once_and_all_that_are_used_exist(each: str) -> None:
    page = Reader(each)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)|aria-labelledby="([^"]*)"', each)
    names = {name for groups in used for name in groups if name}
    assert names
    assert names <= set(ids)


def test_it_can_be_read_without_seeing(each: str) -> None:
    page = Reader(each)
    assert page.named("html")[0]["lang"] == "en"
    pictures = page.named("svg", "img")
    assert pictures
    for picture in pictures:
        assert picture.get("role") == "img"
        assert any(letter.isdigit() for letter in picture["aria-label"]), picture["aria-label"]
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    skip = page.named("a")[0]
    assert skip["href"] == "#main"
    assert page.named("main")[0]["id"] == "main"
    assert all(
        box["tabindex"] == "0" for box in page.named("div") if "scroll" in box.get("class", "")
    )
    assert all(head.get("scope") in ("col", "row") for head in page.named("th"))


def contrast(first: str, second: str) -> float:
    def light(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        line = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * line[0] + 0.7152 * line[1] + 0.0722 * line[2]

    bright, dark = sorted((light(first), light(second)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def test_colours_can_be_told_apart_in_the_light_and_in_the_dark(text: str) -> None:
    light, dark = re.findall(r":root \{(.*?)\}", text, flags=re.S)[:2]
    for block in (light, dark):
        colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block))
        for ink in ("ink", "muted", "link"):
            for ground in ("paper", "ground", "mark"):
                assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
        assert contrast(colours["focus"], colours["paper"]) >= 3


def test_the_same_inputs_give_the_same_bytes(made: Any, text: str) -> None:
    assert page_of([find(NAME, made.workspace)]) == text
    # Neither the place of the workspace nor the time is in it.
    assert str(made.folder) not in text


def test_numbers_are_those_of_the_comparison(made: Any, text: str) -> None:
    raw = made.comparison.json("comparison.json")
    page = Reader(text)
    for metric in raw["scores"]:
        for method in raw["methods"]:
            value = raw["scores"][metric][method]["findings"][-1]["value"]
            assert f"{value:.3f}" in page.text
    assert text.count('<figure class="case">') == 6
    assert "ranked by the IoU of mix,\n  seed 0".replace("\n  ", " ") in page.text
    for kind in ("comparison", "sweep", "dataset", "segmenter mix, seed 3", "evaluation mix"):
        assert kind in page.text
    for item in (made.comparison, made.sweep, made.dataset, *made.evaluations.values()):
        assert f"<code>{item.fingerprint}</code>" in text
    assert "at 0.5 0.25" in text  # what the curve of the mix says to who cannot see it


def test_every_run_is_linked_where_it_was_tracked(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "not tracked in MLflow" in page_of([find(NAME, made.workspace)])
    mix = made.evaluations["mix", 3].manifest["inputs"]["segmenter"]
    keys = {COMPARISON: "top", f"{COMPARISON}/{mix}": "third", SWEEP: "swept"}
    pages = [Page(key, NAME, id_, f"http://127.0.0.1:5000/#/{id_}") for key, id_ in keys.items()]
    monkeypatch.setattr(tracking, "run_pages", lambda workspace: pages)
    text = page_of([find(NAME, made.workspace)])
    links = [a["href"] for a in Reader(text).named("a") if a["href"].startswith("http")]
    assert {f"http://127.0.0.1:5000/#/{id_}" for id_ in keys.values()} <= set(links)
    assert "seed 3</a>" in text
    assert "chexseg-platform ui" in text


def test_a_store_that_is_away_is_told(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(workspace: str) -> list[Page]:
        raise StoreAway("http://server does not answer, so no run is linked")

    monkeypatch.setattr(tracking, "run_pages", away)
    assert "http://server does not answer" in page_of([find(NAME, made.workspace)])


def test_names_are_text_and_no_markup(made: Any) -> None:
    evil = "<script>alert(1)</script>&\"'"
    found = replace(find(NAME, made.workspace), name=evil)
    page = page_of([found, found])
    assert "<script>alert" not in page
    assert html.escape(evil, quote=False).split("&amp;")[0] in page
    assert page.count("<script>") == 1
    assert evil in Reader(page).text


def test_markup_within_the_file_is_text_too(made: Any) -> None:
    evil = '"><img src=x onerror=alert(1)>'
    raw = json.loads(
        json.dumps(made.comparison.json("comparison.json")).replace("pseudo only", "Q")
    )
    raw["methods"] = [evil if m == "Q" else m for m in raw["methods"]]
    raw["seeds"][evil] = raw["seeds"].pop("Q")
    for by_method in raw["scores"].values():
        by_method[evil] = by_method.pop("Q")
    raw["notes"] = [evil]
    draft = made.workspace.draft("comparison", "e" * 16)
    parts = [draft.write_json("comparison.json", raw)]
    odd = draft.finish(parts, config={}, inputs={}, summary={})
    text = page_of([Found("odd", made.workspace, odd)])
    assert "<img" not in text
    assert Reader(text).text.count(evil) >= 4


def test_several_runs_stand_side_by_side(made: Any) -> None:
    text = page_of([find(COMPARISON, made.workspace), find(SWEEP, made.workspace)])
    page = Reader(text)
    assert "Headline figures of every run" in page.text
    assert [a["href"] for a in page.named("a")].count("#run2") == 2
    assert [tag for tag, _ in page.tags].count("h2") == 3
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("lost", ["dataset", "evaluation", "segmenter", "pseudolabels"])
def test_what_is_gone_is_said_and_the_rest_is_shown(made: Any, lost: str) -> None:
    shutil.rmtree(made.folder / lost)
    page = Reader(page_of([find(COMPARISON, made.workspace)]))
    assert "Headline figures" in page.text
    if lost in ("dataset", "evaluation"):
        assert "No cases: the dataset or the predictions are no longer there." in page.text
    else:
        assert "Cases: best, median and worst" in page.text
    assert "is no longer there" in page.text


def test_a_damaged_part_costs_no_more_than_what_it_holds(made: Any) -> None:
    for part in (made.folder / "dataset").rglob("parts/rows/*"):
        part.write_bytes(b"torn")
    page = Reader(page_of([find(COMPARISON, made.workspace)]))
    assert "No cases: the dataset or the predictions cannot be read." in page.text
    assert "is damaged" in page.text
    assert str(made.folder) not in page.text


def test_a_page_is_written_whole_and_over_an_old_one(made: Any, tmp_path: Path) -> None:
    out = tmp_path / "a page.html"
    out.write_text("old")
    assert report(made.workspace, [COMPARISON, made.comparison.uri], out) == out
    assert out.read_text().startswith("<!DOCTYPE html>")
    assert out.read_text().count("<h2") == 1  # named by two names, shown once
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a page.html", "w"]
    with pytest.raises(NotWritable, match="is not there: make it"):
        report(made.workspace, [NAME], tmp_path / "no" / "page.html")
    with pytest.raises(NotWritable, match="is a folder"):
        report(made.workspace, [NAME], tmp_path)


def test_an_experiment_shows_its_fine_tuning_too(made: Any) -> None:
    finetuning(made.workspace, FINETUNING, NAME)
    page = Reader(page_of([find(NAME, made.workspace)]))
    assert page.text.count("Headline figures") == 4  # two in the contents
    assert "Report: tiny, tiny fine-tuning" in page.text
    assert "Headline figures of every run" not in page.text  # they have none in common
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


CHECK = """
const frame = document.querySelector("iframe");
frame.onload = () => {
  const page = frame.contentDocument, root = page.documentElement;
  const table = page.querySelector("table.sortable"), heads = [...table.tHead.rows[0].cells];
  const column = heads.findIndex((head) => head.textContent === "mIoU C");
  const values = () => [...table.tBodies[0].rows].map((row) => row.cells[column].dataset.sort);
  const sort = () => {
    heads[column].querySelector("button").click();
    return [heads[column].getAttribute("aria-sort"), values()];
  };
  const said = {scroll: root.scrollWidth, client: root.clientWidth, first: sort(), second: sort()};
  said.loaded = performance.getEntriesByType("resource").map((entry) => entry.name);
  document.title = JSON.stringify(said);
};
"""


@pytest.mark.skipif(not shutil.which("chromium"), reason="there is no chromium on the PATH")
@pytest.mark.parametrize(("width", "height"), [(320, 640), (360, 800), (1280, 900)])
def test_in_a_browser_it_fits_the_window_and_its_table_sorts(
    each: str, tmp_path: Path, width: int, height: int
) -> None:
    # In a frame, for a browser's own window is never as narrow as a phone.
    size = f"width: {width}px; height: {height}px; border: 0"
    outer = tmp_path / "outer.html"
    outer.write_text(
        f'<!DOCTYPE html><body style="margin: 0"><iframe style="{size}" '
        f'srcdoc="{html.escape(each)}"></iframe><script>{CHECK}</script></body>'
    )
    shot = tmp_path / "shot.png"
    chromium = [
        "chromium", "--headless", "--hide-scrollbars", "--no-sandbox", "--disable-gpu",
        f"--user-data-dir={tmp_path}/p",
        f"--window-size={max(width, 500)},{height}",
    ]  # fmt: skip
    for wish in (f"--screenshot={shot}", "--dump-dom"):
        done = subprocess.run(
            [*chromium, wish, outer.as_uri()], capture_output=True, text=True, timeout=180
        )
    (title,) = re.findall("<title>(.*?)</title>", done.stdout)[:1]
    said = json.loads(html.unescape(title))
    assert said["scroll"] <= said["client"] == width
    for order, values in (said["first"], said["second"]):
        known = [float(value) for value in values if value]
        assert known == sorted(known, reverse=order == "descending")
        assert not any(values[len(known) :])  # what has no number stands last
    assert [said["first"][0], said["second"][0]] == ["descending", "ascending"]
    assert said["loaded"] == []
    assert shot.stat().st_size > 5000
