"""The store: pixels unpacked once, masks as they were drawn, rows in step."""

import hashlib
import os

import numpy as np
import pyarrow as pa
import pytest
from chexseg_platform.artifacts import CorruptArtifact
from chexseg_platform.data import geometry, masks
from chexseg_platform.data.store import (
    MaskRows,
    UnknownClass,
    cache_folder,
    expert_rows,
    open_store,
    pseudo_rows,
    read_index,
)
from chexseg_platform.findings import FINDINGS, OBSERVATIONS

CARDIOMEGALY, EDEMA = FINDINGS.index("Cardiomegaly"), FINDINGS.index("Edema")


def test_images_and_table_are_the_dataset(tiny_dataset, tiny_store):
    rows = tiny_dataset.tables("rows/")
    assert len(tiny_store) == rows.num_rows == 28
    assert tiny_store.images.shape == (28, 32, 32)
    assert isinstance(tiny_store.images, np.memmap)
    assert not tiny_store.images.flags.writeable
    assert tiny_store.ids == rows["image_id"].to_pylist()
    assert tiny_store.patients == rows["patient"].to_pylist()
    for row, image in enumerate(rows["image"].to_pylist()):
        assert tiny_store.images[row].tobytes() == image
        assert tiny_store.index[tiny_store.ids[row]] == row
    assert "image" not in tiny_store.table.column_names
    assert "small_masks" not in tiny_store.table.column_names
    assert read_index(tiny_dataset).num_rows == 28


def test_labels_keep_what_is_not_said(tiny_dataset, tiny_store):
    wanted = np.array(tiny_dataset.tables("rows/")["labels"].to_pylist(), dtype=np.float32)
    assert tiny_store.labels.dtype == np.float32
    np.testing.assert_array_equal(tiny_store.labels, wanted)
    unsaid = OBSERVATIONS.index("Fracture")
    assert np.isnan(tiny_store.labels[:, unsaid]).all()
    assert set(tiny_store.labels[:, OBSERVATIONS.index("Edema")]) == {0.0, 1.0}


def test_content_is_where_the_image_lies(tiny_store):
    heights = tiny_store.table["height"].to_pylist()
    assert {24, 32} == set(heights)
    for row, height in enumerate(heights):
        top = (32 - height) // 2
        assert tiny_store.content[row].tolist() == [top, top + height, 0, 32]
        assert tiny_store.box(row) == geometry.Letterbox(height, 32, 32)


def test_rows_of_splits_with_and_without_experts(tiny_store):
    splits = np.array(tiny_store.table["split"].to_pylist())
    for split, count in (("train", 16), ("valid", 8), ("test", 4), ("other", 0)):
        rows = tiny_store.rows(split)
        assert len(rows) == count
        assert (splits[rows] == split).all()
        drawn, not_drawn = tiny_store.rows(split, expert=True), tiny_store.rows(split, expert=False)
        assert sorted([*drawn, *not_drawn]) == rows.tolist()
        assert len(drawn) == (0 if split == "train" else count)


def test_decoded_masks_are_the_letterboxed_ones(tiny_store):
    rows = tiny_store.rows("valid")
    items = expert_rows(tiny_store, rows)
    assert items.known.all()
    decoded = items.decode(np.arange(len(rows)), 32)
    assert decoded.dtype == np.uint8
    for place, row in enumerate(rows):
        wanted = np.zeros((10, 32, 32), bool)
        box = tiny_store.box(row)
        for name, counts in tiny_store.expert_masks(row).items():
            mask = masks.decode(counts, box.height, box.width)
            wanted[FINDINGS.index(name)] = geometry.letterbox_mask(mask, box)
        np.testing.assert_array_equal(decoded[place].astype(bool), wanted)
    assert decoded[:, CARDIOMEGALY].any()
    np.testing.assert_array_equal(items.decode(np.array([3, 0, 3]), 32), decoded[[3, 0, 3]])
    assert tiny_store.expert_masks(int(tiny_store.rows("train")[0])) == {}


