"""Folders are never mixed, and files never in part."""

from pathlib import Path

import pytest
from chexseg_platform.prediction.output import (
    ABOUT,
    MASKS,
    OURS,
    OccupiedOutput,
    prepare,
    published,
    say_about,
)


def test_a_new_and_an_empty_folder_are_taken(tmp_path: Path) -> None:
    for overwrite in (False, True):
        out = tmp_path / str(overwrite) / "new"
        prepare(out, overwrite=overwrite)
        assert out.is_dir()
        prepare(out, overwrite=overwrite)


def test_predictions_are_replaced_only_where_told(tmp_path: Path) -> None:
    say_about(tmp_path, {"images": 1}, finished=False)
    (tmp_path / MASKS / "a").mkdir(parents=True)
    (tmp_path / MASKS / "a" / "Edema.png").touch()
    (tmp_path / "mine.txt").touch()
    (tmp_path / ".123.predictions.csv").touch()  # left by a process that was killed
    with pytest.raises(OccupiedOutput, match=r"holds predictions already.*--overwrite"):
        prepare(tmp_path, overwrite=False)
    assert (tmp_path / MASKS / "a" / "Edema.png").exists()
    prepare(tmp_path, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_other_folders_are_never_touched(tmp_path: Path) -> None:
    (tmp_path / MASKS).mkdir()
    for overwrite in (False, True):
        with pytest.raises(OccupiedOutput, match=f"holds other files.*{ABOUT}"):
            prepare(tmp_path, overwrite=overwrite)
    assert (tmp_path / MASKS).is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(OccupiedOutput, match="is a file"):
        prepare(tmp_path / "file", overwrite=True)


def test_a_bucket_is_no_folder() -> None:
    with pytest.raises(OccupiedOutput, match="folder of this machine"):
        prepare(Path("s3://bucket/out"), overwrite=False)


def test_a_link_is_removed_and_not_what_it_points_to(tmp_path: Path) -> None:
    out, far = tmp_path / "out", tmp_path / "far"
    far.mkdir()
    (far / "kept").touch()
    out.mkdir()
    say_about(out, {}, finished=True)
    (out / MASKS).symlink_to(far)
    prepare(out, overwrite=True)
    assert (far / "kept").exists()
    assert not (out / MASKS).exists()


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / OURS[3]
    path.write_text("old")
    with pytest.raises(RuntimeError), published(path) as partial:  # noqa: PT012
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    with published(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert [item.read_text() for item in tmp_path.iterdir()] == ["new"]
