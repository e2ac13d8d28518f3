"""CheXpert's tables in every layout it is distributed in, and tables that are broken."""

from pathlib import Path

import pytest
from chexseg_platform.data.chexpert import PatientFolders, read_chexpert, read_labels
from chexseg_platform.data.entries import BrokenTable, parse_view_path, resolve
from chexseg_platform.findings import OBSERVATIONS

SHARED = Path(__file__).resolve().parents[4] / "shared/data"
COLUMNS = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *OBSERVATIONS]


def row(path, labels=None, sex="Male", age="73", side="Frontal", projection="AP"):
    cells = [path, sex, age, side, projection] + ["1.0", "0.0", "-1.0"] + [""] * 11
    for name, value in (labels or {}).items():
        cells[COLUMNS.index(name)] = value
    return cells


def write(file, rows, columns=COLUMNS):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(",".join(cells) for cells in [columns, *rows]) + "\n")


def touch(file):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    return file


FIRST = "patient00001/study1/view1_frontal.jpg"
SECOND = "patient00002/study2/view2_lateral.jpg"


def listed(prefix):
    lateral = row(f"{prefix}{SECOND}", side="Lateral", projection="", sex="Female", age="18")
    return [row(f"{prefix}{FIRST}"), lateral]


def test_every_field_of_a_row(tmp_path):
    write(tmp_path / "CheXpert-v1.0/train.csv", listed("CheXpert-v1.0/train/"))
    touch(tmp_path / "CheXpert-v1.0/train" / FIRST)
    one, two = read_chexpert(tmp_path)
    assert one.image_id == "patient00001_study1_view1_frontal"
    assert (one.patient, one.study, one.view, one.projection) == (
        "patient00001", "study1", "frontal", "AP",
    )  # fmt: skip
    assert (one.sex, one.age, one.split) == ("Male", 73, "train")
    assert one.labels == (1, 0, -1) + (None,) * 11
    assert one.source == f"CheXpert-v1.0/train/{FIRST}"
    assert one.path == str(tmp_path / "CheXpert-v1.0/train" / FIRST)
    assert (two.view, two.projection, two.sex, two.age) == ("lateral", None, "Female", 18)
    assert one.masks is None


@pytest.mark.parametrize(
    ("root", "table", "prefix", "images"),
    [
        ("", "CheXpert-v1.0/train.csv", "CheXpert-v1.0/train/", "CheXpert-v1.0/train"),
        ("CheXpert-v1.0", "CheXpert-v1.0/train.csv", "CheXpert-v1.0/train/", "CheXpert-v1.0/train"),
        ("", "CheXpert-v1.0-small/train.csv", "CheXpert-v1.0-small/train/",
         "CheXpert-v1.0-small/train"),
        ("renamed", "renamed/train.csv", "CheXpert-v1.0-small/train/", "renamed/train"),
        ("", "train.csv", "train/", "train"),
        ("", "batch 1 (validate & csv)/train.csv", "CheXpert-v1.0/train/", "batch 3 (train 2)"),
        ("", "CheXpert-v1.0 batch 1 (validate & csv)/train.csv", "CheXpert-v1.0/train/",
         "CheXpert-v1.0 batch 2 (train 1)"),
        ("", "x/../CheXpert/batch 1/train.csv", "CheXpert-v1.0/train/",
         "CheXpert/batch 4 (train 3)"),
        ("", "CheXpert-v1.0/train.csv", "CheXpert-v1.0/train/", "CheXpert-v1.0"),
    ],
)  # fmt: skip
def test_images_are_found_in_every_layout(tmp_path, root, table, prefix, images):
    (tmp_path / "x").mkdir()
    write(tmp_path / table, listed(prefix))
    for path in (FIRST, SECOND):
        touch(tmp_path / images / path)
    for entry, path in zip(read_chexpert(tmp_path / root), (FIRST, SECOND), strict=True):
        assert resolve(entry.path) == tmp_path / images / path
        assert entry.source == str((tmp_path / images / path).relative_to(tmp_path / root))


