"""Artifacts: attempts that are cut off, writers that race, and files that rot."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from chexseg_platform.artifacts import CorruptArtifact, Workspace, fingerprint
from chexseg_platform.storage import WorkspaceError
from hypothesis import given
from hypothesis import strategies as st

TABLE = pa.table({"a": list(range(1000)), "b": [f"text {n}" for n in range(1000)]})


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "workspace")


def finish(draft, *parts, **fields):
    return draft.finish(parts, config={"x": 1}, inputs={"dataset": "abc"}, **fields)


@pytest.fixture
def made(workspace):
    draft = workspace.draft("kind", "0123")
    parts = [draft.write("rows/0.parquet", TABLE, info={"score": 0.5})]
    parts += [draft.write("notes", b"some bytes"), draft.write_json("history.json", [1, 2])]
    return finish(draft, *parts, seed=3, summary={"rows": 1000}, timings={"train": 1.5})


def test_what_is_written_is_read(workspace, made):
    found = workspace.find("kind", "0123")
    assert (found.uri, found.manifest) == (made.uri, made.manifest)
    assert found.table("rows/0.parquet") == TABLE
    assert found.tables("rows/", ["a"]).column_names == ["a"]
    assert found.read("notes") == b"some bytes"
    assert found.json("history.json") == [1, 2]
    assert (found.summary, found.seed) == ({"rows": 1000}, 3)
    part = found.part("rows/0.parquet")
    assert (part.rows, part.info) == (1000, {"score": 0.5})
    assert [part.name for part in found.parts()] == ["rows/0.parquet", "notes", "history.json"]
    assert found.manifest["inputs"] == {"dataset": "abc"}
    assert [artifact.uri for artifact in workspace.artifacts("kind")] == [made.uri]
    assert workspace.artifacts("other") == []
    with pytest.raises(CorruptArtifact, match="has no part 'nothing'"):
        found.read("nothing")


def test_columns_come_in_the_order_asked(workspace):
    table = TABLE.append_column("c", pa.array([[{"x": n, "y": "t"}] for n in range(1000)]))
    draft = workspace.draft("kind", "0123")
    made = finish(draft, draft.write("rows/0.parquet", table))
    assert made.table("rows/0.parquet", ["c", "a"]) == table.select(["c", "a"])
    with pytest.raises(KeyError, match="nothing"):
        made.table("rows/0.parquet", ["a", "nothing"])


# A thread of Arrow's that outlives the read may let go of the part's bytes while the interpreter
# ends, and that aborts the process: about one in a hundred.
READ = """
import os
import sys
from chexseg_platform.artifacts import Workspace
found = Workspace(sys.argv[1]).find("kind", "0123")
before = len(os.listdir("/proc/self/task"))
for _ in range(3):
    assert found.table("rows/0.parquet").num_rows == 1000
print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
def test_reading_leaves_no_thread_behind(workspace, made):
    command = [sys.executable, "-c", READ, str(workspace.storage.uri)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "0\n"


def test_an_artifact_is_there_once_its_manifest_is(workspace):
    draft = workspace.draft("kind", "0123")
    part = draft.write("a", b"x")
    assert workspace.find("kind", "0123") is None
    assert workspace.artifacts("kind") == []
    finish(draft, part)
    assert workspace.find("kind", "0123") is not None


def test_a_second_attempt_keeps_what_the_first_finished(workspace):
    first = workspace.draft("kind", "0123")
    kept = first.write("rows/0.parquet", TABLE)
    # Cut off between a part and its receipt: the part does not count.
    first.storage.write("parts/rows/1.parquet", b"torn")
    second = workspace.draft("kind", "0123")
    assert second.done("rows/0.parquet") == kept
    assert second.done("rows/1.parquet") is None
    found = finish(second, kept, second.write("rows/1.parquet", TABLE))
    assert found.tables("rows/").num_rows == 2000


def test_the_first_of_two_attempts_stands(workspace):
    first, second = workspace.draft("kind", "0123"), workspace.draft("kind", "0123")
    one = first.write("a", b"one")
    assert second.write("a", b"two") == one
    assert first.write("a", b"three") == one
    assert len(list(Path(first.storage.base, "parts").iterdir())) == 1
    finish(first, one, summary={"by": "first"})
    late = finish(second, one, summary={"by": "second"})
    assert late.summary == {"by": "first"}
    assert late.read("a") == b"one"


RACE = """
import json
from chexseg_platform.artifacts import Workspace
draft = Workspace(sys.argv[2]).draft("kind", "0123")
ready()
parts = [draft.write(f"part-{n}", sys.argv[1].encode() * 1000) for n in range(20)]
print(json.dumps([part.to_dict() for part in parts]))
"""


def test_of_racing_processes_one_wins_and_its_content_is_whole(workspace, together):
    """A task that is run twice must not remove what its first run wrote."""
    told = [json.loads(output) for output in together(RACE, 3, workspace.uri)]
    assert told[0] == told[1] == told[2]
    draft = workspace.draft("kind", "0123")
    found = finish(draft, *(draft.done(f"part-{n}") for n in range(20)))
    for part in found.parts():
        content = found.read(part.name)
        assert content == content[:1] * 1000
    assert len(list(Path(draft.storage.base, "parts").iterdir())) == 20


@pytest.mark.parametrize("harm", ["receipt cut", "receipt of text", "part gone", "part cut"])
def test_a_damaged_attempt_is_made_again(workspace, harm):
    draft = workspace.draft("kind", "0123")
    part = draft.write("rows/0.parquet", TABLE)
    receipt = Path(draft.storage.path("receipts/rows/0.parquet.json"))
    file = Path(draft.storage.path(part.key))
    if harm == "receipt cut":
        receipt.write_bytes(receipt.read_bytes()[:40])
    elif harm == "receipt of text":
        receipt.write_text('["not", "a", "receipt"]')
    elif harm == "part gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1])
    again = workspace.draft("kind", "0123")
    assert again.done("rows/0.parquet") is None
    new = again.write("rows/0.parquet", TABLE)
    assert again.done("rows/0.parquet") == new
    assert finish(again, new).table("rows/0.parquet") == TABLE


def flip(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize("harm", [flip, lambda data: data[:-1], lambda data: b"", None])
@pytest.mark.parametrize("name", ["rows/0.parquet", "notes", "history.json"])
def test_a_part_that_rotted_is_named_with_what_to_do(made, name, harm):
    file = Path(made.storage.path(made.part(name).key))
    if harm is None:
        file.unlink()
    else:
        file.write_bytes(harm(file.read_bytes()))
    with pytest.raises(CorruptArtifact) as caught:
        made.table(name) if name.startswith("rows") else made.read(name)
    message = str(caught.value)
    assert message.startswith(f"{name} of {made.uri} is ")
    assert f"Remove the folder {made.uri} and run the same command again" in message


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "{}", '{"parts": 3}', "\udcff"],
)
def test_a_broken_manifest_says_what_to_do(workspace, made, text):
    file = Path(made.storage.path("artifact.json"))
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    for look in (lambda: workspace.find("kind", "0123"), lambda: workspace.artifacts("kind")):
        with pytest.raises(CorruptArtifact, match=r"artifact\.json is not a readable.*Remove the"):
            look()