def pseudo_table(rows):
    names = ["image_id", "finding", "known", "counts"]
    return pa.table({name: [row[n] for row in rows] for n, name in enumerate(names)})


def test_pseudo_rows_stay_with_their_images(tiny_store):
    train, (held, *_) = tiny_store.rows("train"), tiny_store.rows("valid")
    first, second, third = (tiny_store.ids[row] for row in train[[5, 2, 9]])
    square = np.zeros((32, 32), bool)
    square[3:9, 4:20] = True
    counts = masks.encode(square)
    found = pseudo_rows(
        tiny_store,
        pseudo_table([
            (first, "Edema", True, counts),
            (second, "Cardiomegaly", True, None),
            (third, "Edema", False, None),
            (third, "Cardiomegaly", False, None),
            (first, "Cardiomegaly", False, None),
            (tiny_store.ids[held], "Edema", True, counts),
            ("of another dataset", "Edema", True, counts),
        ]),
        "train",
    )  # fmt: skip
    assert found.rows.tolist() == sorted([train[5], train[2]])
    place = found.rows.tolist().index(train[5])
    decoded = found.decode(np.arange(2), 32)
    np.testing.assert_array_equal(decoded[place, EDEMA].astype(bool), square)
    assert decoded.sum() == square.sum()
    assert found.known[place].nonzero()[0].tolist() == [EDEMA]
    assert found.known[1 - place].nonzero()[0].tolist() == [CARDIOMEGALY]


def square(*sides):
    mask = np.zeros((32, 32), bool)
    mask[slice(*sides), slice(*sides)] = True
    return mask


def with_ignored(rows):
    return pseudo_table([row[:4] for row in rows]).append_column(
        "ignored", pa.array([row[4] for row in rows], pa.string())
    )


def test_pixels_that_say_nothing_stay_with_their_masks(tiny_store):
    train = tiny_store.rows("train")
    first, second = (tiny_store.ids[row] for row in train[[5, 2]])
    mask, unsure = masks.encode(square(3, 9)), masks.encode(square(9, 14))
    table = with_ignored([
        (first, "Edema", True, mask, unsure),
        (first, "Cardiomegaly", True, None, None),
        (second, "Edema", True, None, None),
    ])  # fmt: skip
    found = pseudo_rows(tiny_store, table, "train")
    assert found.rows.tolist() == [train[2], train[5]]
    assert found.ignored == ({}, {"Edema": unsure})
    decoded = found.decode_ignored(np.array([1, 0]), 32)
    assert decoded.dtype == bool
    np.testing.assert_array_equal(decoded[0, EDEMA], square(9, 14))
    assert decoded.sum() == 25
    assert found.decode_ignored(np.array([0, 0]), 32) is None

    drawn = expert_rows(tiny_store, tiny_store.rows("valid"))
    assert drawn.ignored == ({},) * 8
    assert drawn.decode_ignored(np.arange(8), 32) is None
    both = MaskRows.join(drawn, found)
    assert both.decode_ignored(np.arange(9), 32) is None
    np.testing.assert_array_equal(both.decode_ignored(np.array([9]), 32)[0], decoded[0])
    assert MaskRows.empty().decode_ignored(np.arange(0), 32) is None


def test_pseudo_rows_of_other_classes(tiny_store):
    image = tiny_store.ids[tiny_store.rows("train")[0]]
    table = pseudo_table([(image, "Pneumonia", True, masks.encode(square(1, 5)))])
    found = pseudo_rows(tiny_store, table, "train", ("Edema", "Pneumonia"))
    assert found.classes == ("Edema", "Pneumonia")
    assert found.known.tolist() == [[False, True]]
    np.testing.assert_array_equal(found.decode(np.arange(1), 32)[0, 1], square(1, 5))
    assert pseudo_rows(tiny_store, table, "valid", ("Pneumonia",)).known.shape == (0, 1)
    with pytest.raises(UnknownClass, match="'Pneumonia', which is not among"):
        pseudo_rows(tiny_store, table, "train")


