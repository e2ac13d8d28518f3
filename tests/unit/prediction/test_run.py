"""Files in, predictions out: the same masks as the evaluation's, and failures beside them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from chexseg_platform.artifacts import Artifact, open_artifact
from chexseg_platform.data.chexlocalize import read_segmentations
from chexseg_platform.data.entries import Entry
from chexseg_platform.data.rows import make_row
from chexseg_platform.data.store import index_part
from chexseg_platform.evaluation.methods import COLUMNS, Method, Predictor, count_rows
from chexseg_platform.findings import FINDINGS, OBSERVATIONS
from chexseg_platform.prediction.inputs import find_inputs
from chexseg_platform.prediction.model import Model
from chexseg_platform.prediction.output import OccupiedOutput
from chexseg_platform.prediction.run import predict
from chexseg_platform.storage import Storage
from PIL import Image

NEVER = "Pneumothorax"


@pytest.fixture
def images(tmp_path: Path, make_picture: Callable, make_radiograph: Callable) -> Path:
    """One of each kind, of odd sizes: JPEG, PNG of 8 and 16 bits, DICOM, and a tiny one."""
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(make_picture(61, 47, 1)).save(folder / "jpeg.jpg", quality=95)
    Image.fromarray(make_picture(33, 90, 2)).save(folder / "png.png")
    Image.fromarray(make_picture(70, 70, 3, np.uint16)).save(folder / "deep.png")
    Image.fromarray(make_picture(3, 2, 4)).save(folder / "tiny.png")
    make_radiograph(folder / "dicom", make_picture(51, 39, 5, np.uint16))
    return folder


def entry_of(name: str, path: Path) -> Entry:
    return Entry(
        image_id=name, patient=name, study="s", view="frontal", projection=None, sex=None, age=None,
        split="test", source=name, path=str(path), labels=(None,) * len(OBSERVATIONS),
    )  # fmt: skip


def test_masks_and_peaks_are_those_of_the_evaluation(
    images: Path, tmp_path: Path, segmenter: Path, model: Model, make_dataset: Callable
) -> None:
    inputs = find_inputs([images]).images
    outcome = predict(model, inputs, tmp_path / "out", ["chexlocalize"])
    assert (outcome.predicted, outcome.failed) == (5, [])
    rows = [make_row(entry_of(item.image_id, item.path), model.size) for item in inputs]
    dataset: Artifact = make_dataset(tmp_path / "workspace", rows, shards=1)
    predictor = Predictor(Method("mine", 0, open_artifact(Storage(segmenter))), dataset)
    table = dataset.table("rows/00000.parquet", COLUMNS)
    small = index_part(dataset, "rows/00000.parquet", ["small_masks"])["small_masks"]
    table = table.append_column("small_masks", small)
    counts, _, expected = count_rows(predictor, table, "00000.parquet", "test")

    found = read_segmentations(tmp_path / "out" / "predictions.json")
    masks = {(row["image_id"], row["finding"]): row["counts"] for row in expected.to_pylist()}
    assert len(masks) == 5 * len(FINDINGS)
    assert sum(value is not None for value in masks.values()) > 20
    assert masks == {
        (name, finding): image.counts.get(finding)
        for name, image in found.items()
        for finding in FINDINGS
    }
    peaks = {
        (row["image"], row["finding"]): (row["peak_y"], row["peak_x"], row["pixels"])
        for row in table_of(tmp_path / "out")
    }
    assert peaks == {
        (row["image_id"], row["finding"]): (
            str(row["peak_y"]),
            str(row["peak_x"]),
            str(row["prediction"]),
        )
        for row in counts.to_pylist()
    }


def table_of(out: Path) -> list[dict[str, str]]:
    import csv

    with (out / "predictions.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_all_formats_hold_the_same_masks(images: Path, tmp_path: Path, model: Model) -> None:
    import pydicom
    from pycocotools.coco import COCO

    out = tmp_path / "out"
    formats = ["png", "chexlocalize", "coco", "dicom-seg"]
    outcome = predict(model, find_inputs([images]).images, out, formats, overlay=True)
    assert outcome.left_out == {("dicom-seg", "no DICOM"): 4}
    assert outcome.found[NEVER] == 0
    pngs = {
        (folder.name, path.stem.replace("_", " ")): np.asarray(Image.open(path)) == 255
        for folder in (out / "masks").iterdir()
        for path in folder.iterdir()
    }
    assert {mask.shape for (name, _), mask in pngs.items() if name == "deep"} == {(70, 70)}
    read = COCO(str(out / "coco.json"))
    drawn = {
        (read.imgs[a["image_id"]]["name"], read.cats[a["category_id"]]["name"]): read.annToMask(a)
        for a in read.anns.values()
    }
    theirs = read_segmentations(out / "predictions.json")
    pixels = {(row["image"], row["finding"]): int(row["pixels"]) for row in table_of(out)}
    assert pngs.keys() == pixels.keys()
    for key, mask in pngs.items():
        assert pixels[key] == mask.sum()
        assert (key in drawn) == (key[1] in theirs[key[0]].counts) == mask.any()
        if mask.any():
            np.testing.assert_array_equal(drawn[key].astype(bool), mask)
    seg = pydicom.dcmread(out / "dicom-seg" / "dicom.dcm")
    labels = [item.SegmentLabel for item in seg.SegmentSequence]
    assert labels == [name for name in FINDINGS if pngs["dicom", name].any()]
    for label, frame in zip(labels, np.atleast_3d(seg.pixel_array), strict=True):
        np.testing.assert_array_equal(frame.astype(bool), pngs["dicom", label])
    assert len(list((out / "overlays").iterdir())) == 5
    about = json.loads((out / "about.json").read_text())
    assert (about["finished"], about["predicted"], about["unread"], about["unwritten"]) == (
        True, 5, 0, 0,
    )  # fmt: skip
    assert not list(out.rglob(".*"))


def test_batches_do_not_matter_and_are_bounded(
    images: Path, tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    from chexseg_platform.evaluation import segmenting

    sizes = []
    read = segmenting.predict_batch

    def counted(network: object, preprocess: object, image: object, content: object) -> object:
        sizes.append(len(image))
        return read(network, preprocess, image, content)

    monkeypatch.setattr(segmenting, "predict_batch", counted)
    inputs = find_inputs([images]).images
    predict(model, inputs, tmp_path / "whole", ["chexlocalize"])
    monkeypatch.setattr(segmenting, "forward_batch", lambda device, size: 2)
    told: list[int] = []
    predict(model, inputs, tmp_path / "twos", ["chexlocalize"], progress=told.append)
    assert (sizes, told) == ([5, 2, 2, 1], [1, 2, 3, 4, 5])
    whole, twos = (read_segmentations(tmp_path / n / "predictions.json") for n in ("whole", "twos"))
    assert whole.keys() == twos.keys()
    for name in whole:
        assert whole[name].counts.keys() == twos[name].counts.keys()


def test_what_cannot_be_read_is_listed_and_the_others_go_on(
    images: Path, tmp_path: Path, model: Model
) -> None:
    (images / "cut.png").write_bytes((images / "png.png").read_bytes()[:400])
    Image.new("L", (9, 9), 7).save(images / "flat.png")
    out = tmp_path / "out"
    outcome = predict(model, find_inputs([images]).images, out, ["chexlocalize"])
    assert [(f.image.image_id, f.what) for f in outcome.failed] == [
        ("cut", "reading"), ("flat", "reading"),
    ]  # fmt: skip
    assert outcome.predicted == 5
    assert len(read_segmentations(out / "predictions.json")) == 5
    lines = (out / "failed.csv").read_text().splitlines()
    assert lines[0] == "image,file,failed,reason"
    assert lines[1].startswith(f"cut,{images}/cut.png,reading,The PNG file is cut short")
    assert "Every pixel has the same value" in lines[2]


def test_all_may_fail(tmp_path: Path, model: Model) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    out = tmp_path / "out"
    outcome = predict(model, find_inputs([tmp_path]).images, out, ["chexlocalize", "coco"])
    assert (outcome.predicted, len(outcome.failed)) == (0, 1)
    assert json.loads((out / "predictions.json").read_text()) == {}


def test_an_image_without_a_finding_is_written_too(
    images: Path, tmp_path: Path, segmenter_files: dict[str, bytes], model: Model
) -> None:
    from chexseg_platform.models.checkpoints import dumps, loads

    state, meta = loads(segmenter_files)
    meta["extra"]["thresholds"] = dict.fromkeys(FINDINGS, 0.9999)
    blind = replace(model, files=dumps(state, meta), thresholds=meta["extra"]["thresholds"])
    out = tmp_path / "out"
    formats = ["png", "chexlocalize", "coco", "dicom-seg"]
    outcome = predict(blind, find_inputs([images]).images, out, formats, overlay=True)
    assert (outcome.predicted, outcome.empty, outcome.failed) == (5, 5, [])
    assert outcome.left_out["dicom-seg", "nothing found"] == 1
    assert not list((out / "dicom-seg").iterdir())
    assert len(list((out / "masks" / "tiny").iterdir())) == len(FINDINGS)
    assert {row["pixels"] for row in table_of(out)} == {"0"}


@pytest.mark.parametrize("classes", [("Right Lung", "a/b"), ("COVID-19 Infection",)])
def test_a_segmenter_of_any_classes_predicts(
    images: Path, tmp_path: Path, make_model: Callable, classes: tuple[str, ...]
) -> None:
    from pycocotools.coco import COCO

    out = tmp_path / "out"
    model = make_model(*classes)
    outcome = predict(model, find_inputs([images]).images, out, ["png", "coco"], overlay=True)
    assert (outcome.predicted, outcome.failed) == (5, [])
    rows = table_of(out)
    assert [row["finding"] for row in rows] == [*classes] * 5
    pixels = {(row["image"], row["finding"]): int(row["pixels"]) for row in rows}
    assert sum(pixels.values()) > 0
    files = dict(zip(("Right Lung", "a/b", "COVID-19 Infection"),
                     ("Right_Lung", "a_b", "COVID-19_Infection"), strict=True))  # fmt: skip
    for (name, kind), count in pixels.items():
        drawn = np.asarray(Image.open(out / "masks" / name / f"{files[kind]}.png"))
        assert (drawn == 255).sum() == count
    assert {name for name in classes if outcome.found[name]} == {
        kind for (_, kind), count in pixels.items() if count
    }
    read = COCO(str(out / "coco.json"))
    areas = {
        (read.imgs[a["image_id"]]["name"], read.cats[a["category_id"]]["name"]): a["area"]
        for a in read.anns.values()
    }
    assert areas == {key: count for key, count in pixels.items() if count}
    assert len(list((out / "overlays").iterdir())) == 5
    about = json.loads((out / "about.json").read_text())
    assert list(about["thresholds"]) == list(classes)
    assert about.get("mask_files") == ({"a/b": "a_b.png"} if "a/b" in classes else None)


def test_a_run_that_was_cut_off_shows(images: Path, tmp_path: Path, model: Model) -> None:
    out = tmp_path / "out"

    def stop(done: int) -> None:
        raise KeyboardInterrupt

    inputs = find_inputs([images]).images
    with pytest.raises(KeyboardInterrupt):
        predict(model, inputs, out, ["png", "chexlocalize"], progress=stop)
    assert json.loads((out / "about.json").read_text())["finished"] is False
    assert sorted(path.name for path in out.iterdir()) == ["about.json", "masks"]
    with pytest.raises(OccupiedOutput):
        predict(model, inputs, out, ["chexlocalize"])
    predict(model, inputs, out, ["chexlocalize"], overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == [
        "about.json", "predictions.csv", "predictions.json",
    ]  # fmt: skip
