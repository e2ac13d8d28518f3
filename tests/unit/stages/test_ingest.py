"""What ingest decides without Ray: doubles and shards of an earlier attempt, and the summary."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chexseg_platform.artifacts import Workspace
from chexseg_platform.config import Collection, Data, Resources
from chexseg_platform.data import masks, sources
from chexseg_platform.data.rows import ImageRow, to_table
from chexseg_platform.data.store import index_of
from chexseg_platform.stages import ingest
from chexseg_platform.stages.context import Context
from PIL import Image

SIDE = 32


def picture(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE)).astype(np.uint8)
    Image.fromarray(values).save(path)


@pytest.fixture
def data(tmp_path: Path) -> Data:
    """Two folders; the first one's training image "b" is the second one's test image "z"."""
    for folder, split, names in (("one", "train", "abc"), ("two", "test", "yz")):
        for name in names:
            root = tmp_path / folder / split
            picture(root / "images" / f"{name}.png", ord("b" if name == "z" else name))
            (root / "masks/heart").mkdir(parents=True, exist_ok=True)
            drawn = np.zeros((SIDE, SIDE), np.uint8)
            drawn[: SIDE // 2] = 255 * (name != "y")
            Image.fromarray(drawn).save(root / "masks/heart" / f"{name}.png")
    roots = [str(tmp_path / name) for name in ("one", "two")]
    return Data(
        collections=[Collection(layout="folder", root=root) for root in roots],
        size=SIDE,
        max_rejected=1.0,
    )


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Ingest in this process; returns the dataset and which images were read for it."""
    read = list[str]()

    def stream(context: Any, shards: Any, draft: Any, size: int) -> Any:
        for name, entries in shards.items():
            read.extend(entry.image_id for entry in entries)
            taken, refused = ingest.write_shard(name, entries, draft, size)
            yield {"images": taken + refused, "rejected": refused}

    monkeypatch.setattr(ingest, "_stream", stream)
    monkeypatch.setattr(ingest, "SHARD_IMAGES", 2)

    def run(data: Data, print_: str | None = None) -> Any:
        read.clear()
        context = Context(Workspace(tmp_path / "ws"), Resources())
        return ingest.ingest(context, data, print_), list(read)

    return run


def rejected(dataset: Any) -> dict[str, str]:
    table = dataset.table("rejected.parquet").to_pylist()
    return {row["image_id"]: f"{row['reason']}: {row['message']}" for row in table}


def test_doubles_are_listed_and_do_not_count_as_rejected(data: Data, run: Any) -> None:
    strict = data.model_copy(update={"max_rejected": 0.0})
    dataset, read = run(strict)
    assert read == ["a", "c", "y", "z"]
    assert rejected(dataset) == {
        "b": "double: The same picture is test/images/z.png (test), which stays."
    }
    summary = dataset.summary
    assert (summary["images"], summary["doubles"], summary["rejected"]) == (4, 1, {})
    again, read = run(strict)
    assert (again.uri, read) == (dataset.uri, [])


def test_a_copy_of_what_was_refused_is_refused(data: Data, run: Any, tmp_path: Path) -> None:
    mask = tmp_path / "two/test/masks/heart/z.png"
    sound = mask.read_bytes()
    Image.fromarray(np.full((SIDE, SIDE), 9, np.uint8)).save(mask)
    with pytest.raises(ingest.TooManyRejected, match="1 of 4 inputs"):
        run(data.model_copy(update={"max_rejected": 0.0}))
    dataset, _ = run(data)
    assert dataset.summary["rejected"] == {"mask": 1, "double": 1}
    assert dataset.summary["doubles"] == 0
    assert "z.png (test), which was to stay and cannot be used" in rejected(dataset)["b"]
    # Its mask is mended: another dataset, although the image is as it was.
    mask.write_bytes(sound)
    mended, _ = run(data)
    assert mended.fingerprint != dataset.fingerprint
    assert list(rejected(mended)) == ["b"]


def test_a_mask_without_its_image_does_not_make_every_run_another(
    data: Data, run: Any, tmp_path: Path
) -> None:
    (tmp_path / "one/train/images/a.png").unlink()
    dataset, _ = run(data)
    assert rejected(dataset)["a"] == "missing: There is a mask of this name, but no image."
    again, read = run(data)
    assert (again.uri, read) == (dataset.uri, [])


def test_shards_are_made_anew_where_other_doubles_are_left_out(
    data: Data, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attempt that was cut off after its first shard, before a file was changed."""
    monkeypatch.setattr(ingest, "_finish", lambda *rest: pytest.fail("cut off"))
    plain, print_ = ingest._stream, "a" * 16

    def first_only(context: Any, shards: Any, *rest: Any) -> Any:
        yield from plain(context, dict(list(shards.items())[:1]), *rest)
        raise KeyboardInterrupt

    def attempt() -> list[str]:
        with pytest.raises(KeyboardInterrupt):
            run(data, print_)
        return [name for name, left in shards_left() if not left]

    def shards_left() -> list[tuple[str, bool]]:
        draft = Workspace(tmp_path / "ws").draft("dataset", print_)
        names = ingest.cut(sources.read_entries(data).entries, SIDE)
        return [(name, draft.done(f"rejected/{name}") is None) for name in names]

    monkeypatch.setattr(ingest, "_stream", first_only)
    assert attempt() == ["00000.parquet"]
    # The same doubles: what was read is kept, and the next shard is read.
    assert attempt() == ["00000.parquet", "00001.parquet"]
    picture(tmp_path / "two/test/images/y.png", ord("a"))
    assert attempt() == ["00000.parquet"]


def row(name: str, drawn: dict[str, np.ndarray] | None) -> ImageRow:
    return ImageRow(
        image_id=name, patient=name, study="s", view="frontal", projection=None, sex=None, age=None,
        split="train", source=name, height=SIDE, width=SIDE, image=bytes(SIDE**2),
        labels=(None,) * 14,
        masks=None if drawn is None else {n: masks.encode(mask) for n, mask in drawn.items()},
    )  # fmt: skip


def test_the_summary_tells_what_was_drawn_from_what_is_there() -> None:
    nothing = np.zeros((SIDE, SIDE), bool)
    some = nothing.copy()
    some[3, 4] = True
    rows = [
        row("a", {"Lungs": ~nothing, "Infection": nothing}),
        row("b", {"Lungs": some, "Infection": some}),
        row("c", {"Lungs": some}),
        row("d", None),
    ]
    index = index_of(to_table(rows, SIDE), SIDE)
    summary = ingest.summarise(index, SIDE, ingest.REJECTED.empty_table(), 3)
    train = summary["splits"]["train"]
    assert train["drawn"] == {"Lungs": 3, "Infection": 2}
    assert train["shown"] == {"Lungs": 3, "Infection": 1}
    assert (train["images"], train["expert images"], summary["doubles"]) == (4, 3, 3)
    assert summary["rejected"] == {}