def test_patients_of_one_table_may_lie_in_different_archives(tmp_path):
    write(tmp_path / "batch 1/train.csv", listed("CheXpert-v1.0/train/"))
    places = [touch(tmp_path / "batch 2" / FIRST), touch(tmp_path / "batch 3" / SECOND)]
    assert [resolve(entry.path) for entry in read_chexpert(tmp_path)] == places


def test_the_path_as_written_wins(tmp_path):
    for name in ("CheXpert-v1.0", "CheXpert-v1.0-small"):
        write(tmp_path / name / "train.csv", listed(f"{name}/train/"))
        touch(tmp_path / name / "train" / FIRST)
    with pytest.raises(BrokenTable, match="name it"):
        read_chexpert(tmp_path)
    small = read_chexpert(tmp_path, "CheXpert-v1.0-small/train.csv")
    assert small[0].source == f"CheXpert-v1.0-small/train/{FIRST}"


def test_folders_are_listed_once(tmp_path, monkeypatch):
    import os

    paths = [f"patient{n:05d}/study1/view1_frontal.jpg" for n in range(200)]
    write(tmp_path / "train.csv", [row(f"train/{path}") for path in paths])
    for path in paths:
        touch(tmp_path / "train" / path)
    looks = []
    scan = os.scandir
    monkeypatch.setattr(os, "scandir", lambda place: looks.append(place) or scan(place))
    assert len(read_chexpert(tmp_path)) == 200
    assert len(looks) < 10


def test_a_missing_image_is_no_error_here(tmp_path):
    write(tmp_path / "CheXpert-v1.0/train.csv", listed("CheXpert-v1.0/train/"))
    for entry in read_chexpert(tmp_path):
        assert resolve(entry.path) is None
        assert entry.source.startswith("CheXpert-v1.0/train/patient")


def test_test_labels_without_sex_age_and_view(tmp_path):
    file = tmp_path / "CheXpert/test_labels.csv"
    rows = [[f"test/{path}"] + ["0.0"] * 13 + ["1.0"] for path in (FIRST, SECOND)]
    write(file, rows, ["Path", *OBSERVATIONS])
    touch(tmp_path / "CheXpert/test" / FIRST)
    one, two = read_chexpert(tmp_path, split="test")
    assert (one.sex, one.age, one.projection, one.split) == (None, None, None, "test")
    assert (one.view, two.view) == ("frontal", "lateral")
    assert one.labels == (0,) * 13 + (1,)
    assert one.path == str(tmp_path / "CheXpert/test" / FIRST)


def test_png_and_dicom_stand_in_for_jpg(tmp_path):
    write(tmp_path / "train.csv", listed("train/"))
    png = touch((tmp_path / "train" / FIRST).with_suffix(".png"))
    dicom = touch((tmp_path / "train" / SECOND).with_suffix(".dcm"))
    assert [resolve(entry.path) for entry in read_chexpert(tmp_path)] == [png, dicom]


def test_other_labels_replace_those_of_the_table(tmp_path):
    write(tmp_path / "train.csv", listed("train/"))
    other = [row(f"CheXpert-v1.0/train/{path}", {"Edema": "1"}) for path in (SECOND, FIRST)]
    write(tmp_path / "train_cheXbert.csv", other)
    entries = read_chexpert(tmp_path, labels="train_cheXbert.csv")
    assert [entry.labels[OBSERVATIONS.index("Edema")] for entry in entries] == [1, 1]
    assert entries[0].sex == "Male"
    write(tmp_path / "train_cheXbert.csv", other[:1])
    with pytest.raises(BrokenTable, match=r"train_cheXbert.csv.*1 images.*patient00001"):
        read_chexpert(tmp_path, labels="train_cheXbert.csv")


