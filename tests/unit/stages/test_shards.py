"""Shards through a labeller, without Ray: what is written, whatever the batch."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from chexseg_platform.artifacts import Artifact, Draft, Part, Workspace
from chexseg_platform.saliency.pseudotable import Images
from chexseg_platform.stages.shards import (
    PIECE,
    LabelShards,
    Work,
    _parts_of,
    images_of,
    missing,
)

ROWS, SIZE, SHARD = 2 * PIECE + 3, 4, "rows/00007"


class Names:
    """Says of every image its name in one table, and twice in the other."""

    def __init__(self) -> None:
        schema = pa.schema([("image_id", pa.string())])
        self.schemas = {"once": schema, "twice": schema}

    def __call__(self, images: Images) -> tuple[pa.Table, ...]:
        names = list(images.ids)
        return tuple(
            pa.table({"image_id": rows}, schema=self.schemas["once"])
            for rows in (names, [name for name in names for _ in range(2)])
        )


@pytest.fixture
def dataset(tmp_path: Path) -> Artifact:
    draft = Workspace(tmp_path / "data").draft("dataset", "a" * 16)
    rows = [
        {
            "image_id": f"image {number}", "patient": "p", "study": "s",
            "split": "test" if number == 5 else "train", "height": 8, "width": 8,
            "image": bytes(SIZE**2), "labels": [1.0] * 14, "masks": None,
        }
        for number in range(ROWS + 1)
    ]  # fmt: skip
    part = draft.write(SHARD, pa.Table.from_pylist(rows))
    return draft.finish([part], config={}, inputs={}, summary={"size": SIZE})


def work(*tables: str, **wish: Any) -> Work:
    return Work(lambda device, memory: Names(), tables, ("train",), **wish)


def drafted(folder: Path) -> Draft:
    return Workspace(folder).draft("pseudolabels", "b" * 16)


def label(dataset: Artifact, folder: Path, batch: int, wish: Work) -> tuple[Artifact, list[Part]]:
    """Do what is missing of the shard."""
    draft = drafted(folder)
    actor = LabelShards(wish, dataset, draft, batch, 1)
    for item in missing(draft, wish, SHARD, ROWS):
        actor.item(SHARD, item["place"])
    assert missing(draft, wish, SHARD, ROWS) == []
    parts = _parts_of(draft, wish, SHARD)
    return draft.so_far(parts), parts


WANTED = [f"image {number}" for number in range(ROWS + 1) if number != 5]
TWICE = [name for name in WANTED for _ in range(2)]


@pytest.mark.parametrize("batch", [1, 5, PIECE, 64])
def test_a_large_table_stays_in_the_same_pieces_whatever_the_batch(
    dataset: Artifact, tmp_path: Path, batch: int
) -> None:
    made, parts = label(dataset, tmp_path, batch, work("once", pieces=True, apart="twice"))
    names = [part.name for part in parts]
    assert names == ["once/00007", *(f"twice/00007-{place:04d}" for place in range(3))]
    assert [part.rows for part in parts] == [ROWS, 2 * PIECE, 2 * PIECE, 6]
    assert made.tables("once/")["image_id"].to_pylist() == WANTED
    assert made.tables("twice/")["image_id"].to_pylist() == TWICE


@pytest.mark.parametrize("pieces", [False, True])
def test_a_shard_is_one_part_of_every_table(
    dataset: Artifact, tmp_path: Path, pieces: bool
) -> None:
    made, parts = label(dataset, tmp_path, 8, work("once", "twice", pieces=pieces))
    assert [part.name for part in parts] == ["once/00007", "twice/00007"]
    assert made.table("once/00007")["image_id"].to_pylist() == WANTED
    assert made.table("twice/00007")["image_id"].to_pylist() == TWICE


def test_pieces_are_done_in_any_order_and_by_anyone(dataset: Artifact, tmp_path: Path) -> None:
    wish, draft = work("once", "twice", pieces=True), drafted(tmp_path)
    first, second = (LabelShards(wish, dataset, draft, 64, 1) for _ in range(2))
    items = missing(draft, wish, SHARD, ROWS)
    assert [(item["place"], item["images"]) for item in items] == [(0, PIECE), (1, PIECE), (2, 3)]
    second.item(SHARD, 2)
    assert [item["place"] for item in missing(draft, wish, SHARD, ROWS)] == [0, 1]
    first.item(SHARD, 0)
    assert draft.done("twice/00007") is None
    second.item(SHARD, 1)
    assert missing(draft, wish, SHARD, ROWS) == []
    made = draft.so_far(_parts_of(draft, wish, SHARD))
    assert made.table("once/00007")["image_id"].to_pylist() == WANTED


def test_pieces_of_an_attempt_that_was_cut_off_stand(dataset: Artifact, tmp_path: Path) -> None:
    """Its tables are read, not made again: they hold what no labeller would say."""
    wish, draft = work("once", "twice", pieces=True), drafted(tmp_path)
    for table, rows in (("once", ["kept"] * PIECE), ("twice", ["kept"] * 2 * PIECE)):
        draft.write(wish.piece(SHARD, 0)[table], pa.table({"image_id": rows}))
    made, _ = label(dataset, tmp_path, 64, wish)
    assert made.table("once/00007")["image_id"].to_pylist() == ["kept"] * PIECE + WANTED[PIECE:]


def test_a_shard_whose_pieces_are_all_there_is_joined(dataset: Artifact, tmp_path: Path) -> None:
    """As when a worker ended between its last piece and the joining."""
    wish, draft = work("once", pieces=True), drafted(tmp_path)
    for place, rows in enumerate((PIECE, PIECE, 3)):
        draft.write(wish.piece(SHARD, place)["once"], pa.table({"image_id": ["kept"] * rows}))
    items = missing(draft, wish, SHARD, ROWS)
    assert items == [{"part": SHARD, "place": 0, "images": 0}]
    made, _ = label(dataset, tmp_path, 64, wish)
    assert made.table("once/00007").num_rows == ROWS


@pytest.mark.parametrize("pieces", [False, True])
def test_a_shard_without_a_wanted_image_gives_empty_tables(
    dataset: Artifact, tmp_path: Path, pieces: bool
) -> None:
    apart = "twice" if pieces else ""
    wish = replace(work("once", pieces=pieces, apart=apart), splits=("valid",))
    draft = drafted(tmp_path)
    items = missing(draft, wish, SHARD, 0)
    assert [item["images"] for item in items] == [0]
    LabelShards(wish, dataset, draft, 8, 1).item(SHARD)
    assert [(part.name, part.rows) for part in _parts_of(draft, wish, SHARD)] == [("once/00007", 0)]


def test_no_table_stays_in_pieces_where_there_are_none() -> None:
    with pytest.raises(ValueError, match="none are made"):
        work("once", apart="twice")


@pytest.mark.parametrize(
    ("splits", "wanted"), [(("train", "test"), (4, 3)), (("test",), (1, 3)), (("valid",), (0, 0))]
)
def test_images_of_some_splits_are_counted(
    tmp_path: Path, splits: tuple[str, ...], wanted: tuple[int, int]
) -> None:
    draft, parts = Workspace(tmp_path / "data").draft("dataset", "c" * 16), []
    for name, rows in (("0", ["train"] * 3 + ["test"]), ("1", ["test"] * 3)):
        for kind in ("rows", "index"):
            parts.append(draft.write(f"{kind}/{name}", pa.table({"split": rows})))
    summary = {"splits": {"train": {}, "test": {}}}
    dataset = draft.finish(parts, config={}, inputs={}, summary=summary)
    found = images_of(dataset, dataset.parts("rows/"), splits)
    assert found == dict(zip(("rows/0", "rows/1"), wanted, strict=True))
