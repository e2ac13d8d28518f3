"""The written phantom: layouts, formats, determinism, reuse, refusals."""

import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
from chexseg_platform.data.chexlocalize import (
    attach,
    read_annotations,
    read_points,
    read_segmentations,
)
from chexseg_platform.data.chexpert import read_chexpert
from chexseg_platform.data.decode import read_grey
from chexseg_platform.data.masks import decode, rasterise
from chexseg_platform.data.phantom import PhantomRefused, write_phantom
from chexseg_platform.data.phantom.layout import patient_name
from chexseg_platform.data.phantom.write import plan_jobs
from chexseg_platform.findings import CHEXLOCALIZE_NAMES, OBSERVATIONS
from PIL import Image

COUNTS = {"train": 40, "valid": 16, "test": 16}


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("phantom") / "a"
    write_phantom(root, **COUNTS, size=48, seed=3, workers=1)
    return root


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def test_tables_have_real_columns_and_one_row_an_image(phantom: Path) -> None:
    train = rows(phantom / "CheXpert-v1.0/train.csv")
    valid = rows(phantom / "CheXpert-v1.0/valid.csv")
    test = rows(phantom / "CheXlocalize/CheXpert/test_labels.csv")
    head = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA"]
    assert list(train[0]) == list(valid[0]) == head + list(OBSERVATIONS)
    assert list(test[0]) == ["Path", *OBSERVATIONS]
    assert [len(train), len(valid), len(test)] == [40, 16, 16]
    assert all((phantom / row["Path"]).is_file() for row in train + valid)
    assert all((phantom / "CheXlocalize/CheXpert" / row["Path"]).is_file() for row in test)
    assert train[0]["Path"].startswith("CheXpert-v1.0/train/patient00001/study1/view1_")
    assert valid[0]["Path"].startswith("CheXpert-v1.0/valid/patient64541/study1/view1_")
    assert test[0]["Path"].startswith("test/patient64741/study1/view1_")


def test_labels_take_the_values_each_split_may_hold(phantom: Path) -> None:
    seen = {
        name: {row[o] for row in rows(phantom / path) for o in OBSERVATIONS}
        for name, path in (
            ("train", "CheXpert-v1.0/train.csv"),
            ("valid", "CheXpert-v1.0/valid.csv"),
            ("test", "CheXlocalize/CheXpert/test_labels.csv"),
        )
    }
    assert seen["train"] == {"1.0", "0.0", "-1.0", ""}
    assert seen["valid"] == seen["test"] == {"1.0", "0.0"}


def test_lateral_rows_have_no_projection(phantom: Path) -> None:
    for row in rows(phantom / "CheXpert-v1.0/train.csv"):
        frontal = row["Frontal/Lateral"] == "Frontal"
        assert ("frontal" in row["Path"]) == frontal
        assert row["AP/PA"] in ({"AP", "PA"} if frontal else {""})


def test_segmentations_are_the_rasterised_annotations(phantom: Path) -> None:
    for name in ("gt", "hb"):
        for split in ("val", "test"):
            folder = phantom / "CheXlocalize"
            notes = json.loads((folder / f"{name}_annotations_{split}.json").read_text())
            masks = json.loads((folder / f"{name}_segmentations_{split}.json").read_text())
            assert notes.keys() == masks.keys() != set()
            for image, found in masks.items():
                assert set(found) == set(CHEXLOCALIZE_NAMES.values())
                height, width = notes[image]["img_size"]
                for finding, mask in found.items():
                    assert mask["size"] == [height, width]
                    drawn = rasterise(notes[image].get(finding, []), height, width)
                    assert np.array_equal(drawn, decode(mask["counts"], height, width))
                    assert drawn.any() == (finding in notes[image])


def test_marks_follow_the_labels_and_the_heart_lies_in_the_cardiomediastinum(
    phantom: Path,
) -> None:
    notes = json.loads((phantom / "CheXlocalize/gt_annotations_test.json").read_text())
    hearts = 0
    for row in rows(phantom / "CheXlocalize/CheXpert/test_labels.csv"):
        image = "_".join(Path(row["Path"]).with_suffix("").parts[1:])
        found = notes.get(image, {})
        for finding, name in CHEXLOCALIZE_NAMES.items():
            if name in found:
                assert row[finding] == "1.0"
            elif finding != "Pneumothorax":
                assert row[finding] == "0.0"
        for polygon in found.get("Cardiomegaly", []):
            hearts += 1
            assert polygon in found["Enlarged Cardiomediastinum"]
    assert hearts


def test_points_name_a_place_for_every_positive_finding(phantom: Path) -> None:
    folder = phantom / "CheXlocalize"
    points = json.loads((folder / "hb_salient_pt_test.json").read_text())
    notes = json.loads((folder / "gt_annotations_test.json").read_text())
    assert {k: set(v) for k, v in points.items()} == {
        k: set(v) - {"img_size"} for k, v in notes.items()
    }
    assert all(len(p) == 2 for found in points.values() for ps in found.values() for p in ps)


def test_dicom_studies_hold_twelve_bits_and_name_nobody(tmp_path: Path) -> None:
    write_phantom(tmp_path, train=90, valid=0, test=0, size=32, seed=1, workers=1)
    files = [pydicom.dcmread(path) for path in sorted(tmp_path.rglob("*.dcm"))]
    assert {data.PhotometricInterpretation for data in files} == {"MONOCHROME1", "MONOCHROME2"}
    for data in files:
        assert (data.BitsAllocated, data.BitsStored) == (16, 12)
        assert 1000 < int(data.pixel_array.max()) <= 4095
        assert str(data.PatientName) == data.PatientID == data.PatientBirthDate == ""
    table = rows(tmp_path / "CheXpert-v1.0/train.csv")
    assert sum(row["Path"].endswith(".dcm") for row in table) == len(files)