@pytest.mark.parametrize(
    ("column", "value", "allowed"),
    [
        ("Edema", "2", "1, 0, -1 or blank"),
        ("Fracture", "nan", "1, 0, -1 or blank"),
        ("Cardiomegaly", "1.5", "1, 0, -1 or blank"),
        ("Cardiomegaly", "yes", "1, 0, -1 or blank"),
        ("Sex", "M", "Male, Female"),
        ("Age", "300", "0 to 120"),
        ("Frontal/Lateral", "Oblique", "Frontal, Lateral"),
        ("AP/PA", "XX", "AP, PA, LL, RL"),
        ("Path", "../../etc/patient1/study1/view1_frontal.jpg", "below the root"),
        ("Path", "/patient1/study1/view1_frontal.jpg", "below the root"),
        ("Path", "", "below the root"),
    ],
)
def test_a_bad_cell_names_file_row_and_column(tmp_path, column, value, allowed):
    rows = listed("train/")
    rows[1][COLUMNS.index(column)] = value
    write(tmp_path / "train.csv", rows)
    with pytest.raises(BrokenTable) as caught:
        read_chexpert(tmp_path)
    assert (caught.value.row, caught.value.column) == (3, column)
    text = str(caught.value)
    assert str(tmp_path / "train.csv") in text
    assert repr(value) in text
    assert allowed in text


def test_many_bad_cells_are_counted(tmp_path):
    rows = [row(f"train/patient{n}/study1/view1_frontal.jpg", {"Edema": "7"}) for n in range(20)]
    write(tmp_path / "train.csv", rows)
    with pytest.raises(BrokenTable, match=r"row 2,.*row 3,.*row 4,.*17 more problems"):
        read_chexpert(tmp_path)


def test_spaces_and_whole_numbers_are_labels_too(tmp_path):
    write(tmp_path / "train.csv", [row(f"train/{FIRST}", {"Edema": " -1 ", "Fracture": "1"})])
    (entry,) = read_chexpert(tmp_path)
    assert entry.labels[OBSERVATIONS.index("Edema")] == -1
    assert entry.labels[OBSERVATIONS.index("Fracture")] == 1


def test_an_image_listed_twice_names_both_rows(tmp_path):
    write(tmp_path / "train.csv", [*listed("train/"), row(f"train/{FIRST}")])
    with pytest.raises(BrokenTable, match=r"row 4, column 'Path'.*row 2 has too"):
        read_chexpert(tmp_path)


def test_empty_and_absent_tables(tmp_path):
    with pytest.raises(BrokenTable, match=r"no train\.csv"):
        read_chexpert(tmp_path)
    with pytest.raises(BrokenTable, match=r"no other\.csv"):
        read_chexpert(tmp_path, "other.csv")
    write(tmp_path / "train.csv", [])
    with pytest.raises(BrokenTable, match="no rows"):
        read_chexpert(tmp_path)
    with pytest.raises(ValueError, match="no split"):
        read_chexpert(tmp_path, split="dev")


def test_a_place_for_every_patient(tmp_path):
    touch(tmp_path / "train" / FIRST)
    folders = PatientFolders(tmp_path)
    here = parse_view_path(f"CheXpert-v1.0/train/{FIRST}")
    absent = parse_view_path(f"CheXpert-v1.0/train/{SECOND}")
    assert folders.parent(here) == folders.parent(absent) == tmp_path / "train"


def test_the_real_label_table():
    if not (SHARED / "chexpert_labels").is_dir():
        pytest.skip("shared/data/chexpert_labels is not beside the repository")
    labels = read_labels(SHARED / "chexpert_labels/train.csv.gz")
    assert len(labels) == 223_414
    column = [values[OBSERVATIONS.index("Pleural Effusion")] for values in labels.values()]
    assert [column.count(value) for value in (1, -1, 0)] == [86_187, 11_628, 35_396]


def test_real_radiographs_are_listed_and_there():
    if not (SHARED / "real_cxr").is_dir():
        pytest.skip("shared/data/real_cxr is not beside the repository")
    entries = read_chexpert(SHARED / "real_cxr")
    assert len(entries) == 55
    assert len({entry.patient for entry in entries}) == 48
    assert all(resolve(entry.path) for entry in entries)
