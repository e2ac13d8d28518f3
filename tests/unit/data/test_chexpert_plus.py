"""CheXpert Plus: reports with line breaks, labels in JSON Lines, PNG or DICOM images."""

import csv
import json

import pytest
from chexseg_platform.data.chexpert_plus import TABLE, read_chexpert_plus
from chexseg_platform.data.entries import BrokenTable, resolve
from chexseg_platform.findings import OBSERVATIONS

COLUMNS = [
    "path_to_image", "path_to_dcm", "frontal_lateral", "ap_pa", "deid_patient_id", "report",
    "section_findings", "section_impression", "age", "sex", "race", "split",
]  # fmt: skip
FIRST = "train/patient42142/study5/view1_frontal.jpg"
SECOND = "valid/patient64541/study1/view1_lateral.jpg"


def row(path, findings="Large effusion.", **changes):
    stem = path.removesuffix(".jpg")
    side = "Frontal" if "frontal" in path else "Lateral"
    cells = {
        "path_to_image": path,
        "path_to_dcm": f"{stem}.dcm",
        "frontal_lateral": side,
        "ap_pa": "AP" if side == "Frontal" else "",
        "deid_patient_id": path.split("/")[1],
        "report": 'NARRATIVE:\n\n"quoted", SECRET TEXT\n',
        "section_findings": findings,
        "section_impression": "",
        "age": "91.0",
        "sex": "Female",
        "race": "Unknown",
        "split": path.split("/")[0],
    }
    return cells | changes


def label_line(path, **values):
    record = {"path_to_image": path} | dict.fromkeys(OBSERVATIONS)
    return json.dumps(record | {name.replace("_", " "): v for name, v in values.items()})


def write(root, rows, lines, section="report"):
    with (root / TABLE).open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    (root / "chexbert_labels").mkdir(exist_ok=True)
    (root / f"chexbert_labels/{section}_fixed.json").write_text("\n".join(lines) + "\n")


def test_rows_join_their_labels_and_no_report_text_goes_with_them(tmp_path):
    lines = [label_line(SECOND), label_line(FIRST, Pleural_Effusion=1.0, Edema=-1, Fracture=0)]
    write(tmp_path, [row(FIRST), row(SECOND)], lines)
    one, two = read_chexpert_plus(tmp_path)
    assert one.image_id == "patient42142_study5_view1_frontal"
    assert (one.view, one.projection, one.sex, one.age, one.split) == (
        "frontal", "AP", "Female", 91, "train",
    )  # fmt: skip
    labels = dict(zip(OBSERVATIONS, one.labels, strict=True))
    assert (labels["Pleural Effusion"], labels["Edema"], labels["Fracture"]) == (1, -1, 0)
    assert labels["Pneumonia"] is None
    assert two.labels == (None,) * 14
    assert (two.view, two.projection, two.split) == ("lateral", None, "valid")
    assert "SECRET" not in repr(one)
    assert [e.image_id for e in read_chexpert_plus(tmp_path, split="valid")] == [two.image_id]


@pytest.mark.parametrize(("folder", "suffix"), [("PNG", "png"), ("DICOM", "dcm"), ("", "png")])
def test_images_are_png_or_dicom(tmp_path, folder, suffix):
    image = (tmp_path / folder / FIRST).with_suffix(f".{suffix}")
    image.parent.mkdir(parents=True)
    image.touch()
    write(tmp_path, [row(FIRST)], [label_line(FIRST)])
    (entry,) = read_chexpert_plus(tmp_path)
    assert resolve(entry.path) == image


def test_images_may_lie_elsewhere(tmp_path):
    image = (tmp_path / "disk/pixels" / FIRST).with_suffix(".dcm")
    image.parent.mkdir(parents=True)
    image.touch()
    (tmp_path / "tables").mkdir()
    write(tmp_path / "tables", [row(FIRST)], [])
    (entry,) = read_chexpert_plus(tmp_path / "tables", images=tmp_path / "disk/pixels")
    assert resolve(entry.path) == image


def test_no_finding_of_an_empty_section_is_dropped_for_findings_only(tmp_path):
    lines = [label_line(FIRST, No_Finding=1), label_line(SECOND, No_Finding=1)]
    rows = [row(FIRST, findings=""), row(SECOND, findings="Clear lungs.")]
    for section, first in (("findings", None), ("report", 1), ("impression", 1)):
        write(tmp_path, rows, lines, section)
        one, two = read_chexpert_plus(tmp_path, section=section)
        assert one.labels[0] == first
        assert two.labels[0] == 1


@pytest.mark.parametrize(
    ("lines", "row_number", "says"),
    [
        (["{"], 1, "no JSON"),
        ([label_line(FIRST), "[1]"], 2, "no JSON object"),
        ([label_line(FIRST, Edema=2)], 1, "'2'; allowed: 1, 0, -1"),
        ([label_line(FIRST, Edema="1")], 1, "allowed: 1, 0, -1"),
        ([label_line(FIRST, Edema=True)], 1, "allowed: 1, 0, -1"),
        ([label_line(FIRST), label_line(FIRST)], 2, "twice"),
        (['{"path_to_image": "x"}'], 1, "no such key"),
        ([label_line("../x.jpg")], 1, "no path"),
        ([label_line(FIRST), label_line(SECOND)], None, "1 images that the table does not have"),
    ],
)
def test_broken_labels_name_the_line(tmp_path, lines, row_number, says):
    write(tmp_path, [row(FIRST)], lines)
    with pytest.raises(BrokenTable, match=says) as caught:
        read_chexpert_plus(tmp_path)
    assert caught.value.row == row_number
    assert "report_fixed.json" in str(caught.value)


@pytest.mark.parametrize(
    ("column", "value"),
    [("split", "dev"), ("sex", "X"), ("age", "old"), ("path_to_image", "../a"), ("ap_pa", "Q")],
)
def test_bad_cells_name_row_and_column(tmp_path, column, value):
    write(tmp_path, [row(FIRST), row(SECOND, **{column: value})], [])
    with pytest.raises(BrokenTable) as caught:
        read_chexpert_plus(tmp_path)
    # The header is line 1 and the first record takes the four lines of its report.
    assert (caught.value.row, caught.value.column) == (6, column)


def test_repeated_images_absent_files_and_empty_splits(tmp_path):
    write(tmp_path, [row(FIRST), row(FIRST)], [])
    with pytest.raises(BrokenTable, match="row 2 has too"):
        read_chexpert_plus(tmp_path)
    write(tmp_path, [row(FIRST)], [])
    with pytest.raises(BrokenTable, match="no rows of valid"):
        read_chexpert_plus(tmp_path, split="valid")
    with pytest.raises(BrokenTable, match="no such file"):
        read_chexpert_plus(tmp_path, section="impression")
    with pytest.raises(ValueError, match="no part of a report"):
        read_chexpert_plus(tmp_path, section="history")
