"""Which files are images, and what they are called."""

import os
from pathlib import Path

import pytest
from chexseg_platform.prediction.inputs import BadInputs, find_inputs, kind_of

PNG = b"\x89PNG\r\n\x1a\n"
DICOM = b"\0" * 128 + b"DICM"


def write(root: Path, *names: str, content: bytes = PNG) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def ids(*paths: Path, without: Path | None = None) -> list[str]:
    return [image.image_id for image in find_inputs(paths, without=without).images]


def test_ids_are_paths_below_the_folder_sorted(tmp_path: Path) -> None:
    write(tmp_path, "b/c/2.PNG", "b/1.jpeg", "a.png", "b/x.y.dcm")
    found = find_inputs([tmp_path])
    assert [image.image_id for image in found.images] == ["a", "b_1", "b_x.y", "b_c_2"]
    assert found.images[3].name == "b/c/2.PNG"
    assert found.skipped == 0


@pytest.mark.parametrize("folder", ["", "train", "train/patient1", "train/patient1/study2"])
def test_an_image_of_chexperts_layout_is_called_as_chexlocalize_calls_it(
    tmp_path: Path, folder: str
) -> None:
    name = "train/patient1/study2/view1_frontal.jpg"
    write(tmp_path, name)
    assert ids(tmp_path / folder) == ["patient1_study2_view1_frontal"]
    assert ids(tmp_path / name) == ["patient1_study2_view1_frontal"]


def test_dicom_files_named_by_uids_keep_their_last_number(tmp_path: Path) -> None:
    write(tmp_path, "1.2.840.1", "1.2.840.2", content=DICOM)
    assert ids(tmp_path) == ["1.2.840.1", "1.2.840.2"]


def test_what_is_no_image_is_skipped_and_counted(tmp_path: Path) -> None:
    write(tmp_path, "a.png", "noext", "._a.png", ".cache/b.png")
    write(tmp_path, "notes.txt", "table.csv", "empty", content=b"")
    os.mkfifo(tmp_path / "pipe")
    found = find_inputs([tmp_path])
    assert [image.image_id for image in found.images] == ["a", "noext"]
    assert found.skipped == 5


def test_a_damaged_or_absent_image_is_no_other_file(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg", content=b"")
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    assert ids(tmp_path) == ["a", "b"]


def test_a_named_file_is_always_taken(tmp_path: Path) -> None:
    write(tmp_path, ".hidden.png", "text.txt", content=b"x")
    assert ids(tmp_path / ".hidden.png", tmp_path / "text.txt") == [".hidden", "text.txt"]


def test_links_are_followed_once(tmp_path: Path) -> None:
    write(tmp_path / "far", "a.png")
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "link").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "back").symlink_to(tmp_path / "near")
    assert ids(tmp_path / "near") == ["link_a"]


def test_earlier_predictions_are_no_images(tmp_path: Path) -> None:
    write(tmp_path, "a.png", "out/masks/a/Edema.png")
    assert ids(tmp_path, without=tmp_path / "out") == ["a"]


def test_two_images_of_one_id_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "one/a.png", "two/a.jpg", "b_c.png", "b/c.png")
    with pytest.raises(BadInputs, match=r"one/a\.png and .*two/a\.jpg would both be called 'a'"):
        find_inputs([tmp_path / "one", tmp_path / "two"])
    with pytest.raises(BadInputs, match="both be called 'b_c'"):
        find_inputs([tmp_path])


def test_nothing_to_predict_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInputs, match="no images in"):
        find_inputs([tmp_path])
    with pytest.raises(BadInputs, match=r"no file or folder .*gone"):
        find_inputs([tmp_path / "gone"])


@pytest.mark.parametrize("name", ["..png", f"{'long' * 20}/{'name' * 40}.png"])
def test_an_id_that_is_no_file_name_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path, name)
    where = tmp_path / name if name == "..png" else tmp_path
    with pytest.raises(BadInputs, match="no usable image id"):
        find_inputs([where])


def test_kinds_are_told_by_content(tmp_path: Path) -> None:
    write(tmp_path, "a.png", content=DICOM)
    assert kind_of(tmp_path / "a.png") == "DICOM"
    assert kind_of(tmp_path / "gone") is None
    assert kind_of(tmp_path) is None
