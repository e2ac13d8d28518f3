"""Every stage on real X-rays with real expert masks, where they lie beside the repository."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from chexseg_platform.artifacts import Workspace
from chexseg_platform.configfile import load
from chexseg_platform.plan import Plan
from chexseg_platform.stages.context import Context
from chexseg_platform.stages.experiment import run
from chexseg_platform.tracking import open_tracker

DATA = (Path(__file__).resolve().parents[2] / "../shared/data").resolve()
TRAIN = DATA / "real_cxr" / "CheXpert-v1.0" / "train.csv"
SAMPLE = DATA / "chexlocalize_sample"

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(not TRAIN.is_file(), reason="the real X-rays are not beside the repository"),
]


def write_experiment(folder: Path) -> Path:
    """Write an experiment whose expert image and test image are the two of the sample."""
    header, first, second = (SAMPLE / "valid.csv").read_text().splitlines()[:3]
    (folder / "valid.csv").write_text(f"{header}\n{first}\n")
    (folder / "test.csv").write_text(f"{header}\n{second}\n")
    truth = str(SAMPLE / "gt_annotations_val.json")
    tables = [
        {"table": str(TRAIN), "split": "train"},
        {"table": "valid.csv", "split": "valid", "root": str(SAMPLE), "truth": truth, "limit": 1},
        {"table": "test.csv", "split": "test", "root": str(SAMPLE), "truth": truth, "limit": 1},
    ]
    experiment = {
        "name": "real-files",
        "data": {"size": 128, "tables": tables},
        "classifier": {
            "encoder": "resnet18", "output_stride": 16, "batch_size": 8, "epochs": 2, "keep": 1,
        },
        "segmenter": {
            "architecture": "Unet", "init": "classifier", "loss": "dice+bce", "lr": 1e-3,
            "epochs": 2, "epoch_images": 40, "batch_size": 4, "expert_probability": 0.5,
            "expert_validation": 0.0, "threshold": 0.5,
        },
        "evaluation": {"resamples": 100, "overlays": 4},
    }  # fmt: skip
    path = folder / "real.yaml"
    path.write_text(yaml.safe_dump(experiment))
    return path


def test_real_x_rays_go_through_every_stage(tmp_path: Path) -> None:
    experiment = load(write_experiment(tmp_path)).experiment
    context = Context(Workspace(tmp_path / "workspace"), experiment.resources)
    said: list[str] = []
    with open_tracker(tmp_path / "workspace", experiment.name, enabled=False) as tracker:
        comparison = run(context, experiment, Plan.of(experiment), tracker, said.append)
    counts = comparison.table("counts.parquet")
    assert set(counts["method"].to_pylist()) == {
        "expert only", "pseudo only", "mix", "pseudo-labels",
    }  # fmt: skip
    # The test image carries support devices and nothing else, at its original size.
    rows = counts.to_pylist()
    assert {row["finding"] for row in rows if row["truth"]} == {"Support Devices"}
    assert {(row["height"], row["width"]) for row in rows} == {(2022, 2021)}
    assert "train 55 images of 48 patients" in said[0]
    assert comparison.read("overlays.png").startswith(b"\x89PNG")