def test_no_pseudo_label_is_an_empty_set(tiny_store):
    for rows in ([], [(tiny_store.ids[0], "Edema", False, None)]):
        found = pseudo_rows(tiny_store, pseudo_table(rows), "train")
        assert len(found) == 0
        assert found.known.shape == (0, 10)
        assert found.decode(np.arange(0), 32).shape == (0, 10, 32, 32)


def test_joined_sets_keep_their_order(tiny_store):
    valid, test = (expert_rows(tiny_store, tiny_store.rows(s)) for s in ("valid", "test"))
    both = MaskRows.join(valid, test)
    assert both.rows.tolist() == [*valid.rows, *test.rows]
    np.testing.assert_array_equal(both.decode(np.arange(8, 12), 32), test.decode(np.arange(4), 32))
    again = MaskRows.join(MaskRows.empty(), valid)
    assert again.rows.tolist() == valid.rows.tolist()
    assert again.known.shape == (8, 10)


def test_sets_of_other_classes_are_not_joined(tiny_store):
    with pytest.raises(AssertionError):
        MaskRows.join(MaskRows.empty(("Heart",)), expert_rows(tiny_store, tiny_store.rows("valid")))


def test_pixels_are_unpacked_once_and_again_if_cut_short(tiny_dataset, tmp_path):
    told = []
    store = open_store(tiny_dataset, tmp_path, lambda *progress: told.append(progress))
    assert told == [(10, 28), (19, 28), (28, 28)]
    wanted = np.array(store.images)
    again = open_store(tiny_dataset, tmp_path, lambda *progress: told.append(progress))
    assert len(told) == 3
    np.testing.assert_array_equal(again.images, wanted)
    (pixels,) = tmp_path.rglob("images.u8")
    pixels.write_bytes(pixels.read_bytes()[:100])
    np.testing.assert_array_equal(open_store(tiny_dataset, tmp_path).images, wanted)
    assert len(list(tmp_path.rglob("*.tmp"))) == 0


OPEN = """
import hashlib
from pathlib import Path
from chexseg_platform.artifacts import Workspace
from chexseg_platform.data.store import open_store
workspace, print_, cache = sys.argv[2:]
dataset = Workspace(workspace).find("dataset", print_)
told = []
ready()
store = open_store(dataset, Path(cache), lambda *progress: told.append(progress))
print(len(told), hashlib.sha256(store.images.tobytes()).hexdigest())
"""


def test_processes_that_open_together_unpack_once(tiny_dataset, tiny_store, tmp_path, together):
    workspace = tiny_dataset.uri.partition("/dataset/")[0]
    outputs = together(OPEN, 2, workspace, tiny_dataset.fingerprint, str(tmp_path))
    found = sorted(output.split() for output in outputs)
    digest = hashlib.sha256(tiny_store.images.tobytes()).hexdigest()
    assert found == [["0", digest], ["3", digest]]


def test_a_dataset_without_rows(make_dataset, tmp_path):
    store = open_store(make_dataset(tmp_path / "w", []), tmp_path / "c")
    assert store.images.shape == (0, 32, 32)
    assert store.labels.shape == (0, 14)
    assert store.content.shape == (0, 4)
    assert len(store.rows("train")) == 0


def test_a_damaged_shard_is_named_and_leaves_no_pixels(make_dataset, make_row, tmp_path):
    dataset = make_dataset(tmp_path / "w", [make_row(n, "train", drawn=True) for n in range(6)])
    part = dataset.part("rows/00001.parquet")
    path = dataset.storage.path(part.key)
    os.truncate(path, part.bytes - 10)
    with pytest.raises(CorruptArtifact, match=r"rows/00001\.parquet"):
        open_store(dataset, tmp_path / "c")
    assert not list((tmp_path / "c").rglob("images.u8"))


def test_the_cache_lies_where_asked_or_with_the_user(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder("~/here") == tmp_path / "here"
    assert cache_folder(None) == tmp_path / "xdg" / "chexseg-platform"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder(None) == tmp_path / ".cache" / "chexseg-platform"
