"""Anybody's files: what is compared, what is left out and named, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from chexseg_platform.data.entries import BrokenAnnotations, MaskSet
from chexseg_platform.data.masks import encode
from chexseg_platform.evaluation.comparison import compare
from chexseg_platform.evaluation.counts import cube
from chexseg_platform.evaluation.files import (
    BadFiles,
    Predicted,
    Truth,
    read_drawn,
    read_heat_maps,
    read_truth,
)
from chexseg_platform.evaluation.matching import count_files, patient_of
from chexseg_platform.findings import CHEXLOCALIZE_NAMES, FINDINGS

SAMPLE = Path(__file__).resolve().parents[4] / "shared/data/chexlocalize_sample"
SIZE = (12, 10)
IDS = [f"patient0000{i}_study1_view1_frontal" for i in range(4)]


def mask(top: int = 2, left: int = 2, side: int = 4) -> str:
    drawn = np.zeros(SIZE, bool)
    drawn[top : top + side, left : left + side] = True
    return encode(drawn)


def segmentations(path: Path, images: dict[str, dict[str, str]], size=SIZE) -> Path:
    empty = encode(np.zeros(size, bool))
    content = {
        image_id: {
            name: {"size": list(size), "counts": masks.get(finding, empty)}
            for finding, name in CHEXLOCALIZE_NAMES.items()
        }
        for image_id, masks in images.items()
    }
    path.write_text(json.dumps(content))
    return path


def rows_of(truth: Truth, said: Predicted, **more):
    table, notes = count_files(truth, {"mine": said}, **more)
    rows = {(r["method"], r["image_id"], r["finding"]): r for r in table.to_pylist()}
    return rows, notes


def test_segmentations_are_counted_image_by_image(tmp_path: Path) -> None:
    truth = read_truth(segmentations(tmp_path / "gt.json", {IDS[0]: {"Edema": mask()}}))
    said = read_drawn(segmentations(tmp_path / "p.json", {IDS[0]: {"Edema": mask(left=4)}}))
    rows, notes = rows_of(truth, said, boundary=True)
    row = rows["mine", IDS[0], "Edema"]
    assert (row["truth"], row["prediction"], row["intersection"], row["hd95"]) == (16, 16, 8, 2.0)
    assert (row["patient"], row["height"], row["width"]) == ("patient00000", *SIZE)
    assert len(rows) == len(FINDINGS)
    assert notes == []


def test_airspace_and_lung_opacity_are_one_finding(tmp_path: Path) -> None:
    size = {"size": list(SIZE), "counts": mask()}
    for name, path in (("Airspace Opacity", "a.json"), ("Lung Opacity", "b.json")):
        (tmp_path / path).write_text(json.dumps({IDS[0]: {name: size}}))
    rows, notes = rows_of(read_truth(tmp_path / "a.json"), read_drawn(tmp_path / "b.json"))
    assert rows["mine", IDS[0], "Lung Opacity"]["intersection"] == 16
    # Nine findings are named by neither file: nothing is said of them, and that is said.
    assert rows["mine", IDS[0], "Edema"]["prediction"] is None
    assert any("says nothing of Enlarged Cardiomediastinum" in note for note in notes)


def test_images_of_one_side_are_named_and_not_dropped(tmp_path: Path) -> None:
    edema = {"Edema": mask()}
    truth = read_truth(segmentations(tmp_path / "gt.json", dict.fromkeys(IDS[:3], edema)))
    said = read_drawn(segmentations(tmp_path / "p.json", dict.fromkeys(IDS[2:], edema)))
    rows, notes = rows_of(truth, said)
    assert [rows["mine", i, "Edema"]["prediction"] for i in IDS] == [0, 0, 16, 16]
    assert [rows["mine", i, "Edema"]["truth"] for i in IDS] == [16, 16, 16, 0]
    assert f"mine has no masks of {IDS[0]}, {IDS[1]}: taken as empty." in notes
    assert f"The truth does not list {IDS[3]} of mine: taken as without findings." in notes


def test_a_table_tells_who_was_not_read_and_who_they_are(tmp_path: Path) -> None:
    edema = {"Edema": mask()}
    gt = segmentations(tmp_path / "gt.json", {IDS[0]: edema})
    said = read_drawn(segmentations(tmp_path / "p.json", dict.fromkeys(IDS[:3], edema)))
    from chexseg_platform.findings import OBSERVATIONS

    head = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *OBSERVATIONS]
    lines = [",".join(head)]
    for index, positive in ((0, 1), (1, 1), (2, 0)):
        labels = [positive if name == "Edema" else 0 for name in OBSERVATIONS]
        path = f"CheXpert-v1.0/test/patient0000{index}/study1/view1_frontal.jpg"
        lines.append(",".join(map(str, [path, "Female", 50 + index, "Frontal", "PA", *labels])))
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    rows, notes = rows_of(read_truth(gt, tmp_path / "table.csv"), said)
    assert [rows["mine", i, "Edema"]["truth"] for i in IDS[:3]] == [16, None, 0]
    assert [rows["mine", i, "Edema"]["age"] for i in IDS[:3]] == [50, 51, 52]
    assert {r["view"] for r in rows.values()} == {"PA"}
    assert any(f"does not list {IDS[1]} though their labels" in note for note in notes)


def test_readers_that_did_not_read_are_left_out_there(tmp_path: Path) -> None:
    edema = {"Edema": mask()}
    truth = read_truth(segmentations(tmp_path / "gt.json", dict.fromkeys(IDS[:2], edema)))
    said = read_drawn(segmentations(tmp_path / "p.json", dict.fromkeys(IDS[:2], edema)))
    hb = read_drawn(segmentations(tmp_path / "hb.json", {IDS[0]: edema}))
    rows, notes = rows_of(truth, said, readers=hb, points={IDS[0]: {"Edema": [(3, 3)]}})
    reader = [rows["radiologists", i, "Edema"] for i in IDS[:2]]
    assert [(r["prediction"], r["hit"]) for r in reader] == [(16, 1), (None, 0)]
    assert f"radiologists did not read {IDS[1]}: left out there." in notes


def test_other_images_and_other_sizes_are_refused(tmp_path: Path) -> None:
    truth = read_truth(segmentations(tmp_path / "gt.json", {IDS[0]: {}}))
    other = read_drawn(segmentations(tmp_path / "p.json", {IDS[1]: {}}))
    with pytest.raises(BadFiles, match="no image in common"):
        rows_of(truth, other)
    turned = read_drawn(segmentations(tmp_path / "q.json", {IDS[0]: {}}, size=(10, 12)))
    with pytest.raises(BadFiles, match=r"10x12 and 12x10 pixels \(height x width\)"):
        rows_of(truth, turned)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{}", "holds no images"),
        ("[]", "must hold an object"),
        ('{"a": {"Edema": {"size": [12, 10], "counts": "a0"}}}', "cover"),
        ('{"a": {"Edema": {"size": [12, 10], "counts": "Q"}}}', "cut short"),
        ('{"a": {"Edema": {"size": [12, 10], "counts": null}}}', "must be a string"),
        ('{"a": {"Edemma": {"size": [12, 10], "counts": "h3"}}}', "Edema"),
        ('{"a": {"Edema": {"size": [12, 10], "counts": "h3"', "cut short"),
    ],
)
def test_broken_files_are_refused_by_name(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(content)
    with pytest.raises((BadFiles, BrokenAnnotations), match=says) as caught:
        read_drawn(path)
    assert "p.json" in str(caught.value)


def test_polygons_outside_and_thin_ones_are_named(tmp_path: Path) -> None:
    outside = [[[40, 40], [60, 40], [60, 60]]]
    line = [[[1, 1], [5, 1]]]
    crossing = [[[1, 1], [8, 8], [8, 1], [1, 8]]]
    content = {
        IDS[0]: {"img_size": list(SIZE), "Edema": outside, "Cardiomegaly": line,
                 "Lung Lesion": crossing}
    }  # fmt: skip
    (tmp_path / "gt.json").write_text(json.dumps(content))
    found = read_drawn(tmp_path / "gt.json")
    assert set(found.masks[IDS[0]].counts) == {"Cardiomegaly", "Lung Lesion"}
    assert any("outside their image" in n and f"Edema of {IDS[0]}" in n for n in found.notes)
    assert any("cross themselves" in n and "Lung Lesion" in n for n in found.notes)
    assert any("one or two points" in n and "Cardiomegaly" in n for n in found.notes)


def test_polygons_and_run_lengths_of_one_truth_count_alike() -> None:
    if not SAMPLE.is_dir():
        pytest.skip("shared/data/chexlocalize_sample is not beside the repository")
    outlines = read_truth(SAMPLE / "gt_annotations_val.json")
    published = read_drawn(SAMPLE / "gt_segmentations_val.json")
    rows, _ = rows_of(outlines, published)
    drawn = [row for row in rows.values() if row["truth"]]
    assert drawn
    assert all(r["truth"] == r["prediction"] == r["intersection"] for r in rows.values())


def save_map(folder: Path, image_id: str, finding: str, heat: np.ndarray) -> None:
    np.save(folder / f"{image_id}_{finding}_map.npy", heat.astype(np.float32))


def test_heat_maps_are_cut_and_their_peaks_hit(tmp_path: Path) -> None:
    truth = Truth({IDS[0]: MaskSet(*SIZE, {"Edema": mask(top=0, left=5, side=5)})})
    heat = np.zeros((6, 5))
    heat[:3, 3:] = 1.0
    for finding in FINDINGS:
        save_map(tmp_path, IDS[0], finding, heat if finding == "Edema" else np.ones((6, 5)))
    save_map(tmp_path, IDS[0], "Pneumothorax", np.full((6, 5), np.nan))
    ticks = []
    said = read_heat_maps(tmp_path, {IDS[0]: SIZE}, 0.5, ticks.append)
    rows, notes = rows_of(truth, said)
    row = rows["mine", IDS[0], "Edema"]
    assert (row["hit"], row["peak_y"], row["peak_x"]) == (1, 0, 7)
    assert row["intersection"] > 0
    assert rows["mine", IDS[0], "Cardiomegaly"]["prediction"] == 0
    assert rows["mine", IDS[0], "Pneumothorax"]["prediction"] is None
    assert any(f"cannot be used, left out: Pneumothorax of {IDS[0]}" in n for n in notes)
    assert any("NaN" in note for note in notes)
    assert sum(ticks) == len(FINDINGS)


def test_absent_maps_say_nothing_and_unknown_sizes_are_refused(tmp_path: Path) -> None:
    save_map(tmp_path, IDS[0], "Edema", np.eye(4))
    said = read_heat_maps(tmp_path, {IDS[0]: SIZE}, None, lambda _: None)
    rows, notes = rows_of(Truth({IDS[0]: MaskSet(*SIZE, {})}), said)
    assert rows["mine", IDS[0], "Edema"]["prediction"] is not None
    assert rows["mine", IDS[0], "Cardiomegaly"]["prediction"] is None
    assert any("without a map of a finding" in note for note in notes)
    with pytest.raises(BadFiles, match="how large"):
        read_heat_maps(tmp_path, {}, None, lambda _: None)


def test_one_image_has_no_interval_and_says_so(tmp_path: Path) -> None:
    truth = read_truth(segmentations(tmp_path / "gt.json", {IDS[0]: {"Edema": mask()}}))
    table, _ = count_files(truth, {"mine": Predicted(truth.masks)})
    found = compare(cube(table), resamples=20)
    assert any("no interval can be given" in note for note in found.notes)
    assert found.scores["iou_union"]["mine"].findings[-1].low is None


def test_patients_are_those_of_chexpert_or_the_image_itself() -> None:
    assert patient_of("patient64622_study1_view1_frontal") == "patient64622"
    assert patient_of("patient_x_1") == "patient_x_1"
    assert patient_of("JPCLN001") == "JPCLN001"


def test_two_names_of_one_finding_are_refused(tmp_path: Path) -> None:
    size = {"size": list(SIZE), "counts": mask()}
    path = tmp_path / "p.json"
    path.write_text(json.dumps({IDS[0]: {"Airspace Opacity": size, "Lung Opacity": size}}))
    with pytest.raises(BrokenAnnotations, match="are one finding"):
        read_drawn(path)


def test_findings_that_some_images_lack_and_empty_records_are_named(tmp_path: Path) -> None:
    path = segmentations(tmp_path / "p.json", {i: {"Edema": mask()} for i in IDS[:2]})
    content = json.loads(path.read_text())
    del content[IDS[1]]["Cardiomegaly"]
    content[IDS[2]] = {}
    path.write_text(json.dumps(content))
    notes = read_drawn(path).notes
    assert any(f"taken as empty: Cardiomegaly of {IDS[1]}." in note for note in notes)
    assert any(f"record is empty, left out: {IDS[2]}." in note for note in notes)


def test_points_of_other_images_are_refused_and_absent_ones_named(tmp_path: Path) -> None:
    edema = {"Edema": mask()}
    truth = read_truth(segmentations(tmp_path / "gt.json", dict.fromkeys(IDS[:2], edema)))
    said = Predicted(truth.masks)
    with pytest.raises(BadFiles, match="points and the truth have no image in common"):
        rows_of(truth, said, readers=said, points={"other": {}})
    _, notes = rows_of(truth, said, readers=said, points={IDS[0]: {"Edema": [(3, 3)]}})
    assert any(note.startswith(f"No points were set on {IDS[1]}") for note in notes)


def test_unknown_patients_are_said() -> None:
    truth = Truth({"a": MaskSet(*SIZE, {}), "b": MaskSet(*SIZE, {})})
    _, notes = rows_of(truth, Predicted(truth.masks))
    assert "The image ids say no patients, so every image stands for one." in notes