def test_a_manifest_of_another_artifact_is_refused(workspace, made):
    copied = Workspace(workspace.uri).draft("kind", "4567").storage
    copied.write("artifact.json", made.storage.read("artifact.json"))
    with pytest.raises(CorruptArtifact, match="manifest of another artifact"):
        workspace.find("kind", "4567")


def test_a_manifest_cannot_send_a_reader_out_of_the_folder(workspace, made):
    file = Path(made.storage.path("artifact.json"))
    manifest = json.loads(file.read_text())
    manifest["parts"][0]["key"] = "../../../../etc/passwd"
    file.write_text(json.dumps(manifest))
    with pytest.raises(CorruptArtifact, match=r"is not a readable manifest\. Remove the folder"):
        workspace.find("kind", "0123")


def test_drafts_and_artifacts_travel_to_workers(made):
    draft, artifact = pickle.loads(  # noqa: S301
        pickle.dumps((Workspace(made.uri).draft("kind", "x"), made))
    )
    assert artifact.read("notes") == b"some bytes"
    assert draft.write("a", b"x").bytes == 1


def test_only_plain_json_is_kept(workspace):
    draft = workspace.draft("kind", "0123")
    with pytest.raises(ValueError, match="not JSON compliant"):
        draft.write_json("a.json", {"score": float("nan")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        draft.write("a", b"", info={"score": float("inf")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        finish(draft, draft.write("b", b""), summary={"score": float("nan")})
    assert workspace.find("kind", "0123") is None


def test_a_workspace_that_cannot_be_written_says_why(tmp_path):
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere")):
        workspace = Workspace(place)
        with pytest.raises(WorkspaceError, match=r"cannot be written .*--workspace"):
            workspace.check_writable()
        assert workspace.find("kind", "0123") is None
        assert workspace.artifacts("kind") == []
    fine = Workspace(tmp_path / "new")
    fine.check_writable()
    assert list((tmp_path / "new").iterdir()) == []


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text().filter(lambda key: key != "kind"), PLAIN, min_size=1))
def test_a_fingerprint_does_not_depend_on_order(content):
    backwards = dict(reversed(content.items()))
    assert fingerprint("kind", content) == fingerprint("kind", backwards)
    assert fingerprint("kind", content) != fingerprint("other", content)
    name = next(iter(content))
    assert fingerprint("kind", {**content, name: [content[name]]}) != fingerprint("kind", content)
    assert fingerprint("kind", {**content, name + "'": 1, "": 2}) != fingerprint("kind", content)


def test_a_fingerprint_is_the_same_tomorrow_and_hears_every_change():
    base = {"lr": 1e-4, "arms": [1, 2], "nested": {"a": None}}
    assert fingerprint("kind", base) == "42628ea8d4d8c45a"
    changes = [{"lr": 2e-4}, {"arms": [2, 1]}, {"nested": {"a": 0}}, {"nested": {"b": None}}]
    prints = {fingerprint("kind", {**base, **change}) for change in changes}
    assert len(prints | {fingerprint("kind", base)}) == 5
