"""Maps of a report's cases, made again as the pseudo-labels made them; and the page of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chexseg_platform.artifacts import Artifact, Workspace
from chexseg_platform.config import Resources, Saliency
from chexseg_platform.data.pictures import pictures_of
from chexseg_platform.findings import FINDINGS
from chexseg_platform.models.classifier import ClassifierSpec, build_classifier, dump_classifier
from chexseg_platform.models.preprocess import Preprocess
from chexseg_platform.report.find import Found
from chexseg_platform.report.gallery import Choice
from chexseg_platform.report.sources import Sources
from chexseg_platform.saliency.threshold import upsample
from chexseg_platform.stages import report
from chexseg_platform.stages.context import Context
from chexseg_platform.stages.models import labeller_of


@pytest.fixture
def sources(tiny_dataset: Artifact, tmp_path: Path) -> Sources:
    """Pseudo-labels of a classifier that knows nothing, and the classifier."""
    torch.manual_seed(0)
    model = build_classifier(ClassifierSpec(encoder="resnet18")).eval()
    files = dump_classifier(model, Preprocess(mean=0.5, std=0.25))
    workspace = Workspace(tmp_path / "w")
    draft = workspace.draft("classifier", "a" * 16)
    parts = [draft.write(f"checkpoints/00/{name}", data) for name, data in files.items()]
    classifier = draft.finish(parts, config={}, inputs={}, summary={"checkpoints": 1})
    labels = workspace.draft("pseudolabels", "b" * 16)
    inputs = {"dataset": tiny_dataset.fingerprint, "classifier": classifier.fingerprint}
    config = Saliency(threshold="tuned").model_dump()
    made = labels.finish([], config=config, inputs=inputs)
    return Sources(pseudolabels=made, classifiers=[classifier], dataset=tiny_dataset)


def choices(dataset: Artifact) -> list[Choice]:
    ids = dataset.tables("index/").filter(
        [split == "test" for split in dataset.tables("index/")["split"].to_pylist()]
    )["image_id"].to_pylist()  # fmt: skip
    return [Choice(name, "best", image, 0.5, 1, 1) for image in ids for name in FINDINGS[:2]]


def test_maps_are_those_of_the_classifier(sources: Sources) -> None:
    assert sources.dataset is not None
    wanted = choices(sources.dataset)
    found = report.heat_maps(sources, wanted)
    assert set(found) == {(choice.image_id, choice.finding) for choice in wanted}
    labeller = labeller_of(Saliency(), sources.classifiers, device=torch.device("cpu"))
    one = wanted[1]
    pictures = pictures_of(sources.dataset, [one.image_id])
    heat = labeller.explain(report._images([one.image_id], pictures)).heat_BKhw
    expected = upsample(heat, 32)[0, FINDINGS.index(one.finding)].numpy()
    np.testing.assert_allclose(found[one.image_id, one.finding], expected, atol=1e-6)
    assert expected.shape == (32, 32)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.classifiers.clear(),
        lambda s: s.pseudolabels.manifest["config"].update(method="integrated-gradients"),
        lambda s: s.pseudolabels.manifest["config"].update(refine="irnet"),
        lambda s: setattr(s, "pseudolabels", None),
    ],
)
def test_no_map_is_made_where_it_would_be_slow_or_another(
    sources: Sources, change: Callable[[Sources], Any]
) -> None:
    assert sources.dataset is not None
    change(sources)
    assert report.heat_maps(sources, choices(sources.dataset)) == {}


def test_a_classifier_that_is_damaged_is_told(sources: Sources) -> None:
    for part in Path(sources.classifiers[0].uri).rglob("parts/checkpoints/00/*"):
        part.write_bytes(b"torn")
    assert sources.dataset is not None
    assert report.heat_maps(sources, choices(sources.dataset)) == {}
    assert sources.missing == ["the classifiers cannot be read, so no map was made"]


class Run:
    """Stands for a tracked run: keeps what it is told."""

    def __init__(self) -> None:
        self.texts: list[tuple[str, str]] = []

    def text(self, name: str, text: str) -> None:
        self.texts.append((name, text))


@pytest.mark.parametrize("kind", ["comparison", "finetuning"])
def test_the_page_of_a_run_is_made_once_and_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    context = Context(Workspace(tmp_path), Resources())
    made = context.workspace.draft(kind, "c" * 16).finish([], config={}, inputs={})
    run, lines, shown = Run(), list[str](), list[Found]()
    report.report_of_run(context, "tiny", made, run, lines.append)  # type: ignore[arg-type]
    assert run.texts == []
    assert lines[0].startswith("no report could be made (")
    assert lines[0].endswith("`chexseg-platform report tiny` tries again")

    def page_of(found: list[Found]) -> str:
        shown.extend(found)
        return "<p>first</p>"

    monkeypatch.setattr(report, "page_of", page_of)
    for _ in range(2):
        report.report_of_run(context, "tiny", made, run, lines.append)  # type: ignore[arg-type]
    assert [(found.name, found.artifact, getattr(found, kind)) for found in shown] == [
        ("tiny", made, made)
    ]
    assert run.texts == [("report.html", "<p>first</p>")] * 2
    assert lines[1] == lines[2] == f"report  {tmp_path}/pages/{'c' * 16}/report.html"


def test_maps_kept_at_original_size_are_brought_to_the_frame(tiny_dataset: Artifact) -> None:
    wide = next(
        row["image_id"]
        for row in tiny_dataset.tables("index/").to_pylist()
        if row["height"] == 24
    )  # fmt: skip
    seen = pictures_of(tiny_dataset, [wide])[wide]
    framed = report._framed(np.ones((24, 32), np.float32), seen)
    assert framed.shape == (32, 32)
    assert framed[:4].max() == framed[28:].max() == 0
    assert framed[4:28].min() == 1
    cells = report._framed(np.eye(4, dtype=np.float32), seen)
    assert cells.shape == (32, 32)
    assert cells[0, 0] == 1
