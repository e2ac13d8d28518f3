"""Ingest on Ray Data: nothing dropped, nothing read twice, the same however it is spread."""

import json
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from chexseg_platform import plan
from chexseg_platform.artifacts import Artifact, Workspace
from chexseg_platform.cli import main
from chexseg_platform.config import Data
from chexseg_platform.data import sources
from chexseg_platform.data.phantom import write_phantom
from chexseg_platform.stages import ingest
from chexseg_platform.stages.context import Context
from click.testing import CliRunner
from PIL import Image

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

SHARD = 4
NewContext = Callable[[Path], Context]


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "SHARD_IMAGES", SHARD)


def png_header(side: int) -> bytes:
    """A PNG of a few bytes that claims side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        whole = kind + data
        return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0"))


def spoil(images: list[Path]) -> dict[str, str]:
    """Make the first five unusable, each in its way; return image -> reason."""
    missing, truncated, wrong, constant, large = images[:5]
    missing.unlink()
    truncated.write_bytes(truncated.read_bytes()[: truncated.stat().st_size // 2])
    Image.new("L", (64, 64), 3).save(wrong, format="GIF")
    Image.new("L", (64, 64), 90).save(constant, format="PNG")
    large.write_bytes(png_header(60_000))
    reasons = ("missing", "truncated", "format", "constant", "too-large")
    return dict(zip((str(path) for path in images), reasons, strict=False))


def wish_of(layout: Any, *, max_rejected: float = 0.01) -> Data:
    return Data(tables=layout.tables, size=64, max_rejected=max_rejected)


def training_images(layout: Any) -> list[Path]:
    """Paths of the JPEG images of the training table, one of each shard first."""
    entries = sources.read_table(layout.tables[0])
    paths = [Path(entry.path) for entry in entries]
    firsts = paths[1::SHARD]
    return [path for path in firsts + paths if path.is_file() and path.suffix == ".jpg"]


def parts_of(dataset: Artifact) -> dict[str, str]:
    return {part.name: part.sha256 for part in dataset.parts()}


def test_every_input_is_taken_or_listed_with_its_reason(
    layout: Any, tmp_path: Path, new_context: NewContext
) -> None:
    spoiled = layout.copy(tmp_path / "spoiled")
    reasons = spoil(training_images(spoiled))
    dataset = ingest.ingest(new_context(tmp_path / "ws"), wish_of(spoiled, max_rejected=0.5))
    table = dataset.table("rejected.parquet")
    listed = dict(zip(table["source"].to_pylist(), table["reason"].to_pylist(), strict=True))
    found = {path: r for path, r in reasons.items() for source in listed if path.endswith(source)}
    assert found == reasons
    assert len(listed) == len(reasons)
    assert dataset.summary["images"] + table.num_rows == 24 + 12 + 8
    assert dataset.summary["rejected"] == dict.fromkeys(reasons.values(), 1)


def test_stops_above_max_rejected_and_goes_on_when_it_is_raised(
    layout: Any, tmp_path: Path, new_context: NewContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoiled = layout.copy(tmp_path / "spoiled")
    spoil(training_images(spoiled)[::-1])  # the shards that come first are sound
    context = new_context(tmp_path / "ws")
    with pytest.raises(ingest.TooManyRejected, match=r"raise data\.max_rejected") as stopped:
        ingest.ingest(context, wish_of(spoiled, max_rejected=0.0))
    draft = next((tmp_path / "ws" / "dataset").iterdir())
    assert (draft / "rejected.parquet").is_file()
    assert str(draft / "rejected.parquet") in str(stopped.value)
    assert context.workspace.artifacts("dataset") == []

    entries = sources.read_entries(wish_of(spoiled)).entries
    shards = ingest.cut(entries, 64)
    receipts = [json.loads(path.read_text()) for path in (draft / "receipts/rejected").iterdir()]
    done = [row["name"].removeprefix("rejected/") for row in receipts if not row["rows"]]
    assert 0 < len(done) < len(shards)
    asked, plain = list[str](), ingest._stream
    monkeypatch.setattr(
        ingest,
        "_stream",
        lambda context, todo, *rest: (asked.extend(todo), plain(context, todo, *rest))[1],
    )
    dataset = ingest.ingest(context, wish_of(spoiled, max_rejected=0.5))
    assert set(asked) == shards.keys() - set(done)
    assert sum(dataset.summary["rejected"].values()) == 5


def mend(layout: Any, spoiled: Any, path: Path) -> None:
    shutil.copy(layout.root / path.relative_to(spoiled.root), path)


def test_inputs_that_are_mended_are_read_when_the_command_is_given_again(
    layout: Any, tmp_path: Path, new_context: NewContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the sample that names a dataset holds none of them."""
    monkeypatch.setattr(sources, "SAMPLED", 1)
    spoiled, context = layout.copy(tmp_path / "spoiled"), new_context(tmp_path / "ws")
    images = training_images(spoiled)
    spoil(images)
    with pytest.raises(ingest.TooManyRejected):
        ingest.ingest(context, wish_of(spoiled, max_rejected=0.0))
    (draft,) = (tmp_path / "ws" / "dataset").iterdir()
    mend(layout, spoiled, images[0])
    first = ingest.ingest(context, wish_of(spoiled, max_rejected=0.5))
    assert Path(first.uri) == draft, "what was read before it stopped is kept"
    assert sum(first.summary["rejected"].values()) == 4
    assert ingest.ingest(context, wish_of(spoiled, max_rejected=0.5)).uri == first.uri

    for path in images[1:3]:
        mend(layout, spoiled, path)
    second = ingest.ingest(context, wish_of(spoiled, max_rejected=0.5))
    assert second.fingerprint != first.fingerprint
    assert sum(second.summary["rejected"].values()) == 2
    for path in images[3:5]:
        mend(layout, spoiled, path)
    third = ingest.ingest(context, wish_of(spoiled))
    assert third.summary["rejected"] == {}
    assert ingest.ingest(context, wish_of(spoiled)).uri == third.uri
    assert plan.dataset_print(wish_of(spoiled), context.workspace) == third.fingerprint


