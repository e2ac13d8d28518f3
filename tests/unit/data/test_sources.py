"""From the data section to entries: tables read, masks attached, everything checked."""

import json

import numpy as np
import pytest
from chexseg_platform.config import Collection, Data, Phantom, Table
from chexseg_platform.data import masks
from chexseg_platform.data.sources import (
    ImagesTwice,
    NoImages,
    collections_of,
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
    entries, doubles = read_entries(Data(tables=[valid, train]))
    assert doubles == []
    assert ids(entries) == [
        "patient00003_view1_frontal", "patient00003_view2_lateral",
        "patient00001_view1_frontal", "patient00001_view2_lateral",
        "patient00002_view1_frontal", "patient00002_view2_lateral",
    ]  # fmt: skip
    assert [entry.split for entry in entries] == ["valid"] * 2 + ["train"] * 4
    frontal = read_entries(Data(tables=[train], views=["frontal"])).entries
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
    names = [entry.source for entry in read_entries(Data(tables=tables)).entries]
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


@pytest.fixture
def folders(tmp_path):
    """Two collections: `a` to learn from, `b` to test on, in which `a` is called `x`."""
    for folder, split, names in (("a", "train", "mn"), ("b", "test", "ox")):
        for name in names:
            path = tmp_path / folder / split / "images" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"n" if name == "x" else name.encode())
            drawn = tmp_path / folder / split / "masks" / "heart" / f"{name}.png"
            drawn.parent.mkdir(parents=True, exist_ok=True)
            drawn.write_bytes(b"mask")
    return tmp_path


def of_folders(root, *names):
    return Data(collections=[Collection(layout="folder", root=str(root / name)) for name in names])


def test_a_picture_in_two_collections_is_taken_once(folders):
    entries, doubles = read_entries(of_folders(folders, "a", "b"))
    assert [entry.image_id for entry in entries] == ["m", "o", "x"]
    assert [(left.image_id, kept.image_id) for left, kept in doubles] == [("n", "x")]


def test_a_patient_learned_from_and_tested_on_is_named_with_both_places(folders):
    (folders / "a/patients.csv").write_text("image,patient\nm,Q\nn,R\n")
    (folders / "b/patients.csv").write_text("image,patient\no,Q\nx,R\n")
    said = r"1 patient is .*: Q \(train and test\)\. Of Q there are train/images/m\.png and test/im"
    with pytest.raises(PatientInTwoSplits, match=said) as twice:
        read_entries(of_folders(folders, "a", "b"))
    # R's two images are one picture, which is only tested on.
    assert twice.value.patients == ("Q",)


def test_one_name_of_two_pictures_is_refused_and_a_stray_mask_is_not(folders):
    other = folders / "c/train"
    for file, what in (("images/m.png", b"other"), ("masks/heart/m.png", b"mask")):
        (other / file).parent.mkdir(parents=True, exist_ok=True)
        (other / file).write_bytes(what)
    data = of_folders(folders, "a", "c")
    with pytest.raises(ImagesTwice, match=r"such as m .*rename files of one name that hold"):
        read_entries(data)
    (other / "images/m.png").rename(other / "images/k.png")
    names = [(entry.image_id, bool(entry.path)) for entry in read_entries(data).entries]
    assert names == [("m", True), ("n", True), ("k", True), ("m", False)]


def test_the_state_of_an_image_covers_its_masks(folders):
    data = of_folders(folders, "a", "b")
    names = [entry.source for entry in read_entries(data).entries]
    before = states_of(data, [*names, "train/images/gone.png"])
    assert before[3] == "missing"
    assert len(set(before)) == 4
    (folders / "b/test/masks/heart/o.png").write_bytes(b"mended")
    after = states_of(data, names)
    assert [a == b for a, b in zip(before, after, strict=False)] == [True, False, True]


def test_places_that_two_collections_have_are_told_apart(folders):
    data = of_folders(folders, "a", "a", "b")
    entries, doubles = read_entries(data)
    assert [entry.source for entry in entries] == [
        "collections.0: train/images/m.png", "test/images/o.png", "test/images/x.png"
    ]  # fmt: skip
    copies = [left.source for left, _ in doubles]
    assert copies == [
        f"collections.{n}: train/images/{i}.png" for n, i in ((1, "m"), (0, "n"), (1, "n"))
    ]
    assert states_of(data, copies) == [double.rejection()["state"] for double in doubles]


def test_collections_are_read_in_another_way_than_tables(folders):
    """What changes how mask files are read changes their datasets' fingerprints, and no others."""
    assert content(of_folders(folders, "a"))["collections"][0]["reading"] == 2
    assert content(Data(phantom=Phantom(layout="jsrt")))["reading"] == 2
    assert "reading" not in content(Data(phantom=Phantom()))


@pytest.mark.parametrize("test", [5, 123])
def test_shares_of_a_phantom_in_folds(test: int) -> None:
    """SCR's folds part off the test; of what is left, validation is the share asked for."""
    wish = Phantom(layout="jsrt", train=2, valid=3, test=test)
    (made,) = collections_of(Data(phantom=wish), "p")
    assert (made.valid, made.test) == (0.6, 0.0)
    other = wish.model_copy(update={"layout": "montgomery"})
    (made,) = collections_of(Data(phantom=other), "p")
    assert (made.valid, made.test) == (3 / (5 + test), test / (5 + test))
