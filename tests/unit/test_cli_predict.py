"""`predict` as a person meets it: what it writes, what it says, what it refuses."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from chexseg_platform.cli import main
from chexseg_platform.data.phantom.dicom import write_dicom
from chexseg_platform.findings import FINDINGS, INFECTION
from chexseg_platform.models.classifier import ClassifierSpec, build_classifier, dump_classifier
from chexseg_platform.models.preprocess import preset
from chexseg_platform.models.segmenter import SegmenterSpec, build_segmenter, dump_segmenter
from click.testing import CliRunner, Result
from PIL import Image

CANARY = "CANARY4711"


def segmenter_of(classes: tuple[str, ...]) -> dict[str, bytes]:
    spec = SegmenterSpec(architecture="Unet", classes=classes)
    extra = {"size": 32, "thresholds": dict.fromkeys(classes, 0.5)}
    return dump_segmenter(build_segmenter(spec), spec, preset("chexpert"), extra)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three segmenters and a classifier, all of random weights."""
    torch.manual_seed(0)
    kept = {
        "segmenter": segmenter_of(FINDINGS),
        "organs": segmenter_of(("Right Lung", "Left Lung")),
        "infection": segmenter_of((INFECTION,)),
        "classifier": dump_classifier(build_classifier(ClassifierSpec()), preset("chexpert")),
    }
    root = tmp_path_factory.mktemp("models")
    for name, files in kept.items():
        (root / name).mkdir()
        for file, data in files.items():
            (root / name / file).write_bytes(data)
    return root


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two PNG files, a DICOM file that names a person, and a text."""
    rng = np.random.default_rng(0)
    for name in ("patient1/study1/view1_frontal.png", "b.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 50), np.uint8)).save(path)
    path = tmp_path / "images" / "c.dcm"
    write_dicom(path, rng.integers(0, 4095, (30, 20)).astype(np.uint16), "MONOCHROME1", "c")
    data = pydicom.dcmread(path)
    data.PatientName = data.PatientID = data.AccessionNumber = CANARY
    data.save_as(path)
    (tmp_path / "images" / "notes.txt").write_text("no image")
    return tmp_path / "images"


def predict(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["predict", *map(str, arguments)])


def files_of(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def test_masks_json_and_table_by_default(models: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = predict(models / "segmenter", images, "-o", out)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in out.iterdir()) == [
        "about.json", "masks", "predictions.csv", "predictions.json",
    ]  # fmt: skip
    ids = ["b", "c", "patient1_study1_view1_frontal"]
    assert sorted(path.name for path in (out / "masks").iterdir()) == ids
    assert sorted(json.loads((out / "predictions.json").read_text())) == ids
    assert "1 file skipped" in result.output
    assert "Of 3 images: " in result.output
    assert result.output.splitlines()[-1] == f"Predictions: {out}"


def test_only_the_segmentation_names_the_patient(
    models: Path, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    wanted = ["--format", "png,coco", "--format", "chexlocalize,dicom-seg", "--overlay"]
    result = predict(models / "segmenter", images, "-o", out, *wanted)
    assert result.exit_code == 0, result.output
    assert "dicom-seg: 2 left out (no DICOM)" in result.output
    assert CANARY not in result.output
    holding = [path for path in files_of(out) if CANARY.encode() in path.read_bytes()]
    assert holding == [out / "dicom-seg" / "c.dcm"]
    assert len(list((out / "overlays").iterdir())) == 3


def test_a_segmenter_of_organs_writes_what_fits(models: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = predict(models / "organs", images, "-o", out)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in out.iterdir()) == [
        "about.json", "masks", "predictions.csv",
    ]  # fmt: skip
    files = sorted(path.name for path in (out / "masks" / "b").iterdir())
    assert files == ["Left_Lung.png", "Right_Lung.png"]
    assert re.search(r"Of 3 images: (Right Lung in \d|Left Lung in \d|, )+$", result.output, re.M)
    coded = predict(models / "organs", images, "-o", tmp_path / "coded", "-f", "dicom-seg")
    assert coded.exit_code == 0, coded.output
    assert (tmp_path / "coded" / "dicom-seg" / "c.dcm").is_file()


def test_a_failed_image_is_exit_code_1(models: Path, images: Path, tmp_path: Path) -> None:
    (images / "cut.dcm").write_bytes((images / "c.dcm").read_bytes()[:700])
    (images / "d.jpg").write_bytes(b"")
    result = predict(models / "segmenter", images, "-o", tmp_path / "out")
    assert result.exit_code == 1
    where = tmp_path / "out" / "failed.csv"
    said = f"Error: Of the images, 2 could not be read; {where} says which and why."
    assert result.output.splitlines()[-1] == said
    failed = (tmp_path / "out" / "failed.csv").read_text()
    assert "d.jpg,reading,The file is empty" in failed
    assert CANARY not in failed
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 3


def test_what_is_wrong_is_one_sentence_before_any_work(
    models: Path, images: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kept").touch()
    out, good = tmp_path / "out", models / "segmenter"
    wrong = {
        "holds a classifier: masks need a segmenter": (models / "classifier", images, "-o", out),
        "There is no folder": (tmp_path / "gone", images, "-o", out),
        "There are no images in": (good, tmp_path / "empty", "-o", out),
        "There is no file or folder": (good, tmp_path / "gone.png", "-o", out),
        "would both be called 'b'": (good, images, images / "b.png", "-o", out),
        "'jpeg' is no format; there are png": (good, images, "-o", out, "-f", "jpeg"),
        "None of the images is a DICOM": (good, images / "b.png", "-o", out, "-f", "dicom-seg"),
        "and this segmenter has no Enlarged Cardiomediastinum: leave chexlocalize out": (
            models / "organs",
            images,
            "-o",
            out,
            "-f",
            "png,chexlocalize",
        ),
        "none for COVID-19 Infection: leave dicom-seg out; for this segmenter there are png": (
            models / "infection",
            images,
            "-o",
            out,
            "-f",
            "dicom-seg",
        ),
        "holds other files": (good, images, "-o", tmp_path / "mine", "--overwrite"),
    }
    for said, arguments in wrong.items():
        result = predict(*arguments)
        assert result.exit_code == 1, said
        assert result.output.startswith("Error: "), result.output
        assert said in result.output
        assert len(result.output.splitlines()) == 1
    assert not out.exists()
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["kept"]


def test_predictions_are_replaced_only_where_told(
    models: Path, images: Path, tmp_path: Path
) -> None:
    out = images / "out"  # inside the folder of images: earlier masks are none
    assert predict(models / "segmenter", images, "-o", out).exit_code == 0
    again = predict(models / "segmenter", images, "-o", out)
    assert again.exit_code == 1
    assert "holds predictions already" in again.output
    replaced = predict(models / "segmenter", images, "-o", out, "-f", "coco", "--overwrite")
    assert replaced.exit_code == 0, replaced.output
    assert sorted(path.name for path in out.iterdir()) == [
        "about.json", "coco.json", "predictions.csv",
    ]  # fmt: skip
    assert len(json.loads((out / "coco.json").read_text())["images"]) == 3


def test_stopping_says_that_the_rest_is_missing(
    models: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from chexseg_platform.prediction import run

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "predict", stop)
    result = predict(models / "segmenter", images, "-o", tmp_path / "out")
    assert result.exit_code == 130
    assert "is not complete" in result.output
