"""From the data section to entries: tables read, masks attached, everything checked."""

import json

import numpy as np
import pytest
from chexseg_platform.config import Data, Phantom, Table
from chexseg_platform.data import masks
from chexseg_platform.data.sources import (
    ImagesTwice,
    NoImages,
    content,
    count_labels,
    digest,
    phantom_folder_name,
    phantom_tables,
    read_entries,
    read_table,
    states_of,
    tables_of,
)
from chexseg_platform.data.splits import PatientInTwoSplits
from chexseg_platform.findings import OBSERVATIONS

HEADER = ",".join(["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *OBSERVATIONS])


def csv(folder, name, *patients, views=("frontal", "lateral")):
    """A table with a frontal and a lateral image of each patient."""
    lines = [HEADER]
    for patient in patients:
        for number, view in enumerate(views, 1):
            path = f"CheXpert-v1.0/{name}/patient{patient:05d}/study1/view{number}_{view}.jpg"
            side = "AP" if view == "frontal" else ""
            lines.append(f"{path},Female,60,{view.title()},{side}," + ",".join(["1.0"] * 14))
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.csv"
    file.write_text("\n".join(lines) + "\n")
    return str(file)


def segmentations(folder, name, *patients):
    mask = np.zeros((4, 6), bool)
    mask[1:3, 2:5] = True
    drawn = {
        f"patient{patient:05d}_study1_view1_frontal": {
            "Edema": {"size": [4, 6], "counts": masks.encode(mask)}
        }
        for patient in patients
    }
    (folder / name).write_text(json.dumps(drawn))
    return str(folder / name)


def ids(entries):
    return [entry.image_id.replace("_study1", "") for entry in entries]


def test_tables_are_read_in_their_order(tmp_path):
    train = Table(table=csv(tmp_path, "train", 1, 2), split="train")
    valid = Table(table=csv(tmp_path, "valid", 3), split="valid")
    entries = read_entries(Data(tables=[valid, train]))
    assert ids(entries) == [
        "patient00003_view1_frontal", "patient00003_view2_lateral",
        "patient00001_view1_frontal", "patient00001_view2_lateral",
        "patient00002_view1_frontal", "patient00002_view2_lateral",
    ]  # fmt: skip
    assert [entry.split for entry in entries] == ["valid"] * 2 + ["train"] * 4
    frontal = read_entries(Data(tables=[train], views=["frontal"]))
    assert ids(frontal) == ["patient00001_view1_frontal", "patient00002_view1_frontal"]


def test_a_limit_counts_the_views_that_are_asked_for(tmp_path):
    table = Table(table=csv(tmp_path, "train", 1, 2, 3), split="train", limit=2)
    assert ids(read_table(table, ["lateral"])) == [
        "patient00001_view2_lateral", "patient00002_view2_lateral",
    ]  # fmt: skip
    assert len(read_table(table)) == 2


def test_masks_are_attached_also_to_a_part_of_the_images(tmp_path):
    path = csv(tmp_path, "valid", 1, 2)
    truth = segmentations(tmp_path, "gt_segmentations_val.json", 1, 2)
    table = Table(table=path, split="valid", truth=truth, benchmark=truth)
    entries = {entry.image_id: entry for entry in read_table(table)}
    frontal = entries["patient00001_study1_view1_frontal"]
    assert list(frontal.masks.counts) == list(frontal.benchmark_masks.counts) == ["Edema"]
    assert entries["patient00001_study1_view2_lateral"].masks is None
    (only,) = read_table(table.model_copy(update={"limit": 1}))
    assert only.masks is not None
    assert all(entry.masks is None for entry in read_table(table, ["lateral"]))


def test_a_file_of_masks_is_told_by_what_it_holds(tmp_path):
    path = csv(tmp_path, "valid", 1)
    annotations = {"patient00001_study1_view1_frontal": {"img_size": [4, 6], "Edema": [[[1, 1]]]}}
    drawn = tmp_path / "polygons.json"
    drawn.write_text(json.dumps(annotations))
    entries = read_table(Table(table=path, split="valid", truth=str(drawn)))
    assert list(entries[0].masks.encoded().counts) == ["Edema"]
    for name in ("truth.json", "my_annotations.json"):
        other = segmentations(tmp_path, name, 1)
        entries = read_table(Table(table=path, split="valid", truth=other))
        assert list(entries[0].masks.counts) == ["Edema"]


def test_a_patient_in_two_splits_is_refused(tmp_path):
    train = Table(table=csv(tmp_path, "train", 1, 2), split="train")
    valid = Table(table=csv(tmp_path, "valid", 2, 3), split="valid")
    with pytest.raises(PatientInTwoSplits, match=r"patient00002 \(train and valid\)"):
        read_entries(Data(tables=[train, valid]))


def test_an_image_in_two_tables_is_refused(tmp_path):
    tables = [Table(table=csv(tmp_path / name, "train", 1), split="train") for name in "ab"]
    with pytest.raises(
        ImagesTwice, match="2 images are in more than one table or collection, such"
    ) as twice:
        read_entries(Data(tables=tables))
    assert len(twice.value.image_ids) == 2


def test_nothing_left_is_said(tmp_path):
    table = Table(table=csv(tmp_path, "train", 1, views=["frontal"]), split="train")
    with pytest.raises(NoImages, match=r"no lateral image; check data\.tables"):
        read_entries(Data(tables=[table], views=["lateral"]))


def test_the_tables_of_a_phantom_are_those_it_has(tmp_path):
    tables = phantom_tables(tmp_path, Phantom(train=1, valid=0, test=2))
    assert [table.split for table in tables] == ["train", "test"]
    assert all(table.table.startswith(str(tmp_path)) for table in tables)
    assert tables[0].truth is None
    assert tables[1].benchmark is not None
    own = [Table(table="a.csv", split="train")]
    assert tables_of(Data(tables=own), None) == own
    assert len(tables_of(Data(phantom=Phantom()), tmp_path)) == 3


def test_a_phantom_has_one_folder_for_its_numbers():
    names = {phantom_folder_name(Phantom(**{name: 40})) for name in ("train", "valid", "seed")}
    assert len(names | {phantom_folder_name(Phantom())}) == 4
    assert phantom_folder_name(Phantom()) == phantom_folder_name(Phantom())


def test_content_is_bytes_and_settings_and_no_place(tmp_path):
    here = Table(table=csv(tmp_path / "here", "valid", 1), split="valid")
    there = Table(table=csv(tmp_path / "there", "valid", 1), split="valid", root="/x")
    assert content(Data(tables=[here])) == content(Data(tables=[there]))
    views = Data(tables=[here], views=["lateral", "frontal"])
    assert content(views) == content(Data(tables=[here]))
    truth = segmentations(tmp_path, "gt_segmentations_val.json", 1)
    more = here.model_copy(update={"truth": truth})
    assert content(Data(tables=[more])) != content(Data(tables=[here]))
    assert str(tmp_path) not in json.dumps(content(Data(tables=[more])))
    assert "phantom" in content(Data(phantom=Phantom()))


def pictures(folder, *patients, content=b"pixels"):
    """Files for the images of `csv`'s table."""
    for patient in patients:
        study = folder / f"patient{patient:05d}" / "study1"
        study.mkdir(parents=True, exist_ok=True)
        for view in ("view1_frontal", "view2_lateral"):
            (study / f"{view}.png").write_bytes(content + bytes([patient]))


def test_the_same_table_over_other_images_is_another_dataset(tmp_path):
    for name in ("here", "there"):
        pictures(tmp_path / name, 1, 2)
    here = Data(tables=[Table(table=csv(tmp_path / "here", "train", 1, 2), split="train")])
    there = Data(tables=[Table(table=csv(tmp_path / "there", "train", 1, 2), split="train")])
    assert content(here) == content(there)
    image = tmp_path / "there/patient00002/study1/view2_lateral.png"
    image.write_bytes(b"others" + b"\2")
    changed = content(there)
    assert changed != content(here)
    image.unlink()
    assert content(there) not in (changed, content(here))
    image.write_bytes(b"pixels" + b"\2")
    assert content(there) == content(here)


def test_images_that_are_not_taken_do_not_count(tmp_path):
    pictures(tmp_path, 1, 2)
    table = Table(table=csv(tmp_path, "train", 1, 2), split="train", limit=2)
    before = content(Data(tables=[table]))
    pictures(tmp_path, 2, content=b"other")
    assert content(Data(tables=[table])) == before
    pictures(tmp_path, 1, content=b"other")
    assert content(Data(tables=[table])) != before


def test_the_state_of_inputs_is_found_under_their_tables_roots(tmp_path):
    for name in ("a", "b"):
        pictures(tmp_path / name, 1 if name == "a" else 2)
    tables = [
        Table(table=csv(tmp_path / name, "train", number), split="train")
        for name, number in (("a", 1), ("b", 2))
    ]
    names = [entry.source for entry in read_entries(Data(tables=tables))]
    states = states_of(Data(tables=tables), [*names, "patient9/study1/view1_frontal.jpg"])
    assert states[4] == "missing"
    assert "missing" not in states[:4]
    assert states[0] == states[1] != states[2]


def test_digest_of_a_file(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest(tmp_path / "a") == known
    with pytest.raises(NoImages, match=r"in that folder: a$"):
        digest(tmp_path / "b")
    with pytest.raises(NoImages, match=r"there is no file .*/x/b; of its folders only"):
        digest(tmp_path / "x" / "b")
    with pytest.raises(NoImages, match="cannot be read: Not a directory"):
        digest(tmp_path / "a" / "b")


def test_labels_are_counted_by_kind():
    rows = [[1, 0, -1, None] + [None] * 10, [1, 1, 0, None] + [0] * 10]
    counts = count_labels(rows)
    assert list(counts) == list(OBSERVATIONS)
    kinds = ("present", "absent", "uncertain", "unmentioned")
    shown = [[counts[name][kind] for kind in kinds] for name in OBSERVATIONS[:5]]
    assert shown == [[2, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 2], [0, 1, 0, 1]]
    assert count_labels([])["Edema"] == dict.fromkeys(kinds, 0)
