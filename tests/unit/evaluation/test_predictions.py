from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chexseg_platform.data.chexlocalize import read_segmentations
from chexseg_platform.data.entries import BrokenAnnotations
from chexseg_platform.data.masks import encode
from chexseg_platform.evaluation.predictions import (
    BrokenPredictions,
    PredictedImage,
    write_predictions,
)
from chexseg_platform.findings import CHEXLOCALIZE_NAMES
from pycocotools import mask as coco

SAMPLE = Path(__file__).resolve().parents[4] / "shared/data/chexlocalize_sample"
BOX = np.zeros((6, 4), bool)
BOX[2:5, 1:3] = True


def saved(path: Path, images: list[PredictedImage]) -> Path:
    with path.open("w") as stream:
        write_predictions(stream, images)
    return path


def test_written_file_is_what_chexlocalize_reads(tmp_path: Path) -> None:
    masks = {"Lung Opacity": encode(BOX), "Edema": encode(~BOX)}
    images = [PredictedImage("a", 6, 4, masks), PredictedImage("b", 3, 9, {})]
    whole = json.loads(saved(tmp_path / "predictions.json", images).read_text())
    assert list(whole) == ["a", "b"]
    assert all(list(entry) == list(CHEXLOCALIZE_NAMES.values()) for entry in whole.values())
    assert (coco.decode(whole["a"]["Airspace Opacity"]).astype(bool) == BOX).all()
    assert coco.decode(whole["b"]["Edema"]).shape == (3, 9)
    assert coco.decode(whole["b"]["Edema"]).sum() == 0


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    images = [
        PredictedImage("a", 6, 4, {"Lung Opacity": encode(BOX)}),
        PredictedImage("b", 3, 9, {}),
    ]
    read = read_segmentations(saved(tmp_path / "p.json", images))
    assert [PredictedImage(i, m.height, m.width, m.counts) for i, m in read.items()] == images


def test_writing_streams(tmp_path: Path) -> None:
    stream, seen = io.StringIO(), []

    def images() -> Any:
        for name in "abc":
            seen.append(len(stream.getvalue()))
            yield PredictedImage(name, 6, 4, {})

    assert write_predictions(stream, images()) == 3
    assert seen[0] < seen[1] < seen[2]
    empty = io.StringIO()
    assert write_predictions(empty, []) == 0
    assert json.loads(empty.getvalue()) == {}


def test_an_image_is_written_once() -> None:
    with pytest.raises(BrokenPredictions, match="'a' is predicted twice"):
        write_predictions(io.StringIO(), [PredictedImage("a", 6, 4, {})] * 2)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (PredictedImage("a", 6, 4, {"Edema": encode(BOX.T)[:-1]}), "a, Edema"),
        (PredictedImage("a", 6, 5, {"Edema": encode(BOX)}), "a, Edema.*24.*30"),
        (PredictedImage("a", 6, 4, {"Fracture": encode(BOX)}), "'Fracture'"),
    ],
)
def test_wrong_masks_are_not_written(image: PredictedImage, message: str) -> None:
    with pytest.raises(BrokenPredictions, match=message):
        write_predictions(io.StringIO(), [image])


def mask(counts: str = encode(BOX), size: object = (6, 4)) -> dict[str, object]:
    return {"size": size, "counts": counts}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no JSON"),
        ("[1]", "must hold an object"),
        ('{"a": {"Edema": 1, "Edema": 2}}', "'Edema' comes twice"),
        (json.dumps({"a": {"Edema": encode(BOX)}}), "'a', 'Edema': a mask must hold"),
        (json.dumps({"a": {"Edema": mask(size=[6.0, 4])}}), "'a', 'Edema', 'size'"),
        (json.dumps({"a": {"Edema": mask(size=[4])}}), "'a', 'Edema', 'size'"),
        (json.dumps({"a": {"Edema": mask(size=[6, 5])}}), "'a', 'Edema': .*24"),
        (json.dumps({"a": {"Edema": mask(counts=encode(BOX)[:-1])}}), "'a', 'Edema'"),
        (json.dumps({"a": {"Oedema": mask()}}), "'a': 'Oedema'.*Did you mean 'Edema'"),
        (json.dumps({"a": {"Fracture": mask()}}), "'Fracture' is not drawn"),
        (json.dumps({"a": {"Lung Opacity": mask(), "Airspace Opacity": mask()}}), "one finding"),
        (
            json.dumps({"a": {"Edema": mask(), "Atelectasis": mask(encode(BOX.T), [4, 6])}}),
            "differ in size",
        ),
    ],
)
def test_broken_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "theirs.json"
    path.write_text(text)
    with pytest.raises(BrokenAnnotations, match=rf"theirs\.json.*{message}"):
        read_segmentations(path)


@pytest.mark.skipif(not SAMPLE.exists(), reason="no CheXlocalize sample beside the repository")
def test_the_real_segmentations_can_be_read() -> None:
    images = read_segmentations(SAMPLE / "gt_segmentations_val.json")
    assert len(images) == 2
    first = images["patient64541_study1_view1_frontal"]
    assert {"Cardiomegaly", "Enlarged Cardiomediastinum", "Lung Opacity"} <= set(first.counts)