def test_every_shard_is_a_task_of_its_own(
    layout: Any, tmp_path: Path, new_context: NewContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, context = wish_of(layout), new_context(tmp_path / "ws")
    shards = ingest.cut(sources.read_entries(data).entries, 64)
    assert len(shards) == (24 + 12 + 8) // SHARD
    plain = ingest.write_shards

    def noted(batch: dict[str, Any], **options: Any) -> dict[str, Any]:
        answer = plain(batch, **options)
        task = ray.get_runtime_context().get_task_id()
        return {**answer, "task": np.array([task] * len(answer["images"]))}

    monkeypatch.setattr(ingest, "write_shards", noted)
    draft = context.workspace.draft("dataset", "0" * 16)
    rows = list(ingest._stream(context, shards, draft, 64))
    assert sum(int(row["images"]) for row in rows) == 24 + 12 + 8
    assert len({str(row["task"]) for row in rows}) == len(shards)


def test_the_result_does_not_depend_on_how_it_is_spread(
    layout: Any, tmp_path: Path, new_context: NewContext
) -> None:
    data = wish_of(layout)
    spread = ingest.ingest(new_context(tmp_path / "ws"), data)
    draft = Workspace(tmp_path / "alone").draft("dataset", spread.fingerprint)
    for name, entries in ingest.cut(sources.read_entries(data).entries, 64).items():
        ingest.write_shard(name, entries, draft, 64)
    names = [part.name for part in spread.parts() if part.name != "rejected.parquet"]
    alone = {name: part.sha256 for name in names if (part := draft.done(name))}
    assert alone == {name: digest for name, digest in parts_of(spread).items() if name in names}


def test_a_table_moved_elsewhere_gives_the_same_dataset(
    layout: Any, tmp_path: Path, new_context: NewContext
) -> None:
    moved = layout.copy(tmp_path / "moved")
    context = new_context(tmp_path / "ws")
    first = ingest.ingest(context, wish_of(layout))
    assert ingest.ingest(context, wish_of(moved)).manifest == first.manifest


def test_a_collection_with_mask_files(tmp_path: Path) -> None:
    """Read by the command; a mask and an image that will not do are listed, and nothing else."""
    root, workspace = tmp_path / "organs", str(tmp_path / "ws")
    write_phantom(root, train=9, valid=3, test=4, size=64, layout="covid-qu-ex", workers=1)
    masks = sorted(root.rglob("Train/*/lung masks/*.png"))
    Image.fromarray(np.full((64, 64), 7, np.uint8)).save(masks[0])
    masks[1].unlink()
    command = ["data", "masks", str(root), "--layout", "covid-qu-ex", "--size", "64"]
    command += ["--workspace", workspace]
    stopped = CliRunner().invoke(main, command)
    assert stopped.exit_code == 1
    assert "2 of 16 inputs cannot be used (2 mask)" in stopped.output
    result = CliRunner().invoke(main, [*command, "--max-rejected", "0.2"])
    assert result.exit_code == 0, result.output
    (dataset,) = Workspace(workspace).artifacts("dataset")
    assert dataset.summary["images"] == 14
    assert dataset.summary["rejected"] == {"mask": 2}
    refused = dataset.table("rejected.parquet").to_pylist()
    assert sorted(row["message"].partition(" 0 and")[0] for row in refused) == [
        f"The mask lung masks/{masks[0].name} has the values 7 besides",
        "There is no mask of Lungs.",
    ]  # fmt: skip
    test = dataset.summary["splits"]["test"]
    drawn, shown = test["drawn"], test["shown"]
    assert drawn == dict.fromkeys(("Lungs", "COVID-19 Infection"), test["images"])
    assert 0 < shown["COVID-19 Infection"] < shown["Lungs"] == drawn["Lungs"]
    empty = test["images"] - shown["COVID-19 Infection"]
    assert f"Lungs on {drawn['Lungs']}, COVID-19 Infection on" in result.output
    assert f"({empty} of them empty)" in result.output
    # The experts' masks are there at both sizes, and an image without infection was read.
    index = dataset.tables("index/", ["masks", "small_masks"]).to_pylist()
    assert all(row["masks"] and row["small_masks"] for row in index)
