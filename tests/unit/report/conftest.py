"""A workspace with a comparison and a sweep, made in a second: eight test images, two findings.

"mix" draws each square one pixel off for every image before it, so its IoUs are known; the other
methods are only there. Nothing is tracked but a journal, and MLflow is not asked.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
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
from chexseg_platform.evaluation import tables
from chexseg_platform.evaluation.comparison import Roles, compare
from chexseg_platform.evaluation.counts import ImageFacts, ImageMasks, count_images, cube
from chexseg_platform.evaluation.truth import drawn_of
from chexseg_platform.findings import FINDINGS
from chexseg_platform.saliency.pseudotable import MAP_SCHEMA, MASK_SCHEMA
from chexseg_platform.tracking.journal import Journal

SHIFTS = {"expert only": 2, "pseudo only": 5, "mix": 1, "pseudo-labels": 4, "radiologists": 0}
COMPARISON, SWEEP = "c" * 16, "d" * 16
NAME = "tiny"


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
