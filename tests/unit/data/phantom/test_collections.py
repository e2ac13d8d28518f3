"""Organ phantoms: each layout is read by the reader of the real one; anatomy as published."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from chexseg_platform.config import Collection
from chexseg_platform.data import masks
from chexseg_platform.data.masked.collection import read_collection
from chexseg_platform.data.phantom import PhantomRefused, write_phantom
from chexseg_platform.data.phantom.organs import draw_chest
from chexseg_platform.data.rows import ImageRow, make_row
from chexseg_platform.findings import (
    HEART,
    INFECTION,
    LEFT_CLAVICLE,
    LEFT_LUNG,
    LUNGS,
    ORGANS,
    RIGHT_CLAVICLE,
    RIGHT_LUNG,
)

COUNTS = {"train": 5, "valid": 2, "test": 4}
DRAWN = {
    "jsrt": set(ORGANS),
    "covid-qu-ex": {LUNGS, INFECTION},
    "montgomery": {LEFT_LUNG, RIGHT_LUNG},
    "shenzhen": {LUNGS},
    "folder": {*ORGANS, LUNGS, INFECTION},
}


def read(root: Path, layout: str) -> dict[str, list[ImageRow]]:
    found: dict[str, list[ImageRow]] = {}
    wish = Collection(layout=layout, root=str(root), valid=0.2, test=0.3)  # type: ignore[arg-type]
    for entry in read_collection(wish):
        found.setdefault(entry.split, []).append(make_row(entry, 64))
    return found


@pytest.mark.parametrize("layout", DRAWN)
def test_a_layout_is_read_as_the_real_one_is(tmp_path: Path, layout: str) -> None:
    counts = {"train": 2, "valid": 1, "test": 2} if layout == "jsrt" else COUNTS
    write_phantom(tmp_path, **counts, size=64, seed=4, layout=layout, workers=1)  # type: ignore[arg-type]
    found = read(tmp_path, layout)
    rows = [row for some in found.values() for row in some]
    assert len(rows) == sum(counts.values())
    assert {name for row in rows for name in row.masks or {}} == DRAWN[layout]
    if layout in ("covid-qu-ex", "folder"):
        assert {split: len(some) for split, some in found.items()} == counts
    if layout == "jsrt":
        assert len(found["test"]) == counts["test"]
        assert {row.height for row in rows} == {1024}


def test_the_same_chest_lies_in_every_layout_of_its_group(tmp_path: Path) -> None:
    pixels = {}
    for layout in ("covid-qu-ex", "folder"):
        write_phantom(tmp_path / layout, **COUNTS, size=64, seed=4, layout=layout, workers=1)  # type: ignore[arg-type]
        found = read(tmp_path / layout, layout)
        pixels[layout] = {hashlib.sha256(row.image).hexdigest() for row in found["test"]}
    assert pixels["covid-qu-ex"] == pixels["folder"]


def test_more_images_leave_the_first_as_they_are(tmp_path: Path) -> None:
    for name, train in (("few", 2), ("many", 4)):
        write_phantom(
            tmp_path / name, train=train, valid=0, test=0, size=48, layout="folder", workers=1
        )
    few, many = (sorted((tmp_path / name).rglob("images/*.png")) for name in ("few", "many"))
    assert [path.read_bytes() for path in few] == [path.read_bytes() for path in many[:2]]


def test_jsrt_has_no_more_than_it_has(tmp_path: Path) -> None:
    with pytest.raises(PhantomRefused, match="124 images to learn from"):
        write_phantom(tmp_path / "a", train=120, valid=5, test=0, size=32, layout="jsrt")
    assert not (tmp_path / "a").exists()
    with pytest.raises(PhantomRefused, match="No layout 'jstr': give chexpert, jsrt"):
        write_phantom(tmp_path / "a", train=1, valid=0, test=0, layout="jstr")  # type: ignore[arg-type]


def test_organs_lie_as_they_do_in_the_scr_database() -> None:
    """Sides, areas and overlaps: shares of the picture within half to twice those published."""
    chests = [draw_chest(np.random.default_rng([1, n]), "normal", 160).masks for n in range(24)]
    area = {name: np.mean([chest[name].mean() for chest in chests]) for name in ORGANS}
    published = {RIGHT_LUNG: 0.166, LEFT_LUNG: 0.132, HEART: 0.092}
    published |= {RIGHT_CLAVICLE: 0.01, LEFT_CLAVICLE: 0.01}
    for name, share in published.items():
        assert share / 2 < area[name] < share * 2, (name, area[name])
    assert area[RIGHT_LUNG] > area[LEFT_LUNG]
    for chest in chests:
        right, left = (np.argwhere(chest[name])[:, 1].mean() for name in (RIGHT_LUNG, LEFT_LUNG))
        assert right < left  # the patient's right is the viewer's left
        assert not (chest[RIGHT_LUNG] & chest[LEFT_LUNG]).any()
    inside = [
        (chest[clavicle] & chest[lung]).sum() / max(1, chest[clavicle].sum())
        for chest in chests
        for clavicle, lung in ((RIGHT_CLAVICLE, RIGHT_LUNG), (LEFT_CLAVICLE, LEFT_LUNG))
    ]
    assert np.mean(inside) > 0.5


def test_an_infection_is_in_the_lungs_of_the_infected() -> None:
    for group, wanted in (("infected", True), ("pneumonia", False), ("normal", False)):
        drawn = [draw_chest(np.random.default_rng([2, n]), group, 96).masks for n in range(12)]
        assert all(chest[INFECTION].any() == wanted for chest in drawn)
    drawn = [draw_chest(np.random.default_rng([2, n]), "infected", 96).masks for n in range(12)]
    inside = [
        (chest[INFECTION] & (chest[LEFT_LUNG] | chest[RIGHT_LUNG])).sum() / chest[INFECTION].sum()
        for chest in drawn
    ]
    assert min(inside) > 0.95


def test_masks_are_those_of_their_image(tmp_path: Path) -> None:
    """Lungs are darker than what is around them in the picture that was written."""
    write_phantom(tmp_path, train=6, valid=0, test=0, size=96, layout="folder", workers=1)
    for row in read(tmp_path, "folder")["train"]:
        assert row.masks is not None
        lungs = masks.decode(row.masks[LUNGS], row.height, row.width)
        heart = masks.decode(row.masks[HEART], row.height, row.width)
        both = [masks.decode(row.masks[name], 96, 96) for name in (LEFT_LUNG, RIGHT_LUNG)]
        assert np.array_equal(lungs, both[0] | both[1])
        small = np.frombuffer(row.image, np.uint8).reshape(64, 64)
        place = np.arange(64) * 96 // 64 + 96 // 128
        assert np.median(small[lungs[np.ix_(place, place)]]) < np.median(
            small[heart[np.ix_(place, place)]]
        )
