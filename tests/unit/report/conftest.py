"""A workspace with a comparison and a sweep, made in a second: eight test images, two findings.

"mix" draws each square one pixel off for every image before it, so its IoUs are known; the other
methods are only there. Another has a fine-tuning, whose numbers are invented. Nothing is tracked
but a journal, and MLflow is not asked.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from chexseg_platform import tracking
from chexseg_platform.artifacts import Artifact, Workspace, csv_bytes
from chexseg_platform.config import Saliency
from chexseg_platform.data import masks
from chexseg_platform.data.store import read_index
from chexseg_platform.evaluation import efficiency_tables, tables
from chexseg_platform.evaluation.bootstrap import Estimate
from chexseg_platform.evaluation.comparison import Roles, compare
from chexseg_platform.evaluation.counts import ImageFacts, ImageMasks, count_images, cube
from chexseg_platform.evaluation.efficiency import (
    Difference,
    HeldOut,
    LabelEfficiency,
    Value,
)
from chexseg_platform.evaluation.steps import Trained, efficiencies
from chexseg_platform.evaluation.truth import drawn_of
from chexseg_platform.findings import FINDINGS
from chexseg_platform.plots import new_figure, png
from chexseg_platform.saliency.pseudotable import MAP_SCHEMA, MASK_SCHEMA
from chexseg_platform.tasks import cell_key
from chexseg_platform.tracking.journal import Journal

SHIFTS = {"expert only": 2, "pseudo only": 5, "mix": 1, "pseudo-labels": 4, "radiologists": 0}
COMPARISON, SWEEP = "c" * 16, "d" * 16
NAME = "tiny"
VOID = {"meta", "link", "br", "image", "use", "path", "hr", "img", "input"}
FINETUNING, TUNED = "a5" * 8, "few"
CLASSES = {"organs": ("Heart", "Left Lung"), "spots": ("COVID-19 Infection",)}
SEEDS = {"organs": (0, 1), "spots": (0,)}
METRICS = ("dice_union", "iou_pooled")
IMAGES = {("organs", 0.1): 4, ("organs", 1.0): 40, ("spots", 1.0): 1200}
STARTS = {"random": 0.5, "imagenet": 0.75, "doll": 0.625}
"""What each start scores in the mean at the smallest fraction; it is 1/8 more at the largest."""


@dataclass(frozen=True)
class Made:
    """The workspace and what is in it."""

    workspace: Workspace
    comparison: Artifact
    sweep: Artifact
    dataset: Artifact
    evaluations: dict[tuple[str, int], Artifact]

    @property
    def folder(self) -> Path:
        return Path(self.workspace.uri)


@pytest.fixture(autouse=True)
def _no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(tracking, "run_pages", lambda workspace: [])


@pytest.fixture
def made(whole: Made, tmp_path: Path) -> Made:
    """A copy of it, to do with as one likes."""
    shutil.copytree(whole.folder, tmp_path / "w")
    workspace = Workspace(tmp_path / "w")

    def again(artifact: Artifact) -> Artifact:
        found = workspace.find(artifact.kind, artifact.fingerprint)
        assert found is not None
        return found

    others = {key: again(item) for key, item in whole.evaluations.items()}
    return Made(workspace, *map(again, (whole.comparison, whole.sweep, whole.dataset)), others)


@pytest.fixture(scope="session")
def whole(
    tmp_path_factory: pytest.TempPathFactory,
    make_row: Callable[..., Any],
    make_dataset: Callable[..., Any],
) -> Made:
    tmp_path = tmp_path_factory.mktemp("report")
    workspace = Workspace(tmp_path / "w")
    rows = [make_row(number, "test", drawn=True) for number in range(8)]
    dataset = make_dataset(tmp_path / "w", rows)
    sources: dict[tuple[str, int], dict[str, str]] = {
        (arm, seed): {"segmenter": segmenter(workspace, arm, seed, dataset)}
        for arm, seed in (("expert only", 0), ("pseudo only", 0), ("mix", 0), ("mix", 3))
    }
    sources["pseudo-labels", 0] = {"pseudolabels": pseudolabels(workspace, dataset)}
    sources["radiologists", 0] = {}
    found = {key: evaluation(workspace, dataset, *key, below) for key, below in sources.items()}
    counts = pa.concat_tables([item.tables("counts/") for item in found.values()])
    result = compare(cube(counts), resamples=100)
    made = comparison(workspace, result, counts, found)
    journal(tmp_path / "w", sources)
    return Made(workspace, made, sweep(workspace, dataset, counts), dataset, found)


def segmenter(workspace: Workspace, arm: str, seed: int, dataset: Artifact) -> str:
    draft = workspace.draft("segmenter", f"{len(arm):015x}{seed}")
    history = [{"epoch": e, "loss": 1 / e, "miou": e / 10, "step": e} for e in (1.0, 2.0)]
    draft.finish(
        [draft.write_json("history.json", history)],
        config={},
        inputs={"dataset": dataset.fingerprint},
        seed=seed,
        summary={"arm": arm},
    )
    return draft.fingerprint


def pseudolabels(workspace: Workspace, dataset: Artifact) -> str:
    """Every mask an empty one but Cardiomegaly's, whose maps are kept."""
    classifier = workspace.draft("classifier", "a" * 16)
    history = [{"epoch": e, "loss": 1 / e, "auroc competition": 0.7} for e in (1.0, 2.0)]
    classifier.finish([classifier.write_json("history.json", history)], config={}, inputs={})
    draft = workspace.draft("pseudolabels", "b" * 16)
    square = np.zeros((32, 32), bool)
    square[4:8, 4:8] = True
    parts = []
    for part in dataset.parts("index/"):
        ids = dataset.table(part.name, ["image_id"])["image_id"].to_pylist()
        rows = [mask_row(i, f, masks.encode(square)) for i in ids for f in FINDINGS]
        number = part.name.rpartition("/")[2]
        parts.append(draft.write(f"masks/{number}", pa.Table.from_pylist(rows, MASK_SCHEMA)))
        heat = np.linspace(0, 1, 16, dtype=np.float16).tobytes()
        maps = [
            {"image_id": i, "finding": "Cardiomegaly", "height": 4, "width": 4, "heat": heat}
            for i in ids
        ]
        parts.append(draft.write(f"maps/{number}-0000", pa.Table.from_pylist(maps, MAP_SCHEMA)))
    draft.finish(
        parts,
        config=Saliency(maps="model").model_dump(),
        inputs={"dataset": dataset.fingerprint, "classifier": classifier.fingerprint},
    )
    return draft.fingerprint


