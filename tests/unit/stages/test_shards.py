"""Shards through a labeller, without Ray: what is written, whatever the batch."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from chexseg_platform.artifacts import Artifact, Part, Workspace
from chexseg_platform.saliency.pseudotable import Images
from chexseg_platform.stages.shards import PIECE, LabelShards, Work, _parts_of, images_of

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


def label(dataset: Artifact, folder: Path, batch: int, **work: Any) -> tuple[Artifact, list[Part]]:
    draft = Workspace(folder).draft("pseudolabels", "b" * 16)
    wish = Work(lambda device, memory: Names(), splits=("train",), **work)
    answer = LabelShards(wish, dataset, draft, batch, 1)({"part": np.array([SHARD])})
    assert answer["rows"].tolist() == [ROWS + 1]
    parts = _parts_of(draft, wish, SHARD)
    return draft.so_far(parts), parts


@pytest.mark.parametrize("batch", [1, 5, PIECE, 64])
def test_a_large_table_is_written_in_the_same_pieces_whatever_the_batch(
    dataset: Artifact, tmp_path: Path, batch: int
) -> None:
    made, parts = label(dataset, tmp_path / "ws", batch, tables=("once",), pieces="twice")
    names = [part.name for part in parts]
    assert names == ["once/00007", *(f"twice/00007-{place:04d}" for place in range(3))]
    assert [part.rows for part in parts] == [ROWS, 2 * PIECE, 2 * PIECE, 6]
    wanted = [f"image {number}" for number in range(ROWS + 1) if number != 5]
    assert made.tables("once/")["image_id"].to_pylist() == wanted
    twice = made.tables("twice/")["image_id"].to_pylist()
    assert twice == [name for name in wanted for _ in range(2)]


def test_pieces_of_an_attempt_that_was_cut_off_stand(dataset: Artifact, tmp_path: Path) -> None:
    first = Workspace(tmp_path / "ws").draft("pseudolabels", "b" * 16)
    names = [f"image {number}" for number in range(PIECE + 1) if number != 5]
    rows = pa.table({"image_id": [name for name in names for _ in range(2)]})
    piece = first.write("twice/00007-0000", rows)
    _, parts = label(dataset, tmp_path / "ws", 64, tables=("once",), pieces="twice")
    assert parts[1] == piece


def test_without_pieces_a_shard_is_one_part_of_every_table(
    dataset: Artifact, tmp_path: Path
) -> None:
    _, parts = label(dataset, tmp_path / "ws", 8, tables=("once", "twice"))
    assert [part.name for part in parts] == ["once/00007", "twice/00007"]
    assert [part.rows for part in parts] == [ROWS, 2 * ROWS]


def test_a_shard_without_a_wanted_image_gives_empty_tables(
    dataset: Artifact, tmp_path: Path
) -> None:
    draft = Workspace(tmp_path / "ws").draft("pseudolabels", "b" * 16)
    wish = Work(lambda device, memory: Names(), ("once",), ("valid",), "twice")
    LabelShards(wish, dataset, draft, 8, 1)({"part": np.array([SHARD])})
    assert [(part.name, part.rows) for part in _parts_of(draft, wish, SHARD)] == [("once/00007", 0)]


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