def test_same_bytes_whatever_the_workers_and_the_counts(phantom: Path, tmp_path: Path) -> None:
    write_phantom(tmp_path / "b", **COUNTS, size=48, seed=3, workers=2)
    assert digests(tmp_path / "b") == digests(phantom)
    write_phantom(tmp_path / "c", train=15, valid=7, test=0, size=48, seed=3, workers=1)
    images = {k: v for k, v in digests(tmp_path / "c").items() if k.endswith(("jpg", "dcm"))}
    assert images.items() <= digests(phantom).items()
    assert len(images) == 22


def test_another_seed_is_another_phantom(phantom: Path, tmp_path: Path) -> None:
    write_phantom(tmp_path, train=5, valid=0, test=0, size=48, seed=4, workers=1)
    ours, theirs = digests(tmp_path), digests(phantom)
    assert not [k for k in ours if k.endswith("jpg") and ours[k] == theirs.get(k)]


def test_images_are_grey_and_as_long_as_asked(phantom: Path) -> None:
    for path in phantom.rglob("*.jpg"):
        with Image.open(path) as image:
            assert image.mode == "L"
            assert max(image.size) == 48
            assert np.ptp(np.asarray(image)) > 60


def test_a_finished_phantom_is_reused_and_an_interrupted_one_redrawn(tmp_path: Path) -> None:
    some = {"train": 4, "valid": 2, "test": 2, "size": 32, "workers": 1}
    first = write_phantom(tmp_path, **some)
    before = digests(tmp_path)
    again = write_phantom(tmp_path, **some)
    assert (first.reused, again.reused) == (False, True)
    assert again.patients == first.patients
    manifest = json.loads((tmp_path / "phantom.json").read_text())
    manifest.pop("patients")
    (tmp_path / "phantom.json").rename(tmp_path / "phantom.partial.json")
    (tmp_path / "phantom.partial.json").write_text(json.dumps(manifest))
    next(tmp_path.rglob("*.jpg")).unlink()
    assert not write_phantom(tmp_path, **some).reused
    assert digests(tmp_path) == before


def test_progress_counts_up_to_all_images(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    write_phantom(
        tmp_path, train=6, valid=2, test=1, size=32, workers=1,
        progress=lambda done, total: calls.append((done, total)),
    )  # fmt: skip
    assert calls == sorted(calls)
    assert calls[-1] == (9, 9)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": 31}, "31 pixels"),
        ({"train": -1}, "train images is -1"),
        ({"workers": 0}, "0 workers"),
        ({"seed": -2}, "seed is -2"),
    ],
)
def test_impossible_parameters_are_refused(tmp_path: Path, change: dict, words: str) -> None:
    some = {"train": 1, "valid": 1, "test": 1, "size": 32, "workers": 1}
    with pytest.raises(PhantomRefused, match=words):
        write_phantom(tmp_path / "x", **(some | change))
    assert not (tmp_path / "x").exists()


def test_other_folders_are_refused(tmp_path: Path) -> None:
    some = {"train": 1, "valid": 0, "test": 0, "size": 32, "workers": 1}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(PhantomRefused, match="no phantom"):
        write_phantom(tmp_path / "mine", **some)
    write_phantom(tmp_path / "p", **some)
    with pytest.raises(PhantomRefused, match="other parameters"):
        write_phantom(tmp_path / "p", **(some | {"seed": 9}))
    (tmp_path / "p" / "phantom.json").write_text("{")
    with pytest.raises(PhantomRefused, match="broken"):
        write_phantom(tmp_path / "p", **some)


def test_patient_numbers_never_meet() -> None:
    assert patient_name("train", 0) == "patient00001"
    assert patient_name("valid", 199) == "patient64740"
    assert patient_name("valid", 200) == "patient70001"
    assert patient_name("test", 0) == "patient64741"
    with pytest.raises(PhantomRefused, match="numbers left"):
        patient_name("train", 64540)


def test_plan_gives_exactly_the_images_asked_for() -> None:
    jobs = list(plan_jobs(0, "train", 37))
    assert sum(job.views for job in jobs) == 37
    assert [job.index for job in jobs] == list(range(len(jobs)))
    assert list(plan_jobs(0, "train", 0)) == []


def test_the_real_readers_read_it(phantom: Path) -> None:
    folder = phantom / "CheXlocalize"
    train = read_chexpert(phantom / "CheXpert-v1.0", split="train")
    assert len(train) == 40
    shapes = {entry.image_id: read_grey(entry.path).shape for entry in train}
    assert all(max(shape) == 48 for shape in shapes.values())
    for root, split, short in (
        (phantom / "CheXpert-v1.0", "valid", "val"),
        (folder / "CheXpert", "test", "test"),
    ):
        entries = attach(
            read_chexpert(root, split=split),
            read_segmentations(folder / f"gt_segmentations_{short}.json"),
            read_annotations(folder / f"hb_annotations_{short}.json"),
            read_points(folder / "hb_salient_pt_test.json") if split == "test" else None,
        )
        assert len(entries) == 16
        assert {entry.split for entry in entries} == {split}
        assert any(entry.masks for entry in entries)
        assert any(entry.benchmark_masks for entry in entries)