def mask_row(image_id: str, finding: str, counts: str) -> dict[str, Any]:
    there = finding == "Cardiomegaly"
    return {
        "image_id": image_id,
        "split": "test",
        "finding": finding,
        "known": True,
        "allowed": there,
        "probability": 0.25,
        "counts": counts if there else None,
        "peak_row": 5 if there else None,
        "peak_column": 6 if there else None,
        "status": "mask" if there else "not allowed",
    }


def evaluation(
    workspace: Workspace, dataset: Artifact, method: str, seed: int, below: dict[str, str]
) -> Artifact:
    draft = workspace.draft("evaluation", f"{SHIFTS[method]:08x}{seed:08x}")
    counted, predicted = list[dict[str, Any]](), list[dict[str, Any]]()
    for place, row in enumerate(read_index(dataset).sort_by("image_id").to_pylist()):
        truth = drawn_of(row, "masks") or {}
        shift, height, width = SHIFTS[method] * place, row["height"], row["width"]
        said = {name: moved(run, height, width, shift) for name, run in truth.items()}
        common = {name: row[name] for name in ("image_id", "height", "width")}
        facts = ImageFacts(patient=row["patient"], **common)
        counted.append(ImageMasks(image=facts, truth=truth, prediction=said))
        predicted += [{**common, "finding": name, "counts": said.get(name)} for name in FINDINGS]
    counts = count_images(counted, method=method, seed=seed, split="test")
    parts = [
        draft.write("counts/00000.parquet", counts),
        draft.write("predictions/00000.parquet", pa.Table.from_pylist(predicted)),
    ]
    summary = {"method": method, "seed": seed, "rows": counts.num_rows}
    inputs = {"dataset": dataset.fingerprint, **below}
    return draft.finish(parts, config={"method": method}, inputs=inputs, seed=seed, summary=summary)


