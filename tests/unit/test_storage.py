"""Whole files in, whole files out, and nothing outside the folder."""

import os
import pickle

import pyarrow.fs as pafs
import pytest
from chexseg_platform.storage import Storage, WorkspaceError


def test_write_read_delete(tmp_path):
    storage = Storage(tmp_path / "made" / "on demand")
    assert storage.write("a/b.txt", b"one")
    assert storage.read("a/b.txt") == b"one"
    assert storage.write("a/b.txt", b"two")
    assert not storage.write("a/b.txt", b"three", replace=False)
    assert storage.read("a/b.txt") == b"two"
    assert storage.exists("a")
    assert storage.folders("a") == []
    assert storage.join("a").read("b.txt") == b"two"
    storage.delete("a/b.txt")
    storage.delete("a/b.txt")
    assert not storage.exists("a/b.txt")
    with pytest.raises(FileNotFoundError):
        storage.read("a/b.txt")
    storage.delete()
    assert not (tmp_path / "made" / "on demand").exists()


def test_folders_are_listed_and_files_are_not(tmp_path):
    storage = Storage(tmp_path)
    for key in ("kind/b/x", "kind/a/x", "kind/file"):
        storage.write(key, b"")
    assert storage.folders("kind") == ["a", "b"]
    assert storage.folders("nothing") == []


def test_nothing_is_left_of_a_write_that_fails(tmp_path, monkeypatch):
    storage = Storage(tmp_path)
    storage.write("a/b", b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        storage.write("a/b", b"new")
    assert storage.read("a/b") == b"old"
    assert os.listdir(tmp_path / "a") == ["b"]


@pytest.mark.parametrize(
    "key",
    ["", ".", "..", "../x", "a/../b", "a/../../b", "/etc/passwd", "a//b", "a/", "a/.hidden", "a\n",
     "a\\b", "a b", "~", "a\0b", "-rf"],
)  # fmt: skip
def test_names_that_leave_the_folder_are_refused(tmp_path, key):
    storage = Storage(tmp_path)
    for use in (storage.path, storage.join, storage.read, storage.exists, storage.folders):
        with pytest.raises(WorkspaceError, match="is not a name for a file in the workspace"):
            use(key)
    with pytest.raises(WorkspaceError):
        storage.write(key, b"")
    if key:
        with pytest.raises(WorkspaceError):
            storage.delete(key)


def test_a_relative_folder_is_the_same_for_a_worker_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    storage = Storage("workspace")
    storage.write("a", b"here")
    pickled = pickle.dumps(storage.join("b"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert pickle.loads(pickled).uri == str(tmp_path / "workspace" / "b")  # noqa: S301
    assert storage.read("a") == b"here"


def test_an_upload_that_fails_is_not_closed_and_so_not_published(tmp_path, monkeypatch):
    class Upload:
        closed = False

        def write(self, data):
            raise OSError("connection reset")

        def close(self):
            self.closed = True

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.close()

    class Bucket:
        upload = Upload()

        def create_dir(self, path, recursive):
            pass

        def open_output_stream(self, path):
            return self.upload

    storage = Storage(tmp_path)
    monkeypatch.setattr(storage, "local", False)
    monkeypatch.setattr(storage, "fs", Bucket())
    with pytest.raises(OSError, match="connection reset"):
        storage.write("a", b"data")
    assert not Bucket.upload.closed


@pytest.mark.parametrize(
    "address",
    ["s3://me:hidden@bucket/w", "s3://bucket/w?secret_key=hidden&region=x", "s3://me:@bucket/w",
     "s3://bucket/w?session_token=hidden", "s3://bucket/w?access_key="],
)  # fmt: skip
def test_no_address_holds_credentials(address):
    with pytest.raises(WorkspaceError, match=r"s3://bucket/w holds credentials: .* set AWS") as no:
        Storage(address)
    assert "hidden" not in str(no.value)
    assert "me:" not in str(no.value)


def test_addresses_of_other_filesystems(tmp_path):
    local = Storage(f"file://{tmp_path}")
    assert local.local
    local.write("a/b", b"x")
    assert Storage(tmp_path).read("a/b") == b"x"
    assert local.join("a").uri == f"file://{tmp_path}/a"
    assert local.join("a").read("b") == b"x"
    for wrong in ("nonsense://bucket/x", "s3://"):
        with pytest.raises(WorkspaceError, match="cannot be opened"):
            Storage(wrong)


def test_options_of_a_filesystem_stay_behind_the_folder():
    bucket = Storage("s3://bucket/runs/?region=eu-west-1&allow_bucket_creation=true")
    inner = bucket.join("dataset/abc")
    assert inner.uri == "s3://bucket/runs/dataset/abc?region=eu-west-1&allow_bucket_creation=true"
    assert inner.base == "bucket/runs/dataset/abc"
    assert not inner.local


def test_a_store_without_links_writes_whole_files_too(tmp_path):
    storage = Storage(tmp_path)
    storage.fs, storage.local = pafs.SubTreeFileSystem("/", pafs.LocalFileSystem()), False
    assert storage.write("a/b", b"one", replace=False)
    assert not storage.write("a/b", b"two", replace=False)
    assert storage.read("a/b") == b"one"
    assert storage.write("a/b", b"three")
    assert storage.read("a/b") == b"three"


def test_below_a_file_there_is_nothing(tmp_path):
    (tmp_path / "file").write_text("x")
    storage = Storage(tmp_path / "file")
    with pytest.raises(FileNotFoundError):
        storage.read("a")
    assert not storage.exists("a")
