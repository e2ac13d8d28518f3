"""Images that are there twice: which copy stays, its masks, and what is said of the other."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from chexseg_platform.data.entries import STATE_BYTES, Entry, MaskFiles, entry_state
from chexseg_platform.data.masked import doubles
from chexseg_platform.data.masked.doubles import same_pictures, without_doubles
from chexseg_platform.data.masked.files import joined
from chexseg_platform.data.splits import PatientInTwoSplits
from PIL import Image

MakeEntry = Callable[..., Entry]


@pytest.fixture
def entry(tmp_path: Path) -> MakeEntry:
    """Make an image of a split, whose content is a picture's number, with masks of structures."""

    def make(
        name: str, split: str, picture: int, *masks: str, level: int = 6, tree: str = "a"
    ) -> Entry:
        path = tmp_path / tree / split / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(picture).integers(0, 256, (8, 8)).astype(np.uint8)
        Image.fromarray(values.repeat(9, axis=0)).save(path, compress_level=level)
        drawn = {mask: {name: tmp_path / tree / split / mask / f"{name}.png"} for mask in masks}
        (made,) = joined(tmp_path, {name: path}, drawn, split=split)
        return made

    return make


def told(entries: list[Entry]) -> list[tuple[str, str, list[str]]]:
    return [(e.image_id, e.split, sorted(e.mask_files.files)) for e in entries if e.mask_files]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_the_copy_of_the_test_stays_then_that_of_validation(
    entry: MakeEntry, order: tuple[int, ...]
) -> None:
    copies = [entry("a", "train", 1), entry("b", "valid", 1), entry("c", "test", 1)]
    others = [entry("d", "train", 2), entry("e", "valid", 3)]
    kept, left = without_doubles([*others, *(copies[place] for place in order)])
    assert [e.image_id for e in kept] == ["d", "e", "c"]
    assert {(double.left.image_id, double.kept.image_id) for double in left} == {
        ("a", "c"), ("b", "c")
    }  # fmt: skip
    kept, left = without_doubles([*others, *(copies[place] for place in order if place < 2)])
    assert [e.image_id for e in kept] == ["d", "e", "b"]


def test_copies_of_two_patients_make_one_of_them(entry: MakeEntry) -> None:
    def of(patient: str, *made: Entry) -> list[Entry]:
        return [replace(each, patient=patient) for each in made]

    learned = of("P", entry("t1", "train", 1), entry("t3", "train", 3))
    tested = of("Q", entry("x1", "test", 3))
    with pytest.raises(
        PatientInTwoSplits, match=r"so patients P and Q are one; .*t1.* is in train"
    ):
        without_doubles([*learned, *tested])
    kept, _ = without_doubles([*learned[1:], *tested])
    assert [e.image_id for e in kept] == ["x1"]
    same = of("P", entry("t1", "test", 1), entry("t3", "train", 3))
    assert len(without_doubles([*same, *tested])[0]) == 2


def test_within_a_split_the_first_stays(entry: MakeEntry) -> None:
    kept, left = without_doubles([entry("b", "train", 1), entry("a", "train", 1)])
    assert [e.image_id for e in kept] == ["b"]
    assert left[0].rejection() == {
        "image_id": "a",
        "source": "a/train/a.png",
        "reason": "double",
        "message": "The same picture is a/train/b.png (train), which stays.",
        "state": entry_state(left[0].left),
    }


def test_masks_that_only_another_copy_has_are_taken_over(entry: MakeEntry) -> None:
    infection = entry("x", "train", 1, "Lungs", "Infection")
    lungs, heart = entry("x", "test", 1, "Lungs", tree="b"), entry("y", "train", 1, "Heart")
    kept, left = without_doubles([infection, lungs, heart, entry("z", "test", 2, "Lungs")])
    assert told(kept) == [("x", "test", ["Heart", "Infection", "Lungs"]), ("z", "test", ["Lungs"])]
    files = [dict(e.mask_files.files) for e in (kept[0], lungs, infection) if e.mask_files]
    assert files[0]["Lungs"] == files[1]["Lungs"] != files[2]["Lungs"]
    assert files[0]["Infection"] == files[2]["Infection"]
    assert [double.rejection()["message"].partition("stays")[2] for double in left] == [
        " and takes over its masks: Infection.", " and takes over its masks: Heart."
    ]  # fmt: skip


def test_a_mask_that_had_to_be_there_may_come_from_another_copy(entry: MakeEntry) -> None:
    first, second = entry("a", "test", 1, "Heart"), entry("b", "train", 1, "Lungs")
    drawn = MaskFiles({"Heart": ("heart.png",)}, ("Lungs", "Spine"))
    (kept,), _ = without_doubles([replace(first, mask_files=drawn), second])
    assert kept.mask_files is not None
    assert kept.mask_files.absent == ("Spine",)


def test_a_picture_saved_anew_is_found_under_its_own_name(entry: MakeEntry) -> None:
    """Of another name it is not: every image would have to be decoded for it."""
    first, anew = entry("a", "train", 1), entry("a", "test", 1, level=0, tree="b")
    again = entry("b", "valid", 1, level=0)
    assert same_pictures([first, anew]) == [[0, 1]]
    assert same_pictures([first, again]) == []
    # The bytes join "b" to one copy of "a", and the pixels this one to the other.
    assert same_pictures([again, first, anew]) == [[0, 1, 2]]


def test_one_name_of_two_pictures_is_no_double(entry: MakeEntry) -> None:
    broken = entry("a", "valid", 1, tree="c")
    Path(broken.path).write_bytes(b"no picture")
    assert same_pictures([entry("a", "train", 1), entry("a", "test", 2), broken]) == []


def test_long_files_differ_in_their_middle(tmp_path: Path, entry: MakeEntry) -> None:
    """Both ends are alike, as those of raw pixels with a frame around are."""
    middle, made = STATE_BYTES * 2, []
    for number, byte in enumerate((b"x", b"y", b"x")):
        path = tmp_path / f"{number}.IMG"
        path.write_bytes(bytes(middle) + byte + bytes(middle))
        made.append(replace(entry(str(number), "train", 0), path=str(path)))
    assert same_pictures(made) == [[0, 2]]


def test_what_has_no_file_is_passed_over(entry: MakeEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = entry("a", "train", 1), entry("b", "train", 1)
    absent = [replace(each, path=path) for each, path in ((first, ""), (second, "/nowhere.png"))]
    assert without_doubles(absent) == (absent, [])
    # Nor are files alike of which none can be opened.
    monkeypatch.setattr(doubles, "file_state", lambda path: "missing")
    assert same_pictures([first, second]) == []


def test_the_sentence_where_the_other_copy_was_refused(entry: MakeEntry) -> None:
    first = entry("a", "test", 1)
    _, (double,) = without_doubles([first, entry("b", "train", 1, "Heart")])
    said = "a/test/a.png (test), which was to stay and cannot be used: mend or remove it."
    assert double.rejection(stays=False)["message"] == f"The same picture is {said}"