def moved(counts: str, height: int, width: int, shift: int) -> str:
    """A mask some pixels to the right; what leaves the image is lost."""
    mask = np.zeros((height, width), bool)
    mask[:, min(shift, width) :] = masks.decode(counts, height, width)[:, : max(width - shift, 0)]
    return masks.encode(mask)


def comparison(
    workspace: Workspace, result: Any, counts: pa.Table, found: dict[tuple[str, int], Artifact]
) -> Artifact:
    draft = workspace.draft("comparison", COMPARISON)
    parts = [
        draft.write("counts.parquet", counts),
        draft.write_json("comparison.json", tables.to_json(result)),
    ]
    inputs = {item.fingerprint: item.fingerprint for item in found.values()}
    return draft.finish(parts, config={}, inputs=inputs, seed=0, summary={"experiment": NAME})


def sweep(workspace: Workspace, dataset: Artifact, counts: pa.Table) -> Artifact:
    draft = workspace.draft("sweep", SWEEP)
    names = ("validation mIoU", "low", "high", "seeds", "finished", "stopped", "failed")
    rows = [
        {"expert_probability": p}
        | dict(zip(names, (p / 2, 0.1, 0.5, "0.2 0.3", 2, 0, 0), strict=True))
        for p in (0.0, 0.5, 1.0)
    ]
    test = compare(cube(counts), roles=Roles(references=("pseudo-labels",)), resamples=100)
    parts = [
        draft.write("sweep.csv", csv_bytes(rows)),
        draft.write_json("test.json", tables.to_json(test)),
    ]
    return draft.finish(
        parts,
        config={"space": {"expert_probability": [0.0, 0.5, 1.0]}},
        inputs={"dataset": dataset.fingerprint},
        summary={"winner": "expert_probability 0.5"},
    )


def journal(folder: Path, sources: dict[tuple[str, int], dict[str, str]]) -> None:
    """The records of a run and of a sweep, as a tracker writes them."""
    book = Journal(folder / "tracking" / NAME, NAME)
    book.append("run", run=COMPARISON, name=NAME, parent=None, tags={}, params={})
    book.append("run", run=SWEEP, name=f"{NAME} sweep", parent=None, tags={}, params={})
    trial = sources["mix", 3]["segmenter"]
    opening = {"name": "trial expert_probability 0.5 seed 3", "tags": {"stage": "trial"}}
    book.append("run", run=f"{SWEEP}/{trial}", parent=SWEEP, params={}, **opening)
    book.close()


@pytest.fixture(scope="session")
def tuned(
    tmp_path_factory: pytest.TempPathFactory,
    make_row: Callable[..., Any],
    make_dataset: Callable[..., Any],
) -> Artifact:
    """A fine-tuning of two tasks, with all that it rests on, in a workspace of its own."""
    folder = tmp_path_factory.mktemp("tuned") / "w"
    dataset = make_dataset(folder, [make_row(0, "test", drawn=True)])
    workspace = Workspace(folder)
    made = finetuning(workspace, FINETUNING, TUNED, dataset)
    book = Journal(folder / "tracking" / TUNED, TUNED)
    book.append("run", run=FINETUNING, name=f"{TUNED} finetune", parent=None, tags={}, params={})
    book.close()
    return made


def finetuning(
    workspace: Workspace, print_: str, name: str, dataset: Artifact | None = None
) -> Artifact:
    """Write a fine-tuning; its trainings too where they have a dataset."""
    result, trained = label_efficiency()
    draft = workspace.draft("finetuning", print_)
    families = [
        {"family": "doll", "finding": "Edema", "images": 3, "iou": 0.25, "hit": 1.0},
        {"family": "doll", "finding": "Mean", "images": None, "iou": 0.125, "hit": None},
    ]
    parts = [
        draft.write_json("finetuning.json", efficiency_tables.to_json(result)),
        draft.write("learning-curves.png", png(new_figure(1, 1, 1, 1)[0])),
        draft.write("label-families.csv", csv_bytes(families)),
        draft.write("label-families.txt", b"Labels beside the experts' masks of the test images:"),
    ]
    inputs = {}
    if dataset is not None:
        pretrained = segmenter(workspace, "doll, round 0", 0, dataset)
        for number, item in enumerate(trained):
            below = {"pretrained": pretrained} if item.initialisation == "doll" else {}
            made = tuned_evaluation(workspace, number, item, dataset, below)
            inputs[f"evaluation {made[:8]}"] = made
    summary = {"experiment": name, "trainings": len(trained)}
    return draft.finish(parts, config={}, inputs=inputs, seed=0, summary=summary)


