"""Paths of CheXpert's layout, files under another suffix, and masks that fit their image."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from chexseg_platform.data import masks
from chexseg_platform.data.entries import (
    NOTHING_DRAWN,
    STATE_BYTES,
    BrokenTable,
    Entry,
    MaskFiles,
    MaskSet,
    MaskSizeError,
    Outlines,
    check_mask_size,
    entry_state,
    file_state,
    fit_masks,
    missing_files,
    parse_view_path,
    resolve,
)

ENTRY = Entry(
    image_id="patient00001_study1_view1_frontal", patient="patient00001", study="study1",
    view="frontal", projection="AP", sex="Male", age=60, split="valid",
    source="patient00001/study1/view1_frontal.jpg", path="/nowhere/view1_frontal.jpg",
    labels=(0,) * 14,
)  # fmt: skip


def square(height, width, top, left, side):
    mask = np.zeros((height, width), bool)
    mask[top : top + side, left : left + side] = True
    return masks.encode(mask)


@pytest.mark.parametrize(
    "root", ["", "CheXpert-v1.0/train/", "train/", "CheXpert-v1.0-small/valid/"]
)
def test_the_image_id_is_the_last_three_parts(root):
    path = f"{root}patient64622/study1/view1_frontal.jpg"
    assert parse_view_path(path).image_id == "patient64622_study1_view1_frontal"
    assert parse_view_path(path).folder == root.rstrip("/")
    assert parse_view_path(path.replace("frontal", "lateral")).view == "lateral"


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/patient1/study1/view1_frontal.jpg",
        "../patient1/study1/view1_frontal.jpg",
        "train/../patient1/study1/view1_frontal.jpg",
        "train/patient1/../study1/view1_frontal.jpg",
        "patient1/study1/../../../view1_frontal.jpg",
        "train\\patient1/study1/view1_frontal.jpg",
        "patient1/study1/view1_frontal.jpg\0.png",
        "patient1/study1/view1_oblique.jpg",
        "patient1/view1_frontal.jpg",
        "patient1/study1/view1_frontal.jpg/more",
        "outpatient1/study1/view1_frontal.jpg",
    ],
)
def test_other_paths_are_refused(path):
    assert parse_view_path(path) is None


def test_another_suffix_is_found(tmp_path):
    listed = tmp_path / "view1_frontal.jpg"
    entry = replace(ENTRY, path=str(listed))
    assert resolve(listed) is None
    assert missing_files([entry]) == [entry]
    for suffix in (".dcm", ".png", ".jpg"):
        listed.with_suffix(suffix).touch()
        assert resolve(listed) == listed.with_suffix(suffix)
    assert missing_files([entry]) == []


def test_the_state_of_a_file_is_its_size_and_both_its_ends(tmp_path):
    file = tmp_path / "view1_frontal.png"
    listed = tmp_path / "view1_frontal.jpg"
    assert file_state(listed) == file_state(tmp_path) == "missing"
    content = bytearray(300_000)
    seen = set()
    for place in (None, 0, STATE_BYTES - 1, 299_999, 300_000 - STATE_BYTES):
        changed = content.copy()
        if place is not None:
            changed[place] = 1
        file.write_bytes(changed)
        seen.add(file_state(listed))
    file.write_bytes(content + b"0")
    assert len(seen | {file_state(listed)}) == 6
    (tmp_path / "copy.png").write_bytes(content + b"0")
    assert file_state(tmp_path / "copy.png") == file_state(listed)
    small = {file_state(path) for path in (listed, file) if file.write_bytes(b"abc")}
    assert len(small) == 1


def test_masks_of_the_images_own_size_are_kept():
    drawn = MaskSet(40, 50, {"Edema": square(40, 50, 3, 4, 10)})
    check_mask_size(replace(ENTRY, masks=drawn), 40, 50)
    assert fit_masks(drawn, 40, 50) is drawn


def test_masks_follow_a_smaller_copy():
    drawn = MaskSet(
        400,
        500,
        {"Edema": square(400, 500, 100, 200, 100), "Lung Lesion": square(400, 500, 7, 7, 1)},
    )
    check_mask_size(replace(ENTRY, masks=drawn), 40, 50)
    fitted = fit_masks(drawn, 40, 50)
    assert fitted.counts["Edema"] == square(40, 50, 10, 20, 10)
    assert masks.area(fitted.counts["Lung Lesion"], 40, 50) == 1


@pytest.mark.parametrize("size", [(50, 40), (40, 40), (400, 510), (800, 1000)])
def test_masks_of_another_image_are_refused(size):
    drawn = MaskSet(400, 500, {})
    for entry in (replace(ENTRY, masks=drawn), replace(ENTRY, benchmark_masks=drawn)):
        with pytest.raises(MaskSizeError, match=r"patient00001_study1_view1_frontal are 400 x 500"):
            check_mask_size(entry, *size)


def test_nothing_drawn_fits_any_image():
    check_mask_size(replace(ENTRY, masks=NOTHING_DRAWN), 7, 9)
    assert fit_masks(NOTHING_DRAWN, 7, 9) == MaskSet(7, 9, {})


def test_outlines_become_masks():
    outlines = Outlines(8, 9, {"Edema": [[(1, 1), (3, 1), (3, 3), (1, 3)]], "Cardiomegaly": []})
    assert outlines.encoded() == MaskSet(8, 9, {"Edema": square(8, 9, 1, 1, 3)})


def test_a_broken_table_says_where_and_survives_a_process_boundary():
    error = pickle.loads(pickle.dumps(BrokenTable("a.csv", 5, "Edema", "found '2'", "1 or 0")))  # noqa: S301
    assert str(error) == "a.csv: row 5, column 'Edema': found '2'; allowed: 1 or 0"
    assert (error.file, error.row, error.column) == ("a.csv", 5, "Edema")


def test_the_state_of_an_entry_is_that_of_all_its_files(tmp_path):
    image, heart, lungs = (tmp_path / f"{name}.png" for name in ("image", "heart", "lungs"))
    for path in (image, heart, lungs):
        path.write_bytes(path.stem.encode())
    plain = replace(ENTRY, path=str(image))
    assert entry_state(plain) == file_state(image)
    drawn = {"Heart": (str(heart),), "Lungs": (str(lungs),)}
    seen = {entry_state(replace(plain, mask_files=MaskFiles(drawn))), entry_state(plain)}
    for path in (image, heart, lungs):
        path.write_bytes(b"other")
        seen.add(entry_state(replace(plain, mask_files=MaskFiles(drawn))))
    seen.add(entry_state(replace(plain, path="", mask_files=MaskFiles(drawn))))
    assert len(seen) == 6