def tuned_evaluation(
    workspace: Workspace, number: int, item: Trained, dataset: Artifact, below: dict[str, str]
) -> str:
    """Write a training of a fine-tuning and its evaluation, and return the fingerprint of this."""
    draft = workspace.draft("segmenter", f"5e{number:014x}")
    arm = cell_key(item.task, item.fraction, item.initialisation, item.seed)
    draft.finish(
        [draft.write_json("history.json", item.history)],
        config={},
        inputs={"dataset": dataset.fingerprint, **below},
        seed=item.seed,
        summary={"arm": arm},
    )
    counted = workspace.draft("evaluation", f"{number:08x}" + "e" * 8)
    counted.finish(
        [],
        config={},
        inputs={"dataset": dataset.fingerprint, "segmenter": draft.fingerprint},
        summary={"method": item.initialisation, "seed": item.seed},
    )
    return counted.fingerprint


def label_efficiency() -> tuple[LabelEfficiency, list[Trained]]:
    """Numbers of a grid, and its trainings: "organs" has two seeds, "spots" one."""
    trained = trainings()
    tested = [
        HeldOut(task=task, classes=classes, images=9, patients=8, notes=(f"{task} are few.",))
        for task, classes in CLASSES.items()
    ]
    result = LabelEfficiency(
        proposed="doll",
        metrics=METRICS,
        tested=tuple(tested),
        values=tuple(values()),
        differences=tuple(differences()),
        steps=tuple(efficiencies(trained)),
        cluster="patient",
        resamples=1000,
        seed=0,
        level=0.95,
    )
    return result, trained


def trainings() -> list[Trained]:
    """At step 10 "imagenet" is where it stays, at step 20 "doll"; "random" never gets there."""
    rises = {"random": (0.5, 0.75), "imagenet": (1.0, 1.0), "doll": (0.5, 1.0)}
    return [
        Trained(
            task=task,
            initialisation=start,
            fraction=fraction,
            images=images,
            seed=seed,
            history=[{"step": 10 * n, "score": s} for n, s in enumerate(rise, start=1)],
        )
        for (task, fraction), images in IMAGES.items()
        for start, rise in rises.items()
        for seed in SEEDS[task]
    ]


def score_of(start: str, fraction: float) -> float:
    return STARTS[start] + (0.125 if fraction == 1.0 else 0.0)


def values() -> list[Value]:
    return [
        Value(
            task=task,
            fraction=fraction,
            images=images,
            initialisation=start,
            metric=metric,
            name=name,
            estimate=around(score_of(start, fraction), None if name == "Mean" else 9.0),
            by_seed=tuple(score_of(start, fraction) + seed / 8 for seed in SEEDS[task]),
        )
        for (task, fraction), images in IMAGES.items()
        for metric in METRICS
        for start in STARTS
        for name in (*CLASSES[task], "Mean")
    ]


def differences() -> list[Difference]:
    return [
        Difference(
            task=task,
            fraction=fraction,
            reference=start,
            metric=metric,
            name=name,
            estimate=around(STARTS["doll"] - STARTS[start]),
            p=0.01,
            p_holm=0.02,
        )
        for task, fraction in IMAGES
        for metric in METRICS
        for start in ("random", "imagenet")
        for name in (*CLASSES[task], "Mean")
    ]


def around(value: float, images: float | None = None) -> Estimate:
    return Estimate(value, value - 0.0625, value + 0.0625, images=images)


class Reader(HTMLParser):
    """Collects tags with their attributes, and checks that they are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag == "li":
            assert self.open[-1] in ("ul", "ol")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def named(self, *names: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.tags if tag in names]
